//! `lessor dev`: a whole fleet on one machine, for a first look and for those who write agents.
//!
//! The service with its private PostgreSQL, a pool `local`, and two process agents as child
//! processes in one resource domain. The agents are not restarted: killing one is part of the tour.
//!
//! Invariants:
//! - The agents are in process groups of their own, so that Ctrl-C at the terminal reaches this
//!   process alone, which then stops them in order.
//! - Their standard input is a pipe that only this process holds: when it ends in any way, kill -9
//!   included, they say goodbye and end. What they run lives on.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lessor_protocol::{PoolSpec, Session, SessionState};
use secrecy::ExposeSecret as _;
use tokio::process::{Child, Command};

use crate::app::App;
use crate::config::Config;
use crate::http::Preconditions;
use crate::pools;
use crate::serve::{self, Fatal, Running, Signals, Stop};
use crate::sessions::{self, SessionFilter};

const POOL: &str = "local";
const AGENTS: [&str; 2] = ["local-1", "local-2"];
const CAPACITY: u32 = 10;

/// Short, so that the tour does not wait long for an adoption; production wants 10 s and more.
const LEASE_TTL_SECONDS: f64 = 5.0;

/// How long the agents have to say goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// Runs the fleet until a signal.
///
/// # Errors
/// As [`serve::prepare`]; and when the agents cannot be started.
pub async fn run(config: Config) -> Result<(), Fatal> {
    if config.wire.tls_cert.is_some() {
        return Err("the fleet of `lessor dev` speaks plain HTTP on one machine; unset LESSOR_TLS_CERT, or use `lessor serve`".into());
    }
    let program = agent_program()?;
    let data_dir = config.data_dir()?;
    let token = config.admin_token.clone();
    if token.is_none() && !config.is_open() {
        return Err(
            "dev gives its agents LESSOR_ADMIN_TOKEN; with LESSOR_ACCESS=tokens, set it".into(),
        );
    }
    let mut signals = Signals::listen();
    let Some(prepared) = serve::prepare_unless(&mut signals, config).await? else {
        return Ok(());
    };
    // Before the first request is answered: whoever asks finds the pool there.
    let pool = make_pool(&prepared.app).await;
    let running = prepared.serve();
    let fleet = pool.and_then(|()| {
        let token = token.as_ref().map(|token| token.expose_secret());
        start_agents(&program, &running, &data_dir, token)
    });
    let mut fleet = match fleet {
        Ok(fleet) => fleet,
        Err(error) => {
            running.until(std::future::ready(Stop::AtOnce)).await?;
            return Err(error);
        }
    };
    greet(&running, &fleet, &data_dir);
    let app = std::sync::Arc::clone(&running.app);
    let mut living = Ok(Vec::new());
    let stopping = async {
        tokio::select! {
            _ = signals.next() => {}
            () = watch(&mut fleet) => {}
        }
        eprintln!("\nStopping. The agents say goodbye; what they run lives on.");
        stop_agents(&mut fleet).await;
        living = with_a_process(&app).await;
        Stop::AtOnce
    };
    let ended = running.until(stopping).await;
    farewell(living);
    ended
}

/// The agents' program stands beside this one.
fn agent_program() -> Result<PathBuf, Fatal> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("lessor-agent");
    if program.is_file() {
        return Ok(program);
    }
    Err(format!(
        "the process agent is not at {}; build it with `cargo build -p lessor-agent`",
        program.display()
    )
    .into())
}

/// The pool, if it is not there yet: whoever changed it keeps his changes.
async fn make_pool(app: &App) -> Result<(), Fatal> {
    let text = |error: crate::error::Error| error.to_string();
    match pools::get(app, POOL).await {
        Ok(_) => return Ok(()),
        Err(crate::error::Error::PoolNotFound(_)) => {}
        Err(error) => return Err(text(error).into()),
    }
    let mut spec = PoolSpec::on("process");
    spec.lease_ttl_seconds = LEASE_TTL_SECONDS;
    pools::put(app, POOL, spec, Preconditions::default())
        .await
        .map_err(text)?;
    Ok(())
}

struct Agent {
    name: &'static str,
    child: Child,
    said_that_it_ended: bool,
}

fn start_agents(
    program: &Path,
    running: &Running,
    data_dir: &Path,
    token: Option<&str>,
) -> Result<Vec<Agent>, Fatal> {
    let url = format!("http://{}", running.address);
    let mut fleet = Vec::new();
    for name in AGENTS {
        let mut command = Command::new(program);
        command
            .args([
                "process",
                "--stop-with-stdin",
                "--pool",
                POOL,
                "--resource-domain",
                "this-machine",
            ])
            .args([
                "--url",
                &url,
                "--name",
                name,
                "--capacity",
                &CAPACITY.to_string(),
            ])
            .arg("--data-dir")
            .arg(data_dir.join("agents"))
            .stdin(Stdio::piped())
            .process_group(0);
        if let Some(token) = token {
            // By environment, since a command line can be read by every user of the machine.
            command.env("LESSOR_TOKEN", token);
        }
        let child = command
            .spawn()
            .map_err(|error| format!("agent {name} cannot be started: {error}"))?;
        fleet.push(Agent {
            name,
            child,
            said_that_it_ended: false,
        });
    }
    Ok(fleet)
}

/// Says when an agent ends; never resolves, since the service goes on without them.
async fn watch(fleet: &mut [Agent]) {
    let mut tick = tokio::time::interval(Duration::from_millis(200));
    loop {
        tick.tick().await;
        for agent in fleet.iter_mut().filter(|agent| !agent.said_that_it_ended) {
            if let Ok(Some(status)) = agent.child.try_wait() {
                agent.said_that_it_ended = true;
                eprintln!(
                    "Agent {} ended ({status}); it is not restarted.",
                    agent.name
                );
            }
        }
    }
}

async fn stop_agents(fleet: &mut [Agent]) {
    for agent in fleet.iter_mut() {
        // The end of its standard input tells it to say goodbye.
        drop(agent.child.stdin.take());
    }
    let all = async {
        for agent in fleet.iter_mut() {
            let _ = agent.child.wait().await;
        }
    };
    if tokio::time::timeout(GOODBYE, all).await.is_err() {
        for agent in fleet.iter_mut() {
            let _ = agent.child.start_kill();
        }
    }
}

/// Sessions that have a resource: what they run lives on.
async fn with_a_process(app: &App) -> crate::error::Result<Vec<Session>> {
    let filter = SessionFilter {
        pool: Some(POOL.to_owned()),
        states: vec![
            SessionState::Starting,
            SessionState::Running,
            SessionState::Hibernating,
            SessionState::Hibernated,
            SessionState::Waking,
            SessionState::Terminating,
        ],
        ..SessionFilter::default()
    };
    let sessions = sessions::list(app, filter, None, 500).await?;
    Ok(sessions
        .into_iter()
        .filter(|session| session.platform_resource_id.is_some())
        .collect())
}

fn greet(running: &Running, fleet: &[Agent], data_dir: &Path) {
    let url = format!("http://{}", running.address);
    println!("\nLessor is at {url}/v1, its documentation at {url}/docs.");
    println!("  data      {}", data_dir.display());
    println!("  pool      {POOL} (process)");
    for agent in fleet {
        let pid = agent
            .child
            .id()
            .map(|pid| pid.to_string())
            .unwrap_or_default();
        println!("  agent     {} (pid {pid})", agent.name);
    }
    println!("\nThe next line to type:");
    println!(
        "  curl -s {url}/v1/sessions -H 'content-type: application/json' \\\n    -d '{{\"pool\":\"{POOL}\",\"name\":\"first\",\"spec\":{{\"command\":[\"sleep\",\"3600\"]}}}}'\n"
    );
}

fn farewell(living: crate::error::Result<Vec<Session>>) {
    let living = match living {
        Ok(living) => living,
        Err(error) => {
            println!("Which sessions' processes live on could not be found out: {error}.");
            return;
        }
    };
    if living.is_empty() {
        println!("Nothing that a session runs is left.");
        return;
    }
    println!("These sessions' processes live on, and are found again at the next start:");
    let mut groups = Vec::new();
    for session in living {
        let resource = session.platform_resource_id.as_deref().unwrap_or_default();
        let pid = resource.split('@').next().unwrap_or_default();
        let command = serde_json::from_str::<serde_json::Value>(session.spec.get())
            .ok()
            .and_then(|spec| spec.get("command").cloned())
            .map(|command| command.to_string())
            .unwrap_or_default();
        println!("  pid {pid:<8} session {}  {command}", session.id);
        groups.push(format!("-{pid}"));
    }
    // KILL, since a hibernated one is stopped and would not see TERM.
    println!(
        "To end them for good, DELETE the sessions after the next start. To end the processes now:"
    );
    println!("  kill -KILL -- {}", groups.join(" "));
}

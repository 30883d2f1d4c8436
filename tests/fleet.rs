//! `lessor dev` as a new user meets it, and an agent in shell.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use lessor_client::{Client, DeleteSession};
use lessor_protocol::{NewSession, SessionState};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::support::agents::{Folder, agent_program, pid_of, state_of};
use crate::support::{TestServer, eventually};

/// `lessor dev` with its own data folder.
struct Dev {
    child: Child,
    client: Client,
}

impl Dev {
    /// Starts it, perhaps as another user; ready when this returns.
    async fn start(program: &Path, data: &Path, user: Option<u32>) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let mut command = Command::new(program);
        command
            .args(["dev", "--listen", &address, "--log", "warn", "--data-dir"])
            .arg(data)
            .env_remove("DATABASE_URL")
            .env("HOME", data)
            .current_dir(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let child = command.spawn().expect("it starts");
        let client = Client::new(&format!("http://{address}"), None).expect("a client");
        let mut dev = Self { child, client };
        let until = Instant::now() + Duration::from_secs(60);
        while dev.client.versions().await.is_err() {
            assert!(Instant::now() < until, "it does not answer after 60 s");
            let ended = dev.child.try_wait().expect("its status");
            assert!(ended.is_none(), "it ended at its start: {ended:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        dev
    }

    /// Ctrl-C; what it printed until its end.
    async fn interrupt(self) -> String {
        let pid = i32::try_from(self.child.id().expect("it runs")).expect("a pid");
        kill_process(Pid::from_raw(pid).expect("a pid"), Signal::INT).expect("SIGINT");
        let ended = tokio::time::timeout(Duration::from_secs(40), self.child.wait_with_output());
        let output = ended.await.expect("it ends in time").expect("its output");
        assert!(output.status.success(), "{}", output.status);
        String::from_utf8(output.stdout).expect("text")
    }
}

/// A first start, a session, Ctrl-C, and a second start that finds both the data and the process.
async fn first_and_second_start(program: &Path, data: &Path, user: Option<u32>) {
    let dev = Dev::start(program, data, user).await;
    let new = NewSession::in_pool("local", &json!({"command": ["sleep", "3600"]})).expect("a spec");
    let session = dev
        .client
        .create_session(&new, None)
        .await
        .expect("it is made");
    let id = session.id.to_string();
    let running = dev
        .client
        .wait_for_session(&id, &[SessionState::Running], Duration::from_secs(30))
        .await
        .expect("an answer");
    assert_eq!(running.state, SessionState::Running, "{running:?}");
    let pid = pid_of(&running);

    let said = dev.interrupt().await;
    assert!(state_of(pid).is_some(), "what it runs lives on");
    assert!(
        said.contains("local-1") && said.contains("local-2"),
        "{said}"
    );
    assert!(
        said.contains(&format!("pid {pid}")) && said.contains(&id),
        "{said}"
    );
    assert!(said.contains(&format!("kill -KILL -- -{pid}")), "{said}");

    let dev = Dev::start(program, data, user).await;
    eventually("it is adopted", || async {
        let now = dev
            .client
            .get_session(&id)
            .await
            .expect("the data is there");
        now.assigned_agent_id.is_some()
            && now.lease_epoch > running.lease_epoch
            && now.offered_until.is_none()
    })
    .await;
    let now = dev
        .client
        .get_session(&id)
        .await
        .expect("the data is there");
    assert_eq!(now.platform_resource_id, running.platform_resource_id);
    dev.client
        .delete_session(&id, &DeleteSession::default())
        .await
        .expect("202");
    let ended = dev
        .client
        .wait_for_session(&id, &[SessionState::Terminated], Duration::from_secs(30))
        .await
        .expect("an answer");
    assert_eq!(ended.state, SessionState::Terminated, "{ended:?}");
    assert_eq!(state_of(pid), None, "no process is left");
    let said = dev.interrupt().await;
    assert!(
        said.contains("Nothing that a session runs is left."),
        "{said}"
    );
}

#[tokio::test]
async fn dev_answers_on_an_empty_data_folder_and_finds_its_data_again() {
    let data = Folder::new();
    first_and_second_start(Path::new(env!("CARGO_BIN_EXE_lessor")), &data.0, None).await;
}

/// As root there is a second user to try it as; everybody else is an ordinary user in the test above.
#[tokio::test]
async fn dev_runs_as_an_ordinary_user() {
    use std::os::unix::fs::{PermissionsExt, chown};
    if !rustix::process::geteuid().is_root() {
        let data = Folder::new();
        return first_and_second_start(Path::new(env!("CARGO_BIN_EXE_lessor")), &data.0, None)
            .await;
    }
    // 65534 is `nobody`. The programs may stand in a folder that it cannot enter.
    const NOBODY: u32 = 65_534;
    let (data, programs) = (Folder::new(), Folder::new());
    chown(&data.0, Some(NOBODY), Some(NOBODY)).expect("its folder");
    std::fs::set_permissions(&programs.0, PermissionsExt::from_mode(0o755)).expect("open to all");
    for program in [Path::new(env!("CARGO_BIN_EXE_lessor")), &agent_program()] {
        let copy = programs.0.join(program.file_name().expect("a name"));
        std::fs::copy(program, copy).expect("a copy");
    }
    first_and_second_start(&programs.0.join("lessor"), &data.0, Some(NOBODY)).await;
}

#[tokio::test]
async fn the_agents_of_dev_end_with_it_even_when_it_is_killed() {
    let data = Folder::new();
    let mut dev = Dev::start(Path::new(env!("CARGO_BIN_EXE_lessor")), &data.0, None).await;
    let of_this_fleet =
        || crate::support::agents::with_word(&data.0.join("agents").display().to_string());
    eventually("both agents run", || async { of_this_fleet().len() == 2 }).await;
    dev.child.kill().await.expect("kill -9");
    eventually("no agent is left", || async { of_this_fleet().is_empty() }).await;
}

#[tokio::test]
async fn the_agent_in_shell_runs_sessions() {
    let server = TestServer::start().await;
    server.pool("p", |pool| pool.lease_ttl_seconds = 10.0).await;
    let folder = Folder::new();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/agent.sh");
    let lines = std::fs::read_to_string(&script)
        .expect("the script")
        .lines()
        .count();
    assert!(lines < 40, "{lines} lines");
    let mut agent = Command::new("bash")
        .arg(&script)
        .env("LESSOR_URL", &server.url)
        .env("AGENT", "sh-1")
        .env("POOL", "p")
        .env("TMPDIR", &folder.0)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .expect("bash runs");
    let session = |command: &[&str]| {
        let mut new = NewSession::in_pool("p", &json!({ "command": command })).expect("a spec");
        new.restart = lessor_protocol::RestartPolicy::Never;
        new
    };
    let long = server
        .client
        .create_session(&session(&["sleep", "3600"]), None)
        .await
        .expect("made");
    let running = server.reaches(long.id, SessionState::Running).await;
    let pid = pid_of(&running);
    assert!(state_of(pid).is_some());
    let bad = server
        .client
        .create_session(&session(&["sh", "-c", "exit 3"]), None)
        .await
        .expect("made");
    let failed = server.reaches(bad.id, SessionState::Failed).await;
    assert_eq!(failed.failure.expect("it says why").exit_code, Some(3));
    server
        .client
        .delete_session(&long.id.to_string(), &DeleteSession::default())
        .await
        .expect("202");
    server.reaches(long.id, SessionState::Terminated).await;
    assert_eq!(state_of(pid), None);
    let group =
        Pid::from_raw(i32::try_from(agent.id().expect("it runs")).expect("a pid")).expect("a pid");
    kill_process_group(group, Signal::TERM).expect("SIGTERM");
    let ended = tokio::time::timeout(Duration::from_secs(15), agent.wait()).await;
    assert!(
        ended
            .expect("it ends in time")
            .expect("its status")
            .success()
    );
    let gone = server
        .client
        .get_agent("sh-1")
        .await
        .expect_err("it said goodbye");
    assert_eq!(gone.status(), Some(404));
    server.stop().await;
}

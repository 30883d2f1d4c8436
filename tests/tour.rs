//! What a new user types: `make run`, and then the tour of the README, line by line, with what it prints.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use lessor_client::Client;
use lessor_protocol::Availability;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::support::agents::{Folder, state_of};
use crate::support::eventually;

/// The folder of the project.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program of this name in a folder, which does as this line of shell says.
fn program(folder: &Path, name: &str, line: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{line}\n")).expect("a program");
    let may_run = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, may_run).expect("it may be run");
}

/// `make run`, in a process group of its own as at a terminal, with what it says in a file. Only cargo is
/// replaced: it notes what it was asked to build, which is built already.
struct MakeRun {
    make: Child,
    said: PathBuf,
    client: Client,
    url: String,
}

impl MakeRun {
    async fn start(folder: &Path) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let programs = folder.join("programs");
        std::fs::create_dir(&programs).expect("a folder");
        program(
            &programs,
            "cargo",
            &format!("echo \"cargo $*\" >> {}/built", folder.display()),
        );
        // The programs stand in …/debug/.
        let built = Path::new(env!("CARGO_BIN_EXE_lessor"));
        let target = built.parent().and_then(Path::parent).expect("a folder");
        let said = folder.join("said");
        let file = std::fs::File::create(&said).expect("a file");
        let path = std::env::var("PATH").expect("a PATH");
        let make = Command::new("make")
            .args(["--no-print-directory", "run"])
            .current_dir(root())
            .env("PATH", format!("{}:{path}", programs.display()))
            .env("CARGO_TARGET_DIR", target)
            .env("LESSOR_LISTEN", &address)
            .env("LESSOR_DATA_DIR", folder.join("data"))
            .env("LESSOR_LOG", "warn")
            .env_remove("DATABASE_URL")
            .env_remove("MAKEFLAGS")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("the same file"))
            .stderr(file)
            .process_group(0)
            .spawn()
            .expect("make starts");
        let url = format!("http://{address}");
        let client = Client::new(&url, None).expect("a client");
        let mut run = Self {
            make,
            said,
            client,
            url,
        };
        let until = Instant::now() + Duration::from_secs(60);
        while run.client.versions().await.is_err() {
            let ended = run.make.try_wait().expect("its status");
            assert!(ended.is_none(), "{ended:?}: {}", run.said());
            assert!(Instant::now() < until, "no answer: {}", run.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        run
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// As Ctrl-C at a terminal does, to all of it; what it said until its end.
    async fn interrupt(mut self) -> String {
        self.signal(Signal::INT);
        let ended = tokio::time::timeout(Duration::from_secs(40), self.make.wait());
        ended.await.expect("it ends in time").expect("its status");
        self.said()
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.make.id()
            && let Ok(group) = i32::try_from(group)
            && let Some(group) = Pid::from_raw(group)
        {
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for MakeRun {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
    }
}

/// A line of the tour, and what the README says that it prints.
#[derive(Debug)]
struct Line {
    typed: String,
    printed: String,
}

/// Every line behind a `$` in the README's `console` blocks, with those that go on from it.
fn tour() -> Vec<Line> {
    let text = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let mut lines: Vec<Line> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if let Some(typed) = line.strip_prefix("$ ").filter(|_| inside) {
            lines.push(Line {
                typed: typed.to_owned(),
                printed: String::new(),
            });
        } else if let Some(last) = lines.last_mut().filter(|_| inside) {
            let goes_on = last.printed.is_empty() && last.typed.ends_with('\\');
            let part = if goes_on {
                &mut last.typed
            } else {
                &mut last.printed
            };
            if !part.is_empty() {
                part.push('\n');
            }
            part.push_str(line);
        }
    }
    lines
}

/// A shell at which one line after the other is typed.
struct Shell {
    _shell: Child,
    keyboard: ChildStdin,
    screen: tokio::io::Lines<BufReader<ChildStdout>>,
}

impl Shell {
    fn open() -> Self {
        let mut shell = Command::new("bash")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a shell");
        let keyboard = shell.stdin.take().expect("its input");
        let screen = BufReader::new(shell.stdout.take().expect("its output")).lines();
        Self {
            _shell: shell,
            keyboard,
            screen,
        }
    }

    /// What a line prints.
    async fn types(&mut self, line: &str) -> String {
        const END: &str = "-- the end of what it printed --";
        let typed = format!("{line}\necho; echo '{END}'\n");
        let keyboard = &mut self.keyboard;
        keyboard.write_all(typed.as_bytes()).await.expect("typed");
        let mut printed = Vec::new();
        loop {
            let next = tokio::time::timeout(Duration::from_secs(40), self.screen.next_line());
            let next = next.await.expect("it goes on").expect("text");
            let next = next.expect("the shell lives");
            if next == END {
                return printed.join("\n").trim_end().to_owned();
            }
            printed.push(next);
        }
    }
}

/// Without what differs from run to run: whatever begins with a digit, how wide columns are, and which of
/// the two agents came first.
fn comparable(printed: &str, holder: &str) -> String {
    let mut lines: Vec<String> = printed
        .replace(holder, "local-one")
        .replace("local-1", "local-two")
        .replace("local-2", "local-two")
        .lines()
        .map(|line| {
            let words = line.split_whitespace().map(|word| {
                word.split_inclusive(['"', ',', '/', '{', '}'])
                    .map(
                        |part| match part.starts_with(|c: char| c.is_ascii_digit()) {
                            true => {
                                "#".to_owned() + part.trim_start_matches(|c| !"\",/{}".contains(c))
                            }
                            false => part.to_owned(),
                        },
                    )
                    .collect::<String>()
            });
            words.collect::<Vec<_>>().join(" ")
        })
        .collect();
    // The table of agents is by name.
    if lines.first().is_some_and(|line| line.starts_with("NAME")) {
        lines.sort();
    }
    lines.join("\n")
}

#[tokio::test]
async fn make_run_and_the_tour_do_what_the_readme_says() {
    let folder = Folder::new();
    let run = MakeRun::start(&folder.0).await;
    let built = std::fs::read_to_string(folder.0.join("built")).expect("what was built");
    assert_eq!(built, "cargo build --locked -p lessor -p lessor-agent\n");
    // Nothing was missing, and it says nothing of that.
    assert!(!run.said().contains("Missing"), "{}", run.said());
    eventually("both agents are parked", || async {
        let text = reqwest::get(format!("{}/metrics", run.url)).await;
        let text = text.expect("metrics").text().await.expect("text");
        text.contains("lessor_waiters{pool=\"local\"} 2\n")
    })
    .await;
    let said = run.said();
    for part in [
        "pool      local (process)",
        "agent     local-1 (pid",
        "agent     local-2 (pid",
    ] {
        assert!(said.contains(part), "no {part}: {said}");
    }

    let mut shell = Shell::open();
    let lines = tour();
    assert!(lines.len() > 10, "{lines:#?}");
    let mut killed = None;
    let mut holder = String::new();
    for line in &lines {
        let typed = line.typed.replace("http://127.0.0.1:8080", &run.url);
        if typed.starts_with("kill -9") {
            let agent = run.client.get_agent(&holder).await.expect("its holder");
            killed = Some(agent);
        }
        let printed = shell.types(&typed).await;
        if holder.is_empty()
            && let Ok(first) = run.client.get_session("first").await
        {
            holder = first.assigned_agent_id.expect("it was offered at once");
        }
        let (wanted, found) = (
            comparable(&line.printed, "local-1"),
            comparable(
                &printed,
                if holder.is_empty() {
                    "local-1"
                } else {
                    &holder
                },
            ),
        );
        assert_eq!(found, wanted, "$ {typed}\n{printed}");
        if typed.starts_with("kill -9") {
            // The README has it: after five seconds the other one has the session.
            eventually("the other agent has it", || async {
                let now = run.client.get_session("first").await.expect("it is there");
                let holds = now.assigned_agent_id.is_some_and(|name| name != holder);
                holds && now.offered_until.is_none()
            })
            .await;
        }
    }

    // The killed one was not started again, and it says so.
    let killed = killed.expect("the tour kills one");
    let instance = killed.instance.expect("it said who it is");
    let pid = i32::try_from(instance.pid.expect("its pid")).expect("a pid");
    assert_eq!(state_of(pid), None);
    eventually("it says that it is not restarted", || async {
        let line = format!("Agent {holder} ended");
        let said = run.said();
        said.lines()
            .any(|said| said.starts_with(&line) && said.ends_with("it is not restarted."))
    })
    .await;
    let now = run.client.get_agent(&holder).await.expect("it is known");
    assert_eq!(now.availability, Availability::Expired);
    assert_eq!(now.incarnation, killed.incarnation);
    assert_eq!(now.instance.expect("as before").id, instance.id);
    let said = run.interrupt().await;
    assert!(
        said.contains("Nothing that a session runs is left."),
        "{said}"
    );
}

/// `scripts/bring run`, where only these programs are to be had, and perhaps nothing else.
async fn bring(programs: &[&str]) -> Output {
    let folder = Folder::new();
    for name in programs {
        let path = std::env::var("PATH").expect("a PATH");
        let found = path.split(':').map(|dir| Path::new(dir).join(name));
        match found.into_iter().find(|path| path.is_file()) {
            Some(found) => symlink(found, folder.0.join(name)).expect("a link"),
            // Whether it is there is all that is asked.
            None => program(&folder.0, name, "exit 1"),
        }
    }
    // Whatever would change the machine is noted, and does not.
    let noted = folder.0.join("noted");
    for name in ["apt-get", "sudo"] {
        if programs.contains(&name) {
            std::fs::remove_file(folder.0.join(name)).expect("it was there");
            program(
                &folder.0,
                name,
                &format!("echo \"$*\" >> {}", noted.display()),
            );
        }
    }
    let mut output = Command::new("/bin/bash")
        .args(["scripts/bring", "run"])
        .current_dir(root())
        .env_clear()
        .env("PATH", &folder.0)
        // Any database: whether this machine has PostgreSQL's programs is not asked then.
        .env("DATABASE_URL", "postgres://127.0.0.1/x")
        .stdin(Stdio::null())
        .output()
        .await
        .expect("it runs");
    if let Ok(noted) = std::fs::read(&noted) {
        output.stdout.extend(noted);
    }
    output
}

#[tokio::test]
async fn what_is_missing_is_named_and_nothing_is_done_where_nothing_is() {
    let text = |output: &Output| {
        let (said, told) = (&output.stdout, &output.stderr);
        String::from_utf8_lossy(said).into_owned() + &String::from_utf8_lossy(told)
    };
    let all = bring(&["cargo", "cc", "curl", "id", "apt-get", "sudo"]).await;
    assert!(all.status.success(), "{all:?}");
    assert_eq!(text(&all), "", "it has nothing to say or to do");

    let no_rust = bring(&["cc", "curl", "id"]).await;
    assert_eq!(no_rust.status.code(), Some(1));
    assert!(text(&no_rust).contains("Rust is missing"), "{no_rust:?}");

    // On a machine without apt-get it says what to install, and no more.
    let no_cc = bring(&["cargo", "curl", "id"]).await;
    assert_eq!(no_cc.status.code(), Some(1));
    let said = text(&no_cc);
    assert!(said.contains("Missing on this machine: gcc\n"), "{said}");
    assert!(said.contains("this machine's package manager"), "{said}");
}

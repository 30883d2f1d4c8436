//! A real `lessor serve` process, to be killed and started again at the same address.

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use lessor_client::Client;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// A server process; killed when it is dropped.
pub struct ServerProcess {
    /// Its address.
    pub url: String,
    /// A client of it.
    pub client: Client,
    database_url: String,
    environment: Vec<(String, String)>,
    output: Option<std::path::PathBuf>,
    child: Option<Child>,
}

impl ServerProcess {
    /// Starts one on a free port, over a database; ready when this returns.
    pub async fn start(database_url: &str) -> Self {
        Self::start_with(database_url, &[], None).await
    }

    /// As [`ServerProcess::start`], with more options by environment, and its output in a file.
    pub async fn start_with(
        database_url: &str,
        environment: &[(&str, &str)],
        output: Option<&std::path::Path>,
    ) -> Self {
        let mut process = Self::not_yet(database_url, environment, output);
        process.start_again().await;
        process
    }

    /// As [`ServerProcess::start_with`], without waiting until it is ready: it may not speak plain HTTP.
    pub async fn begin(
        database_url: &str,
        environment: &[(&str, &str)],
        output: Option<&std::path::Path>,
    ) -> Self {
        let mut process = Self::not_yet(database_url, environment, output);
        process.spawn();
        process
    }

    fn not_yet(
        database_url: &str,
        environment: &[(&str, &str)],
        output: Option<&std::path::Path>,
    ) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", free.local_addr().expect("an address"));
        drop(free);
        let client = Client::new(&url, None).expect("a client");
        Self {
            url,
            client,
            database_url: database_url.to_owned(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            output: output.map(ToOwned::to_owned),
            child: None,
        }
    }

    /// Starts it at the same address; ready when this returns.
    pub async fn start_again(&mut self) {
        self.spawn();
        let until = Instant::now() + Duration::from_secs(20);
        while !self.is_ready().await {
            assert!(Instant::now() < until, "it is not ready after 20 s");
            let child = self.child.as_mut().expect("it runs");
            let ended = child.try_wait().expect("its status");
            assert!(ended.is_none(), "it ended at its start: {ended:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let address = self.url.trim_start_matches("http://").to_owned();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lessor"));
        if let Some(path) = &self.output {
            let file = std::fs::File::create(path).expect("a file for its output");
            command.stdout(file.try_clone().expect("the same file"));
            command.stderr(file);
        }
        let child = command
            .args(["serve", "--listen", &address])
            .env("LESSOR_LOG", "warn")
            .args(["--stop-delay-seconds", "1"])
            .env("DATABASE_URL", &self.database_url)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the service starts");
        self.child = Some(child);
    }

    /// Whether `/readyz` says so.
    pub async fn is_ready(&self) -> bool {
        reqwest::get(format!("{}/readyz", self.url))
            .await
            .is_ok_and(|answer| answer.status() == 200)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).expect("it runs")
    }

    /// `kill -9`; dead when this returns.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().await.expect("it is killed");
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGINT, without waiting.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().and_then(Child::id).expect("it runs");
        let pid = Pid::from_raw(i32::try_from(id).expect("a pid")).expect("a pid");
        kill_process(pid, signal).expect("the signal");
    }

    /// Waits for its end, at most so long.
    pub async fn ends_within(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        tokio::time::timeout(limit, child.wait())
            .await
            .expect("it ends in time")
            .expect("its status")
    }
}

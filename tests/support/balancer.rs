//! A load balancer as most are: it asks each server's `/readyz`, and gives each new connection to
//! the next one that is ready. It knows nothing of HTTP beyond that, and repeats no request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// How often each server is asked.
const EVERY: Duration = Duration::from_millis(200);

/// One server, as the balancer knows it.
struct Target {
    /// `host:port`.
    address: String,
    ready: AtomicBool,
    connections: AtomicUsize,
}

/// A balancer; it ends when it is dropped.
pub struct Balancer {
    /// Its address.
    pub url: String,
    targets: Arc<Vec<Target>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Balancer {
    /// In front of these servers, all of which are ready.
    pub async fn before(urls: &[&str]) -> Self {
        let targets: Vec<Target> = urls
            .iter()
            .map(|url| Target {
                address: url.trim_start_matches("http://").to_owned(),
                ready: AtomicBool::new(true),
                connections: AtomicUsize::new(0),
            })
            .collect();
        let targets = Arc::new(targets);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let mut tasks = vec![tokio::spawn(accept(listener, Arc::clone(&targets)))];
        for n in 0..targets.len() {
            tasks.push(tokio::spawn(check(Arc::clone(&targets), n)));
        }
        Self {
            url,
            targets,
            tasks,
        }
    }

    /// How many connections each server has been given.
    pub fn connections(&self) -> Vec<usize> {
        self.targets
            .iter()
            .map(|target| target.connections.load(Ordering::Relaxed))
            .collect()
    }

    /// Whether it gives connections to this server.
    pub fn uses(&self, n: usize) -> bool {
        self.targets[n].ready.load(Ordering::Relaxed)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn check(targets: Arc<Vec<Target>>, n: usize) {
    let target = &targets[n];
    // A connection for each look: a kept one would be part of what is tried here.
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .timeout(Duration::from_secs(1))
        .build()
        .expect("a client");
    let url = format!("http://{}/readyz", target.address);
    loop {
        let ready = client.get(&url).send().await;
        let ready = ready.is_ok_and(|answer| answer.status() == 200);
        target.ready.store(ready, Ordering::Relaxed);
        tokio::time::sleep(EVERY).await;
    }
}

async fn accept(listener: TcpListener, targets: Arc<Vec<Target>>) {
    let mut next = 0;
    let mut open = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        next += 1;
        let targets = Arc::clone(&targets);
        open.spawn(async move { carry(client, &targets, next).await });
        while open.try_join_next().is_some() {}
    }
}

async fn carry(mut client: TcpStream, targets: &[Target], first: usize) {
    let _ = client.set_nodelay(true);
    for n in 0..targets.len() {
        let target = &targets[(first + n) % targets.len()];
        if !target.ready.load(Ordering::Relaxed) {
            continue;
        }
        if let Ok(mut server) = TcpStream::connect(&target.address).await {
            let _ = server.set_nodelay(true);
            target.connections.fetch_add(1, Ordering::Relaxed);
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            return;
        }
    }
}

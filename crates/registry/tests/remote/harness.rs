//! A registry of one's own on a free port: in this process, or as a process that can be killed and stopped.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use gusset_registry::{ConsulPolicy, ConsulServer, ConsulTicker};
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tower::{ServiceExt as _, service_fn};

/// In this process.
pub(crate) struct Server {
    pub(crate) port: u16,
    pub(crate) consul: ConsulServer,
    /// When each request came.
    pub(crate) requests: Arc<Mutex<Vec<Instant>>>,
    pub(crate) connections: Arc<AtomicUsize>,
    serving: Option<(JoinHandle<()>, ConsulTicker)>,
    policy: ConsulPolicy,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(ConsulPolicy::default()).await
    }

    pub(crate) async fn with(policy: ConsulPolicy) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut server = Self {
            port: listener.local_addr().unwrap().port(),
            consul: ConsulServer::new(policy.clone()),
            requests: Arc::default(),
            connections: Arc::default(),
            serving: None,
            policy,
        };
        server.serve(listener);
        server
    }

    fn serve(&mut self, listener: TcpListener) {
        let ticker = self.consul.spawn_ticker();
        let (consul, requests) = (self.consul.clone(), self.requests.clone());
        let connections = self.connections.clone();
        let accepting = tokio::spawn(async move {
            let mut all = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (consul, requests) = (consul.clone(), requests.clone());
                let open = Open::count(&connections);
                all.spawn(async move {
                    serve(stream, consul, requests).await;
                    drop(open);
                });
                while all.try_join_next().is_some() {}
            }
        });
        self.serving = Some((accepting, ticker));
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// As another client does.
    pub(crate) async fn put(&self, path: &str, body: &str) {
        let request = http::Request::put(path).body(body.to_owned()).unwrap();
        let answer = self.consul.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// All connections end, and new ones are refused.
    pub(crate) async fn kill(&mut self) {
        if let Some((accepting, _)) = self.serving.take() {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    /// At the same address, with what it knew.
    pub(crate) async fn restart(&mut self) {
        self.kill().await;
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        self.serve(listener);
    }

    /// At the same address, with nothing of what it knew.
    pub(crate) async fn restart_empty(&mut self) {
        self.consul = ConsulServer::new(self.policy.clone());
        self.restart().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((accepting, _)) = self.serving.take() {
            accepting.abort();
        }
    }
}

struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Relaxed);
        Self(connections.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

async fn serve(stream: TcpStream, consul: ConsulServer, requests: Arc<Mutex<Vec<Instant>>>) {
    stream.set_nodelay(true).unwrap();
    let service = service_fn(move |request| {
        requests.lock().unwrap().push(Instant::now());
        consul.clone().oneshot(request)
    });
    let service = TowerToHyperService::new(service);
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// As another process, which runs one of these tests. It ends with this one.
pub(crate) struct Process {
    child: Child,
    _input: ChildStdin,
    pub(crate) port: u16,
}

impl Process {
    pub(crate) fn start() -> Self {
        Self::at(0)
    }

    /// Ended as by `kill -9`, and started again at the same address, with nothing of what it knew.
    pub(crate) fn restart(&mut self) {
        let port = self.port;
        self.end();
        *self = Self::at(port);
    }

    fn at(port: u16) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "harness::as_a_registry", "--nocapture"])
            .env("GUSSET_REGISTRY_PROCESS", port.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.find_map(|line| line.unwrap().split_once("serving at ")?.1.parse().ok());
        let input = child.stdin.take().unwrap();
        Self { port: port.unwrap(), child, _input: input }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Not a test where it is not started as a process of its own.
#[test]
fn as_a_registry() {
    let Ok(port) = std::env::var("GUSSET_REGISTRY_PROCESS") else { return };
    std::thread::spawn(|| {
        // Until the process that started this one is gone.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let port: u16 = port.parse().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let mut server = Server {
            port: listener.local_addr().unwrap().port(),
            consul: ConsulServer::new(ConsulPolicy::default()),
            requests: Arc::default(),
            connections: Arc::default(),
            serving: None,
            policy: ConsulPolicy::default(),
        };
        server.serve(listener);
        println!("\nserving at {}", server.port);
        std::future::pending::<()>().await;
    });
}

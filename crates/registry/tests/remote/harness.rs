//! A registry of one's own on a free port: in this process, or as a process that can be killed and stopped.

use std::{
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use gusset_engines::{Port, again};
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
    /// So that it can come back there.
    _held: Option<Port>,
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
        let port = Port::free();
        let listener = TcpListener::bind(port.address()).await.unwrap();
        let mut server = Self {
            port: port.number(),
            _held: Some(port),
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

/// As another process, which runs one of these tests. Each start of it is at the same address, with nothing of what it knew.
pub(crate) struct Process {
    process: gusset_engines::Process,
    port: Port,
}

impl Process {
    pub(crate) fn start() -> Self {
        let port = Port::free();
        let number = port.number();
        let mut command = again("harness::as_a_registry");
        command.env("GUSSET_REGISTRY_PROCESS", number.to_string());
        let process = gusset_engines::Process::new("registry", |_| command);
        let serves = move || std::net::TcpStream::connect(("127.0.0.1", number)).is_ok();
        let mut process = process.ready_when(serves);
        process.start();
        Self { process, port }
    }

    pub(crate) fn address(&self) -> String {
        self.port.address()
    }
}

impl Deref for Process {
    type Target = gusset_engines::Process;

    fn deref(&self) -> &Self::Target {
        &self.process
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.process
    }
}

/// Not a test where it is not started as a process of its own.
#[test]
fn as_a_registry() {
    let Ok(port) = std::env::var("GUSSET_REGISTRY_PROCESS") else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let port: u16 = port.parse().unwrap();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let mut server = Server {
            port,
            _held: None,
            consul: ConsulServer::new(ConsulPolicy::default()),
            requests: Arc::default(),
            connections: Arc::default(),
            serving: None,
            policy: ConsulPolicy::default(),
        };
        server.serve(listener);
        std::future::pending::<()>().await;
    });
}

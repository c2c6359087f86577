//! A NATS server of one's own: on a free port, in a directory of its own, ended with the value. Which program it is says `GUSSET_NATS_SERVER`; else it is the
//! `nats-server` of the search path.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use gusset_broker::{
    Broker, DeadLetter, Delivery, Filter, Limits, NatsEngine, NatsOptions, Policy, Subscription,
};
use gusset_call::BoxError;
use serde_json::{Value, json};
use tower::service_fn;

pub(crate) struct Server {
    pub(crate) port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
    child: Option<Child>,
    /// Ends the server if this process is ended before it can.
    guard: Option<Child>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&["-js"])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::try_ports(|| Self::down(arguments))
    }

    /// With JetStream and this in the file of its configuration.
    pub(crate) fn configured(configuration: &str) -> Self {
        Self::try_ports(|| {
            let mut server = Self::down(&["-js", "-c"]);
            std::fs::create_dir_all(&server.directory).unwrap();
            let file = server.directory.join("server.conf");
            std::fs::write(&file, configuration).unwrap();
            server.arguments.push(file.to_str().unwrap().to_owned());
            server
        })
    }

    fn try_ports(down: impl Fn() -> Self) -> Self {
        for _ in 0..10 {
            let mut server = down();
            server.spawn();
            // Another process may have taken the port meanwhile.
            if server.becomes_ready() {
                return server;
            }
        }
        panic!("no nats-server could be started on a free port");
    }

    /// Three that know each other and keep everything threefold.
    pub(crate) fn cluster() -> [Self; 3] {
        let routes = [(); 3].map(|()| free_port());
        let all = routes.map(|port| format!("nats://127.0.0.1:{port}")).join(",");
        let number = std::cell::Cell::new(0);
        routes.map(|port| {
            number.set(number.get() + 1);
            let (name, route) = (format!("n{}", number.get()), format!("nats://127.0.0.1:{port}"));
            let place = ["-js", "--name", &name, "--cluster_name", "three"];
            Self::start_with(&[&place[..], &["--cluster", &route, "--routes", &all]].concat())
        })
    }

    /// A free address, and nobody there.
    pub(crate) fn down(arguments: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let port = free_port();
        let number = NEXT.fetch_add(1, Relaxed);
        let directory = format!("gusset-nats-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self { port, directory, arguments, child: None, guard: None }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn spawn(&mut self) {
        std::fs::create_dir_all(&self.directory).unwrap();
        let program = std::env::var_os("GUSSET_NATS_SERVER").unwrap_or("nats-server".into());
        let mut command = Command::new(program);
        command
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string()])
            .args(["-sd", self.directory.to_str().unwrap()])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| {
            panic!(
                "cannot run nats-server ({error}); ./test installs it: apt-get install nats-server"
            )
        });
        // Reads until this process is gone.
        let end = format!("read -r _; kill -9 {} 2>/dev/null", child.id());
        let mut guard = Command::new("sh");
        guard.args(["-c", &end]).stdin(Stdio::piped());
        self.guard = Some(guard.spawn().unwrap());
        self.child = Some(child);
    }

    fn becomes_ready(&mut self) -> bool {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(30) {
            if self.child.as_mut().unwrap().try_wait().unwrap().is_some() {
                return false;
            }
            if self.greets() {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        false
    }

    /// It says who it is, and answers.
    fn greets(&self) -> bool {
        let Ok(stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return false };
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut lines = BufReader::new(&stream).lines();
        let Some(Ok(greeting)) = lines.next() else { return false };
        if greeting.contains("\"tls_required\":true") {
            return true;
        }
        let greeted = greeting.starts_with("INFO");
        let mut writer = &stream;
        greeted
            && writer.write_all(b"CONNECT {\"verbose\":false}\r\nPING\r\n").is_ok()
            && lines.next().is_some_and(|line| line.is_ok_and(|l| l.starts_with(['P', '-'])))
    }

    /// `kill -9`, and again at the same address with what is on its disk.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.spawn();
        assert!(self.becomes_ready(), "it did not start again on port {}", self.port);
    }

    /// Ends it in its own way, so that all is on its disk.
    pub(crate) fn stop(&mut self) {
        gusset_engines::signal(self.id(), "TERM");
        self.child.as_mut().unwrap().wait().unwrap();
        self.kill();
    }

    /// Where it has the messages of the stream, and beside it what it knows of the groups.
    pub(crate) fn messages_on_disk(&self) -> PathBuf {
        self.directory.join("jetstream/$G/streams/gusset/msgs")
    }

    /// Again at the same address, with another disk.
    pub(crate) fn restart_empty(&mut self) {
        self.kill();
        std::fs::remove_dir_all(&self.directory).unwrap();
        self.restart();
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            guard.kill().unwrap();
            guard.wait().unwrap();
        }
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn pause(&self) {
        gusset_engines::pause(self.id());
    }

    pub(crate) fn resume(&self) {
        gusset_engines::resume(self.id());
    }

    fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn options(&self) -> NatsOptions {
        // The server sets aside what a stream may grow to, and tests have many.
        NatsOptions::new(self.url()).max_bytes(16 << 20)
    }

    pub(crate) async fn broker(&self) -> Broker {
        connect(self.options()).await
    }

    /// A client that knows nothing of brokers.
    pub(crate) async fn operator(&self) -> Operator {
        Operator(async_nats::connect(self.url()).await.unwrap())
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub(crate) async fn connect(options: NatsOptions) -> Broker {
    Broker::on(NatsEngine::connect(options, Limits::new()).await.unwrap())
}

/// Somebody who asks the server by himself.
pub(crate) struct Operator(pub(crate) async_nats::Client);

impl Operator {
    pub(crate) async fn api(&self, subject: &str, question: Value) -> Value {
        let subject = format!("$JS.API.{subject}");
        let answer = self.0.request(subject, question.to_string().into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    }

    pub(crate) async fn group(&self, name: &str) -> Value {
        self.api(&format!("CONSUMER.INFO.gusset.{name}"), json!({})).await
    }

    /// How many messages lie in the stream.
    pub(crate) async fn messages(&self, stream: &str) -> u64 {
        let info = self.api(&format!("STREAM.INFO.{stream}"), json!({})).await;
        info["state"]["messages"].as_u64().unwrap()
    }
}

/// What handlers have seen, in the order of seeing.
#[derive(Clone)]
pub(crate) struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Log<T> {
    pub(crate) fn note(&self, seen: T) {
        self.0.lock().unwrap().push(seen);
    }

    pub(crate) fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Waits for so many.
    pub(crate) async fn has(&self, many: usize) {
        until(&format!("{many} deliveries"), async || self.len() >= many).await;
    }
}

/// Waits until it is so, half a minute at most.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !is_so().await {
        assert!(begin.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A subscription that acknowledges everything at once.
pub(crate) async fn listen(
    broker: &Broker,
    pattern: &str,
    group: &str,
) -> (Subscription, Log<u32>) {
    let log = Log::default();
    let noted = log.clone();
    let subscription = broker
        .subscribe(pattern)
        .group(group)
        .handle(service_fn(move |delivery: Delivery<u32>| {
            noted.note(*delivery.body());
            async { Ok::<_, BoxError>(()) }
        }))
        .await
        .unwrap();
    (subscription, log)
}

/// What a handler that failed was given.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) body: u32,
    pub(crate) attempt: u32,
    pub(crate) at: Instant,
}

/// A subscription that fails always.
pub(crate) async fn fail(
    broker: &Broker,
    group: &str,
    policy: Policy,
) -> (Subscription, Log<Seen>) {
    let log = Log::default();
    let noted = log.clone();
    let subscription = broker
        .subscribe(">")
        .group(group)
        .policy(policy)
        .handle(service_fn(move |delivery: Delivery<u32>| {
            let attempt = delivery.attempt().number();
            noted.note(Seen { body: *delivery.body(), attempt, at: Instant::now() });
            async move { Err::<(), _>(format!("failure {attempt}")) }
        }))
        .await
        .unwrap();
    (subscription, log)
}

/// Quick to give up.
pub(crate) fn hasty() -> Policy {
    Policy::new().backoff(Duration::from_millis(20), Duration::from_millis(50))
}

/// Waits for so many dead letters.
pub(crate) async fn dead(broker: &Broker, many: usize) -> Vec<Arc<DeadLetter>> {
    let letters = broker.dead_letters();
    let all = Filter::all();
    until(&format!("{many} dead letters"), async || {
        letters.list(&all, None, usize::MAX).await.unwrap().len() >= many
    })
    .await;
    letters.list(&all, None, usize::MAX).await.unwrap()
}

pub(crate) fn soon() -> gusset_call::Deadline {
    gusset_call::Deadline::after(Duration::from_secs(10))
}

//! Active checks of real servers.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use gusset_registry::{
    Check, CheckError, Checker, Error, Health, Instance, MemoryRegistry, Registry,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(10);

/// Answers each request with the status it is set to; ends with the test's runtime.
struct Server {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    /// Connections at once now, and at most so far.
    open: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    task: AbortHandle,
}

/// Statuses that are none: it reads and says nothing, or says what is not HTTP.
const HANGS: u16 = 0;
const BABBLES: u16 = 1;

impl Server {
    async fn start(status: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let status = Arc::new(AtomicU16::new(status));
        let (open, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (answer, now, ever) = (status.clone(), open.clone(), most.clone());
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                ever.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
                let (answer, now) = (answer.clone(), now.clone());
                tokio::spawn(async move {
                    serve(stream, answer.load(SeqCst)).await;
                    now.fetch_sub(1, SeqCst);
                });
            }
        });
        Self { address, status, open, most, task: task.abort_handle() }
    }
}

async fn serve(mut stream: TcpStream, status: u16) {
    let mut read = [0; 1_024];
    let _ = stream.read(&mut read).await;
    match status {
        HANGS => while stream.read(&mut read).await.is_ok_and(|n| n > 0) {},
        BABBLES => drop(stream.write_all(b"hello\r\n\r\n").await),
        _ => {
            let answer = format!("HTTP/1.1 {status} Said\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    }
}

async fn probe(check: Check, address: SocketAddr) -> Result<(), CheckError> {
    check.timeout(Duration::from_millis(500)).probe(&address.ip().to_string(), address.port()).await
}

#[tokio::test]
async fn a_port_that_accepts_is_well_and_one_that_refuses_is_not() {
    let server = Server::start(200).await;
    probe(Check::tcp(), server.address).await.unwrap();
    server.task.abort();
    let gone = async {
        while probe(Check::tcp(), server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, gone).await.unwrap();
    let error = probe(Check::tcp(), server.address).await.unwrap_err();
    assert!(matches!(error, CheckError::Connect(_)), "{error:?}");
}

#[tokio::test]
async fn a_status_of_2xx_is_well_and_any_other_is_not() {
    let server = Server::start(200).await;
    for (status, well) in [(200, true), (204, true), (301, false), (429, false), (503, false)] {
        server.status.store(status, SeqCst);
        match probe(Check::http("/readyz?deep=1"), server.address).await {
            Ok(()) => assert!(well, "{status}"),
            Err(CheckError::Status(said)) => assert_eq!((said, well), (status, false)),
            Err(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_hangs_is_not_well_and_holds_nobody_up() {
    let server = Server::start(HANGS).await;
    for check in [Check::http("/"), Check::grpc("")] {
        let error = probe(check, server.address).await.unwrap_err();
        assert!(matches!(error, CheckError::Timeout(_)), "{error:?}");
    }
    probe(Check::tcp(), server.address).await.unwrap();
}

#[tokio::test]
async fn what_is_no_answer_is_not_well() {
    let server = Server::start(BABBLES).await;
    for check in [Check::http("/"), Check::grpc(""), Check::http("no path")] {
        let error = probe(check, server.address).await.unwrap_err();
        assert!(matches!(error, CheckError::Broken(_)), "{error:?}");
    }
}

#[tokio::test]
async fn another_address_may_be_asked_than_that_of_the_instance() {
    let server = Server::start(200).await;
    let check = Check::http("/").at(server.address.ip().to_string(), server.address.port());
    check.probe("192.0.2.1", 1).await.unwrap();
}

#[tokio::test]
async fn the_health_service_of_tonic_is_understood() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("cart", tonic_health::ServingStatus::Serving).await;
    reporter.set_service_status("tills", tonic_health::ServingStatus::NotServing).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));

    probe(Check::grpc(""), address).await.unwrap();
    probe(Check::grpc("cart"), address).await.unwrap();
    let error = probe(Check::grpc("tills"), address).await.unwrap_err();
    assert!(matches!(error, CheckError::NotServing(2)), "{error:?}");
    let error = probe(Check::grpc("nobody"), address).await.unwrap_err();
    assert!(matches!(&error, CheckError::GrpcStatus(status) if status == "5"), "{error:?}");
}

struct Checked {
    registry: MemoryRegistry,
    instance: Instance,
}

impl Checked {
    async fn register(at: SocketAddr) -> Self {
        let registry = MemoryRegistry::default();
        let instance = Instance::new("cart", at.ip().to_string(), at.port()).with_checks();
        registry.register(instance.clone()).await.unwrap();
        Self { registry, instance }
    }

    async fn becomes(&self, wanted: Health) {
        let mut watch = self.registry.watch("cart");
        let reached = async {
            while watch.snapshot().get(&self.instance.id).unwrap().health != wanted {
                watch.changed().await;
            }
        };
        timeout(SOON, reached).await.unwrap_or_else(|_| panic!("never {wanted:?}"));
    }
}

fn quick(check: Check) -> Check {
    check.interval(Duration::from_millis(20)).timeout(Duration::from_millis(200))
}

#[tokio::test]
async fn what_checks_find_is_the_health_of_the_instance() {
    let server = Server::start(200).await;
    let checked = Checked::register(server.address).await;
    let checker = Checker::new(checked.registry.clone());
    let _guard = checker.spawn(&checked.instance, [quick(Check::http("/"))]);
    checked.becomes(Health::Healthy).await;
    server.status.store(503, SeqCst);
    checked.becomes(Health::Unhealthy).await;
    checked.registry.heartbeat(checked.instance.key()).await.unwrap();
    checked.becomes(Health::Unhealthy).await;
    server.status.store(200, SeqCst);
    checked.becomes(Health::Healthy).await;
}

#[tokio::test]
async fn all_checks_of_an_instance_have_to_say_that_it_works() {
    let server = Server::start(503).await;
    let checked = Checked::register(server.address).await;
    let checker = Checker::new(checked.registry.clone());
    let checks = [quick(Check::tcp()), quick(Check::http("/"))];
    let _guard = checker.spawn(&checked.instance, checks);
    checked.becomes(Health::Unhealthy).await;
    server.status.store(200, SeqCst);
    checked.becomes(Health::Healthy).await;
}

#[tokio::test]
async fn one_that_does_not_work_for_too_long_is_deregistered_and_its_checks_end() {
    let server = Server::start(503).await;
    let checked = Checked::register(server.address).await;
    let checker = Checker::new(checked.registry.clone());
    let check = quick(Check::http("/")).deregister_after(Duration::from_millis(100));
    let guard = checker.spawn(&checked.instance, [check]);
    let mut watch = checked.registry.watch("cart");
    let gone = async {
        while !watch.snapshot().instances().is_empty() {
            watch.changed().await;
        }
        while !guard.is_finished() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, gone).await.unwrap();
}

#[tokio::test]
async fn no_more_checks_run_at_once_than_there_are_places() {
    let server = Server::start(HANGS).await;
    let registry = MemoryRegistry::default();
    let places = NonZeroUsize::new(3).unwrap();
    let checker = Checker::with_concurrency(registry.clone(), places);
    let mut guards = Vec::new();
    for n in 0..20 {
        let at = server.address;
        let instance = Instance::new("cart", at.ip().to_string(), at.port()).with_id(n.to_string());
        registry.register(instance.clone()).await.unwrap();
        guards.push(checker.spawn(&instance, [quick(Check::http("/"))]));
    }
    let unhealthy = async {
        let mut watch = registry.watch("cart");
        let down = |instance: &Arc<Instance>| instance.health == Health::Unhealthy;
        while !watch.snapshot().instances().iter().all(down) {
            watch.changed().await;
        }
    };
    timeout(SOON, unhealthy).await.unwrap();
    // A connection that is given up may be open at the server for a moment more.
    let most = server.most.load(SeqCst);
    assert!((3..=6).contains(&most), "{most} at once");
    drop(guards);
    let closed = async {
        while server.open.load(SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, closed).await.unwrap();
}

#[tokio::test]
async fn dropping_the_guard_ends_the_checks() {
    let server = Server::start(200).await;
    let checked = Checked::register(server.address).await;
    let checker = Checker::new(checked.registry.clone());
    let guard = checker.spawn(&checked.instance, [quick(Check::http("/"))]);
    checked.becomes(Health::Healthy).await;
    drop(guard);
    checked.registry.deregister(checked.instance.key()).await.unwrap();
    let error = checked.registry.report(checked.instance.key(), true).unwrap_err();
    assert!(matches!(error, Error::NoSuchService { .. }), "{error}");
}

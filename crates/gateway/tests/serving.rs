//! The server: what clients may hold, and how it ends.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    future::pending,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use common::*;
use gusset_gateway::{Gateway, PeerAddr, Route, ServeError, Server, Upstream, serve};
use gusset_registry::MemoryRegistry;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    time::{Instant, timeout},
};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";

async fn hello() -> (Running, Gateway) {
    let service = upstream(Router::new().route("/a", get(async || "hello"))).await;
    let route = Route::new("/a").to(Upstream::fixed([service.address]));
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap();
    (service, gateway)
}

async fn closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    let read = timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await;
    read.is_ok_and(|end| end.map_or(true, |read| read == 0))
}

/// Reads one answer with the body `hello`.
async fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"hello") {
        let mut buffer = [0; 1024];
        let read = stream.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "{}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..read]);
    }
    let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    answer
}

#[tokio::test]
async fn requests_know_their_peer() {
    let peer = async |request: Request<Body>| match request.extensions().get::<PeerAddr>() {
        Some(peer) => peer.0.to_string(),
        None => "nobody".into(),
    };
    let service = upstream(Router::new().route("/a", get(peer))).await;
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let request = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with(&stream.local_addr().unwrap().to_string()), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_under_load_loses_no_request() {
    let (_service, gateway) = hello().await;
    let front = front_by(Server::new(), gateway).await;
    let address = front.address;
    let answered = Arc::new(AtomicU32::new(0));
    let stopping = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> =
        (0..32).map(|_| tokio::spawn(load(address, answered.clone(), stopping.clone()))).collect();
    while answered.load(SeqCst) < 2_000 {
        tokio::task::yield_now().await;
    }
    stopping.store(true, SeqCst);
    front.stop.send(()).unwrap();
    front.ended.await.unwrap().unwrap();
    for load in loads {
        load.await.unwrap();
    }
}

/// A client that sends requests on kept connections and opens new ones, until the server does not listen any more. A request
/// that it took must be answered.
async fn load(address: std::net::SocketAddr, answered: Arc<AtomicU32>, stopping: Arc<AtomicBool>) {
    loop {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            assert!(stopping.load(SeqCst));
            return;
        };
        // A connection made in the very moment in which the listener closes is reset: it was never the server's.
        if stream.write_all(GET).await.is_err() || stream.peek(&mut [0]).await.is_err() {
            assert!(stopping.load(SeqCst));
            return;
        }
        while !answer(&mut stream).await.contains("connection: close") {
            answered.fetch_add(1, SeqCst);
            stream.write_all(GET).await.unwrap();
        }
        assert!(stopping.load(SeqCst));
    }
}

#[tokio::test]
async fn what_waits_in_the_backlog_when_the_shutdown_begins_is_answered() {
    let (_service, gateway) = hello().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(GET).await.unwrap();
        waiting.push(stream);
    }
    let server = tokio::spawn(serve(listener, gateway, std::future::ready(())));
    for mut stream in waiting {
        assert!(answer(&mut stream).await.contains("connection: close\r\n"));
    }
    server.await.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_connection_may_send_one_more_request_while_the_server_leaves() {
    let (_service, gateway) = hello().await;
    let front = front_by(Server::new(), gateway).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    assert!(!answer(&mut stream).await.contains("connection: close"));
    front.stop.send(()).unwrap();
    while TcpStream::connect(front.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.write_all(GET).await.unwrap();
    assert!(answer(&mut stream).await.contains("connection: close\r\n"));
    front.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_under_way_is_finished_and_idle_connections_are_closed_after_lingering() {
    let (called, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let handler = {
        let (called, go) = (called.clone(), go.clone());
        async move || {
            called.notify_one();
            go.notified().await;
            "hello"
        }
    };
    let service = upstream(Router::new().route("/a", get(handler))).await;
    let route = Route::new("/a").to(Upstream::fixed([service.address]));
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap();
    let front = front_by(Server::new().linger(Duration::from_millis(10)), gateway).await;
    let mut idle = TcpStream::connect(front.address).await.unwrap();
    let mut busy = TcpStream::connect(front.address).await.unwrap();
    busy.write_all(GET).await.unwrap();
    called.notified().await;
    front.stop.send(()).unwrap();
    assert!(closed(&mut idle).await);
    assert!(!front.ended.is_finished());
    go.notify_one();
    answer(&mut busy).await;
    front.ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_does_not_end_within_the_limit_is_cut_and_counted() {
    let service = upstream(Router::new().route("/a", get(std::future::pending::<()>))).await;
    let route = Route::new("/a").to(Upstream::fixed([service.address]));
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap();
    let server = Server::new().linger(Duration::ZERO).drain_limit(Duration::from_millis(50));
    let front = front_by(server, gateway.clone()).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    while gateway.metrics().snapshot().active.is_empty() {
        tokio::task::yield_now().await;
    }
    front.stop.send(()).unwrap();
    let undrained = front.ended.await.unwrap().unwrap_err();
    assert_eq!(undrained.connections(), 1);
    assert!(closed(&mut stream).await);
}

#[tokio::test]
async fn a_client_that_dribbles_its_head_is_ended() {
    let (_service, gateway) = hello().await;
    let front = front_by(Server::new().head_timeout(Duration::from_millis(100)), gateway).await;
    let begun = Instant::now();
    let mut silent = TcpStream::connect(front.address).await.unwrap();
    let mut dribbling = TcpStream::connect(front.address).await.unwrap();
    dribbling.write_all(b"GET /a HTTP/1.1\r\nX-Slow: ").await.unwrap();
    assert!(closed(&mut silent).await);
    let mut answer = String::new();
    dribbling.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn above_the_most_connections_new_ones_wait_for_their_turn() {
    let (_service, gateway) = hello().await;
    let front = front_by(Server::new().max_connections(2), gateway).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(front.address).await.unwrap();
        stream.write_all(GET).await.unwrap();
        streams.push(stream);
    }
    let mut last = streams.pop().unwrap();
    for stream in &mut streams {
        answer(stream).await;
    }
    assert!(timeout(Duration::from_millis(50), last.read_u8()).await.is_err(), "it is not served");
    streams.pop();
    answer(&mut last).await;
}

#[tokio::test]
async fn dropping_the_server_cuts_its_connections() {
    let (_service, gateway) = hello().await;
    let front = front_by(Server::new(), gateway).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    answer(&mut stream).await;
    front.ended.abort();
    assert!(closed(&mut stream).await);
}

#[tokio::test]
async fn too_much_head_is_431() {
    let (_service, gateway) = hello().await;
    let front = front_by(Server::new(), gateway).await;
    let long = "x".repeat(40 * 1024);
    let lines = "X-More: 1\r\n".repeat(101);
    for head in [format!("X-Long: {long}\r\n"), lines] {
        let answer = raw(front.address, &format!("GET /a HTTP/1.1\r\nHost: a\r\n{head}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let big = Router::new().route("/a", get(async || vec![0; 64 * 1024 * 1024]));
    let service = upstream(big).await;
    let route = Route::new("/a").to(Upstream::fixed([service.address]));
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap();
    let front = front_by(Server::new().send_timeout(Duration::from_millis(100)), gateway).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream.write_all(GET).await.unwrap();
    // It is full by now, and nobody reads.
    stream.read_u8().await.unwrap();
    front.stop.send(()).unwrap();
    let ended = timeout(Duration::from_secs(60), front.ended).await;
    ended.expect("the connection was cut").unwrap().unwrap();
}

#[tokio::test]
async fn one_client_has_no_more_connections_than_it_may() {
    let (_service, gateway) = hello().await;
    let front = front_by(Server::new().max_connections_per_client(2), gateway).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(front.address).await.unwrap();
        stream.write_all(GET).await.unwrap();
        answer(&mut stream).await;
        streams.push(stream);
    }
    let mut third = TcpStream::connect(front.address).await.unwrap();
    assert!(closed(&mut third).await);
    // As soon as one has gone there is place.
    streams.pop();
    let served = async {
        loop {
            let mut stream = TcpStream::connect(front.address).await.unwrap();
            let _ = stream.write_all(GET).await;
            if stream.read_u8().await.is_ok() {
                return;
            }
        }
    };
    timeout(Duration::from_secs(60), served).await.unwrap();
}

#[tokio::test]
async fn on_cores_every_request_is_answered_and_the_end_loses_none() {
    let (_service, gateway) = hello().await;
    let address = nowhere().await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let cores = NonZeroUsize::new(3).unwrap();
    let served = tokio::spawn(async move {
        let stopped = async {
            let _ = stopped.await;
        };
        Server::new().run_on_cores(cores, address, gateway, stopped).await
    });
    let begun = async { while TcpStream::connect(address).await.is_err() {} };
    timeout(Duration::from_secs(60), begun).await.unwrap();
    let answered = Arc::new(AtomicU32::new(0));
    let stopping = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> =
        (0..16).map(|_| tokio::spawn(load(address, answered.clone(), stopping.clone()))).collect();
    while answered.load(SeqCst) < 1_000 {
        tokio::task::yield_now().await;
    }
    stopping.store(true, SeqCst);
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
    for load in loads {
        load.await.unwrap();
    }
}

#[tokio::test]
async fn an_address_that_is_taken_is_told_at_once() {
    let (_service, gateway) = hello().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let cores = NonZeroUsize::new(2).unwrap();
    let error = Server::new().run_on_cores(cores, address, gateway, pending()).await.unwrap_err();
    let ServeError::Bind(error) = error else { panic!("{error}") };
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

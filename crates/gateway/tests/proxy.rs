//! A gateway as an intermediary: what goes on, what does not, and when.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    routing::{get, post},
};
use bytes::Bytes;
use common::*;
use gusset_gateway::{Gateway, Network, Route, Upstream};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

fn over(address: std::net::SocketAddr) -> gusset_gateway::Builder {
    let registry = gusset_registry::MemoryRegistry::default();
    Gateway::builder(registry).route(Route::new("/{*all}").to(Upstream::fixed([address])))
}

fn loopback() -> Network {
    "127.0.0.0/8".parse().unwrap()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn fields_of_one_connection_do_not_go_on_and_the_others_do() {
    let (service, mut requests) = canned(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-inner\r\nX-Inner: 1\r\nKeep-Alive: timeout=5\r\n\
         X-Outer: 2\r\nUpgrade: h2c\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nok",
    )
    .await;
    let front = front(over(service)).await;
    let answer = raw(
        front.address,
        "GET /a?x=%2f&y HTTP/1.1\r\nHost: shop.example\r\nConnection: close, x-secret, authorization\r\nX-Secret: 1\r\n\
         Authorization: Bearer t\r\nTE: trailers, gzip\r\nUpgrade: websocket\r\nKeep-Alive: 5\r\nX-Mine: 2\r\n\r\n",
    )
    .await
    .to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200 ok"), "{answer}");
    for kept in
        ["x-outer: 2", "set-cookie: a=1", "set-cookie: b=2", "via: 1.1 gusset", "\r\n\r\nok"]
    {
        assert!(answer.contains(kept), "{kept} in {answer}");
    }
    for gone in ["x-inner", "keep-alive", "upgrade"] {
        assert!(!answer.contains(gone), "{gone} in {answer}");
    }

    let request = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(request.starts_with("get /a?x=%2f&y http/1.1\r\n"), "{request}");
    let host = format!("host: {service}\r\n");
    for kept in [
        "authorization: bearer t",
        "x-mine: 2",
        "te: trailers",
        "via: 1.1 gusset",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-host: shop.example",
        "x-forwarded-proto: http",
        "traceparent: 00-",
        &host,
    ] {
        assert!(request.contains(kept), "{kept} in {request}");
    }
    for gone in ["x-secret", "upgrade", "keep-alive", "gzip", "connection"] {
        assert!(!request.contains(gone), "{gone} in {request}");
    }
}

#[tokio::test]
async fn a_stranger_cannot_forge_where_it_comes_from_and_a_trusted_proxy_is_believed() {
    let forged = "GET /a HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
                  Forwarded: for=10.0.0.1\r\nX-Real-IP: 10.0.0.1\r\nX-Gusset-Attempt: 7\r\nX-Gusset-Subject: root\r\n\
                  Grpc-Previous-Rpc-Attempts: 7\r\nX-Request-Timeout-Ms: 4321\r\n\r\n";
    let (service, mut requests) = canned(OK).await;
    let strict = front(over(service)).await;
    raw(strict.address, forged).await;
    let request = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(request.contains("x-forwarded-for: 127.0.0.1\r\n"), "{request}");
    for gone in ["10.0.0.1", "https", "x-gusset", "rpc-attempts", "timeout-ms: 4321"] {
        assert!(!request.contains(gone), "{gone} in {request}");
    }

    let trusting = front(over(service).trusted_proxies([loopback()])).await;
    raw(trusting.address, forged).await;
    let request = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(request.contains("x-forwarded-for: 10.0.0.1, 127.0.0.1\r\n"), "{request}");
    assert!(request.contains("x-forwarded-proto: https\r\n"), "{request}");
    assert!(!request.contains("root"), "the subject is the gateway's alone: {request}");
}

#[tokio::test]
async fn what_was_matched_is_what_is_forwarded() {
    let (service, mut requests) = canned(OK).await;
    let fixed = || Upstream::fixed([service]);
    let front = front(
        Gateway::builder(gusset_registry::MemoryRegistry::default())
            .route(Route::new("/api/{*rest}").to(fixed()).strip_prefix("/api"))
            .route(Route::new("/users/{id}").to(fixed()).rewrite("/v2/people/{id}/profile"))
            .route(Route::new("/{*rest}").host("static.example").to(fixed())),
    )
    .await;
    for (host, target, seen) in [
        ("shop", "/api/orders/7?x=1", "/orders/7?x=1"),
        ("shop", "/other/..//api/%6frders/./7", "/orders/7"),
        ("shop", "/users/a%20b?full", "/v2/people/a%20b/profile?full"),
        ("static.example:80", "/logo.png", "/logo.png"),
        ("static.example", "http://STATIC.example/logo.png", "/logo.png"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw(front.address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{target} {answer}");
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with(&format!("GET {seen} HTTP/1.1\r\n")), "{request}");
    }
    let unknown =
        raw(front.address, "GET /logo.png HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n")
            .await;
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (service, mut requests) = canned(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n",
    )
    .await;
    let front = front(over(service)).await;
    let answer = raw(
        front.address,
        "POST /a HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-check\r\n\r\n2\r\nhi\r\n0\r\nx-check: 9\r\n\r\n",
    )
    .await;
    assert!(answer.ends_with("3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");
    let request = requests.recv().await.unwrap();
    assert!(request.contains("2\r\nhi\r\n0\r\nx-check: 9\r\n"), "{request}");
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_end_as_if_it_were_whole() {
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
    ] {
        let (service, _requests) = canned(cut).await;
        let front = front(over(service)).await;
        // It may break before the server has written what there was of it.
        if let Ok(answer) = client().get(front.url("/a").parse().unwrap()).await {
            assert!(answer.into_body().collect().await.is_err(), "{cut}");
        }
    }
}

#[tokio::test]
async fn what_is_no_answer_is_502() {
    for nonsense in [
        "",
        "hello\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ] {
        let (service, _requests) = canned(nonsense).await;
        let front = front(over(service)).await;
        let answer = fetch(&front, "/a").await;
        assert_eq!(answer.status(), 502, "{nonsense}");
        problem(answer).await;
    }
}

const CHUNK: usize = 64 * 1024;

/// Bytes that repeat with no period that divides a chunk, so that a lost or doubled chunk shows.
fn pattern(offset: u64, length: usize) -> Bytes {
    (offset..).take(length).map(|at| (at % 251) as u8).collect()
}

/// A body of so many chunks, which counts what was taken from it.
fn produced(chunks: u64, taken: Arc<AtomicU64>) -> Body {
    let mut next = 0;
    Body::new(StreamBody::new(Frames(move || {
        let frame = (next < chunks).then(|| Frame::data(pattern(next * CHUNK as u64, CHUNK)));
        taken.fetch_add(u64::from(frame.is_some()), SeqCst);
        next += 1;
        frame
    })))
}

struct Frames<F>(F);

impl<F: FnMut() -> Option<Frame<Bytes>> + Unpin> futures_core::Stream for Frames<F> {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        Poll::Ready((self.0)().map(Ok))
    }
}

/// Checks the bytes as they come and returns how many there were.
async fn checked<B>(mut body: B) -> u64
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert_eq!(data, pattern(length, data.len()), "at {length}");
        length += data.len() as u64;
    }
    length
}

#[tokio::test]
async fn large_bodies_pass_both_ways_byte_by_byte() {
    const CHUNKS: u64 = 512;
    let echo = async |body: Body| body;
    let service = upstream(Router::new().route("/echo", post(echo))).await;
    let route = Route::new("/echo").to(Upstream::fixed([service.address])).body_limit(u64::MAX);
    let front =
        front(Gateway::builder(gusset_registry::MemoryRegistry::default()).route(route)).await;
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new())
        .build_http();
    let sent = produced(CHUNKS, Arc::default());
    let answer =
        client.request(Request::post(front.url("/echo")).body(sent).unwrap()).await.unwrap();
    assert_eq!(checked(answer.into_body()).await, CHUNKS * CHUNK as u64);
}

#[tokio::test]
async fn a_slow_reader_holds_the_upstream_back_and_memory_stays_bounded() {
    let taken = Arc::new(AtomicU64::new(0));
    let counted = taken.clone();
    let endless = move || std::future::ready(produced(u64::MAX, counted.clone()));
    let service = upstream(Router::new().route("/endless", get(endless))).await;
    let front = front(over(service.address)).await;
    let mut answer = fetch(&front, "/endless").await.into_body();
    answer.frame().await.unwrap().unwrap();

    // Nobody reads on: the sockets and buffers in between fill up, and then nothing more is taken. The paused clock goes on
    // only when nothing is left to do.
    tokio::time::pause();
    let mut before = taken.load(SeqCst);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = taken.load(SeqCst);
        if now == std::mem::replace(&mut before, now) {
            break;
        }
    }
    assert!(before * (CHUNK as u64) < 64 * 1024 * 1024, "{before} chunks are under way");
}

#[tokio::test]
async fn an_upload_goes_on_while_it_comes_in() {
    let (seen, mut first) = mpsc::unbounded_channel();
    let handler = async move |mut body: Body| {
        let frame = body.frame().await.unwrap().unwrap();
        seen.send(frame.into_data().unwrap()).unwrap();
        body.collect().await.unwrap().to_bytes()
    };
    let service = upstream(Router::new().route("/up", post(handler))).await;
    let front = front(over(service.address)).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let head = "POST /up HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(first.recv().await.unwrap(), "first", "before the rest is sent");
}

/// Says when it is dropped.
struct Dropped(mpsc::UnboundedSender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.send("dropped");
    }
}

#[tokio::test]
async fn a_client_that_leaves_cancels_the_handler_of_the_upstream() {
    let (events, mut event) = mpsc::unbounded_channel();
    let handler = async move || {
        let _guard = Dropped(events.clone());
        events.send("called").unwrap();
        std::future::pending::<()>().await;
    };
    let service = upstream(Router::new().route("/slow", get(handler))).await;
    let front = front(over(service.address)).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(event.recv().await, Some("called"));
    drop(stream);
    assert_eq!(timeout(Duration::from_secs(60), event.recv()).await.unwrap(), Some("dropped"));
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_an_answer_cancels_it() {
    let (events, mut event) = mpsc::unbounded_channel();
    let handler = async move || {
        let guard = Dropped(events.clone());
        let mut chunks = 1;
        Body::new(StreamBody::new(Trickle(move || {
            let _held = &guard;
            chunks -= 1;
            (chunks == 0).then(|| Frame::data(Bytes::from_static(b"begin")))
        })))
    };
    let service = upstream(Router::new().route("/slow", get(handler))).await;
    let front = front(over(service.address)).await;
    let mut answer = fetch(&front, "/slow").await.into_body();
    assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "begin");
    drop(answer);
    assert_eq!(timeout(Duration::from_secs(60), event.recv()).await.unwrap(), Some("dropped"));
}

/// Frames as long as there are some, and then neither more nor an end.
struct Trickle<F>(F);

impl<F: FnMut() -> Option<Frame<Bytes>> + Unpin> futures_core::Stream for Trickle<F> {
    type Item = Result<Frame<Bytes>, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Self::Item>> {
        match (self.0)() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Pending,
        }
    }
}

#[tokio::test]
async fn head_has_the_length_of_get_and_no_body() {
    let service = upstream(Router::new().route("/a", get(async || "four"))).await;
    let front = front(over(service.address)).await;
    let answer =
        raw(front.address, "HEAD /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.contains("content-length: 4\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn an_upload_that_expects_to_continue_is_told_to() {
    let service = upstream(Router::new().route(
        "/a",
        post(async |headers: HeaderMap, body: String| {
            assert_eq!(headers["expect"], "100-continue", "the instance decides");
            body
        }),
    ))
    .await;
    let front = front(over(service.address)).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let head = "POST /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut told = [0; "HTTP/1.1 100 Continue\r\n\r\n".len()];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("abc"), "{answer}");
}

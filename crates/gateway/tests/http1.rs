//! HTTP/1.1 as the server speaks it: what is taken and what is refused, who reads a body, and how a connection goes on or ends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod common;

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, pending},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use common::*;
use gusset_call::BoxError;
use gusset_gateway::{ClientBody, Gateway, Route, Server, Transport, Upstream, UpstreamPolicy};
use gusset_registry::MemoryRegistry;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tower::service_fn;

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

const LONG: Duration = Duration::from_secs(30);

struct Served {
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A server of nothing but this handler.
async fn served<F, R>(server: Server, handler: F) -> Served
where
    F: Fn(Request<ClientBody>) -> R + Clone + Send + 'static,
    R: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = service_fn(move |request| {
        let answer = handler(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let server = tokio::spawn(async move {
        let _ = server.run(listener, service, pending()).await;
    });
    Served { address, server }
}

fn text(text: impl Into<Bytes>) -> Answer {
    Response::new(Full::new(text.into()).map_err(BoxError::from).boxed_unsync())
}

fn status(status: u16) -> Answer {
    let mut answer = text("");
    *answer.status_mut() = status.try_into().unwrap();
    answer
}

/// A body of these frames, of which nobody knows the length.
struct Frames(VecDeque<Result<Frame<Bytes>, BoxError>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Ready(self.0.pop_front())
    }
}

/// Answers with what it was sent: path, body and trailers.
async fn echo(request: Request<ClientBody>) -> Answer {
    let path = request.uri().path().to_owned();
    match request.into_body().collect().await {
        Ok(body) => {
            let trailer = body.trailers().and_then(|t| t.get("x-sum")).cloned();
            let trailer = trailer.map(|t| format!("+{}", t.to_str().unwrap())).unwrap_or_default();
            let body = body.to_bytes();
            text(format!("<{path} {}{trailer}>", String::from_utf8_lossy(&body)))
        }
        Err(error) => {
            let mut answer = text(error.to_string());
            *answer.status_mut() = http::StatusCode::BAD_REQUEST;
            answer
        }
    }
}

async fn connect(served: &Served) -> TcpStream {
    TcpStream::connect(served.address).await.unwrap()
}

async fn send(stream: &mut TcpStream, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).await.unwrap();
}

/// Reads until `end` has come.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !read.ends_with(end.as_bytes()) {
            let byte = stream.read_u8().await;
            read.push(byte.unwrap_or_else(|error| {
                panic!("{error} after {:?}", String::from_utf8_lossy(&read))
            }));
        }
    };
    timeout(LONG, reading).await.unwrap();
    String::from_utf8(read).unwrap()
}

/// Reads until the connection ends.
async fn rest(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut read = String::new();
    timeout(LONG, stream.read_to_string(&mut read)).await.unwrap()?;
    Ok(read)
}

#[tokio::test]
async fn requests_that_are_sent_ahead_are_answered_in_their_order() {
    let served = served(Server::new(), echo).await;
    let mut stream = connect(&served).await;
    let mut ahead = String::new();
    for number in 0..50 {
        ahead += &format!("GET /{number} HTTP/1.1\r\nhost: a\r\n\r\n");
        ahead += &format!("POST /{number} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab");
        ahead += &format!(
            "POST /{number} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
        );
    }
    send(&mut stream, ahead).await;
    for number in 0..50 {
        for body in ["", "ab", "x"] {
            let answer = until(&mut stream, ">").await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.ends_with(&format!("</{number} {body}>")), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_request_is_the_same_however_it_is_cut() {
    let served = served(Server::new(), echo).await;
    let request = "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0a;x=y\r\n0123456789\r\n0\r\nx-sum: 7\r\n\r\n";
    for size in 1..16 {
        let mut stream = connect(&served).await;
        stream.set_nodelay(true).unwrap();
        for piece in request.as_bytes().chunks(size) {
            send(&mut stream, piece).await;
            tokio::task::yield_now().await;
        }
        let answer = until(&mut stream, ">").await;
        assert!(answer.ends_with("</a abc0123456789+7>"), "{size}: {answer}");
    }
}

#[tokio::test]
async fn a_refused_head_is_answered_with_a_problem_and_ends_the_connection() {
    let served = served(Server::new(), async |_| panic!("it was served")).await;
    let long = "x".repeat(40_000);
    for (head, status) in [
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        ("GET / HTTP/1.1\nhost: a\n\n", 400),
        ("nonsense\r\n\r\n", 400),
        (&*format!("GET /{long} HTTP/1.1\r\n\r\n"), 414),
        (&*format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), 431),
        ("POST / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        ("GET / HTTP/3.0\r\n\r\n", 505),
    ] {
        let mut stream = connect(&served).await;
        send(&mut stream, head).await;
        send(&mut stream, "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let answer = rest(&mut stream).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(
            answer.contains("application/problem+json") && answer.contains("connection: close\r\n"),
            "{answer}"
        );
        assert_eq!(answer.matches("connection: close").count(), 1, "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_nobody_wants_costs_the_connection_only_if_it_has_not_come() {
    let served = served(Server::new(), async |_| text("no!")).await;
    let mut stream = connect(&served).await;
    for _ in 0..3 {
        send(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc").await;
        let answer = until(&mut stream, "no!").await;
        assert!(!answer.contains("connection: close"), "{answer}");
    }
    send(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3000000\r\n\r\nabc").await;
    let answer = rest(&mut stream).await.unwrap();
    assert!(answer.contains("connection: close\r\n"), "{answer}");
}

#[tokio::test]
async fn who_sends_more_than_anybody_reads_can_still_read_the_answer() {
    let served = served(Server::new(), async |_| status(413)).await;
    for _ in 0..20 {
        let mut stream = connect(&served).await;
        send(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n").await;
        send(&mut stream, vec![b'x'; 900_000]).await;
        let answer = rest(&mut stream).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
}

/// Tells when it is dropped.
struct Tell(mpsc::UnboundedSender<()>);

impl Drop for Tell {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_call() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (begin, mut begun) = mpsc::unbounded_channel();
    let served = served(Server::new(), move |request: Request<ClientBody>| {
        let tell = Tell(tell.clone());
        let begin = begin.clone();
        async move {
            begin.send(()).unwrap();
            let read = request.uri().path() == "/read";
            let _body = match read {
                true => request.into_body().collect().await.is_ok(),
                false => false,
            };
            pending::<()>().await;
            drop(tell);
            text("")
        }
    })
    .await;
    for request in [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
        "POST /read HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab",
    ] {
        let mut stream = connect(&served).await;
        send(&mut stream, request).await;
        timeout(LONG, begun.recv()).await.unwrap();
        assert!(told.is_empty());
        drop(stream);
        // With a body that breaks, the handler is told so, and goes on; it ends with the server.
        if !request.ends_with("\r\nab") {
            timeout(LONG, told.recv()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_an_answer_ends_its_body() {
    struct Endless(#[allow(dead_code, reason = "its drop tells")] Tell, bool);
    impl Body for Endless {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            match std::mem::replace(&mut self.1, true) {
                true => Poll::Pending,
                false => Poll::Ready(Some(Ok(Frame::data("event".into())))),
            }
        }
    }
    let (tell, mut told) = mpsc::unbounded_channel();
    let served = served(Server::new(), move |_| {
        let body = Endless(Tell(tell.clone()), false);
        async move { Response::new(body.boxed_unsync()) }
    })
    .await;
    let mut stream = connect(&served).await;
    send(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    until(&mut stream, "event\r\n").await;
    assert!(told.is_empty());
    drop(stream);
    timeout(LONG, told.recv()).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_whole() {
    let broken = async |_| {
        let frames = [Ok(Frame::data(Bytes::from("half"))), Err(BoxError::from("it broke"))];
        Response::new(Frames(frames.into()).boxed_unsync())
    };
    let served = served(Server::new(), broken).await;
    let mut stream = connect(&served).await;
    send(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = rest(&mut stream).await.unwrap();
    assert!(answer.ends_with("4\r\nhalf\r\n"), "{answer}");
    // Without chunks a regular end would be the end of the body.
    let mut stream = connect(&served).await;
    send(&mut stream, "GET / HTTP/1.0\r\n\r\n").await;
    let error = rest(&mut stream).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn both_directions_flow_at_once() {
    // The body of the request as that of the answer.
    let served = served(Server::new(), async |request: Request<ClientBody>| {
        Response::new(request.into_body().boxed_unsync())
    })
    .await;
    let stream = connect(&served).await;
    let (mut read, mut write) = stream.into_split();
    let sending = tokio::spawn(async move {
        write
            .write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 20000000\r\n\r\n")
            .await
            .unwrap();
        for byte in 0..200 {
            write.write_all(&vec![byte; 100_000]).await.unwrap();
        }
        write
    });
    let mut answer = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    let head = loop {
        let count = timeout(LONG, read.read(&mut piece)).await.unwrap().unwrap();
        answer.extend_from_slice(&piece[..count]);
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    while answer.len() < head + 20_000_000 {
        let count = timeout(LONG, read.read(&mut piece)).await.unwrap().unwrap();
        assert_ne!(count, 0);
        answer.extend_from_slice(&piece[..count]);
    }
    for (at, byte) in answer[head..].iter().enumerate() {
        assert_eq!(usize::from(*byte), at / 100_000);
    }
    // And the connection goes on.
    let mut write = sending.await.unwrap();
    write.write_all(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nend").await.unwrap();
    let mut last = Vec::new();
    while !last.ends_with(b"end") {
        assert_ne!(timeout(LONG, read.read_buf(&mut last)).await.unwrap().unwrap(), 0);
    }
}

#[tokio::test]
async fn a_body_that_somebody_else_reads_is_waited_for_before_the_next_request() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let served = served(Server::new(), move |request: Request<ClientBody>| {
        let tell = tell.clone();
        async move {
            tokio::spawn(async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                tell.send(body).unwrap();
            });
            text("at once")
        }
    })
    .await;
    let mut stream = connect(&served).await;
    for _ in 0..3 {
        send(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nabc").await;
        until(&mut stream, "at once").await;
        assert!(told.is_empty());
        send(&mut stream, "def").await;
        assert_eq!(timeout(LONG, told.recv()).await.unwrap().unwrap(), "abcdef");
    }
}

#[tokio::test]
async fn a_client_is_told_to_go_on_only_if_somebody_wants_its_body() {
    let served =
        served(Server::new(), async |request: Request<ClientBody>| match request.uri().path() {
            "/want" => echo(request).await,
            _ => status(403),
        })
        .await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
        )
    };
    let mut stream = connect(&served).await;
    for _ in 0..2 {
        send(&mut stream, head("/want")).await;
        assert_eq!(until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
        send(&mut stream, "abc").await;
        until(&mut stream, "</want abc>").await;
    }
    send(&mut stream, head("/refuse")).await;
    let answer = rest(&mut stream).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("connection: close\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_malformed_body_is_the_clients_fault_and_its_connection_ends() {
    let served = served(Server::new(), echo).await;
    for body in ["x\r\n", "3\r\nabcd\r\n", "-1\r\n", "3\nabc\r\n", "11111111111111111\r\n"] {
        let mut stream = connect(&served).await;
        send(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n").await;
        send(&mut stream, body).await;
        send(&mut stream, "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n").await;
        let answer = rest(&mut stream).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 ") && !answer.contains("smuggled"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_stands_still_is_an_error_after_its_time() {
    let server = Server::new().body_timeout(Duration::from_millis(100));
    let served = served(server, echo).await;
    let mut stream = connect(&served).await;
    send(&mut stream, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab").await;
    let answer = rest(&mut stream).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("the client sends nothing"),
        "{answer}"
    );
    // The gateway says whose fault it is.
    let upstream =
        upstream(axum::Router::new().route("/a", axum::routing::post(async |body: String| body)))
            .await;
    let route = Route::new("/a").to(Upstream::fixed([upstream.address]));
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap();
    let front = front_by(Server::new().body_timeout(Duration::from_millis(100)), gateway).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    send(&mut stream, "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab").await;
    let answer = rest(&mut stream).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test]
async fn http_1_0_keeps_its_connection_only_if_it_asks_to() {
    let served = served(Server::new(), echo).await;
    let mut stream = connect(&served).await;
    for _ in 0..2 {
        send(&mut stream, "GET /a HTTP/1.0\r\nconnection: keep-alive\r\n\r\n").await;
        assert!(until(&mut stream, "</a >").await.contains("connection: keep-alive\r\n"));
    }
    send(&mut stream, "GET /b HTTP/1.0\r\n\r\n").await;
    assert!(rest(&mut stream).await.unwrap().ends_with("</b >"));
}

#[tokio::test]
async fn trailers_of_an_answer_follow_its_last_chunk() {
    let served = served(Server::new(), async |_| {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "7".parse().unwrap());
        let frames = [Ok(Frame::data(Bytes::from("abc"))), Ok(Frame::trailers(trailers))];
        Response::new(Frames(frames.into()).boxed_unsync())
    })
    .await;
    let mut stream = connect(&served).await;
    send(&mut stream, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = until(&mut stream, "x-sum: 7\r\n\r\n").await;
    assert!(answer.ends_with("3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn an_upgrade_may_follow_ordinary_requests() {
    let served = served(Server::new(), async |mut request: Request<ClientBody>| {
        let Some(upgrade) = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>() else {
            return echo(request).await;
        };
        tokio::spawn(async move {
            let mut stream = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
            let (mut read, mut write) = tokio::io::split(&mut stream);
            tokio::io::copy(&mut read, &mut write).await.unwrap();
        });
        let mut answer = Response::new(Empty::new().map_err(BoxError::from).boxed_unsync());
        *answer.status_mut() = http::StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert("upgrade", "echo".parse().unwrap());
        headers.insert("connection", "upgrade".parse().unwrap());
        answer
    })
    .await;
    let mut stream = connect(&served).await;
    send(&mut stream, "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx").await;
    until(&mut stream, "</a x>").await;
    send(
        &mut stream,
        "GET /b HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\nearly",
    )
    .await;
    let answer = until(&mut stream, "early").await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    send(&mut stream, "late").await;
    until(&mut stream, "late").await;
}

#[tokio::test]
async fn a_request_with_two_lengths_never_comes_to_an_instance() {
    let (address, mut seen) = canned("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let route = Route::new("/{*rest}").to(Upstream::fixed([address]));
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap();
    let front = front_by(Server::new(), gateway).await;
    let smuggling = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
    assert!(raw(front.address, smuggling).await.starts_with("HTTP/1.1 400 "));
    assert!(seen.try_recv().is_err());
}

/// An instance that gives a hint, and its answer when it is told to.
async fn hinting(by_http_2: bool) -> (SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (go, mut told) = mpsc::channel::<()>(1);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if by_http_2 {
                #[cfg(feature = "http2")]
                {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    while let Some(Ok((_, mut respond))) = connection.accept().await {
                        let hint = Response::builder().status(103).header("link", "</a.css>");
                        respond.send_informational(hint.body(()).unwrap()).unwrap();
                        // The connection has to go on meanwhile.
                        tokio::select! {
                            _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => return,
                            _ = told.recv() => {}
                        }
                        let mut body = respond.send_response(Response::new(()), false).unwrap();
                        body.send_data("ok".into(), true).unwrap();
                    }
                }
                continue;
            }
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nX-Inside: 1\r\n\r\n";
            stream.write_all(hint).await.unwrap();
            told.recv().await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
        }
    });
    (address, go)
}

#[tokio::test]
async fn early_hints_of_either_version_come_before_the_answer_where_the_server_says_so() {
    for by_http_2 in [false, cfg!(feature = "http2")] {
        let (address, go) = hinting(by_http_2).await;
        let to = Upstream::fixed([address]);
        let transport = match by_http_2 {
            #[cfg(feature = "http2")]
            true => Transport::http2(),
            _ => Transport::http1(),
        };
        let gateway = Gateway::builder(MemoryRegistry::default())
            .upstream(to.clone(), UpstreamPolicy::new().transport(transport))
            .route(Route::new("/{*rest}").to(to))
            .build()
            .unwrap();
        for (server, version, hinted) in [
            (Server::new().early_hints(), "1.1", true),
            (Server::new().early_hints(), "1.0", false),
            (Server::new(), "1.1", false),
        ] {
            let front = front_by(server, gateway.clone()).await;
            let mut client = TcpStream::connect(front.address).await.unwrap();
            let request = format!("GET /a HTTP/{version}\r\nHost: a\r\nConnection: close\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            if hinted {
                let hint = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
                let mut said = vec![0; hint.len()];
                timeout(LONG, client.read_exact(&mut said)).await.unwrap().unwrap();
                assert_eq!(String::from_utf8_lossy(&said), hint, "before there is an answer");
            }
            go.send(()).await.unwrap();
            let mut said = String::new();
            timeout(LONG, client.read_to_string(&mut said)).await.unwrap().unwrap();
            assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.contains("ok"), "{said}");
            assert!(!said.contains(" 103 ") && !said.contains("link"), "{said}");
        }
    }
}

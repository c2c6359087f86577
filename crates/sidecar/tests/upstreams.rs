//! Upstreams that misbehave, over real sockets and by raw bytes: every call is answered, none that is not idempotent is executed
//! twice, and none that is idempotent fails.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use gusset_call::{AnswerLayer, BoxError, Context, Deadline};
use gusset_sidecar::{
    Backoff, BodyDeadlineLayer, DeadlineLayer, ReplayBody, Retry, RetryLayer, RetryPolicy,
    WithBodyDeadline, WithDeadline,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use support::Dice;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tower::{ServiceBuilder, ServiceExt, service_fn};

type Pool = Client<HttpConnector, ReplayBody<Full<Bytes>>>;
type Stack = Retry<WithDeadline<WithBodyDeadline<Pool>>>;

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn policy() -> RetryPolicy {
    RetryPolicy::default()
        .backoff(Backoff::exponential(millis(1), millis(5)))
        .attempt_timeout(millis(150))
        .whole_answers(1024)
        .without_budget()
}

/// The client that all these tests call with; connections are kept.
fn stack(h2: bool) -> (RetryLayer, Stack) {
    let pool = Client::builder(TokioExecutor::new()).http2_only(h2).build_http();
    let retry = RetryLayer::new(policy());
    let stack = ServiceBuilder::new()
        .layer(retry.clone())
        .layer(DeadlineLayer::client())
        .layer(BodyDeadlineLayer::new())
        .service(pool);
    (retry, stack)
}

/// One call, within 10 s or, where it is not made again, 400 ms: its status and its whole body.
async fn call(stack: &Stack, method: &str, uri: String) -> Result<(u16, Bytes), BoxError> {
    let body = if method == "GET" { "" } else { "payload" };
    let request = Request::builder().method(method).uri(uri).body(Full::from(body)).unwrap();
    let patience = millis(if method == "POST" { 400 } else { 10_000 });
    let cx = Context::default().with_deadline(Deadline::after(patience));
    let response = cx.scope(stack.clone().oneshot(request)).await?;
    let status = response.status().as_u16();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}

/// Ways of an HTTP/1.1 server to misbehave once it has a request.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The connection is closed without an answer.
    Hangs,
    Closes,
    Resets,
    /// In the middle of the body.
    ResetsMidBody,
    StallsMidBody,
    Refuses,
    /// A good answer, but the connection does not stay open, as it says.
    ClosesIdle,
}

/// What the server has executed, by path; and how many faults each may have.
#[derive(Default)]
struct Executed {
    counts: Mutex<HashMap<String, u32>>,
    faults: Mutex<HashMap<String, u32>>,
}

/// Reads a request. None at the end of the connection.
async fn read_request(socket: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
            let length = head.split("content-length: ").nth(1);
            let length = length.map_or(0, |n| n.lines().next().unwrap().parse().unwrap());
            if buffer.len() >= end + 4 + length {
                buffer.drain(..end + 4 + length);
                return Some(head.split(' ').nth(1).unwrap().to_owned());
            }
        }
        if socket.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

async fn serve_badly(mut socket: TcpStream, executed: Arc<Executed>, dice: Arc<Mutex<Dice>>) {
    let mut buffer = Vec::new();
    while let Some(path) = read_request(&mut socket, &mut buffer).await {
        *executed.counts.lock().unwrap().entry(path.clone()).or_default() += 1;
        let fault = {
            let mut faults = executed.faults.lock().unwrap();
            let had = faults.entry(path.clone()).or_default();
            let fault = match dice.lock().unwrap().roll(12) {
                0 => Some(Fault::Hangs),
                1 => Some(Fault::Closes),
                2 => Some(Fault::Resets),
                3 => Some(Fault::ResetsMidBody),
                4 => Some(Fault::StallsMidBody),
                5 => Some(Fault::Refuses),
                6 | 7 => Some(Fault::ClosesIdle),
                _ => None,
            };
            // Fewer than a call is tried.
            let fault = fault.filter(|fault| matches!(fault, Fault::ClosesIdle) || *had < 2);
            *had += u32::from(fault.is_some());
            fault
        };
        let good = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{path}", path.len());
        let half = &good[..good.len() - path.len() / 2];
        let sent = match fault {
            None | Some(Fault::ClosesIdle) => good.as_str(),
            Some(Fault::Hangs | Fault::Closes | Fault::Resets) => "",
            Some(Fault::ResetsMidBody | Fault::StallsMidBody) => half,
            Some(Fault::Refuses) => "HTTP/1.1 503 Away\r\ncontent-length: 0\r\n\r\n",
        };
        if socket.write_all(sent.as_bytes()).await.is_err() {
            return;
        }
        match fault {
            // A half-open connection: it reads on and says nothing.
            Some(Fault::Hangs | Fault::StallsMidBody) => {
                while socket.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {}
                return;
            }
            Some(Fault::Resets | Fault::ResetsMidBody) => {
                socket.set_zero_linger().unwrap();
                return;
            }
            Some(Fault::Closes | Fault::ClosesIdle) => return,
            Some(Fault::Refuses) | None => {}
        }
    }
}

async fn listen<F: Future<Output = ()> + Send + 'static>(
    mut serve: impl FnMut(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket));
        }
    });
    address
}

#[tokio::test]
async fn whatever_an_upstream_does_every_call_is_answered_and_no_post_is_executed_twice() {
    for seed in [3, 1_234_567] {
        let executed = Arc::new(Executed::default());
        let dice = Arc::new(Mutex::new(Dice(seed)));
        let log = executed.clone();
        let address = listen(move |socket| serve_badly(socket, log.clone(), dice.clone())).await;
        let (retry, stack) = stack(false);
        let callers = (0..20).map(|caller| {
            let stack = stack.clone();
            tokio::spawn(async move {
                let mut failed = 0;
                for n in 0..15 {
                    let method = ["GET", "PUT", "POST"][n % 3];
                    let path = format!("/{method}/{caller}/{n}").to_lowercase();
                    let result = call(&stack, method, format!("http://{address}{path}")).await;
                    match result {
                        Ok((200, body)) => assert_eq!(body, path),
                        failure if method == "POST" => {
                            drop(failure);
                            failed += 1;
                        }
                        failure => panic!("{method} {path}: {failure:?}"),
                    }
                }
                failed
            })
        });
        let callers: Vec<_> = callers.collect();
        let mut failed = 0;
        for caller in callers {
            failed += timeout(Duration::from_secs(60), caller).await.unwrap().unwrap();
        }
        let counts = executed.counts.lock().unwrap();
        let posts = counts.iter().filter(|(path, _)| path.starts_with("/post"));
        posts.for_each(|(path, count)| assert_eq!(*count, 1, "{path}"));
        assert!(failed > 0 && retry.stats().retries > 20, "the faults were seen: {failed}");
    }
}

/// A server of HTTP/2 as far as these tests go: says in one frame what becomes of each stream.
async fn serve_h2(mut socket: TcpStream, mut decide: impl FnMut(u32) -> H2) {
    let mut preface = [0; 24];
    if socket.read_exact(&mut preface).await.is_err() {
        return;
    }
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    socket.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    loop {
        let mut head = [0; 9];
        if socket.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).await.unwrap();
        let stream = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let (kind, flags) = (head[3], head[4]);
        let answer = match kind {
            4 if flags & 1 == 0 => frame(4, 1, 0, &[]),
            6 if flags & 1 == 0 => frame(6, 1, 0, &payload),
            // HEADERS or DATA at the end of a request.
            0 | 1 if flags & 1 == 1 => match decide(stream) {
                // `:status: 200`, the eighth entry of HPACK's static table.
                H2::Answers => frame(1, 5, stream, &[0x88]),
                H2::Resets(code) => frame(3, 0, stream, &code.to_be_bytes()),
                H2::GoesAway { last } => {
                    frame(7, 0, 0, &[&last.to_be_bytes()[..], &[0; 4]].concat())
                }
            },
            _ => continue,
        };
        if socket.write_all(&answer).await.is_err() {
            return;
        }
        if answer[3] == 7 {
            return;
        }
    }
}

#[derive(Clone, Copy)]
enum H2 {
    Answers,
    Resets(u32),
    GoesAway { last: u32 },
}

/// A POST to a server that does this with the first streams: the status, and how many it saw.
async fn post_h2(script: impl IntoIterator<Item = H2>) -> (Result<u16, BoxError>, u32) {
    let script: Vec<_> = script.into_iter().collect();
    let seen = Arc::new(AtomicU32::new(0));
    let counter = seen.clone();
    let address = listen(move |socket| {
        let (script, seen) = (script.clone(), seen.clone());
        serve_h2(socket, move |_| {
            let n = seen.fetch_add(1, SeqCst);
            script.get(n as usize).copied().unwrap_or(H2::Answers)
        })
    })
    .await;
    let (_, stack) = stack(true);
    let result = call(&stack, "POST", format!("http://{address}/pay")).await;
    (result.map(|(status, _)| status), counter.load(SeqCst))
}

const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;

#[tokio::test]
async fn a_stream_that_http2_refused_was_never_sent() {
    let (result, seen) = post_h2([H2::Resets(REFUSED_STREAM), H2::Resets(REFUSED_STREAM)]).await;
    assert_eq!((result.unwrap(), seen), (200, 3));
}

#[tokio::test]
async fn a_stream_that_goaway_leaves_out_was_never_sent() {
    let (result, seen) = post_h2([H2::GoesAway { last: 0 }]).await;
    assert_eq!((result.unwrap(), seen), (200, 2));
}

#[tokio::test]
async fn a_stream_that_goaway_names_as_processed_is_not_sent_again() {
    let (result, seen) = post_h2([H2::GoesAway { last: 1 }]).await;
    assert!(result.is_err());
    assert_eq!(seen, 1);
}

#[tokio::test]
async fn a_stream_reset_for_another_reason_is_not_sent_again() {
    let (result, seen) = post_h2([H2::Resets(CANCEL)]).await;
    assert!(result.is_err());
    assert_eq!(seen, 1);
}

#[tokio::test]
async fn an_instance_that_comes_up_late_gets_the_post_once() {
    // A port that was free a moment ago, and refuses.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (retry, stack) = stack(false);
    let error = call(&stack, "POST", format!("http://{address}/pay")).await.unwrap_err();
    assert_eq!(retry.stats().retries, 3, "{error}");
}

#[tokio::test]
async fn when_the_caller_leaves_the_handler_and_what_it_called_are_cancelled() {
    // The end of the chain: tells when its caller hangs up.
    let (asked, left) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (was_asked, has_left) = (asked.clone(), left.clone());
    let address = listen(move |mut socket| {
        let (asked, left) = (asked.clone(), left.clone());
        async move {
            read_request(&mut socket, &mut Vec::new()).await;
            asked.store(true, SeqCst);
            while socket.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            left.store(true, SeqCst);
        }
    })
    .await;

    let (_, client) = stack(false);
    let middle = service_fn(move |_: Request<hyper::body::Incoming>| {
        let client = client.clone();
        async move {
            let onward = Request::get(format!("http://{address}/")).body(Full::default());
            let answer = client.oneshot(onward.unwrap()).await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(Response::new(Full::from(answer.status().to_string())))
        }
    });
    let layers = ServiceBuilder::new()
        .layer(AnswerLayer::new())
        .layer(DeadlineLayer::server(Duration::from_secs(60)));
    let middle = layers.service(middle);
    let address = listen(move |socket| {
        let service = TowerToHyperService::new(middle.clone());
        async move {
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        }
    })
    .await;

    let mut caller = TcpStream::connect(address).await.unwrap();
    caller.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    until(|| was_asked.load(SeqCst)).await;
    drop(caller);
    until(|| has_left.load(SeqCst)).await;
}

async fn until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(60));
        sleep(millis(5)).await;
    }
}

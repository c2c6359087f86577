use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use gusset_call::{BoxError, Overloaded};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::{JoinSet, LocalSet},
    time::timeout,
};
use tower::ServiceExt;

use super::{AnswerBody, Connections, Expects, Line, Pool, Transport, TransportError};

pub(super) type AnyBody = UnsyncBoxBody<Bytes, BoxError>;
pub(super) type Answer = Result<Response<AnswerBody<AnyBody>>, BoxError>;

pub(super) fn empty() -> AnyBody {
    Empty::new().map_err(BoxError::from).boxed_unsync()
}

pub(super) fn full(bytes: impl Into<Bytes>) -> AnyBody {
    Full::new(bytes.into()).map_err(BoxError::from).boxed_unsync()
}

/// A body of unknown length that one end feeds.
pub(super) fn fed() -> (mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>, AnyBody) {
    let (feed, mut fed) = mpsc::unbounded_channel();
    let frames = futures_of(move |cx| fed.poll_recv(cx));
    (feed, StreamBody::new(frames).boxed_unsync())
}

fn futures_of<T>(
    poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>>,
) -> impl futures_core::Stream<Item = T> {
    struct Polled<F>(F);
    impl<F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin, T>
        futures_core::Stream for Polled<F>
    {
        type Item = T;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            (self.0)(cx)
        }
    }
    Polled(Box::new(poll))
}

/// An instance whose connections each run `script`; the number of connections so far is counted.
pub(super) struct Instance {
    pub(super) address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

pub(super) async fn instance<F>(script: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Instance
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(script(count.fetch_add(1, SeqCst), stream));
        }
    });
    Instance { address, connections }
}

/// Reads a request without a body.
async fn head(stream: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8(head).unwrap())
}

impl Instance {
    fn line(&self) -> Line {
        Line::new(Pool::new(), &self.address.to_string(), Arc::default())
    }

    pub(super) fn line_by(&self, transport: Transport) -> Line {
        Line::new(Pool::new(), &self.address.to_string(), Arc::new(transport))
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

pub(super) async fn call(line: &Line, method: &str, body: AnyBody) -> Answer {
    let request = Request::builder().method(method).uri("/a").body(body).unwrap();
    timeout(Duration::from_secs(20), line.clone().oneshot(request)).await.expect("an answer")
}

pub(super) async fn text(answer: Answer) -> Result<String, BoxError> {
    let whole = timeout(Duration::from_secs(20), answer?.into_body().collect()).await;
    Ok(String::from_utf8(whole.expect("an end")?.to_bytes().to_vec())?)
}

pub(super) fn kind(error: &BoxError) -> &TransportError {
    error.downcast_ref().expect("an error of the transport")
}

#[tokio::test]
async fn calls_one_after_the_other_take_one_connection() {
    let instance = instance(|_, mut stream| async move {
        loop {
            let head = head(&mut stream).await?;
            let length = if head.starts_with("HEAD") { "7" } else { "2" };
            let body = if head.starts_with("HEAD") { "" } else { "ok" };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await?;
        }
    })
    .await;
    let line = instance.line();
    for method in ["GET", "HEAD", "DELETE", "POST"] {
        let expected = if method == "HEAD" { "" } else { "ok" };
        assert_eq!(text(call(&line, method, empty()).await).await.unwrap(), expected);
    }
    assert_eq!(instance.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_is_not_to_be_used_again_is_not() {
    for answer in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok and something nobody asked for",
    ] {
        let instance = instance(move |_, mut stream| async move {
            loop {
                head(&mut stream).await?;
                stream.write_all(answer.as_bytes()).await?;
            }
        })
        .await;
        let line = instance.line();
        for _ in 0..2 {
            assert_eq!(text(call(&line, "GET", empty()).await).await.unwrap(), "ok");
        }
        assert_eq!(instance.connections(), 2, "{answer}");
    }
}

/// Always answers.
async fn patient() -> Instance {
    instance(|_, mut stream| async move {
        loop {
            head(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_serves_no_more_calls_and_no_longer_than_its_upstream_says() {
    let connections = Connections::new();
    for (connections, expected) in [
        (connections.clone(), 1),
        (connections.clone().max_requests(2), 2),
        (connections.clone().max_requests(0), 4),
        (connections.clone().max_age(Duration::ZERO), 4),
        (connections.clone().idle(Duration::ZERO), 4),
        (connections.clone().max_idle(0), 4),
    ] {
        let instance = patient().await;
        let line = instance.line_by(Transport::http1().connections(connections.clone()));
        for _ in 0..4 {
            assert_eq!(text(call(&line, "GET", empty()).await).await.unwrap(), "ok");
        }
        assert_eq!(instance.connections(), expected, "{connections:?}");
    }
}

#[tokio::test]
async fn above_the_number_of_idle_connections_the_oldest_goes() {
    let instance = patient().await;
    let connections = Connections::new().max_idle(2);
    let line = instance.line_by(Transport::http1().connections(connections));
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(call(&line, "GET", empty()).await);
    }
    for answer in answers {
        text(answer).await.unwrap();
    }
    assert_eq!(instance.connections(), 4);
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(call(&line, "GET", empty()).await);
    }
    assert_eq!(instance.connections(), 6, "two of four were kept");
}

#[tokio::test]
async fn what_must_not_be_sent_twice_has_a_fresh_connection_if_its_upstream_says_so() {
    let instance = closing_when_asked_twice().await;
    let connections = Connections::new().fresh_for_unsafe(true);
    let line = instance.line_by(Transport::http1().connections(connections));
    for at in 1..=10 {
        assert_eq!(text(call(&line, "POST", full("pay")).await).await.unwrap(), "ok");
        assert_eq!(instance.connections(), at);
    }
    assert_eq!(text(call(&line, "GET", empty()).await).await.unwrap(), "ok");
}

/// Tells of each request that has come, and answers when it is let.
async fn waiting_to_be_let() -> (Instance, Arc<Semaphore>, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let let_go = gate.clone();
    let instance = instance(move |_, mut stream| {
        let (tell, let_go) = (tell.clone(), let_go.clone());
        async move {
            loop {
                let head = head(&mut stream).await?;
                let _ = tell.send(head.split(' ').nth(1).unwrap().to_owned());
                let_go.acquire().await.unwrap().forget();
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
            }
        }
    })
    .await;
    (instance, gate, told)
}

async fn call_at(line: Line, path: usize) -> Result<String, BoxError> {
    let request = Request::get(format!("/{path}")).body(empty()).unwrap();
    text(timeout(Duration::from_secs(60), line.oneshot(request)).await.expect("an answer")).await
}

#[tokio::test]
async fn connections_are_bounded_and_those_who_wait_for_one_get_it_in_their_order() {
    let (instance, gate, mut told) = waiting_to_be_let().await;
    let connections = Connections::new().max(2).waiting(4);
    let line = instance.line_by(Transport::http1().connections(connections));
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut calls = JoinSet::new();
            for path in 0..6 {
                calls.spawn_local(call_at(line.clone(), path));
                tokio::task::yield_now().await;
            }
            let mut seen = vec![told.recv().await.unwrap(), told.recv().await.unwrap()];
            let error = call_at(line.clone(), 7).await.unwrap_err();
            assert!(error.is::<Overloaded>(), "as many wait as may: {error:?}");
            for _ in 2..6 {
                gate.add_permits(1);
                seen.push(told.recv().await.unwrap());
            }
            seen[..2].sort();
            assert_eq!(seen, ["/0", "/1", "/2", "/3", "/4", "/5"]);
            gate.add_permits(2);
            assert!(calls.join_all().await.into_iter().all(|text| text.unwrap() == "ok"));
        })
        .await;
    assert_eq!(instance.connections(), 2);
}

#[tokio::test]
async fn who_leaves_gives_its_place_among_the_connections_back() {
    let (instance, gate, mut told) = waiting_to_be_let().await;
    let connections = Connections::new().max(1).waiting(1);
    let line = instance.line_by(Transport::http1().connections(connections));
    let soon = Duration::from_millis(100);
    for _ in 0..3 {
        // One of them waits for its answer, the other for the connection.
        let both = async { tokio::join!(call_at(line.clone(), 1), call_at(line.clone(), 2)) };
        assert!(timeout(soon, both).await.is_err());
        told.recv().await.unwrap();
    }
    gate.add_permits(10);
    assert_eq!(call_at(line.clone(), 3).await.unwrap(), "ok");
    assert_eq!(call_at(line.clone(), 4).await.unwrap(), "ok", "by the same");
    assert_eq!(instance.connections(), 4);
}

#[tokio::test]
async fn an_idle_connection_of_another_thread_makes_room() {
    let instance = patient().await;
    let connections = Connections::new().max(1).waiting(1);
    let line = instance.line_by(Transport::http1().connections(connections));
    let other = line.clone();
    let (done, end) = std::sync::mpsc::channel::<()>();
    let (tell, told) = tokio::sync::oneshot::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let text = runtime.block_on(call_at(other, 1)).unwrap();
        tell.send(text).unwrap();
        // The runtime stays, and its idle connection with it.
        let _ = end.recv();
    });
    assert_eq!(told.await.unwrap(), "ok");
    assert_eq!(call_at(line.clone(), 2).await.unwrap(), "ok");
    assert_eq!(call_at(line, 3).await.unwrap(), "ok");
    assert_eq!(instance.connections(), 2);
    drop(done);
    thread.join().unwrap();
}

/// A request that holds its body back until its instance wants it.
async fn expecting(line: &Line) -> Answer {
    let request = Request::post("/a").extension(Expects).body(full("pay")).unwrap();
    timeout(Duration::from_secs(60), line.clone().oneshot(request)).await.expect("an answer")
}

#[tokio::test]
async fn a_body_is_held_back_until_its_instance_wants_it() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let instance = instance(move |_, mut stream| {
        let tell = tell.clone();
        async move {
            let head = head(&mut stream).await?;
            let early = timeout(Duration::from_millis(100), stream.read_u8()).await;
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            let mut body = [0; 3];
            stream.read_exact(&mut body).await?;
            let _ = tell.send((head.contains("expect: 100-continue"), early.is_err(), body));
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
        }
    })
    .await;
    assert_eq!(text(expecting(&instance.line()).await).await.unwrap(), "ok");
    assert_eq!(told.recv().await.unwrap(), (true, true, *b"pay"));
}

#[tokio::test]
async fn a_body_that_its_instance_does_not_want_is_not_sent_and_its_connection_ends() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let instance = instance(move |_, mut stream| {
        let tell = tell.clone();
        async move {
            head(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 417 No\r\ncontent-length: 2\r\n\r\nno").await?;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            let _ = tell.send(rest.len());
            Ok(())
        }
    })
    .await;
    let answer = expecting(&instance.line()).await;
    assert_eq!(answer.as_ref().unwrap().status(), 417);
    assert_eq!(text(answer).await.unwrap(), "no");
    assert_eq!(told.recv().await.unwrap(), 0);
}

#[tokio::test]
async fn an_instance_that_knows_nothing_of_it_gets_the_body_after_a_while() {
    let instance = instance(|_, mut stream| async move {
        head(&mut stream).await?;
        stream.read_exact(&mut [0; 3]).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
    })
    .await;
    assert_eq!(text(expecting(&instance.line()).await).await.unwrap(), "ok");
}

/// Answers once by each connection, and closes it when the second request has come in.
async fn closing_when_asked_twice() -> Instance {
    instance(|_, mut stream| async move {
        head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
        head(&mut stream).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn what_may_be_repeated_is_sent_again_when_an_idle_connection_was_closing() {
    let instance = closing_when_asked_twice().await;
    let line = instance.line();
    for _ in 0..10 {
        assert_eq!(text(call(&line, "GET", empty()).await).await.unwrap(), "ok");
    }
    assert!(instance.connections() >= 5);
}

#[tokio::test]
async fn what_may_not_be_repeated_is_sent_once() {
    let instance = closing_when_asked_twice().await;
    let line = instance.line();
    assert_eq!(text(call(&line, "POST", empty()).await).await.unwrap(), "ok");
    let error = call(&line, "POST", full("body")).await.unwrap_err();
    assert!(matches!(kind(&error), TransportError::Stale(_)), "{error:?}");
    assert!(!kind(&error).is_unsent());
    assert_eq!(instance.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_has_ended_while_idle_is_not_taken() {
    let instance = instance(|_, mut stream| async move {
        head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
    })
    .await;
    let line = instance.line();
    for _ in 0..5 {
        assert_eq!(text(call(&line, "POST", empty()).await).await.unwrap(), "ok");
        // The end of it is on its way; what is told by it is that it has come.
        tokio::task::yield_now().await;
        while line.has_quiet() {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(instance.connections(), 5);
}

#[tokio::test]
async fn a_fresh_connection_that_ends_without_an_answer_is_an_error() {
    let instance = instance(|_, mut stream| async move { head(&mut stream).await.map(drop) }).await;
    let error = call(&instance.line(), "GET", empty()).await.unwrap_err();
    assert!(matches!(kind(&error), TransportError::Broken(_)), "{error:?}");
    assert_eq!(instance.connections(), 1);
}

#[tokio::test]
async fn nobody_at_the_address_means_that_nothing_was_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let line = Line::new(Pool::new(), &address.to_string(), Arc::default());
    let error = call(&line, "POST", full("body")).await.unwrap_err();
    assert!(kind(&error).is_unsent());
}

#[tokio::test]
async fn an_answer_before_the_request_is_whole_is_the_answer() {
    let instance = instance(|_, mut stream| async move {
        head(&mut stream).await?;
        let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig";
        stream.write_all(answer).await
    })
    .await;
    let (feed, body) = fed();
    for _ in 0..64 {
        feed.send(Ok(Frame::data(vec![0; 64 * 1024].into()))).unwrap();
    }
    let answer = call(&instance.line(), "POST", body).await;
    assert_eq!(answer.as_ref().unwrap().status(), 413);
    assert_eq!(text(answer).await.unwrap(), "big");
}

#[tokio::test]
async fn both_directions_flow_at_once_without_a_bound_on_the_whole() {
    // Sends back what comes, chunk by chunk: with more in the buffers than they hold it would stand still.
    let instance = instance(|_, mut stream| async move {
        head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.map(drop)
    })
    .await;
    let (feed, body) = fed();
    let mut answer = call(&instance.line(), "POST", body).await.unwrap().into_body();
    const CHUNK: usize = 100_000;
    const CHUNKS: usize = 200;
    for at in 0..CHUNKS {
        feed.send(Ok(Frame::data(vec![u8::try_from(at).unwrap(); CHUNK].into()))).unwrap();
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    feed.send(Ok(Frame::trailers(trailers))).unwrap();
    let (mut length, mut told) = (0, None);
    while let Some(frame) = answer.frame().await {
        match frame.unwrap().into_data() {
            Ok(data) => {
                let expected = u8::try_from(length / CHUNK).unwrap();
                assert_eq!(data[0], expected);
                length += data.len();
            }
            Err(frame) => told = frame.into_trailers().ok(),
        }
    }
    assert_eq!(length, CHUNK * CHUNKS);
    assert_eq!(told.unwrap()["x-sum"], "7");
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_end_as_if_it_were_whole() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        "HTTP/1.1 200 OK\r\ncontent-le",
    ] {
        let instance = instance(move |_, mut stream| async move {
            head(&mut stream).await?;
            stream.write_all(answer.as_bytes()).await
        })
        .await;
        let error = text(call(&instance.line(), "GET", empty()).await).await.unwrap_err();
        assert!(matches!(kind(&error), TransportError::Broken(_)), "{answer}: {error:?}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_go_on_breaks_off_and_its_connection_with_it() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let instance = instance(move |_, mut stream| {
        let tell = tell.clone();
        async move {
            head(&mut stream).await?;
            // Each part within the limit, all of them not; then no more.
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n").await?;
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.write_all(b"o").await?;
            }
            let _ = tell.send(stream.read(&mut [0]).await);
            Ok(())
        }
    })
    .await;
    let transport = Transport::http1().answer_idle(Duration::from_millis(300));
    let line = instance.line_by(transport);
    let mut body = call(&line, "GET", empty()).await.unwrap().into_body();
    let mut seen = 0;
    let error = loop {
        match timeout(Duration::from_secs(30), body.frame()).await.unwrap().unwrap() {
            Ok(frame) => seen += frame.into_data().unwrap().len(),
            Err(error) => break error,
        }
    };
    assert!(matches!(kind(&error), TransportError::Stalled), "{error:?}");
    assert_eq!(seen, 8);
    let seen = timeout(Duration::from_secs(30), told.recv()).await.unwrap().unwrap();
    assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn without_a_length_the_end_of_the_connection_is_the_end() {
    let instance = instance(|_, mut stream| async move {
        head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it").await
    })
    .await;
    assert_eq!(text(call(&instance.line(), "GET", empty()).await).await.unwrap(), "all of it");
}

#[tokio::test]
async fn interim_answers_are_passed_over_up_to_a_bound() {
    for (times, answered) in [(16, true), (17, false)] {
        let instance = instance(move |_, mut stream| async move {
            head(&mut stream).await?;
            let interim = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n".repeat(times);
            let answer = format!("{interim}HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            stream.write_all(answer.as_bytes()).await
        })
        .await;
        assert_eq!(text(call(&instance.line(), "GET", empty()).await).await.is_ok(), answered);
    }
}

#[tokio::test]
async fn another_protocol_that_nobody_asked_for_is_refused() {
    let instance = instance(|_, mut stream| async move {
        head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n").await?;
        head(&mut stream).await.map(drop)
    })
    .await;
    let error = call(&instance.line(), "GET", empty()).await.unwrap_err();
    assert!(matches!(kind(&error), TransportError::Malformed(_)));
}

/// What an instance sees when a caller leaves.
async fn seen_when_left(answer: &'static [u8], leave: impl AsyncFnOnce(Line)) -> io::Result<usize> {
    let (tell, mut told) = mpsc::unbounded_channel();
    let instance = instance(move |_, mut stream| {
        let tell = tell.clone();
        async move {
            let seen = async {
                head(&mut stream).await?;
                stream.write_all(answer).await?;
                stream.read_to_end(&mut Vec::new()).await
            };
            let _ = tell.send(seen.await);
            Ok(())
        }
    })
    .await;
    leave(instance.line()).await;
    timeout(Duration::from_secs(20), told.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn who_leaves_in_the_middle_of_an_answer_resets_the_connection() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nha";
    let seen = seen_when_left(answer, async |line| drop(call(&line, "GET", empty()).await)).await;
    assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_request_that_is_cut_off_never_looks_whole() {
    // Neither by a client that leaves …
    let seen = seen_when_left(b"", async |line| {
        let (feed, body) = fed();
        feed.send(Ok(Frame::data("half".into()))).unwrap();
        let request = Request::post("/").body(body).unwrap();
        let waited = timeout(Duration::from_millis(50), line.oneshot(request)).await;
        assert!(waited.is_err());
    })
    .await;
    assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    // … nor by one whose body breaks, which is the error that is told.
    let seen = seen_when_left(b"", async |line| {
        let (feed, body) = fed();
        feed.send(Ok(Frame::data("half".into()))).unwrap();
        feed.send(Err("the client's fault".into())).unwrap();
        let error = call(&line, "POST", body).await.unwrap_err();
        assert_eq!(error.to_string(), "the client's fault");
    })
    .await;
    assert_eq!(seen.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_body_of_another_length_than_it_said_is_an_error() {
    struct Liar(u64, Option<Bytes>);
    impl http_body::Body for Liar {
        type Data = Bytes;
        type Error = BoxError;
        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            std::task::Poll::Ready(self.1.take().map(|data| Ok(Frame::data(data))))
        }
        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(self.0)
        }
    }
    for length in [3, 5] {
        let instance = instance(|_, mut stream| async move {
            head(&mut stream).await?;
            stream.read_to_end(&mut Vec::new()).await.map(drop)
        })
        .await;
        let body = Liar(length, Some("four".into())).boxed_unsync();
        let error = call(&instance.line(), "POST", body).await.unwrap_err();
        assert!(matches!(kind(&error), TransportError::WrongLength), "{length}");
    }
}

#[tokio::test]
async fn idle_connections_are_closed_in_time_without_a_call() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let instance = instance(move |_, mut stream| {
        let tell = tell.clone();
        async move {
            head(&mut stream).await?;
            let answer = b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=2\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await?;
            let _ = tell.send(stream.read(&mut [0]).await);
            Ok(())
        }
    })
    .await;
    let line = instance.line();
    assert_eq!(text(call(&line, "GET", empty()).await).await.unwrap(), "");
    let end = timeout(Duration::from_secs(20), told.recv()).await.unwrap().unwrap();
    assert_eq!(end.unwrap(), 0, "a regular end");
}

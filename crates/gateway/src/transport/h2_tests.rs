use std::{
    future::{Future, poll_fn},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use gusset_call::BoxError;
use h2::{Reason, RecvStream, server};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::{JoinSet, LocalSet},
    time::timeout,
};
use tower::ServiceExt;

use super::{
    Line, Pool, Transport, TransportError,
    tests::{self, Answer, Instance, call, empty, fed, full, kind, text},
};

type Serving = server::Connection<TcpStream, Bytes>;
type Respond = server::SendResponse<Bytes>;

const LONG: Duration = Duration::from_secs(60);

/// An instance whose connections each run `script`.
async fn instance<F>(
    streams: u32,
    script: impl Fn(usize, Serving) -> F + Clone + Send + 'static,
) -> Instance
where
    F: Future<Output = ()> + Send + 'static,
{
    tests::instance(move |number, stream| {
        let script = script.clone();
        async move {
            let mut builder = server::Builder::new();
            let handshake = builder.max_concurrent_streams(streams).handshake(stream);
            if let Ok(connection) = handshake.await {
                script(number, connection).await;
            }
            Ok(())
        }
    })
    .await
}

/// Gives each request to `handler`, as long as the connection goes on.
async fn serve<F>(mut connection: Serving, handler: impl Fn(Request<RecvStream>, Respond) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(handler(request, respond));
    }
}

async fn ok(_: Request<RecvStream>, mut respond: Respond) {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data("ok".into(), true).unwrap();
}

/// The way to it by HTTP/2.
fn line_to(instance: &Instance) -> Line {
    instance.line_by(Transport::http2().answer_idle(LONG))
}

#[tokio::test]
async fn calls_that_begin_at_once_make_one_connection() {
    let instance = instance(200, |_, connection| serve(connection, ok)).await;
    let line = line_to(&instance);
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut calls = JoinSet::new();
            for _ in 0..100 {
                let line = line.clone();
                calls.spawn_local(
                    async move { text(call(&line, "GET", empty()).await).await.unwrap() },
                );
            }
            assert!(calls.join_all().await.iter().all(|text| text == "ok"));
            assert_eq!(instance.connections(), 1);
        })
        .await;
}

#[tokio::test]
async fn interim_answers_are_never_taken_for_the_answer() {
    let instance = instance(200, |_, connection| {
        serve(connection, |request, mut respond| async move {
            for status in [103, 102, 103] {
                let interim = Response::builder().status(status).header("link", "x").body(());
                respond.send_informational(interim.unwrap()).unwrap();
                tokio::task::yield_now().await;
            }
            ok(request, respond).await;
        })
    })
    .await;
    let answer = call(&line_to(&instance), "GET", empty()).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("link"));
    assert_eq!(text(Ok(answer)).await.unwrap(), "ok");
}

#[tokio::test]
async fn interim_answers_of_a_stream_are_passed_over_up_to_a_bound() {
    for (times, answered) in [(16, true), (17, false)] {
        let instance = instance(200, move |_, connection| {
            serve(connection, move |request, mut respond| async move {
                for _ in 0..times {
                    let interim = Response::builder().status(103).header("link", "x").body(());
                    respond.send_informational(interim.unwrap()).unwrap();
                }
                ok(request, respond).await;
            })
        })
        .await;
        match call(&line_to(&instance), "GET", empty()).await {
            Ok(answer) => assert!(answered && text(Ok(answer)).await.unwrap() == "ok"),
            Err(error) => {
                assert!(!answered);
                assert!(matches!(kind(&error), TransportError::Malformed(_)), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn another_connection_is_made_when_an_instance_takes_no_more_streams_by_one() {
    let (hold, seen) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (held, see) = (hold.clone(), seen.clone());
    let instance = instance(2, move |_, connection| {
        let (held, see) = (held.clone(), see.clone());
        serve(connection, move |request, respond| {
            let (held, see) = (held.clone(), see.clone());
            async move {
                see.add_permits(1);
                held.acquire().await.unwrap().forget();
                ok(request, respond).await;
            }
        })
    })
    .await;
    let line = line_to(&instance);
    // So that the settings of the first are known.
    hold.add_permits(1);
    text(call(&line, "GET", empty()).await).await.unwrap();
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut calls = JoinSet::new();
            for _ in 0..6 {
                let line = line.clone();
                calls.spawn_local(
                    async move { text(call(&line, "GET", empty()).await).await.unwrap() },
                );
            }
            let all = timeout(LONG, seen.acquire_many(7)).await;
            all.expect("all are served at once").unwrap().forget();
            hold.add_permits(6);
            assert_eq!(calls.join_all().await.len(), 6);
            // While the settings of a new one are on their way, it may be taken for a large one.
            assert!((2..=4).contains(&instance.connections()), "{}", instance.connections());
        })
        .await;
}

#[tokio::test]
async fn a_connection_that_goes_away_gets_no_more_calls_and_those_under_way_end() {
    let instance = instance(100, |_, mut connection| async move {
        let (request, respond) = connection.accept().await.unwrap().unwrap();
        connection.graceful_shutdown();
        // It goes away before it answers.
        poll_fn(|cx| {
            let _ = connection.poll_closed(cx);
            std::task::Poll::Ready(())
        })
        .await;
        ok(request, respond).await;
        while let Some(Ok((request, respond))) = connection.accept().await {
            ok(request, respond).await;
        }
    })
    .await;
    let line = line_to(&instance);
    for _ in 0..5 {
        assert_eq!(text(call(&line, "POST", full("pay")).await).await.unwrap(), "ok");
    }
    assert!(instance.connections() >= 2, "{}", instance.connections());
}

#[tokio::test]
async fn a_stream_that_is_refused_was_never_seen() {
    let instance = instance(100, |_, connection| {
        serve(connection, async |_, mut respond| respond.send_reset(Reason::REFUSED_STREAM))
    })
    .await;
    let error = call(&line_to(&instance), "POST", full("pay")).await.unwrap_err();
    assert!(matches!(kind(&error), TransportError::Refused(_)), "{error:?}");
    assert!(kind(&error).is_unsent());
}

#[tokio::test]
async fn a_stream_that_is_reset_may_have_been_seen() {
    for reason in [Reason::INTERNAL_ERROR, Reason::CANCEL, Reason::NO_ERROR] {
        let instance = instance(100, move |_, connection| {
            serve(connection, move |_, mut respond| async move { respond.send_reset(reason) })
        })
        .await;
        let error = call(&line_to(&instance), "POST", full("pay")).await.unwrap_err();
        assert!(matches!(kind(&error), TransportError::Broken(_)), "{reason:?} {error:?}");
    }
}

#[tokio::test]
async fn nobody_at_the_address_means_that_nothing_was_sent_by_any_of_those_who_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let line = Line::new(Pool::new(), &address.to_string(), Arc::new(Transport::http2()));
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut calls = JoinSet::new();
            for _ in 0..10 {
                let line = line.clone();
                calls.spawn_local(
                    async move { call(&line, "POST", full("pay")).await.unwrap_err() },
                );
            }
            assert!(calls.join_all().await.iter().all(|error| kind(error).is_unsent()));
        })
        .await;
}

/// What an instance sees of a request whose caller leaves: how its body ended, and its stream.
async fn seen_when_left(
    answers: bool,
    leave: impl AsyncFnOnce(Line),
) -> (Option<Result<(), Reason>>, Option<Reason>) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let instance = instance(100, move |_, connection| {
        let tell = tell.clone();
        serve(connection, move |request, mut respond| {
            let tell = tell.clone();
            async move {
                let stream =
                    answers.then(|| respond.send_response(Response::new(()), false).unwrap());
                let mut body = request.into_body();
                let ended = loop {
                    match body.data().await {
                        None => break Some(Ok(())),
                        Some(Ok(_)) => {}
                        Some(Err(error)) => break error.reason().map(Err),
                    }
                };
                let reset = match stream {
                    Some(mut stream) => poll_fn(|cx| stream.poll_reset(cx)).await,
                    None => poll_fn(|cx| respond.poll_reset(cx)).await,
                };
                let _ = tell.send((ended, reset.ok()));
            }
        })
    })
    .await;
    leave(line_to(&instance)).await;
    timeout(LONG, told.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn who_leaves_resets_the_stream() {
    let seen = seen_when_left(true, async |line| {
        drop(call(&line, "GET", empty()).await.unwrap());
    })
    .await;
    assert_eq!(seen, (Some(Ok(())), Some(Reason::CANCEL)));
    let seen = seen_when_left(false, async |line| {
        let (feed, body) = fed();
        feed.send(Ok(Frame::data("half".into()))).unwrap();
        let request = Request::post("/").body(body).unwrap();
        let waited = timeout(Duration::from_millis(200), line.oneshot(request)).await;
        assert!(waited.is_err());
    })
    .await;
    assert_eq!(seen, (Some(Err(Reason::CANCEL)), Some(Reason::CANCEL)));
}

#[tokio::test]
async fn a_request_whose_body_breaks_never_looks_whole() {
    let seen = seen_when_left(false, async |line| {
        let (feed, body) = fed();
        feed.send(Ok(Frame::data("half".into()))).unwrap();
        feed.send(Err("the client's fault".into())).unwrap();
        let error = call(&line, "POST", body).await.unwrap_err();
        assert_eq!(error.to_string(), "the client's fault");
    })
    .await;
    assert_eq!(seen, (Some(Err(Reason::CANCEL)), Some(Reason::CANCEL)));
}

#[tokio::test]
async fn both_directions_flow_at_once_with_trailers_and_without_a_bound_on_the_whole() {
    let instance = instance(100, |_, connection| {
        serve(connection, async |request, mut respond| {
            let mut out = respond.send_response(Response::new(()), false).unwrap();
            let mut body = request.into_body();
            while let Some(Ok(mut data)) = body.data().await {
                body.flow_control().release_capacity(data.len()).unwrap();
                while !data.is_empty() {
                    out.reserve_capacity(data.len());
                    let room = match poll_fn(|cx| out.poll_capacity(cx)).await {
                        Some(Ok(room)) => room.min(data.len()),
                        _ => return,
                    };
                    out.send_data(data.split_to(room), false).unwrap();
                }
            }
            out.send_trailers(body.trailers().await.unwrap().unwrap()).unwrap();
        })
    })
    .await;
    let (feed, body) = fed();
    let mut answer = call(&line_to(&instance), "POST", body).await.unwrap().into_body();
    const CHUNK: usize = 100_000;
    const CHUNKS: usize = 200;
    for at in 0..CHUNKS {
        feed.send(Ok(Frame::data(vec![u8::try_from(at).unwrap(); CHUNK].into()))).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    trailers.insert("content-length", "7".parse().unwrap());
    feed.send(Ok(Frame::trailers(trailers))).unwrap();
    drop(feed);
    let (mut length, mut told) = (0, None);
    while let Some(frame) = timeout(LONG, answer.frame()).await.unwrap() {
        match frame.unwrap().into_data() {
            Ok(data) => {
                assert_eq!(data[0], u8::try_from(length / CHUNK).unwrap());
                length += data.len();
            }
            Err(frame) => told = frame.into_trailers().ok(),
        }
    }
    assert_eq!(length, CHUNK * CHUNKS);
    let told = told.unwrap();
    assert_eq!((&told["x-sum"], told.len()), (&"7".parse().unwrap(), 1));
}

#[tokio::test]
async fn an_answer_before_the_request_is_whole_is_the_answer() {
    let instance = instance(100, |_, connection| {
        serve(connection, async |_, mut respond| {
            let answer = Response::builder().status(413).body(()).unwrap();
            let mut body = respond.send_response(answer, false).unwrap();
            body.send_data("big".into(), true).unwrap();
            // What has not gone out yet, a reset would take back.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            respond.send_reset(Reason::NO_ERROR);
        })
    })
    .await;
    let (feed, body) = fed();
    for _ in 0..64 {
        feed.send(Ok(Frame::data(vec![0; 64 * 1024].into()))).unwrap();
    }
    let answer = call(&line_to(&instance), "POST", body).await;
    assert_eq!(answer.as_ref().unwrap().status(), 413);
    assert_eq!(text(answer).await.unwrap(), "big");
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_end_as_if_it_were_whole() {
    for (length, reason) in [
        (None, Reason::CANCEL),
        (None, Reason::NO_ERROR),
        (Some("3"), Reason::NO_ERROR),
        (Some("3"), Reason::INTERNAL_ERROR),
    ] {
        let instance = instance(100, move |_, connection| {
            serve(connection, move |_, mut respond| async move {
                let mut answer = Response::builder();
                if let Some(length) = length {
                    answer = answer.header("content-length", length);
                }
                let mut body = respond.send_response(answer.body(()).unwrap(), false).unwrap();
                body.send_data("ok".into(), false).unwrap();
                tokio::task::yield_now().await;
                body.send_reset(reason);
            })
        })
        .await;
        let answer: Answer = call(&line_to(&instance), "GET", empty()).await;
        let error: BoxError = text(answer).await.unwrap_err();
        assert!(matches!(kind(&error), TransportError::Broken(_)), "{length:?} {reason:?}");
    }
}

#[tokio::test]
async fn an_instance_that_does_not_speak_http_2_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await;
        }
    });
    let line = Line::new(Pool::new(), &address.to_string(), Arc::new(Transport::http2()));
    let error = call(&line, "GET", empty()).await.unwrap_err();
    assert!(error.is::<TransportError>(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_calls_ends_in_time_and_one_with_a_call_does_not() {
    let calls = Arc::new(());
    let idled = tokio::spawn(super::multiplex::idled(Arc::downgrade(&calls)));
    let call = calls.clone();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(!idled.is_finished());
    drop(call);
    tokio::time::sleep(Duration::from_secs(55)).await;
    assert!(!idled.is_finished());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(idled.is_finished());
}

//! gRPC, gRPC-Web, Connect and server-sent events pass through a gateway, and its own answers are told in their ways.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::Request,
    routing::{any, post},
};
use bytes::Bytes;
use common::*;
use gusset_gateway::{Gateway, Route, Server, Upstream};
use gusset_ratelimit::Quota;
use gusset_registry::MemoryRegistry;
use http::{HeaderMap, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy, rt::TokioExecutor};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::timeout};
use tower::ServiceExt;

const LONG: Duration = Duration::from_secs(60);

/// A body whose frames are sent by the test, one by one.
struct Sent(mpsc::Receiver<Frame<Bytes>>);

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// Room for one frame, so that a sender waits for its reader.
fn sent() -> (mpsc::Sender<Frame<Bytes>>, Sent) {
    let (sender, receiver) = mpsc::channel(1);
    (sender, Sent(receiver))
}

async fn front_to(service: &Running) -> Front {
    let route = Route::new("/{*rest}").to(Upstream::fixed([service.address]));
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap();
    front_by(Server::new(), gateway).await
}

fn http2() -> legacy::Client<legacy::connect::HttpConnector, Sent> {
    legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

fn http1() -> legacy::Client<legacy::connect::HttpConnector, Sent> {
    legacy::Client::builder(TokioExecutor::new()).build_http()
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

async fn next<B>(body: &mut B) -> Bytes
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let frame = timeout(LONG, body.frame()).await.unwrap().unwrap().unwrap();
    frame.into_data().unwrap()
}

#[tokio::test]
async fn each_event_arrives_before_the_next_one_is_sent_and_a_client_that_leaves_ends_the_stream() {
    let (events, body) = sent();
    let body = Arc::new(Mutex::new(Some(body)));
    let stream = async move || {
        let body = Body::new(body.lock().unwrap().take().unwrap());
        ([("content-type", "text/event-stream")], body)
    };
    let service = upstream(Router::new().route("/events", any(stream))).await;
    let front = front_to(&service).await;
    let mut answer = fetch(&front, "/events").await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    for event in ["data: 1\n\n", "data: 2\n\n", "data: 3\n\n"] {
        events.send(data(event)).await.unwrap();
        assert_eq!(next(answer.body_mut()).await, event);
    }
    drop(answer);
    timeout(LONG, events.closed()).await.expect("the stream ends with its reader");
}

/// Answers at once, then each frame as it comes, then says how the request ended in trailers.
async fn echo(request: Request) -> Response<Body> {
    let (answers, body) = sent();
    let kind = request.headers()["content-type"].clone();
    tokio::spawn(async move {
        let mut frames = 0u64;
        let mut body = request.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            frames += u64::from(frame.data_ref().is_some_and(|data| !data.is_empty()));
            if answers.send(frame).await.is_err() {
                return;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        trailers.insert("x-frames", frames.into());
        let _ = answers.send(Frame::trailers(trailers)).await;
    });
    let answer = Response::builder().header("content-type", kind);
    answer.header("trailer", "grpc-status, x-frames").body(Body::new(body)).unwrap()
}

#[tokio::test]
async fn both_directions_of_a_call_flow_at_once_and_the_answer_goes_on_after_the_request_has_ended()
{
    let service = upstream(Router::new().route("/{*rest}", post(echo))).await;
    let front = front_to(&service).await;
    let (messages, body) = sent();
    let request = http::Request::post(front.url("/shop.Orders/Talk"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .unwrap();
    let mut answer = timeout(LONG, http2().request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200, "the head comes before the request has said anything");
    for message in ["one", "two"] {
        messages.send(data(message)).await.unwrap();
        assert_eq!(next(answer.body_mut()).await, message);
    }
    drop(messages);
    let end = timeout(LONG, answer.body_mut().frame()).await.unwrap().unwrap().unwrap();
    let trailers = end.into_trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-frames"]),
        (&"0".parse().unwrap(), &"2".parse().unwrap())
    );
}

#[tokio::test]
async fn grpc_web_and_connect_pass_as_they_are_with_the_messages_that_end_them() {
    let service = upstream(Router::new().route("/{*rest}", post(echo))).await;
    let front = front_to(&service).await;
    for (kind, end) in [
        ("application/grpc-web+proto", "\u{80}\0\0\0\u{f}grpc-status: 0\r\n"),
        ("application/connect+json", "\u{2}\0\0\0\u{2}{}"),
        ("application/connect+proto", "\u{2}\0\0\0\u{2}{}"),
    ] {
        for client in [http1(), http2()] {
            let (messages, body) = sent();
            let request = http::Request::post(front.url("/shop.Orders/Talk"))
                .header("content-type", kind)
                .header("connect-protocol-version", "1")
                .body(body)
                .unwrap();
            let mut answer = timeout(LONG, client.request(request)).await.unwrap().unwrap();
            assert_eq!(
                (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()),
                (200, kind)
            );
            messages.send(data("\0\0\0\0\u{3}one")).await.unwrap();
            assert_eq!(next(answer.body_mut()).await, "\0\0\0\0\u{3}one");
            messages.send(data(end)).await.unwrap();
            assert_eq!(next(answer.body_mut()).await, end);
            drop(messages);
            let rest = timeout(LONG, answer.into_body().collect()).await.unwrap().unwrap();
            assert!(rest.to_bytes().is_empty());
        }
    }
}

/// Answers for as long as it can be told, and counts what was taken.
async fn flood() -> Response<Body> {
    let (frames, body) = sent();
    tokio::spawn(async move {
        let chunk = Bytes::from(vec![7; 64 * 1024]);
        while frames.send(Frame::data(chunk.clone())).await.is_ok() {
            TAKEN.fetch_add(chunk.len(), std::sync::atomic::Ordering::Relaxed);
        }
    });
    Response::new(Body::new(body))
}

static TAKEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

#[tokio::test]
async fn a_reader_that_stops_stops_the_instance() {
    let service = upstream(Router::new().route("/{*rest}", any(flood))).await;
    let front = front_to(&service).await;
    for client in [http1(), http2()] {
        TAKEN.store(0, std::sync::atomic::Ordering::Relaxed);
        let (_, body) = sent();
        let request = http::Request::get(front.url("/flood")).body(body).unwrap();
        let mut answer = client.request(request).await.unwrap();
        next(answer.body_mut()).await;
        // It stops when every buffer on the way is full: those of two connections, and the gateway's own.
        let mut before = 0;
        let stopped = async {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let taken = TAKEN.load(std::sync::atomic::Ordering::Relaxed);
                if taken == std::mem::replace(&mut before, taken) && taken > 0 {
                    break taken;
                }
            }
        };
        let taken = timeout(LONG, stopped).await.expect("it stops");
        assert!(taken < 64 * 1024 * 1024, "{taken} bytes are somewhere");
        // And it goes on with its reader.
        for _ in 0..2_000 {
            next(answer.body_mut()).await;
        }
    }
}

/// Asks a gateway that answers by itself.
async fn refused(path: &str, kind: &str) -> (StatusCode, HeaderMap, Bytes) {
    let nobody = Upstream::fixed([nowhere().await]);
    let gateway = Gateway::builder(MemoryRegistry::default())
        .route(Route::new("/away").to(nobody.clone()))
        .route(Route::new("/limited").to(nobody).quota_by(Quota::per_hour(1), |_| "all".into()))
        .build()
        .unwrap();
    let request = || {
        http::Request::post(format!("http://gateway{path}"))
            .header("content-type", kind)
            .header("connect-protocol-version", "1")
            .body(Full::<Bytes>::default())
            .unwrap()
    };
    if path == "/limited" {
        gateway.clone().oneshot(request()).await.unwrap();
    }
    let (head, body) = gateway.clone().oneshot(request()).await.unwrap().into_parts();
    let counted = gateway.stats().iter().map(|route| route.answers[1]).sum::<u64>();
    assert_eq!(counted, 0, "what went wrong is not counted as a success");
    (head.status, head.headers, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn answers_of_the_gateways_own_are_told_as_each_protocol_has_them() {
    for kind in ["application/grpc", "application/grpc-web", "application/grpc-web-text"] {
        for (path, code) in [("/away", "14"), ("/limited", "8"), ("/unknown", "12")] {
            let (status, headers, body) = refused(path, kind).await;
            assert_eq!((status.as_u16(), body.len()), (200, 0), "{kind}{path}");
            assert_eq!(
                (&headers["content-type"], &headers["grpc-status"]),
                (&kind.parse().unwrap(), &code.parse().unwrap())
            );
            assert!(!headers["grpc-message"].is_empty());
            assert_eq!(headers.contains_key("retry-after"), path == "/limited");
        }
    }
    let (status, headers, body) = refused("/limited", "application/json").await;
    assert_eq!(
        (status.as_u16(), &headers["content-type"]),
        (429, &"application/json".parse().unwrap())
    );
    let error: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        error,
        json!({"code": "resource_exhausted", "message": "too many requests of this client"})
    );

    let (status, headers, body) = refused("/away", "application/connect+proto").await;
    assert_eq!(
        (status.as_u16(), &headers["content-type"]),
        (200, &"application/connect+proto".parse().unwrap())
    );
    assert_eq!(
        (body[0], body[1..5].to_vec()),
        (2, u32::try_from(body.len() - 5).unwrap().to_be_bytes().to_vec())
    );
    let end: Value = serde_json::from_slice(&body[5..]).unwrap();
    assert_eq!(end["error"]["code"], "unavailable");

    let (status, headers, _) = refused("/away", "text/plain").await;
    assert_eq!(
        (status.as_u16(), &headers["content-type"]),
        (502, &"application/problem+json".parse().unwrap())
    );
}

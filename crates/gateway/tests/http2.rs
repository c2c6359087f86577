//! Clients that speak HTTP/2, before instances that speak HTTP/1.1.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::time::Duration;

use axum::{Router, body::Body, extract::Request, routing::any};
use bytes::Bytes;
use common::*;
use gusset_gateway::{Gateway, Route, Server, Upstream};
use gusset_registry::MemoryRegistry;
use http::{HeaderMap, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn http2() -> legacy::Client<HttpConnector, Full<Bytes>> {
    legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http()
}

async fn front_of(router: Router) -> (Running, Front) {
    let service = upstream(router).await;
    let route = Route::new("/{*rest}").to(Upstream::fixed([service.address]));
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap();
    (service, front_by(Server::new(), gateway).await)
}

/// Tells the version, host and cookies that an instance sees, and sends the body back.
async fn seen(request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let line = |name| head.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect();
    let cookies: Vec<&str> = line("cookie");
    Response::builder()
        .header("x-version", format!("{:?}", head.version))
        .header("x-via", line("via").join(", "))
        .header("x-forwarded-host", line("x-forwarded-host").join(", "))
        .header("x-cookies", cookies.join(" | "))
        .body(body)
        .unwrap()
}

#[tokio::test]
async fn requests_pass_from_http_2_to_http_1_and_their_answers_back() {
    let (_service, front) = front_of(Router::new().route("/{*rest}", any(seen))).await;
    let request = http::Request::post(front.url("/echo"))
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::new(Bytes::from(vec![7; 300_000])))
        .unwrap();
    let answer = http2().request(request).await.unwrap();
    assert_eq!((answer.version(), answer.status().as_u16()), (Version::HTTP_2, 200));
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("x-version"), "HTTP/1.1");
    assert_eq!(header("x-via"), "2 gusset");
    assert_eq!(header("x-forwarded-host"), front.address.to_string());
    assert_eq!(header("x-cookies"), "a=1; b=2", "as one field, which HTTP/1.1 asks for");
    assert!(answer.headers().get("connection").is_none());
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, vec![7; 300_000]);
}

#[tokio::test]
async fn many_requests_share_one_connection() {
    let (_service, front) = front_of(Router::new().route("/{*rest}", any(seen))).await;
    let client = http2();
    let asked = (0..200).map(|_| {
        let (client, url) = (client.clone(), front.url("/a"));
        tokio::spawn(async move { client.get(url.parse().unwrap()).await.unwrap().status() })
    });
    for answer in asked.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap(), 200);
    }
}

#[tokio::test]
async fn trailers_pass_both_ways_between_the_versions() {
    let echo = async |request: Request| {
        let collected = request.into_body().collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap();
        let frames = [Frame::data(collected.to_bytes()), Frame::trailers(trailers)];
        let frames = frames.map(Ok::<_, std::convert::Infallible>);
        let body = Body::new(StreamBody::new(stream_of(frames.into())));
        // HTTP/1.1 announces them.
        Response::builder().header("trailer", "grpc-status").body(body).unwrap()
    };
    let (_service, front) = front_of(Router::new().route("/{*rest}", any(echo))).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let frames = [Frame::data(Bytes::from("hi")), Frame::trailers(trailers)];
    let frames: Vec<_> = frames.map(Ok::<_, std::convert::Infallible>).into();
    let client = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request = http::Request::post(front.url("/a"))
        .header("te", "trailers")
        .body(StreamBody::new(stream_of(frames)))
        .unwrap();
    let answer = client.request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(answer.to_bytes(), "hi");
}

fn stream_of<T: Unpin>(items: Vec<T>) -> impl futures_core::Stream<Item = T> {
    struct Items<T>(std::vec::IntoIter<T>);
    impl<T: Unpin> futures_core::Stream for Items<T> {
        type Item = T;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            std::task::Poll::Ready(self.0.next())
        }
    }
    Items(items.into_iter())
}

#[tokio::test]
async fn an_end_is_announced_and_the_request_under_way_is_answered() {
    let slow = async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "slow"
    };
    let (_service, front) = front_of(Router::new().route("/{*rest}", any(slow))).await;
    let client = http2();
    let asked = client.get(front.url("/a").parse().unwrap());
    let asked = tokio::spawn(asked);
    // The connection stands as soon as another request of it has been answered by the gateway itself.
    assert_eq!(client.get(front.url("/").parse().unwrap()).await.unwrap().status(), 404);
    front.stop.send(()).unwrap();
    assert_eq!(text(asked.await.unwrap().unwrap()).await, "slow");
    let ended = timeout(Duration::from_secs(60), front.ended).await;
    ended.expect("the connection has gone").unwrap().unwrap();
}

#[tokio::test]
async fn a_preface_that_never_ends_is_ended_and_one_that_is_none_is_http_1() {
    let service = upstream(Router::new().route("/{*rest}", any(seen))).await;
    let route = Route::new("/{*rest}").to(Upstream::fixed([service.address]));
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap();
    let server = Server::new().head_timeout(Duration::from_millis(100));
    let front = front_by(server, gateway).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    stream.write_all(&PREFACE[..10]).await.unwrap();
    let mut rest = Vec::new();
    let end = timeout(Duration::from_secs(60), stream.read_to_end(&mut rest)).await;
    assert!(end.is_ok() && rest.is_empty());
    // It begins as the preface does.
    let answer =
        raw(front.address, "PRO /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_head_may_have_32_kib_and_no_more() {
    let (_service, front) = front_of(Router::new().route("/{*rest}", any(seen))).await;
    let asked = async |kib: usize| {
        let long = "x".repeat(kib * 1024);
        let request = http::Request::get(front.url("/a")).header("x-long", long);
        http2().request(request.body(Full::default()).unwrap()).await
    };
    assert_eq!(asked(24).await.unwrap().status(), 200);
    assert!(asked(40).await.map_or(true, |answer| answer.status() == 431));
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET / http a`, by indexed fields and one literal.
const HEAD: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];

async fn attacked(frames: impl Iterator<Item = Vec<u8>>) -> bool {
    let (_service, front) = front_of(Router::new().route("/{*rest}", any(seen))).await;
    let mut stream = TcpStream::connect(front.address).await.unwrap();
    let (mut read, mut write) = stream.split();
    let attack = async {
        write.write_all(PREFACE).await?;
        write.write_all(&frame(4, 0, 0, &[])).await?;
        for frame in frames {
            write.write_all(&frame).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let mut answers = Vec::new();
    let ended = async {
        let (_, _) = tokio::join!(attack, read.read_to_end(&mut answers));
    };
    timeout(Duration::from_secs(60), ended).await.is_ok()
}

#[tokio::test]
async fn who_resets_requests_faster_than_they_begin_is_cut() {
    let resets = (0..50_000u32).flat_map(|n| {
        let stream = 2 * n + 1;
        [frame(1, 5, stream, HEAD), frame(3, 0, stream, &8u32.to_be_bytes())]
    });
    assert!(attacked(resets).await);
}

#[tokio::test]
async fn who_sends_a_head_without_an_end_is_cut() {
    // A field of 4 KiB in each frame, and never the flag that ends the head.
    let field = [&[0x00, 0x01, b'x', 0x7f, 0x81, 0x1f][..], &[b'y'; 4096]].concat();
    let frames = (0..50_000u32).map(|n| frame(if n == 0 { 1 } else { 9 }, 0, 1, &field));
    assert!(attacked(frames).await);
}

//! Several layers together, around a server and around its clients.

use axum::{Router, routing::get};
use bytes::Bytes;
use gusset::{
    call::{AnswerLayer, Reqwest, SendThrough, Tonic},
    ratelimit::{Quota, RateLimitLayer, RateLimiter},
    sidecar::{InboundLayer, Sidecar},
};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tonic::{
    Code,
    transport::{Endpoint, Server, server::TcpIncoming},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{
    Layer, ServiceBuilder, ServiceExt,
    layer::util::{Identity, Stack},
};

use crate::serve;

/// What a server puts around its services: traces, metrics, deadlines, and a limit that answers for itself.
fn served() -> (Sidecar, ServedLayer) {
    let sidecar = Sidecar::new("server");
    let limit = RateLimitLayer::new(RateLimiter::new(Quota::per_hour(2)));
    let layer = ServiceBuilder::new()
        .layer(sidecar.inbound())
        .layer(AnswerLayer::new())
        .layer(limit)
        .into_inner();
    (sidecar, layer)
}

type ServedLayer = Stack<RateLimitLayer, Stack<AnswerLayer, Stack<InboundLayer, Identity>>>;

/// The trace that a client's own layers began must be the one that the server saw.
fn assert_one_trace(client: &Sidecar, server: &Sidecar) {
    let (sent, seen) = (client.recorder().recent(1), server.recorder().recent(1));
    assert_eq!(sent[0].trace_id, seen[0].trace_id);
    assert_eq!(seen[0].parent_id, Some(sent[0].span_id));
}

#[tokio::test]
async fn the_family_in_an_axum_router_and_around_hyper_util() {
    let (server, layer) = served();
    let router = Router::new().route("/", get(async || "hello")).layer(layer);
    let addr = serve(router).await;

    let client = Sidecar::new("client");
    let http = Client::builder(TokioExecutor::new()).build_http();
    let http = client.outbound("server").layer(http);
    let request =
        || Request::get(format!("http://{addr}/")).body(Full::<Bytes>::default()).unwrap();
    for _ in 0..2 {
        let answer = http.clone().oneshot(request()).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
        assert_one_trace(&client, &server);
    }
    let limited = http.clone().oneshot(request()).await.unwrap();
    assert_eq!(limited.status(), 429);
    assert!(limited.headers().contains_key("retry-after"));
}

#[tokio::test]
async fn the_family_around_reqwest() {
    let (server, layer) = served();
    let addr = serve(Router::new().route("/", get(async || "hello")).layer(layer)).await;

    let client = Sidecar::new("client");
    let reqwest = reqwest::Client::new();
    let http = client.outbound("server").layer(Reqwest::new(reqwest.clone()));
    let request = Request::get(format!("http://{addr}/")).body(Full::<Bytes>::default()).unwrap();
    let answer = http.clone().oneshot(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_one_trace(&client, &server);

    let url = format!("http://{addr}/");
    let answer = reqwest.get(&url).send_through(http.clone()).await.unwrap();
    assert_eq!(answer.url().as_str(), url);
    assert_eq!(answer.text().await.unwrap(), "hello");
    assert_one_trace(&client, &server);
    let limited = reqwest.get(&url).send_through(http.clone()).await.unwrap();
    assert_eq!(limited.error_for_status().unwrap_err().status().unwrap(), 429);
    let malformed = reqwest.get("nowhere").send_through(http).await.unwrap_err();
    assert!(malformed.downcast::<reqwest::Error>().unwrap().is_builder());
}

#[tokio::test]
async fn the_family_in_a_tonic_server_and_around_a_channel() {
    let (server, layer) = served();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let grpc = Server::builder().layer(layer).add_service(health);
    tokio::spawn(grpc.serve_with_incoming(TcpIncoming::from(listener)));

    let channel = Endpoint::try_from(format!("http://{addr}")).unwrap().connect().await.unwrap();
    let client = Sidecar::new("client");
    let mut health = HealthClient::new(client.outbound("server").layer(Tonic::new(channel)));
    for _ in 0..2 {
        health.check(HealthCheckRequest::default()).await.unwrap();
        assert_one_trace(&client, &server);
    }
    let limited = health.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(limited.code(), Code::ResourceExhausted);
    assert_eq!(
        client.metrics().snapshot().active.iter().map(|active| active.calls).sum::<i64>(),
        0
    );
}

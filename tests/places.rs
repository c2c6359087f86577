//! Every layer works unchanged in the five places where services live: an axum router, a tonic server, a tonic channel,
//! reqwest, and hyper-util's client. All over real sockets.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use bytes::Bytes;
use gusset::breaker::{
    BreakerLayer, Circuit, Classify, GrpcStatus, HttpStatus, Open, Outcome, Policy, State,
};
use gusset::{
    call::{AnswerLayer, Reqwest, refusal_in},
    ratelimit::{Quota, RateLimitLayer, RateLimiter},
    sidecar::{InboundLayer, ReplayBody, Sidecar},
};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
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

fn circuit() -> Circuit {
    Circuit::new("backend", Policy::consecutive(2).open_for(Duration::from_secs(7)))
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    addr
}

/// A server that answers 500 and counts the requests that reach it.
async fn broken_server() -> (SocketAddr, Arc<AtomicU32>) {
    let reached = Arc::new(AtomicU32::new(0));
    let counter = reached.clone();
    let handler = get(async move || {
        counter.fetch_add(1, SeqCst);
        StatusCode::INTERNAL_SERVER_ERROR
    });
    (serve(Router::new().route("/", handler)).await, reached)
}

#[tokio::test]
async fn in_an_axum_router() {
    let reached = Arc::new(AtomicU32::new(0));
    let counter = reached.clone();
    let handler = get(async move || {
        counter.fetch_add(1, SeqCst);
        StatusCode::INTERNAL_SERVER_ERROR
    });
    let layers = ServiceBuilder::new()
        .layer(AnswerLayer::new())
        .layer(BreakerLayer::new(circuit()).classify(HttpStatus));
    let addr = serve(Router::new().route("/", handler).layer(layers)).await;

    for _ in 0..2 {
        let answer = reqwest::get(format!("http://{addr}/")).await.unwrap();
        assert_eq!(answer.status(), 500);
    }
    let refused = reqwest::get(format!("http://{addr}/")).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(refused.headers()["retry-after"], "7");
    let problem: serde_json::Value =
        serde_json::from_slice(&refused.bytes().await.unwrap()).unwrap();
    assert_eq!(problem["detail"], "circuit backend is open");
    assert_eq!(reached.load(SeqCst), 2);
}

/// tonic's health service. It knows only the empty name, every other is `NOT_FOUND`.
async fn grpc_server(layer: Option<BreakerLayer<NotFoundFails>>) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let layer = layer.map(|layer| ServiceBuilder::new().layer(AnswerLayer::new()).layer(layer));
    match layer {
        Some(layer) => {
            let server = Server::builder().layer(layer).add_service(health);
            tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        }
        None => {
            let server = Server::builder().add_service(health);
            tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        }
    }
    Endpoint::try_from(format!("http://{addr}")).unwrap()
}

/// What the health service can be made to answer easily.
#[derive(Clone, Copy, Debug)]
struct NotFoundFails;

impl<B, E> Classify<Response<B>, E> for NotFoundFails {
    fn classify(&self, result: &Result<Response<B>, E>) -> Outcome {
        let code = result.as_ref().ok().and_then(|answer| answer.headers().get("grpc-status"));
        match code {
            Some(code) if code == "5" => Outcome::Failure,
            _ => GrpcStatus.classify(result),
        }
    }
}

fn unknown_service() -> HealthCheckRequest {
    HealthCheckRequest { service: "no.such.Service".into() }
}

#[tokio::test]
async fn in_a_tonic_server() {
    let layer = BreakerLayer::new(circuit()).classify(NotFoundFails);
    let channel = grpc_server(Some(layer)).await.connect().await.unwrap();
    let mut client = HealthClient::new(channel);
    client.check(HealthCheckRequest::default()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(client.check(unknown_service()).await.unwrap_err().code(), Code::NotFound);
    }
    let refused = client.check(unknown_service()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.message(), "circuit backend is open");
    assert!(refused.metadata().contains_key("grpc-retry-pushback-ms"));
}

#[tokio::test]
async fn around_a_tonic_channel() {
    let circuit = circuit();
    let channel = grpc_server(None).await.connect().await.unwrap();
    let layer = BreakerLayer::new(circuit.clone()).classify(NotFoundFails);
    let mut client = HealthClient::new(layer.layer(channel));
    client.check(HealthCheckRequest::default()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(client.check(unknown_service()).await.unwrap_err().code(), Code::NotFound);
    }
    let refused = client.check(unknown_service()).await.unwrap_err();
    assert!(refusal_in(&refused).is_some(), "{refused:?}");
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test]
async fn around_reqwest() {
    let (addr, reached) = broken_server().await;
    let client = BreakerLayer::new(circuit())
        .classify(HttpStatus)
        .layer(Reqwest::new(reqwest::Client::new()));
    let request = || Request::get(format!("http://{addr}/")).body("").unwrap();
    for _ in 0..2 {
        assert_eq!(client.clone().oneshot(request()).await.unwrap().status(), 500);
    }
    let refused = client.clone().oneshot(request()).await.unwrap_err();
    assert_eq!(refused.downcast::<Open>().unwrap().circuit(), "backend");
    assert_eq!(reached.load(SeqCst), 2);

    let relative = Request::get("/nowhere").body("").unwrap();
    let malformed = Reqwest::new(reqwest::Client::new()).oneshot(relative).await.unwrap_err();
    assert!(malformed.is_builder(), "{malformed}");
}

#[tokio::test]
async fn around_the_client_of_hyper_util() {
    let (addr, reached) = broken_server().await;
    let http = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let client = BreakerLayer::new(circuit()).classify(HttpStatus).layer(http);
    let request = || Request::get(format!("http://{addr}/")).body(Empty::new()).unwrap();
    for _ in 0..2 {
        let answer = client.clone().oneshot(request()).await.unwrap();
        assert_eq!(answer.status(), 500);
        answer.into_body().collect().await.unwrap();
    }
    let refused = client.clone().oneshot(request()).await.unwrap_err();
    assert!(refused.is::<Open>());
    assert_eq!(reached.load(SeqCst), 2);
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_is_a_failure() {
    // Bound and closed again: nobody listens there.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let circuit = circuit();
    let http = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let client = BreakerLayer::new(circuit.clone()).classify(HttpStatus).layer(http);
    for _ in 0..2 {
        let request = Request::get(format!("http://{nobody}/")).body(Empty::new()).unwrap();
        let error = client.clone().oneshot(request).await.unwrap_err();
        assert!(error.is::<hyper_util::client::legacy::Error>(), "its own error passes: {error}");
    }
    assert_eq!(circuit.state(), State::Open);
}

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
    let http = ServiceBuilder::new()
        .layer(client.outbound("server"))
        .map_request(|request: Request<ReplayBody<Full<Bytes>>>| request.map(reqwest::Body::wrap))
        .service(Reqwest::new(reqwest::Client::new()));
    let request = Request::get(format!("http://{addr}/")).body(Full::default()).unwrap();
    let answer = http.oneshot(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "hello");
    assert_one_trace(&client, &server);
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
    let channel = ServiceBuilder::new()
        .layer(client.outbound("server"))
        .map_request(|request: Request<ReplayBody<_>>| request.map(tonic::body::Body::new))
        .service(channel);
    let mut health = HealthClient::new(channel);
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

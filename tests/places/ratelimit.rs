//! The rate limiter in the five places.

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use axum::{
    Router,
    extract::{ConnectInfo, MatchedPath},
    routing::get,
};
use bytes::Bytes;
use gusset::{
    call::{AnswerLayer, Limited, Reqwest, refusal_in},
    ratelimit::{
        ClientIp, Keyed, Network, PeerIp, Quota, RateLimitLayer, RateLimiter, Route, WithoutKey,
    },
};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tonic::{Code, transport::server::TcpConnectInfo};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Layer, ServiceBuilder, ServiceExt, layer::util::Identity};

use crate::{answering, serve};

/// Few enough that no test is so slow that another token comes back.
fn two() -> Quota {
    Quota::per_hour(2)
}

fn keyed<K: std::hash::Hash>() -> Keyed<K> {
    Keyed::new(two(), NonZeroUsize::new(1_000).unwrap())
}

fn loopback() -> Network {
    "127.0.0.0/8".parse().unwrap()
}

/// Two requests pass, whatever they claim; the third is refused and told why.
#[tokio::test]
async fn in_an_axum_router() {
    let reached = Arc::new(AtomicU32::new(0));
    let counter = reached.clone();
    let handler = async move || {
        counter.fetch_add(1, SeqCst);
        "hello"
    };
    let peer = PeerIp::by(|x| Some(x.get::<ConnectInfo<SocketAddr>>()?.0));
    let layers = ServiceBuilder::new()
        .layer(AnswerLayer::new())
        .layer(RateLimitLayer::keyed(keyed(), peer).headers("default"));
    let addr = serve(Router::new().route("/", get(handler)).layer(layers)).await;

    let client = reqwest::Client::new();
    let ask = async |forged: &str| {
        let request = client.get(format!("http://{addr}/")).header("x-forwarded-for", forged);
        request.send().await.unwrap()
    };
    for (forged, left) in [("6.6.6.6", 1), ("7.7.7.7", 0)] {
        let answer = ask(forged).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["ratelimit-policy"], "\"default\";q=2;w=3600");
        let limit = answer.headers()["ratelimit"].to_str().unwrap();
        assert!(limit.starts_with(&format!("\"default\";r={left};t=")), "{limit}");
    }
    let refused = ask("8.8.8.8").await;
    assert_eq!(refused.status(), 429);
    let wait = refused.headers()["retry-after"].to_str().unwrap().to_owned();
    assert_eq!(refused.headers()["ratelimit"], format!("\"default\";r=0;t={wait}"));
    assert_eq!(refused.headers()["content-type"], "application/problem+json");
    let problem: serde_json::Value =
        serde_json::from_slice(&refused.bytes().await.unwrap()).unwrap();
    assert_eq!(problem["violated-policies"], serde_json::json!(["default"]));
    assert_eq!(reached.load(SeqCst), 2);
}

/// A layer in `Router::layer` stands behind the router's choice, so that axum's own extensions are there.
#[tokio::test]
async fn in_an_axum_router_by_client_and_route() {
    let client =
        ClientIp::trusting([loopback()]).peer_by(|x| Some(x.get::<ConnectInfo<SocketAddr>>()?.0));
    let route = Route::by(|x| Some(x.get::<MatchedPath>()?.as_str()));
    let limit = RateLimitLayer::keyed(keyed(), (client, route)).without_key(WithoutKey::Refuse);
    let layers = ServiceBuilder::new().layer(AnswerLayer::new()).layer(limit);
    let router = Router::new()
        .route("/users/{id}", get(async || "user"))
        .route("/orders/{id}", get(async || "order"))
        .layer(layers);
    let addr = serve(router).await;

    let client = reqwest::Client::new();
    let status = async |path: &str, seen_by_proxy: &str| {
        let request = client.get(format!("http://{addr}{path}"));
        let request = request.header("x-forwarded-for", format!("6.6.6.6, {seen_by_proxy}"));
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status("/users/1", "203.0.113.9").await, 200);
    assert_eq!(status("/users/2", "203.0.113.9").await, 200);
    assert_eq!(status("/users/3", "203.0.113.9").await, 429, "one bucket for all users");
    assert_eq!(status("/orders/1", "203.0.113.9").await, 200, "another route");
    assert_eq!(status("/users/1", "203.0.113.8").await, 200, "another client");
}

#[tokio::test]
async fn in_a_tonic_server() {
    let peer = PeerIp::by(|x| x.get::<TcpConnectInfo>()?.remote_addr());
    let layers = ServiceBuilder::new()
        .layer(AnswerLayer::new())
        .layer(RateLimitLayer::keyed(keyed(), peer).headers("default"));
    let (endpoint, reached) = grpc_server!(layers);
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    for left in [1, 0] {
        let answer = client.check(HealthCheckRequest::default()).await.unwrap();
        let limit = answer.metadata().get("ratelimit").unwrap().to_str().unwrap();
        assert!(limit.starts_with(&format!("\"default\";r={left};t=")), "{limit}");
    }
    // Another connection from there is the same client.
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let refused = client.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let field = |name| refused.metadata().get(name).unwrap().to_str().unwrap();
    let wait: u64 = field("grpc-retry-pushback-ms").parse().unwrap();
    assert!((1..=1_800_000).contains(&wait), "{wait}");
    assert!(field("ratelimit").starts_with("\"default\";r=0;t="));
    assert_eq!(field("ratelimit-policy"), "\"default\";q=2;w=3600");
    assert_eq!(reached.load(SeqCst), 2);
}

#[tokio::test]
async fn around_a_tonic_channel() {
    let (endpoint, reached) = grpc_server!(Identity::new());
    let channel = endpoint.connect().await.unwrap();
    let layer = RateLimitLayer::new(RateLimiter::new(two()));
    let mut client = HealthClient::new(layer.layer(channel));
    for _ in 0..2 {
        client.check(HealthCheckRequest::default()).await.unwrap();
    }
    let refused = client.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(refusal_in(&refused).unwrap().grpc_code(), 8);
    assert_eq!(reached.load(SeqCst), 2);
}

#[tokio::test]
async fn around_reqwest() {
    let (addr, reached) = answering(StatusCode::OK).await;
    let client =
        RateLimitLayer::new(RateLimiter::new(two())).layer(Reqwest::new(reqwest::Client::new()));
    let request = || Request::get(format!("http://{addr}/")).body(String::new()).unwrap();
    for _ in 0..2 {
        assert_eq!(client.clone().oneshot(request()).await.unwrap().status(), 200);
    }
    let refused = client.oneshot(request()).await.unwrap_err();
    assert!(refused.downcast::<Limited>().unwrap().retry_after().is_some());
    assert_eq!(reached.load(SeqCst), 2);
}

#[tokio::test]
async fn around_the_client_of_hyper_util() {
    let (addr, reached) = answering(StatusCode::OK).await;
    let http = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let client = RateLimitLayer::new(RateLimiter::new(two())).layer(http);
    let request = || Request::get(format!("http://{addr}/")).body(Empty::new()).unwrap();
    for _ in 0..2 {
        let answer = client.clone().oneshot(request()).await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await.unwrap();
    }
    assert!(client.oneshot(request()).await.unwrap_err().is::<Limited>());
    assert_eq!(reached.load(SeqCst), 2);
}

//! The circuit breaker in the five places.

use std::{
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
use gusset::call::{AnswerLayer, Reqwest, refusal_in};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::net::TcpListener;
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::{Layer, ServiceBuilder, ServiceExt, layer::util::Identity};

use crate::{answering, serve};

fn circuit() -> Circuit {
    Circuit::new("backend", Policy::consecutive(2).open_for(Duration::from_secs(7)))
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
    let layers = ServiceBuilder::new().layer(AnswerLayer::new()).layer(layer);
    let (endpoint, _) = grpc_server!(layers);
    let channel = endpoint.connect().await.unwrap();
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
    let (endpoint, _) = grpc_server!(Identity::new());
    let channel = endpoint.connect().await.unwrap();
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
    let (addr, reached) = answering(StatusCode::INTERNAL_SERVER_ERROR).await;
    let client = BreakerLayer::new(circuit())
        .classify(HttpStatus)
        .layer(Reqwest::new(reqwest::Client::new()));
    let request = || Request::get(format!("http://{addr}/")).body(String::new()).unwrap();
    for _ in 0..2 {
        assert_eq!(client.clone().oneshot(request()).await.unwrap().status(), 500);
    }
    let refused = client.clone().oneshot(request()).await.unwrap_err();
    assert_eq!(refused.downcast::<Open>().unwrap().circuit(), "backend");
    assert_eq!(reached.load(SeqCst), 2);

    let relative = Request::get("/nowhere").body(String::new()).unwrap();
    let malformed = Reqwest::new(reqwest::Client::new()).oneshot(relative).await.unwrap_err();
    assert!(malformed.is_builder(), "{malformed}");
}

#[tokio::test]
async fn around_the_client_of_hyper_util() {
    let (addr, reached) = answering(StatusCode::INTERNAL_SERVER_ERROR).await;
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

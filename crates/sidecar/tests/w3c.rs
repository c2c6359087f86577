//! The cases of the W3C's conformance suite for Trace Context, against an axum service with the layer that calls out through a client
//! with the layer, over real sockets. Requests are written by hand, so that names, white space and repetitions are those of the case.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::State, routing::post};
use bytes::Bytes;
use gusset_call::{Baggage, RequestId};
use gusset_sidecar::{B3, Propagation, Recorder, Trace, TraceLayer};
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    time::timeout,
};
use tower::{Layer, ServiceExt};

const TRACE: &str = "12345678901234567890123456789012";
const SPAN: &str = "1234567890123456";

type Client = Trace<legacy::Client<HttpConnector, Full<Bytes>>>;

/// What the service under test calls.
struct Callback {
    listener: Mutex<TcpListener>,
    service: SocketAddr,
}

#[derive(Clone)]
struct Service {
    client: Client,
    callback: SocketAddr,
}

/// Calls back as often as the path says.
async fn call_back(
    State(service): State<Service>,
    axum::extract::Path(times): axum::extract::Path<u32>,
) -> StatusCode {
    for _ in 0..times {
        let request = Request::post(format!("http://{}/", service.callback));
        let request = request.body(Full::default()).unwrap();
        service.client.clone().oneshot(request).await.unwrap();
    }
    StatusCode::OK
}

/// What a handler can read of what came along.
async fn echo() -> String {
    let tenant = Baggage::current().and_then(|it| Some(it.get("tenant")?.into_owned()));
    let id = RequestId::current().map(|id| id.to_string());
    format!("{} {}", tenant.unwrap_or_default(), id.unwrap_or_default())
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

impl Callback {
    async fn new() -> Arc<Self> {
        Self::with(Propagation::new()).await
    }

    async fn with(beside: Propagation) -> Arc<Self> {
        let (listener, address) = listen().await;
        let recorder = Recorder::new("service");
        let connector = legacy::Client::builder(TokioExecutor::new()).build_http();
        let client = TraceLayer::client(recorder.clone()).propagation(beside.clone());
        let service = Service { client: client.layer(connector), callback: address };
        let router = Router::new()
            .route("/{times}", post(call_back))
            .route("/echo", post(echo))
            .with_state(service)
            .layer(TraceLayer::server(recorder).propagation(beside));
        let (socket, service) = listen().await;
        tokio::spawn(async move { axum::serve(socket, router).await });
        Arc::new(Self { listener: Mutex::new(listener), service })
    }
}

include!("w3c/cases.rs");

#[tokio::test]
async fn b3_baggage_and_request_ids_come_in_and_go_out() {
    for form in [B3::Single, B3::Multi] {
        let callback = Callback::with(Propagation::new().b3(form).request_ids()).await;
        let b3 = format!("{TRACE}-{SPAN}-1");
        let headers = [("b3", &*b3), ("Baggage", "tenant=acme%20inc"), ("X-Request-Id", "req-7")];
        let called = callback.call(&headers).await;
        assert_eq!(called.trace(), TRACE, "also as traceparent");
        assert_eq!(called.values("baggage"), ["tenant=acme%20inc"]);
        assert_eq!(called.values("x-request-id"), ["req-7"]);
        let span = called.parent()[2];
        match form {
            B3::Single => {
                let [b3] = called.values("b3")[..] else { panic!("one") };
                assert!(b3.starts_with(&format!("{TRACE}-{span}-1-")), "{b3}");
            }
            B3::Multi => {
                assert_eq!(called.values("x-b3-traceid"), [TRACE]);
                assert_eq!(called.values("x-b3-spanid"), [span]);
                assert_eq!(called.values("x-b3-sampled"), ["1"]);
                assert_eq!(called.values("x-b3-parentspanid").len(), 1);
            }
        }
        let answer = callback.send("/echo", &headers).await;
        assert!(answer.ends_with("\r\n\r\nacme inc req-7"), "{answer}");
        assert!(answer.contains("x-request-id: req-7\r\n"), "{answer}");
        let answer = callback.send("/echo", &[("traceparent", &parent())]).await;
        assert!(answer.ends_with(&format!(" {TRACE}")), "a request without a name has the trace's");
    }
}

#[tokio::test]
async fn without_being_asked_nothing_but_trace_context_and_baggage_goes_along() {
    let callback = Callback::new().await;
    let b3 = format!("{TRACE}-{SPAN}-1");
    let headers = [("b3", &*b3), ("x-request-id", "req-7"), ("baggage", "a=1,b=\"")];
    let called = callback.call(&headers).await;
    assert_ne!(called.trace(), TRACE);
    assert_eq!(called.values("baggage"), ["a=1"]);
    for name in ["b3", "x-request-id", "x-b3-traceid"] {
        assert!(called.values(name).is_empty(), "{name}");
    }
    let strict = Callback::with(Propagation::new().without_baggage()).await;
    assert!(strict.call(&headers).await.values("baggage").is_empty());
}

//! A server that is called without a socket.

use bytes::Bytes;
use gusset_registry::{ConsulPolicy, ConsulServer, ConsulTicker};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use tower::ServiceExt;

#[derive(Clone, Debug)]
pub(crate) struct Server(pub(crate) ConsulServer);

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Server {
    pub(crate) fn start() -> (Self, ConsulTicker) {
        Self::with(ConsulPolicy::default())
    }

    pub(crate) fn with(policy: ConsulPolicy) -> (Self, ConsulTicker) {
        let server = ConsulServer::new(policy);
        let ticker = server.spawn_ticker();
        (Self(server), ticker)
    }

    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        let response = self.0.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::builder().method(method).uri(format!("/v1/{path}"));
        self.send(request.body(Full::new(body.into())).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, "").await
    }

    pub(crate) async fn put(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.call(Method::PUT, path, body).await
    }

    /// Registers with a TTL of 10 s.
    pub(crate) async fn register(&self, name: &str, id: &str) {
        let body = format!(
            r#"{{"Name": "{name}", "ID": "{id}", "Address": "10.0.0.7", "Port": 80, "Check": {{"TTL": "10s"}}}}"#
        );
        self.put("agent/service/register", body).await.ok();
    }

    pub(crate) async fn pass(&self, id: &str) {
        self.put(&format!("agent/check/pass/service:{id}"), "").await.ok();
    }

    pub(crate) async fn passing(&self, service: &str) -> Vec<String> {
        let answer = self.get(&format!("health/service/{service}?passing")).await.ok();
        let entries = answer.json();
        let ids = entries.as_array().unwrap().iter();
        ids.map(|entry| entry["Service"]["ID"].as_str().unwrap().into()).collect()
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.text());
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn index(&self) -> u64 {
        self.headers["x-consul-index"].to_str().unwrap().parse().unwrap()
    }
}

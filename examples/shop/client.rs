//! How a service of the shop calls another: by its name, through all layers.

use std::{
    future::{Ready, ready},
    io,
    iter::{Once, once},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gusset::{
    breaker::{self, Circuits},
    call::{BoxError, Problem},
    registry::{Health, Instance, MemoryRegistry, Registry},
    sidecar::{ReplayBody, RetryPolicy, Sidecar},
    standard::{Standard, circuits, standard},
};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::TokioExecutor,
};
use serde::{Serialize, de::DeserializeOwned};
use tower::{Service, ServiceExt};

use crate::{
    api::{IDEMPOTENCY_KEY, problem},
    rpc::{Http2, PaymentsClient},
};

/// The longest answer that a service reads.
const ANSWER_LIMIT: usize = 1 << 20;

/// How long a service waits before a retry because it was asked to.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long one attempt may take if there can be another.
const ATTEMPT: Duration = Duration::from_secs(1);

type Connections = Client<Connector, ReplayBody<Full<Bytes>>>;

/// Where a name leads: here. Instances are known by their addresses; a name is that of a service, which the sidecar beside this process finds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Here;

/// What makes connections.
pub(crate) type Connector = HttpConnector<Here>;

impl Service<Name> for Here {
    type Response = Once<SocketAddr>;
    type Error = io::Error;
    type Future = Ready<io::Result<Once<SocketAddr>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        // The port is that of the URI.
        ready(Ok(once(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))))
    }
}

/// What a service needs to call others.
#[derive(Clone, Debug)]
pub struct Outbound {
    sidecar: Sidecar,
    registry: Arc<dyn Registry>,
    circuits: Circuits<Arc<str>>,
    connections: Connections,
    http2: Http2,
}

impl Outbound {
    /// Calls as the service of `sidecar`, finds others through `registry`, trips by `policy`.
    #[must_use]
    pub fn new(sidecar: Sidecar, registry: Arc<dyn Registry>, policy: breaker::Policy) -> Self {
        // Somebody waits at the other end: an open circuit is an answer, not a reason to wait.
        let retry = RetryPolicy::default().max_wait(PATIENCE).attempt_timeout(ATTEMPT);
        Self::with(sidecar.retry(retry), registry, policy)
    }

    /// Calls through a `gusset sidecar` that listens here on this port: that finds the others, retries, and has the circuits. What is left is to pass on trace and deadline.
    ///
    /// # Errors
    ///
    /// If one of them is no name.
    pub(crate) async fn through(
        sidecar: Sidecar,
        port: u16,
        services: &[&str],
    ) -> io::Result<Self> {
        let registry = MemoryRegistry::default();
        for service in services {
            // Its name is what the sidecar reads, and leads to the sidecar.
            let mut beside = Instance::new(*service, *service, port).with_id("sidecar");
            // Nobody else looks after it.
            beside.health = Health::Healthy;
            registry.register(beside).await.map_err(io::Error::other)?;
        }
        let never = breaker::Policy::consecutive(u32::MAX).slow_after(Duration::MAX);
        let sidecar = sidecar.retry(RetryPolicy::default().retries(0));
        Ok(Self::with(sidecar, Arc::new(registry), never))
    }

    fn with(sidecar: Sidecar, registry: Arc<dyn Registry>, policy: breaker::Policy) -> Self {
        let mut connector = Connector::new_with_resolver(Here);
        connector.set_nodelay(true);
        let http2 = Client::builder(TokioExecutor::new()).http2_only(true).build(connector.clone());
        let connections = Client::builder(TokioExecutor::new()).build(connector);
        let circuits = circuits(&sidecar, policy);
        Self { sidecar, registry, circuits, connections, http2 }
    }

    /// Whose calls these are.
    #[must_use]
    pub const fn sidecar(&self) -> &Sidecar {
        &self.sidecar
    }

    /// One circuit for each instance that was called.
    #[must_use]
    pub const fn circuits(&self) -> &Circuits<Arc<str>> {
        &self.circuits
    }

    /// The client of a service.
    #[must_use]
    pub fn to(&self, service: &str) -> Peer {
        let watch = self.registry.watch(service);
        Peer { http: standard(&self.sidecar, watch, &self.circuits, self.connections.clone()) }
    }
}

impl Outbound {
    /// The client of the payment service, which is called by gRPC.
    pub(crate) fn to_payments(&self) -> PaymentsClient {
        let watch = self.registry.watch("payment-service");
        PaymentsClient::new(standard(&self.sidecar, watch, &self.circuits, self.http2.clone()))
    }
}

/// Another service.
#[derive(Clone, Debug)]
pub struct Peer {
    http: Standard<Connections>,
}

/// Why a call gave no answer that could be used.
#[derive(Debug)]
pub enum CallError {
    /// The service said no, with this status.
    Refused {
        /// The status of its answer.
        status: StatusCode,
        /// What its problem body says.
        detail: String,
    },
    /// There was no answer.
    Failed(BoxError),
}

impl CallError {
    /// Whether the service has decided, so that nothing has happened and nothing will.
    #[must_use]
    pub fn is_decision(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.is_client_error())
    }
}

impl Peer {
    /// Reads something.
    ///
    /// # Errors
    ///
    /// [`CallError`], after retries.
    pub async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, CallError> {
        let request = Request::get(path).body(Full::default());
        let body = self.send(request.map_err(failed)?).await?;
        serde_json::from_slice(&body).map_err(failed)
    }

    /// Does something once: the call is repeated under the same key until there is an answer or no more hope.
    ///
    /// # Errors
    ///
    /// [`CallError`], after retries.
    pub async fn post(
        &self,
        path: &str,
        key: &str,
        body: &impl Serialize,
    ) -> Result<(), CallError> {
        let body = serde_json::to_vec(body).map_err(failed)?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("content-type", "application/json")
            .header(IDEMPOTENCY_KEY, key)
            .body(Full::from(body));
        self.send(request.map_err(failed)?).await.map(drop)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Bytes, CallError> {
        let response = self.http.clone().oneshot(request).await.map_err(CallError::Failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT).collect();
        let body = body.await.map_err(CallError::Failed)?.to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or("no reason given").to_owned();
        Err(CallError::Refused { status, detail })
    }
}

fn failed(error: impl Into<BoxError>) -> CallError {
    CallError::Failed(error.into())
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused { detail, .. } => f.write_str(detail),
            Self::Failed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CallError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused { .. } => None,
            Self::Failed(error) => Some(&**error),
        }
    }
}

/// To the client of this service: what it asked for is wrong, or something behind us is broken.
impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { status, detail } if status.is_client_error() => {
                problem(status, detail)
            }
            CallError::Refused { detail, .. } => problem(StatusCode::SERVICE_UNAVAILABLE, detail),
            CallError::Failed(error) => match gusset::call::refusal_in(&*error) {
                Some(refusal) => Problem::of(refusal),
                None => {
                    problem(StatusCode::BAD_GATEWAY, "a service behind this one did not answer")
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, routing::get};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn behind_a_sidecar_each_name_leads_to_it_and_is_what_it_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let host = async |headers: http::HeaderMap| format!("{:?}", headers["host"]);
        let beside = Router::new().route("/", get(host));
        let serving = tokio::spawn(async move { axum::serve(listener, beside).await });
        let names = ["user-service", "product-service"];
        let outbound = Outbound::through(Sidecar::new("test"), port, &names).await.unwrap();
        for name in names {
            let host: String = outbound.to(name).get("/").await.unwrap();
            assert_eq!(host, format!("{name}:{port}"));
        }
        serving.abort();
    }
}

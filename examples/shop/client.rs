//! How a service of the shop calls another: by its name, through all layers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gusset::{
    breaker::{self, Circuits},
    call::{BoxError, Problem},
    registry::Registry,
    sidecar::{ReplayBody, RetryPolicy, Sidecar},
    standard::{Standard, circuits, standard},
};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Serialize, de::DeserializeOwned};
use tower::ServiceExt;

use crate::api::{IDEMPOTENCY_KEY, problem};

/// The longest answer that a service reads.
const ANSWER_LIMIT: usize = 1 << 20;

/// How long a service waits before a retry because it was asked to.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long one attempt may take if there can be another.
const ATTEMPT: Duration = Duration::from_secs(1);

type Connections = Client<HttpConnector, ReplayBody<Full<Bytes>>>;

/// What a service needs to call others.
#[derive(Clone, Debug)]
pub struct Outbound {
    sidecar: Sidecar,
    registry: Arc<dyn Registry>,
    circuits: Circuits<Arc<str>>,
    connections: Connections,
}

impl Outbound {
    /// Calls as the service of `sidecar`, finds others through `registry`, trips by `policy`.
    #[must_use]
    pub fn new(sidecar: Sidecar, registry: Arc<dyn Registry>, policy: breaker::Policy) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let connections = Client::builder(TokioExecutor::new()).build(connector);
        // Somebody waits at the other end: an open circuit is an answer, not a reason to wait.
        let retry = RetryPolicy::default().max_wait(PATIENCE).attempt_timeout(ATTEMPT);
        let sidecar = sidecar.retry(retry);
        let circuits = circuits(&sidecar, policy);
        Self { sidecar, registry, circuits, connections }
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

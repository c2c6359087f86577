//! Tells probers whether a service lives and whether it wants traffic.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 as long as the process answers at all |
//! | `/readyz` | 200 when every check passes and no shutdown has begun, 503 with a problem body otherwise |
//! | `/health` | the same verdict with every check, as JSON |
//!
//! ```
//! # use std::time::Duration;
//! use gusset::{health::Health, shutdown::Shutdown};
//!
//! let shutdown = Shutdown::new(Duration::from_secs(2));
//! let health = Health::new(&shutdown).check("database", || Err("not connected yet".into()));
//! assert_eq!(health.verdict().unwrap_err().to_string(), "not ready: database: not connected yet");
//!
//! let app: axum::Router = axum::Router::new().merge(health.router());
//! ```

use std::{fmt, sync::Arc};

use axum::{Json, Router, response::IntoResponse, routing::get};
use gusset_call::Problem;
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::shutdown::Shutdown;

type Check = dyn Fn() -> Result<(), String> + Send + Sync;

/// The checks of a service. Clones share them.
#[derive(Clone)]
pub struct Health {
    shutdown: Shutdown,
    checks: Vec<(Arc<str>, Arc<Check>)>,
}

impl Health {
    /// Ready until `shutdown` begins.
    #[must_use]
    pub fn new(shutdown: &Shutdown) -> Self {
        Self { shutdown: shutdown.clone(), checks: Vec::new() }
    }

    /// Adds a condition of readiness. `check` must answer at once from what it knows; it runs on every probe. Do
    /// not check what other services need as well: a dependency that is down should not take all its users out of
    /// rotation.
    #[must_use]
    pub fn check(
        mut self,
        name: impl Into<Arc<str>>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        self.checks.push((name.into(), Arc::new(check)));
        self
    }

    /// Whether the service wants traffic.
    ///
    /// # Errors
    ///
    /// [`NotReady`] with every reason against it.
    pub fn verdict(&self) -> Result<(), NotReady> {
        let mut reasons: Vec<_> = self
            .checks
            .iter()
            .filter_map(|(name, check)| check().err().map(|reason| (name.clone(), reason)))
            .collect();
        if self.shutdown.has_begun() {
            reasons.push(("shutdown".into(), "draining".into()));
        }
        if reasons.is_empty() { Ok(()) } else { Err(NotReady { reasons }) }
    }

    /// The three paths, to be merged into the router of the service.
    pub fn router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let (ready, all) = (self.clone(), self.clone());
        Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(async move || ready.readyz()))
            .route("/health", get(async move || all.report()))
    }

    fn readyz(&self) -> axum::response::Response {
        match self.verdict() {
            Ok(()) => "ok\n".into_response(),
            Err(not_ready) => {
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE);
                IntoResponse::into_response(problem.detail(not_ready.to_string()))
            }
        }
    }

    fn report(&self) -> (StatusCode, Json<Value>) {
        let verdict = self.verdict();
        let mut checks: Map<String, Value> =
            self.checks.iter().map(|(name, _)| (name.to_string(), json!("pass"))).collect();
        let (status, code) = match verdict {
            Ok(()) => ("pass", StatusCode::OK),
            Err(NotReady { reasons }) => {
                checks
                    .extend(reasons.into_iter().map(|(name, why)| (name.to_string(), why.into())));
                ("fail", StatusCode::SERVICE_UNAVAILABLE)
            }
        };
        (code, Json(json!({ "status": status, "checks": checks })))
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.checks.iter().map(|(name, _)| name);
        f.debug_list().entries(names).finish()
    }
}

/// Why a service wants no traffic at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReady {
    reasons: Vec<(Arc<str>, String)>,
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not ready")?;
        let mut separator = ": ";
        for (name, reason) in &self.reasons {
            write!(f, "{separator}{name}: {reason}")?;
            separator = ", ";
        }
        Ok(())
    }
}

impl std::error::Error for NotReady {}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt;
    use std::{
        sync::atomic::{AtomicBool, Ordering::SeqCst},
        time::Duration,
    };
    use tower::ServiceExt;

    async fn get(health: &Health, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = health.router::<()>().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_failing_check_takes_readiness_and_leaves_life() {
        let connected = Arc::new(AtomicBool::new(false));
        let state = connected.clone();
        let health = Health::new(&Shutdown::new(Duration::ZERO)).check("database", move || {
            if state.load(SeqCst) { Ok(()) } else { Err("no connection".into()) }
        });

        assert_eq!(get(&health, "/livez").await.0, 200);
        let (status, body) = get(&health, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.contains("database: no connection"), "{body}");

        connected.store(true, SeqCst);
        assert_eq!(get(&health, "/readyz").await.0, 200);
        let (status, body) = get(&health, "/health").await;
        assert_eq!(
            (status, body.as_str()),
            (200, r#"{"checks":{"database":"pass"},"status":"pass"}"#)
        );
    }

    #[tokio::test]
    async fn a_draining_service_is_unready_and_alive() {
        let shutdown = Shutdown::new(Duration::ZERO);
        let health = Health::new(&shutdown);
        assert_eq!(get(&health, "/readyz").await.0, 200);
        shutdown.begin();
        assert_eq!(get(&health, "/readyz").await.0, 503);
        assert_eq!(get(&health, "/livez").await.0, 200);
        assert!(get(&health, "/health").await.1.contains("draining"));
    }
}

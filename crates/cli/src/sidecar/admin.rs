//! What operators, their tools and an orchestrator ask.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use gusset_call::{Asked, BoxError, Door, Problem};
use gusset_registry::RegistrationState;
use gusset_sidecar::{
    Metrics, MetricsEndpoint,
    telemetry::{Filter, StoreService, Telemetry},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited, combinators::UnsyncBoxBody};
use serde_json::{Value, json};
use tokio::sync::watch;
use tower_service::Service;

use super::{app::Registered, proxy::Outbound};

pub(super) type AdminBody = UnsyncBoxBody<Bytes, Infallible>;

/// Answers who asks how the sidecar is.
///
/// Web pages of others are kept out, and so is whoever does not show the token where there is one ([`Door`]). `/livez` and `/readyz` say nothing else, and everybody may ask them.
///
/// # Readiness
///
/// Always ready.
///
/// # Cancellation
///
/// Without effect, but that of a change of the filter is not taken back.
#[derive(Clone)]
pub(super) struct Admin {
    metrics: MetricsEndpoint,
    store: StoreService,
    shared: Arc<Shared>,
}

struct Shared {
    state: State,
    outbound: Outbound,
    filter: Filter,
    door: Door,
    means: Means,
}

/// What operators may do, and see.
pub(super) struct Means {
    /// As JSON, without secrets.
    pub(super) config: Box<dyn Fn() -> Value + Send + Sync>,
    /// It blocks. `None` if there is no file.
    pub(super) reload: Option<Box<dyn Fn() -> Result<Value, String> + Send + Sync>>,
    pub(super) stop: Box<dyn Fn() + Send + Sync>,
}

/// How things stand.
#[derive(Clone)]
pub(super) struct State {
    pub(super) works: watch::Receiver<bool>,
    pub(super) registered: watch::Receiver<Registered>,
    pub(super) draining: watch::Receiver<bool>,
}

impl State {
    /// What keeps callers from being sent here.
    fn not_ready(&self) -> Option<&'static str> {
        if *self.draining.borrow() {
            return Some("it is about to end");
        }
        (!*self.works.borrow()).then_some("the app does not work")
    }

    fn registered(&self) -> &'static str {
        match *self.registered.borrow() {
            Registered::Not | Registered::As(RegistrationState::Ended) => "no",
            Registered::As(RegistrationState::Registered) => "yes",
            Registered::As(RegistrationState::Draining) => "leaving",
            Registered::As(RegistrationState::Lost) => "refused",
            Registered::As(_) => "trying",
        }
    }
}

impl Admin {
    pub(super) fn new(
        state: State,
        outbound: Outbound,
        (telemetry, metrics): (&Telemetry, &Metrics),
        (means, token): (Means, Option<String>),
    ) -> Self {
        let filter = telemetry.filter().clone();
        let door = token.iter().fold(Door::new(), |door, token| door.token(token));
        Self {
            metrics: metrics.endpoint(),
            store: telemetry.store().service(),
            shared: Arc::new(Shared { state, outbound, filter, door, means }),
        }
    }

    async fn answer<B>(mut self, request: Request<B>) -> Response<AdminBody>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let shared = self.shared.clone();
        let path = request.uri().path();
        let what = if matches!(path, "/livez" | "/readyz") { Asked::Probe } else { Asked::Kept };
        if let Some(refusal) = shared.door.refuses(&request, what) {
            return refusal.map(BodyExt::boxed_unsync);
        }
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        match path {
            "/livez" if reads => text(StatusCode::OK, "ok\n"),
            "/readyz" if reads => match shared.state.not_ready() {
                None => text(StatusCode::OK, "ok\n"),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/metrics" => whole(self.metrics.call(request).await),
            "/logs" | "/traces" => whole(self.store.call(request).await),
            path if path.starts_with("/traces/") => whole(self.store.call(request).await),
            "/config" if reads => json_of(&(shared.means.config)()),
            "/status" if reads => json_of(&shared.status()),
            "/log-level" if reads => text(StatusCode::OK, format!("{}\n", shared.filter.get())),
            "/log-level" if request.method() == Method::PUT => shared.set_filter(request).await,
            "/drain" if request.method() == Method::POST => {
                (shared.means.stop)();
                text(StatusCode::ACCEPTED, "it ends\n")
            }
            "/reload" if request.method() == Method::POST => shared.reload().await,
            "/livez" | "/readyz" | "/config" | "/status" => wrong_method("GET, HEAD"),
            "/log-level" => wrong_method("GET, HEAD, PUT"),
            "/drain" | "/reload" => wrong_method("POST"),
            _ => problem(
                StatusCode::NOT_FOUND,
                "there is /livez, /readyz, /status, /metrics, /traces, /logs, /config, /log-level, /reload and /drain",
            ),
        }
    }
}

impl Shared {
    fn status(&self) -> Value {
        let circuit = |breaker: gusset_gateway::Breaker| {
            json!({
                "instance": &*breaker.instance.id,
                "health": format!("{:?}", breaker.instance.health).to_lowercase(),
                "circuit": breaker.circuit.state().as_str(),
            })
        };
        let services = self.outbound.present().services().into_iter().map(|(name, gateway)| {
            let instances: Vec<_> = gateway.breakers().into_iter().map(circuit).collect();
            (name.to_string(), Value::Array(instances))
        });
        json!({
            "ready": self.state.not_ready().is_none(),
            "app": if *self.state.works.borrow() { "works" } else { "does not work" },
            "registered": self.state.registered(),
            "outbound": Value::Object(services.collect()),
        })
    }

    async fn reload(self: Arc<Self>) -> Response<AdminBody> {
        let reload = tokio::task::spawn_blocking(move || self.means.reload.as_ref().map(|f| f()));
        match reload.await {
            Ok(Some(Ok(done))) => json_of(&done),
            Ok(Some(Err(error))) => problem(StatusCode::UNPROCESSABLE_ENTITY, &error),
            Ok(None) => problem(StatusCode::CONFLICT, "it was started without a file"),
            Err(_) => problem(StatusCode::INTERNAL_SERVER_ERROR, "it could not be read"),
        }
    }

    async fn set_filter<B>(&self, request: Request<B>) -> Response<AdminBody>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let body = Limited::new(request.into_body(), Filter::MAX_BYTES).collect().await;
        let Ok(body) = body.map(|body| body.to_bytes()) else {
            return problem(StatusCode::PAYLOAD_TOO_LARGE, "the filter is too long, or broke off");
        };
        let directives = String::from_utf8_lossy(&body);
        match self.filter.set(directives.trim()) {
            Ok(()) => text(StatusCode::OK, format!("{}\n", self.filter.get())),
            Err(error) => problem(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }
}

impl<B> Service<Request<B>> for Admin
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<AdminBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let admin = self.clone();
        Box::pin(async move { Ok(admin.answer(request).await) })
    }
}

fn whole<B>(answer: Result<Response<B>, Infallible>) -> Response<AdminBody>
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    match answer {
        Ok(response) => response.map(BodyExt::boxed_unsync),
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<AdminBody> {
    typed(status, "text/plain; charset=utf-8", text)
}

fn json_of(value: &Value) -> Response<AdminBody> {
    typed(StatusCode::OK, "application/json", format!("{value:#}\n"))
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<AdminBody> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn problem(status: StatusCode, why: &str) -> Response<AdminBody> {
    Problem::new(status).detail(why).into_response().map(BodyExt::boxed_unsync)
}

fn wrong_method(allowed: &'static str) -> Response<AdminBody> {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "not by this method");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

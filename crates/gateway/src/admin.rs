//! What operators see and do, over HTTP.

mod future;
mod pages;
mod splits;

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use gusset_call::{Asked, Door, Problem};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Value, json};
use tower_service::Service;

pub use self::future::AdminFuture;
use crate::Live;

/// What operators see of a gateway, and do with it; to be served by a [`Server`](crate::Server) of its own, on a port that the clients of the gateway do not reach.
/// Clones are one. Feature `admin`.
///
/// | request | answer |
/// |---|---|
/// | `GET /livez` | 200, for as long as it runs |
/// | `GET /readyz` | 200, or 503 while it drains: balancers send no more |
/// | `GET /metrics` | everything, for Prometheus: requests by route, calls by upstream, and what [`Gateway::report`](crate::Gateway::report) adds, of the gateway that serves; and the process |
/// | `GET /routes` | the routes, where they lead, and what became of their requests |
/// | `GET /upstreams` | the instances of each upstream: health, circuit, load |
/// | `GET /splits` | the variants of each split with their weights and how they fare, and its rollout; `at` is where to send orders |
/// | `POST /splits/ROUTE/weights?stable=90&next=10` | these weights, and none for the others. A rollout ends with it |
/// | `POST /splits/ROUTE/promote`, `…/promote?variant=next` | all requests go to the variant of the rollout, or to that one |
/// | `POST /splits/ROUTE/abort` | ends the rollout with the weights of before; 409 if none is under way |
/// | `POST /splits/ROUTE/revert` | the weights before the last change; twice is as nothing |
/// | `GET /config` | which file is in force, and what is wrong with a later one |
/// | `POST /reload` | reads the file again: 200, or 422 with all that is wrong |
/// | `POST /drain`, `DELETE /drain` | `/readyz` is 503, and again 200. Requests are served as ever |
/// | `POST /upstreams/NAME/INSTANCE/open`, `/closed`, `/reset` | forces its circuit, until it is reset or its upstream described otherwise |
///
/// All but the first two ask for the token, if there is one. No web page reaches it: requests of pages are refused (403), and without a token so is a `Host`
/// that is neither an address, nor `localhost`, nor [named](AdminBuilder::host), since a page could give its own name any address ([`Door`]).
///
/// # Readiness
///
/// Always ready. Pages are written before the call returns; a reload reads files in a thread that may block, so that others are answered meanwhile.
///
/// # Cancellation
///
/// A reload that has begun goes to its end.
#[derive(Clone)]
pub struct Admin(Arc<Shared>);

struct Shared {
    live: Live,
    door: Door,
    draining: AtomicBool,
    config: Box<dyn Fn() -> Value + Send + Sync>,
    reload: Box<dyn Fn() -> Result<Value, String> + Send + Sync>,
}

/// Collects what an [`Admin`] needs.
pub struct AdminBuilder {
    shared: Shared,
    /// Its metrics say already how the gateway stands.
    reports: bool,
}

impl Admin {
    /// For this gateway. Without a token, everybody who reaches it may do everything: then it should listen on loopback alone.
    #[must_use]
    pub fn builder(live: Live) -> AdminBuilder {
        let shared = Shared {
            live,
            door: Door::new(),
            draining: AtomicBool::new(false),
            config: Box::new(|| json!({})),
            reload: Box::new(|| Err("there is no file to read again".into())),
        };
        AdminBuilder { shared, reports: false }
    }

    /// Whether `/readyz` is 503.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Relaxed)
    }

    /// From now on `/readyz` is 503, or 200 again.
    pub fn drain(&self, draining: bool) {
        self.0.draining.store(draining, Relaxed);
    }

    fn answer<B>(&self, request: &Request<B>) -> AdminFuture {
        let path = request.uri().path();
        let what = if matches!(path, "/livez" | "/readyz") { Asked::Probe } else { Asked::Kept };
        if let Some(refusal) = self.0.door.refuses(request, what) {
            return AdminFuture::answered(refusal);
        }
        let segments: Vec<_> = path.split('/').skip(1).collect();
        if segments == ["reload"] && request.method() == Method::POST {
            return self.reloading();
        }
        AdminFuture::answered(self.page(&segments, request))
    }

    /// Away from what answers others.
    fn reloading(&self) -> AdminFuture {
        let shared = self.0.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => {
                AdminFuture::reloading(runtime.spawn_blocking(move || (shared.reload)()))
            }
            Err(_) => AdminFuture::answered(future::reloaded(Some((shared.reload)()))),
        }
    }

    fn page<B>(&self, segments: &[&str], request: &Request<B>) -> Response<Full<Bytes>> {
        match (segments, request.method()) {
            (["livez"], &Method::GET) => text(StatusCode::OK, "ok\n"),
            (["readyz"], &Method::GET) if self.is_draining() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
            }
            (["readyz"], &Method::GET) => text(StatusCode::OK, "ok\n"),
            (["metrics"], &Method::GET) => self.metrics(request),
            (["routes"], &Method::GET) => page(&pages::routes(&self.0.live.current())),
            (["upstreams"], &Method::GET) => page(&pages::upstreams(&self.0.live.current())),
            (["upstreams", upstream @ .., instance, order], &Method::POST) => {
                self.order(&upstream.join("/"), instance, order)
            }
            (["config"], &Method::GET) => page(&(self.0.config)()),
            (["splits"], &Method::GET) => page(&splits::page(&self.0.live.current())),
            (["splits", route @ .., order], &Method::POST) => {
                let (route, query) = (route.join("/"), request.uri().query().unwrap_or_default());
                match splits::order(&self.0.live.current(), &route, order, query) {
                    Ok(done) => page(&done),
                    Err((status, reason)) => problem(status, &reason),
                }
            }
            (["drain"], &Method::POST | &Method::DELETE) => {
                self.drain(request.method() == Method::POST);
                page(&json!({ "draining": self.is_draining() }))
            }
            (
                ["livez" | "readyz" | "metrics" | "routes" | "upstreams" | "splits" | "config"],
                _,
            ) => not_allowed("GET"),
            (
                ["reload"]
                | ["upstreams", .., "open" | "closed" | "reset"]
                | ["splits", .., "weights" | "promote" | "abort" | "revert"],
                _,
            ) => not_allowed("POST"),
            (["drain"], _) => not_allowed("POST, DELETE"),
            _ => problem(StatusCode::NOT_FOUND, "there is no such page"),
        }
    }

    fn metrics<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let mut plain = Request::new(());
        *plain.headers_mut() = request.headers().clone();
        let mut endpoint = self.0.live.current().metrics().endpoint();
        let Ok(answer) = endpoint.call(plain).into_inner();
        answer
    }

    /// Forces the circuit of an instance.
    fn order(&self, upstream: &str, instance: &str, order: &str) -> Response<Full<Bytes>> {
        let current = self.0.live.current();
        let breakers = current.breakers();
        let breaker = breakers.iter().find(|breaker| {
            breaker.upstream.to_string() == upstream && *breaker.instance.id == *instance
        });
        let Some(breaker) = breaker else {
            return problem(StatusCode::NOT_FOUND, "there is no such instance");
        };
        match order {
            "open" => breaker.circuit.force_open(),
            "closed" => breaker.circuit.force_closed(),
            "reset" => breaker.circuit.reset(),
            _ => return problem(StatusCode::NOT_FOUND, "orders are open, closed and reset"),
        }
        tracing::warn!(upstream, instance, order, "an operator has forced a circuit");
        page(&json!({ "circuit": breaker.circuit.state().as_str() }))
    }
}

impl AdminBuilder {
    /// Its metrics say already how the gateway stands.
    #[cfg(feature = "config")]
    pub(crate) const fn reports(mut self) -> Self {
        self.reports = true;
        self
    }

    /// What operators show as `Authorization: Bearer`.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.shared.door = self.shared.door.token(token);
        self
    }

    /// A name by which it is reached, besides addresses and `localhost`.
    #[must_use]
    pub fn host(mut self, name: impl Into<String>) -> Self {
        self.shared.door = self.shared.door.host(&name.into());
        self
    }

    /// What `/config` shows.
    #[must_use]
    pub fn config(mut self, show: impl Fn() -> Value + Send + Sync + 'static) -> Self {
        self.shared.config = Box::new(show);
        self
    }

    /// What `/reload` does, in a thread that may block: it shows what came of it, or tells all that is wrong.
    #[must_use]
    pub fn reload(
        mut self,
        reload: impl Fn() -> Result<Value, String> + Send + Sync + 'static,
    ) -> Self {
        self.shared.reload = Box::new(reload);
        self
    }

    /// The service.
    #[must_use]
    pub fn build(self) -> Admin {
        let Self { shared, reports } = self;
        if !reports {
            let metrics = shared.live.current().metrics().clone();
            metrics.report_process();
            shared.live.report_to(&metrics);
        }
        Admin(Arc::new(shared))
    }
}

impl<B> Service<Request<B>> for Admin {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = AdminFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.answer(&request)
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", text.into())
}

fn page(value: &Value) -> Response<Full<Bytes>> {
    with_type(StatusCode::OK, "application/json", format!("{value:#}\n").into())
}

fn with_type(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = problem(StatusCode::METHOD_NOT_ALLOWED, "it is asked in another way");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

fn problem(status: StatusCode, detail: &str) -> Response<Full<Bytes>> {
    Problem::new(status).detail(detail).into_response()
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("draining", &self.is_draining()).finish_non_exhaustive()
    }
}

impl fmt::Debug for AdminBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminBuilder").finish_non_exhaustive()
    }
}

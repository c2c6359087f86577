use std::num::NonZeroU32;

use gusset_ratelimit::{
    AllNormal, Concurrency, ConcurrencyLimit, ConcurrencyLimitLayer, ConcurrencyLimiter,
    OverloadStatus,
};
use gusset_sidecar::{Inbound, InboundLayer, Sidecar};
use tower_layer::Stack;

use crate::observe;

/// Calls at once, if nothing else is said: what Envoy lets through to a service by default.
const AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(999);

/// Layer of [`server`].
pub type ServerLayer = Stack<ConcurrencyLimitLayer<AllNormal, OverloadStatus>, InboundLayer>;

/// The service that [`server`] makes of `S`.
pub type Server<S> = Inbound<ConcurrencyLimit<S, AllNormal, OverloadStatus>>;

/// What belongs around an HTTP server, in one line:
///
/// ```text
/// trace → metrics → answers → deadline → limit of calls at once → your service
/// ```
///
/// ```
/// use axum::{Router, routing::get};
/// use gusset::{sidecar::Sidecar, standard::server};
///
/// let sidecar = Sidecar::new("quotes");
/// let app: Router = Router::new().route("/quote", get(|| async { "All happy families are alike." })).layer(server(&sidecar));
/// ```
///
/// | layer | default | why |
/// |---|---|---|
/// | trace and metrics | as `sidecar` says | they see what the caller gets, a refusal as its status |
/// | answers | 503 for too many calls, 504 for a deadline that has passed, as problems of RFC 9457 | nothing but responses comes out |
/// | deadline | what the caller tells, 30 s at most and if it tells nothing | work that nobody waits for any more ends |
/// | calls at once | 1,000, and 503 at once for more | the memory of a server is bounded, and a full one says so while its callers can still go elsewhere |
///
/// [`server_with`] takes another limit: one of a known number, or one that [finds its number](Concurrency::gradient). Quotas by key belong inside, directly around the routes that
/// have them.
///
/// Call it once for each server: clones of the layer share the limit, whose counts are on the page of the sidecar's metrics, `gusset_concurrency_calls_total` and its neighbours
/// by the name of the service.
#[must_use]
pub fn server(sidecar: &Sidecar) -> ServerLayer {
    let name = sidecar.recorder().service().clone();
    server_with(sidecar, &ConcurrencyLimiter::new(name, Concurrency::fixed(AT_ONCE)))
}

/// The same with another limit of calls at once. An answer of 429 or 503 counts as overload to one that adapts.
#[must_use]
pub fn server_with(sidecar: &Sidecar, limiter: &ConcurrencyLimiter) -> ServerLayer {
    observe::concurrency(limiter, sidecar.metrics());
    let limit = ConcurrencyLimitLayer::new(limiter.clone()).classify(OverloadStatus);
    Stack::new(limit, sidecar.inbound())
}

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use gusset_call::BoxError;
use gusset_sidecar::Metrics;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{Gateway, GatewayBody, ResponseFuture};

/// A [`Gateway`] that can be exchanged for another while it serves. Clones are one.
///
/// A request goes to its end under the gateway that it began with, and so do the connections that it became, as a WebSocket.
///
/// ```
/// use gusset_gateway::{Gateway, Live, Route};
/// use gusset_registry::MemoryRegistry;
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let with = |route: Route| Gateway::builder(MemoryRegistry::default()).route(route).build();
/// let live = Live::new(with(Route::new("/orders").to("orders"))?);
/// // `live` is served here.
/// let before = live.swap(with(Route::new("/orders").to("orders-next"))?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Readiness
///
/// Always ready.
///
/// # Cancellation
///
/// As that of [`Gateway`].
#[derive(Clone)]
pub struct Live(Arc<ArcSwap<Gateway>>);

impl Live {
    /// With this one first.
    #[must_use]
    pub fn new(gateway: Gateway) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(gateway)))
    }

    /// All requests from now on go to `gateway`. Returns the one before, which has requests until it [is left](Gateway::is_left).
    #[must_use]
    pub fn swap(&self, gateway: Gateway) -> Gateway {
        Gateway::clone(&self.0.swap(Arc::new(gateway)))
    }

    /// Adds how the gateway that serves stands ([`Gateway::report`]) to whatever `metrics` renders, for as long as this is there. To do it twice changes nothing but the work.
    pub fn report_to(&self, metrics: &Metrics) {
        // The gateway has the metrics, so they must not have it.
        let live = Arc::downgrade(&self.0);
        metrics.on_render(move |samples| {
            if let Some(live) = live.upgrade() {
                live.load().report(samples);
            }
        });
    }

    /// The one that requests go to.
    #[must_use]
    pub fn current(&self) -> Gateway {
        Gateway::clone(&self.0.load())
    }
}

impl<B> Service<Request<B>> for Live
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<GatewayBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ResponseFuture {
        self.current().call(request)
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.0.load()).finish()
    }
}

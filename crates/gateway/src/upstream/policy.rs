use std::time::Duration;

use gusset_breaker::Policy;
use gusset_registry::{Ejection, Fleet};
use gusset_sidecar::RetryPolicy;

use crate::{Picker, Transport};

/// How one upstream is called, where it differs from the others of its [`Gateway`](crate::Gateway).
///
/// ```
/// use gusset_gateway::{Gateway, Route, UpstreamPolicy};
/// use gusset_registry::{MemoryRegistry, RoundRobin};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let gateway = Gateway::builder(MemoryRegistry::default())
///     .upstream("orders", UpstreamPolicy::new().pick(RoundRobin))
///     .route(Route::new("/orders/{*rest}").to("orders"))
///     .build()?;
/// # Ok::<(), gusset_gateway::BuildError>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct UpstreamPolicy {
    pub(crate) breaker: Option<Policy>,
    pub(crate) pick: Option<Picker>,
    pub(crate) fleet: Option<Fleet>,
    pub(crate) ejection: Option<Ejection>,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) wait: Option<Duration>,
    pub(crate) transport: Transport,
    pub(crate) measured: bool,
}

impl UpstreamPolicy {
    /// As the builder says, over HTTP/1.1 in the clear.
    #[must_use]
    pub fn new() -> Self {
        Self {
            breaker: None,
            pick: None,
            fleet: None,
            ejection: Some(Ejection::by_comparison()),
            retry: None,
            wait: None,
            transport: Transport::http1(),
            measured: true,
        }
    }

    /// When an instance is left alone. Default [`Builder::breaker`](crate::Builder::breaker).
    #[must_use]
    pub const fn breaker(mut self, policy: Policy) -> Self {
        self.breaker = Some(policy);
        self
    }

    /// Which instance takes a request. Default [`Builder::pick`](crate::Builder::pick).
    #[must_use]
    pub fn pick(mut self, picker: impl Into<Picker>) -> Self {
        self.pick = Some(picker.into());
        self
    }

    /// Which instances take requests at all. Default [`Builder::among`](crate::Builder::among).
    #[must_use]
    pub fn among(mut self, fleet: Fleet) -> Self {
        self.fleet = Some(fleet);
        self
    }

    /// Which instances are left out for a while because they fail more than the others, or too often in a row. Default
    /// [`Ejection::by_comparison`]; none with `None`.
    #[must_use]
    pub fn eject(mut self, ejection: impl Into<Option<Ejection>>) -> Self {
        self.ejection = ejection.into();
        self
    }

    /// When requests are tried again, on routes that do not say so themselves. Default as in [`Route::retry`](crate::Route::retry).
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// For how long a call waits for a first healthy instance, before it is refused with 503. Default 1 s: long enough for a service that is just starting, short enough
    /// that clients do not pile up. Zero refuses at once.
    #[must_use]
    pub const fn wait(mut self, span: Duration) -> Self {
        self.wait = Some(span);
        self
    }

    /// How its instances are spoken to: version of HTTP, TLS, `Host`, connections. Default [`Transport::http1`].
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Leaves it out of the figures of upstreams ([`Gateway::report`](crate::Gateway::report), `http.client.request.duration`): where it is the program that the gateway is a part of, as behind a
    /// sidecar, its requests are counted as they come in, and a map of who calls whom would have one place too many.
    #[must_use]
    pub const fn unmeasured(mut self) -> Self {
        self.measured = false;
        self
    }
}

impl Default for UpstreamPolicy {
    fn default() -> Self {
        Self::new()
    }
}

use super::B3;

/// What goes along with calls beside the W3C trace context, for a [`TraceLayer`](crate::TraceLayer).
///
/// ```
/// use gusset_sidecar::{B3, Propagation, Recorder, TraceLayer};
///
/// let beside = Propagation::new().b3(B3::Single).request_ids().log_baggage(&["tenant"]);
/// let server = TraceLayer::server(Recorder::new("orders")).propagation(beside);
/// # let _ = server;
/// ```
#[derive(Clone, Debug)]
pub struct Propagation {
    pub(super) b3: Option<B3>,
    pub(super) baggage: bool,
    pub(super) request_ids: bool,
    pub(super) logged: &'static [&'static str],
}

impl Propagation {
    /// W3C trace context and baggage, as the OpenTelemetry SDKs do by default.
    #[must_use]
    pub const fn new() -> Self {
        Self { b3: None, baggage: true, request_ids: false, logged: &[] }
    }

    /// Zipkin's B3 headers as well. A server reads both forms where there is no good `traceparent`; a client writes `form`
    /// beside `traceparent`, in place of what the request had. Default neither.
    #[must_use]
    pub const fn b3(mut self, form: B3) -> Self {
        self.b3 = Some(form);
        self
    }

    /// Neither reads nor writes `baggage`: for servers whose callers are not to be trusted with it, and for clients of services that are none of
    /// one's own.
    #[must_use]
    pub const fn without_baggage(mut self) -> Self {
        self.baggage = false;
        self
    }

    /// Names requests by `x-request-id`. A server takes a well-formed one from the request (see [`RequestId`](gusset_call::RequestId)) or else
    /// gives it the trace's, puts it into the answer unless that has one, and into the `tracing` span as `request_id`. A client
    /// sends the current one on. Default off: traces have identifiers of their own.
    #[must_use]
    pub const fn request_ids(mut self) -> Self {
        self.request_ids = true;
        self
    }

    /// Puts these members of the baggage into a server's `tracing` span, as the field `baggage`. Default none: senders may write
    /// anything there.
    #[must_use]
    pub const fn log_baggage(mut self, names: &'static [&'static str]) -> Self {
        self.logged = names;
        self
    }
}

impl Default for Propagation {
    fn default() -> Self {
        Self::new()
    }
}

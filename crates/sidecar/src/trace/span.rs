//! A call that is being traced, from its start to its record.

use std::{cell::RefCell, fmt, num::NonZeroU16, sync::Arc};

use gusset_call::{Ambient, Attempt, Entered, RequestId, SpanId, TraceContext};
use http::{
    HeaderMap, HeaderValue, Response,
    uri::{Authority, PathAndQuery},
};
use tracing::span::Entered as Logged;

use super::{
    details::RESPONSE,
    propagate::REQUEST_ID,
    record::{MAX_TAGS, Text, beginning, cut},
    ring::{Kept, More},
    settings::Settings,
};
use crate::{
    Route, SpanKind,
    metrics::{
        call::{Over, version},
        is_failure,
        series::{Facts, Protocol, Scheme, Version},
    },
    names::MethodName,
    watched::{End, Watch},
};

/// An unfinished span. It becomes a record when it ends, and at the latest when it is dropped.
///
/// It is what the [`Watched`](crate::Watched) body of a traced answer holds.
pub struct ActiveSpan {
    /// Taken when the span ends, so that it ends once.
    place: Option<Place>,
}

/// What is known of a span until it ends.
pub(super) struct Open {
    settings: Arc<Settings>,
    /// What is current inside. Its trace is this span.
    inside: Ambient,
    trace: TraceContext,
    parent: Option<SpanId>,
    /// On the recorder's clock.
    started: u64,
    pub(super) route: Option<Route>,
    pub(super) peer: Option<Authority>,
    more: Option<Box<More>>,
    /// None where nobody listens.
    log: Option<tracing::Span>,
    status: Option<u16>,
    grpc_status: Option<u8>,
    pub(super) attempt: Attempt,
    method: MethodName,
    pub(super) protocol: Protocol,
    /// Names the method of a remote procedure call to the metrics.
    pub(super) path: Option<PathAndQuery>,
    /// For the record; the metrics of a client do not tell these apart.
    pub(super) scheme: Scheme,
    pub(super) version: Version,
}

/// What a call holds on the heap.
#[derive(Default)]
struct Held {
    open: Option<Open>,
    /// Path of the request, in memory that is used again: most calls need it only until they end.
    path: String,
}

/// From which duration on a record has its path though its trace is not sampled: it may be exported as a slow one.
const SLOW: u64 = 100_000_000;
/// Most memory of a path that is used again, in bytes.
const SPARE_PATH: usize = 1 << 10;

/// On the heap, since a span moves from the layer's future into the body of the answer, and with those through all layers around.
type Place = Box<Held>;

/// Most places that a thread keeps to use them again, about 20 KiB of them beside their paths.
const SPARE: usize = 64;

thread_local! {
    static SPARES: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
}

impl ActiveSpan {
    /// A span that begins now within `around`.
    pub(super) fn new(
        settings: &Arc<Settings>,
        method: MethodName,
        (trace, parent): (TraceContext, Option<SpanId>),
        attempt: Attempt,
        around: Ambient,
    ) -> Self {
        settings.begin(method);
        let spare = SPARES.try_with(|spares| spares.borrow_mut().pop());
        let mut place = spare.ok().flatten().unwrap_or_default();
        let cx = around.context().with_trace(trace);
        place.open = Some(Open {
            settings: settings.clone(),
            inside: around.with_context(cx),
            trace,
            parent,
            started: settings.now(),
            route: None,
            peer: None,
            more: None,
            log: None,
            status: None,
            grpc_status: None,
            attempt,
            method,
            protocol: Protocol::default(),
            path: None,
            scheme: Scheme::default(),
            version: Version::default(),
        });
        Self { place: Some(place) }
    }

    pub(super) fn open(&mut self) -> Option<&mut Open> {
        self.place.as_mut()?.open.as_mut()
    }

    /// Remembers where the request goes.
    pub(super) fn to(&mut self, path: &str) {
        if let Some(place) = &mut self.place {
            place.path.push_str(path);
        }
    }

    /// Tells `tracing`, after all is known that can be known at the start.
    pub(super) fn log(&mut self) {
        if let Some(open) = self.open() {
            open.log = Some(log_span(open)).filter(|log| !log.is_disabled());
        }
    }

    /// Makes it what is current until the guards are dropped: for who has large things to move, which a function around them would
    /// copy.
    pub(super) fn enter_call(&self) -> Option<(Option<Logged<'_>>, Entered)> {
        let open = self.place.as_ref()?.open.as_ref()?;
        let entered = open.inside.enter();
        Some((open.log.as_ref().map(tracing::Span::enter), entered))
    }

    pub(super) fn answered<B>(&mut self, response: &mut Response<B>) {
        self.headers(RESPONSE, response.headers());
        let Some(open) = self.open() else { return };
        open.status = Some(response.status().as_u16());
        open.settings.answered(&mut open.route, response.extensions());
        if open.settings.kind == SpanKind::Server {
            open.protocol.answered(response.headers());
        } else {
            // A client's request does not know what it is sent by.
            open.version = version(response.version());
        }
        // Only servers have one that they were asked to give.
        if let Some(id) = open.own_request_id().filter(|_| open.settings.propagation.request_ids) {
            if let Ok(id) = HeaderValue::from_str(id.as_str()) {
                response.headers_mut().entry(REQUEST_ID).or_insert(id);
            }
        }
    }

    /// Notes those headers that were asked for.
    pub(super) fn headers(&mut self, side: &str, headers: &HeaderMap) {
        let Some(open) = self.open().filter(|open| open.settings.details.has_headers()) else {
            return;
        };
        let settings = open.settings.clone();
        for (key, value) in settings.details.of(side, headers) {
            self.tag(key, value);
        }
    }

    pub(crate) fn tag(&mut self, key: Text, value: Text) {
        let Some(open) = self.open() else { return };
        let tags = &mut open.more.get_or_insert_default().tags;
        if tags.len() < MAX_TAGS {
            tags.push((key, cut(value)));
        }
    }

    pub(crate) fn fail(&mut self, error: &impl fmt::Display) {
        // The text is made by code that is not ours, and may end the span by a panic.
        let text = cut(error.to_string().into());
        let Some(open) = self.open() else { return };
        if let Some(log) = &open.log {
            log.record("error", &*text);
        }
        open.more.get_or_insert_default().error = Some(text.into());
        self.end(End::Error);
    }
}

impl Open {
    /// Of a server. Within a client it is that of the request that calls.
    fn own_request_id(&self) -> Option<&RequestId> {
        self.inside.request_id().filter(|_| self.settings.kind == SpanKind::Server)
    }

    /// The members of the baggage that were asked for.
    fn logged_baggage(&self) -> Option<String> {
        let server = self.settings.kind == SpanKind::Server;
        let baggage = self.inside.baggage().filter(|_| server)?;
        let mut text = String::new();
        for name in self.settings.propagation.logged {
            if let Some(value) = baggage.get(name) {
                let comma = if text.is_empty() { "" } else { "," };
                text.extend([comma, name, "=", &value]);
            }
        }
        (!text.is_empty()).then(|| cut(text.into()).into_owned())
    }

    fn close(&mut self, end: End, path: &str) {
        let settings = &*self.settings;
        let nanos = settings.now().saturating_sub(self.started);
        if let Some(log) = self.log.take() {
            if let Some(status) = self.status {
                log.record("http.response.status_code", status);
            }
            if let Some(broke) = end.error_type() {
                log.record("error.type", broke);
            }
        }
        if let Some(metrics) = &settings.metrics {
            let facts = Facts {
                kind: settings.kind,
                method: self.method,
                status: self.status.unwrap_or_default(),
                protocol: self.protocol,
                grpc_status: self.grpc_status,
                end,
            };
            let (name, address) = (self.route.as_deref(), self.peer.as_ref());
            let over = Over { facts, name, address, path: self.path.as_ref() };
            let registry = metrics.registry();
            registry.finish(&over.key(registry), nanos, || Some(self.trace));
        }
        let recorder = &settings.recorder;
        if recorder.is_off() {
            return;
        }
        let (kind, status) = (settings.kind, self.status);
        let grpc = self.protocol.grpc;
        // What does not answer in gRPC was no call by it.
        let worth = self.trace.is_sampled()
            || nanos >= SLOW
            || end != End::Complete
            || is_failure(kind, end, status, self.grpc_status);
        recorder.keep(Kept {
            trace_id: self.trace.trace_id(),
            span_id: self.trace.span_id(),
            parent_id: self.parent,
            start_unix_nanos: recorder.unix_nanos(self.started),
            nanos,
            route: self.route.take(),
            peer: self.peer.take(),
            more: self.more.take(),
            path: (!path.is_empty() && (grpc || settings.details.paths && worth))
                .then(|| beginning(path).into()),
            service: recorder.number(),
            attempt: u16::try_from(self.attempt.number()).unwrap_or(u16::MAX),
            status: status.and_then(NonZeroU16::new),
            grpc_status: self.grpc_status,
            method: self.method,
            protocol: Protocol { scheme: self.scheme, version: self.version, grpc },
            kind,
            end,
            sampled: self.trace.is_sampled(),
        });
    }
}

impl Watch for ActiveSpan {
    fn enter<T>(&mut self, step: impl FnOnce() -> T) -> T {
        let Some(open) = self.open() else { return step() };
        open.inside.sync_scope(|| match &open.log {
            Some(log) => log.in_scope(step),
            None => step(),
        })
    }

    fn grpc_status(&mut self, code: u8) {
        if let Some(open) = self.open() {
            open.grpc_status = Some(code);
        }
    }

    fn end(&mut self, end: End) {
        let Some(mut place) = self.place.take() else { return };
        let Held { open, path } = &mut *place;
        if let Some(open) = open {
            open.close(end, path);
        }
        *open = None;
        path.clear();
        path.shrink_to(SPARE_PATH);
        // In a thread that ends there are no spares any more.
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE {
                spares.push(place);
            }
        });
    }
}

impl Drop for ActiveSpan {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.end(End::of_drop());
        }
    }
}

impl fmt::Debug for ActiveSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace = self.place.as_ref().and_then(|place| Some(place.open.as_ref()?.trace));
        f.debug_struct("ActiveSpan").field("trace", &trace).finish_non_exhaustive()
    }
}

macro_rules! log_span {
    ($name:literal, $span:ident) => {
        tracing::info_span!(
            target: "gusset_sidecar::trace",
            $name,
            trace_id = %$span.trace.trace_id(),
            span_id = %$span.trace.span_id(),
            otel.kind = $name,
            http.request.method = $span.method.as_str(),
            http.route = $span.route.as_deref(),
            http.response.status_code = tracing::field::Empty,
            error = tracing::field::Empty,
            error.type = tracing::field::Empty,
            request_id = $span.own_request_id().map(RequestId::as_str),
            baggage = $span.logged_baggage(),
        )
    };
}

/// The span as `tracing` sees it. Names must be literals, for they are part of the call site.
fn log_span(open: &Open) -> tracing::Span {
    match open.settings.kind {
        SpanKind::Server => log_span!("server", open),
        SpanKind::Client => log_span!("client", open),
        SpanKind::Internal => log_span!("internal", open),
        SpanKind::Producer => log_span!("producer", open),
        SpanKind::Consumer => log_span!("consumer", open),
    }
}

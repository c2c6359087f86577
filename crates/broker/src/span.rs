//! A span as plain data, and the guard that ends it once.

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use gusset_call::{Attempt, Clock, SpanId, TraceContext};

use crate::{
    Headers, Message, MessageId, Subject,
    attempt::{contain, shortened},
    wall::wall_clock,
};

/// The publishing of a message, or one attempt to handle it, once it is over. From a [`TraceLayer`](crate::TraceLayer).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Span {
    /// Trace, own identifier, and whether the trace is sampled.
    pub trace: TraceContext,
    /// The span that caused it; none at the root of a trace.
    pub parent: Option<SpanId>,
    /// Which side it was.
    pub kind: SpanKind,
    /// The system that carries the message: `gusset` where it stays with this crate, else the name of the engine.
    pub system: &'static str,
    /// The message's subject.
    pub subject: Subject,
    /// The message's id.
    pub message: MessageId,
    /// Bytes of the payload.
    pub body_size: usize,
    /// The header [`Headers::CORRELATION_ID`].
    pub correlation: Option<String>,
    /// The group that handled it; none of a publish.
    pub group: Option<Arc<str>>,
    /// Which attempt it was; none of a publish.
    pub attempt: Option<Attempt>,
    /// When it began. By the wall clock.
    pub began_at: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// How it ended.
    pub end: End,
    /// The error, or the reason of a rejection; at most 1,024 bytes of it.
    pub error: Option<String>,
}

/// Which side of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpanKind {
    /// It was published.
    Producer,
    /// It was handled.
    Consumer,
}

/// How a span ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum End {
    /// Published; handled and acknowledged.
    Complete,
    /// The handler asked for another attempt.
    Retry,
    /// The handler rejected the message.
    Rejected,
    /// The service returned an error.
    Error,
    /// Dropped before it was done: by a timeout, the end of a subscription, a caller who left.
    Cancelled,
    /// It panicked.
    Panicked,
}

impl End {
    /// Whether something went wrong, and what; the attribute `error.type`.
    const fn error_type(self) -> Option<&'static str> {
        match self {
            Self::Complete | Self::Retry => None,
            Self::Rejected => Some("rejected"),
            Self::Error => Some("error"),
            Self::Cancelled => Some("cancelled"),
            Self::Panicked => Some("panic"),
        }
    }
}

impl Span {
    /// Its name: what was done, and the subject. Subjects with identifiers in them make a name each; keep those in the body.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.operation(), self.subject)
    }

    /// Whether it ended with an error, a rejection, a panic, or before it was done.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        self.end.error_type().is_some()
    }

    const fn operation(&self) -> &'static str {
        match self.kind {
            SpanKind::Producer => "publish",
            SpanKind::Consumer => "process",
        }
    }

    /// The attributes by OpenTelemetry's semantic conventions for messaging, and `gusset.attempt`. There is no `messaging.batch.message_count`: each span is of
    /// one message.
    #[must_use]
    pub fn attributes(&self) -> Vec<(&'static str, Cow<'_, str>)> {
        let text = |value: String| Cow::Owned(value);
        let kind = match self.kind {
            SpanKind::Producer => "send",
            SpanKind::Consumer => "process",
        };
        let mut all = vec![
            ("messaging.system", self.system.into()),
            ("messaging.operation.name", self.operation().into()),
            ("messaging.operation.type", kind.into()),
            ("messaging.destination.name", self.subject.as_str().into()),
            ("messaging.message.id", text(self.message.to_string())),
            ("messaging.message.body.size", text(self.body_size.to_string())),
        ];
        all.extend(self.group.iter().map(|g| ("messaging.consumer.group.name", (&**g).into())));
        let conversation = "messaging.message.conversation_id";
        all.extend(self.correlation.iter().map(|id| (conversation, id.as_str().into())));
        all.extend(self.attempt.map(|n| ("gusset.attempt", text(n.number().to_string()))));
        all.extend(self.end.error_type().map(|kind| ("error.type", kind.into())));
        all
    }
}

/// Is told of each span when it is over.
pub(crate) type Listener = dyn Fn(Span) + Send + Sync;

/// A span that is not over. It ends once, at the latest when it is dropped.
pub(crate) struct ActiveSpan {
    span: Option<Span>,
    listener: Arc<Listener>,
    clock: Clock,
    began: u64,
    log: tracing::Span,
}

impl ActiveSpan {
    pub(crate) fn new(span: Span, listener: Arc<Listener>, clock: Clock) -> Self {
        let (began, log) = (clock.nanos(), log_span(&span));
        Self { span: Some(span), listener, clock, began, log }
    }

    pub(crate) fn enter<R>(&self, step: impl FnOnce() -> R) -> R {
        self.log.in_scope(step)
    }

    pub(crate) fn end(mut self, end: End, error: Option<&str>) {
        self.close(end, error);
    }

    fn close(&mut self, end: End, error: Option<&str>) {
        let Some(mut span) = self.span.take() else { return };
        span.end = end;
        span.error = error.map(shortened);
        span.duration = Duration::from_nanos(self.clock.nanos().saturating_sub(self.began));
        if let Some(kind) = end.error_type() {
            self.log.record("error.type", kind);
        }
        // Perhaps while something else unwinds, where a second panic would end the process.
        contain(|| (self.listener)(span));
    }
}

impl Drop for ActiveSpan {
    fn drop(&mut self) {
        let end = if std::thread::panicking() { End::Panicked } else { End::Cancelled };
        self.close(end, None);
    }
}

impl fmt::Debug for ActiveSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveSpan").field("span", &self.span).finish_non_exhaustive()
    }
}

/// A span of this message that begins now.
pub(crate) fn begun(
    message: &Message,
    parent: Option<TraceContext>,
    kind: SpanKind,
    system: &'static str,
) -> Span {
    Span {
        trace: parent.map_or_else(TraceContext::new_root, |parent| parent.child()),
        parent: parent.map(|parent| parent.span_id()),
        kind,
        system,
        subject: message.subject().clone(),
        message: message.id(),
        body_size: message.payload().len(),
        correlation: message.headers().get(Headers::CORRELATION_ID).map(shortened),
        group: None,
        attempt: None,
        began_at: wall_clock(),
        duration: Duration::ZERO,
        end: End::Cancelled,
        error: None,
    }
}

macro_rules! log_span {
    ($operation:literal, $kind:literal, $span:ident) => {
        tracing::info_span!(
            $operation,
            trace_id = %$span.trace.trace_id(),
            span_id = %$span.trace.span_id(),
            otel.kind = $kind,
            messaging.system = $span.system,
            messaging.operation.name = $operation,
            messaging.destination.name = $span.subject.as_str(),
            messaging.message.id = %$span.message,
            messaging.consumer.group.name = $span.group.as_deref(),
            gusset.attempt = $span.attempt.map(|attempt| attempt.number()),
            error.type = tracing::field::Empty,
        )
    };
}

/// The span as `tracing` sees it. Names must be literals, for they are part of the call site.
fn log_span(span: &Span) -> tracing::Span {
    match span.kind {
        SpanKind::Producer => log_span!("publish", "producer", span),
        SpanKind::Consumer => log_span!("process", "consumer", span),
    }
}

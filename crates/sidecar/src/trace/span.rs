//! A call that is being traced, from its start to its record.

use std::{borrow::Cow, fmt};

use gusset_call::{Attempt, Context, SpanId, TraceContext};
use http::{HeaderMap, uri::Authority};
use tokio::time::Instant;

use crate::{
    Record, Recorder, Route, SpanKind,
    ambient::Ambient,
    names::MethodName,
    watched::{End, Watch, grpc_status},
};

/// Longest text that a record keeps of an error or a tag, in bytes.
pub(super) const MAX_TEXT: usize = 256;

/// Most tags of one span; further ones are ignored.
pub(crate) const MAX_TAGS: usize = 16;

/// As much of `text` as a record keeps.
pub(crate) fn cut(text: Cow<'static, str>) -> Cow<'static, str> {
    if text.len() <= MAX_TEXT {
        return text;
    }
    let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned().into()
}

/// An unfinished span. It becomes a record when it ends, and at the latest when it is dropped.
///
/// It is what the [`Watched`](crate::Watched) body of a traced answer holds.
pub struct ActiveSpan {
    /// Taken when the span ends, so that it ends once.
    open: Option<Open>,
    cx: Context,
    ambient: Ambient,
    log: tracing::Span,
}

/// What the record will be made of.
pub(crate) struct Open {
    pub(crate) recorder: Recorder,
    pub(crate) trace: TraceContext,
    pub(crate) parent: Option<SpanId>,
    pub(crate) kind: SpanKind,
    pub(crate) started: Instant,
    pub(crate) route: Option<Route>,
    pub(crate) method: MethodName,
    pub(crate) peer: Option<Authority>,
    pub(crate) attempt: Attempt,
    pub(crate) status: Option<u16>,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) error: Option<Box<str>>,
    pub(crate) tags: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

impl ActiveSpan {
    /// A span that begins now. `cx` is the context around it; inside, the trace is that of `open`.
    pub(crate) fn new(open: Open, cx: Context, ambient: Ambient, log: tracing::Span) -> Self {
        Self { cx: cx.with_trace(open.trace), open: Some(open), ambient, log }
    }

    pub(crate) fn update(&mut self, change: impl FnOnce(&mut Open)) {
        if let Some(open) = &mut self.open {
            change(open);
        }
    }

    pub(crate) fn fail(mut self, error: &impl fmt::Display) {
        let text = cut(error.to_string().into());
        self.log.record("error", &*text);
        self.update(|open| open.error = Some(text.into()));
        self.end(End::Error);
    }

    fn close(&mut self, end: End) {
        let Some(open) = self.open.take() else { return };
        let duration = open.started.elapsed();
        if let Some(status) = open.status {
            self.log.record("http.response.status_code", status);
        }
        let recorder = open.recorder;
        if recorder.is_off() {
            return;
        }
        let method = open.method.as_str();
        recorder.record(Record {
            trace_id: open.trace.trace_id(),
            span_id: open.trace.span_id(),
            parent_id: open.parent,
            kind: open.kind,
            service: recorder.service().clone(),
            operation: open.route.unwrap_or_else(|| method.into()),
            method,
            peer: open.peer,
            attempt: open.attempt.number(),
            start_unix_nanos: recorder.unix_nanos(open.started),
            duration,
            status: open.status,
            grpc_status: open.grpc_status,
            end,
            error: open.error,
            sampled: open.trace.is_sampled(),
            tags: open.tags,
        });
    }
}

impl Watch for ActiveSpan {
    fn enter<T>(&self, step: impl FnOnce() -> T) -> T {
        self.ambient.enter(self.cx, || self.log.in_scope(step))
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(code) = grpc_status(trailers) {
            self.update(|open| open.grpc_status = Some(code));
        }
    }

    fn end(mut self, end: End) {
        self.close(end);
    }
}

impl Drop for ActiveSpan {
    fn drop(&mut self) {
        self.close(End::of_drop());
    }
}

impl fmt::Debug for ActiveSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActiveSpan").field("trace", &self.cx.trace()).finish_non_exhaustive()
    }
}

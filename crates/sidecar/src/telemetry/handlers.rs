//! Spans of `tracing` inside of calls, as records beside those of the calls.

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use gusset_call::{Context, SpanId, TraceContext, TraceId};
use tracing::{
    Level, Metadata, Subscriber, field,
    span::{Attributes, Id, Record as Values},
};
use tracing_subscriber::{
    Layer, layer,
    registry::{LookupSpan, SpanRef},
};

use super::{
    capture::this_thread_is_exporting,
    log::{WithCauses, bounded},
};
use crate::{Recorder, SpanKind};

/// Most spans of one trace that this process keeps beside its calls: a loop that opens one each time would drive the calls of others from the ring.
const SPANS: u16 = 64;
/// Most fields of one span, and bytes of each: what a record keeps of tags.
const FIELDS: usize = 16;
const TEXT: usize = 256;
/// What the layers of this crate open for each call, which has a record already.
const CALLS: &str = "gusset_sidecar::trace";

/// Brings spans of level INFO and above into the recorder when they close, if they belong to a call.
pub(super) struct HandlerSpans {
    recorder: Recorder,
    counts: Counts,
    left_out: Arc<AtomicU64>,
}

/// What is known of a span until it closes.
struct Handled {
    trace: TraceContext,
    parent: SpanId,
    /// On the recorder's clock.
    started: u64,
    fields: Vec<(&'static str, Box<str>)>,
}

impl HandlerSpans {
    /// None where nothing is kept. What is beyond the bound is counted in `left_out`.
    pub(super) fn new(recorder: Option<&Recorder>, left_out: Arc<AtomicU64>) -> Option<Self> {
        let recorder = recorder.filter(|recorder| !recorder.is_off())?.clone();
        Some(Self { recorder, counts: Counts::default(), left_out })
    }
}

impl<S> Layer<S> for HandlerSpans
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, cx: layer::Context<'_, S>) {
        // One that was made a root on purpose belongs to nothing.
        if !is_meant(attributes.metadata()) || attributes.is_root() {
            return;
        }
        let Some(span) = cx.span(id) else { return };
        let Some(above) = above(&span) else { return };
        if !self.counts.admit(above.trace_id()) {
            self.left_out.fetch_add(1, Relaxed);
            return;
        }
        let mut handled = Handled {
            trace: above.child(),
            parent: above.span_id(),
            started: self.recorder.now(),
            fields: Vec::new(),
        };
        attributes.record(&mut handled);
        span.extensions_mut().insert(handled);
    }

    fn on_record(&self, id: &Id, values: &Values<'_>, cx: layer::Context<'_, S>) {
        let Some(span) = cx.span(id).filter(|span| is_meant(span.metadata())) else { return };
        // The texts are made by code that is not ours, so not under the lock.
        let Some(mut handled) = span.extensions_mut().remove::<Handled>() else { return };
        values.record(&mut handled);
        span.extensions_mut().replace(handled);
    }

    fn on_close(&self, id: Id, cx: layer::Context<'_, S>) {
        let Some(span) = cx.span(&id).filter(|span| is_meant(span.metadata())) else { return };
        let Some(handled) = span.extensions_mut().remove::<Handled>() else { return };
        let nanos = self.recorder.now().saturating_sub(handled.started);
        let took = std::time::Duration::from_nanos(nanos);
        let name = span.metadata().name();
        let mut record = self.recorder.finished(handled.trace, SpanKind::Internal, name, took);
        record.parent_id = Some(handled.parent);
        let fields = handled.fields.into_iter();
        record.tags = fields.map(|(name, text)| (name.into(), String::from(text).into())).collect();
        self.recorder.record(record);
    }
}

fn is_meant(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO && !is_call(metadata) && !this_thread_is_exporting()
}

/// Whether the span says which one it is: whoever gives it that, such as the layers of this family, records it as well.
fn is_call(metadata: &Metadata<'_>) -> bool {
    metadata.target() == CALLS || metadata.fields().field("span_id").is_some()
}

/// What a new span is below: the nearest one that has a record, unless a call began inside of that; or else the call at hand.
fn above<'a, S: LookupSpan<'a>>(span: &SpanRef<'a, S>) -> Option<TraceContext> {
    let current = Context::current().trace();
    for around in span.scope().skip(1) {
        if is_call(around.metadata()) {
            break;
        }
        let extensions = around.extensions();
        let Some(handled) = extensions.get::<Handled>() else { continue };
        // A task that works for many calls may be within a span of the first.
        let same = current.is_none_or(|current| current.trace_id() == handled.trace.trace_id());
        return if same { Some(handled.trace) } else { current };
    }
    current
}

impl Handled {
    fn add(&mut self, field: &field::Field, text: fmt::Arguments<'_>) {
        let known = self.fields.iter().position(|(name, _)| *name == field.name());
        if known.is_none() && self.fields.len() == FIELDS {
            return;
        }
        let text = bounded(TEXT, text);
        match known.and_then(|at| self.fields.get_mut(at)) {
            Some((_, old)) => *old = text,
            None => self.fields.push((field.name(), text)),
        }
    }
}

impl field::Visit for Handled {
    fn record_str(&mut self, field: &field::Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &field::Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, format_args!("{}", WithCauses(value)));
    }

    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

/// How many spans the last traces have had, without a lock and in 2 KiB. Two traces that meet in a slot take it from one another and are counted anew.
struct Counts(Box<[AtomicU64]>);

impl Default for Counts {
    fn default() -> Self {
        Self((0..256).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Counts {
    fn admit(&self, trace: TraceId) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is the random one")]
        let id = trace.get() as u64;
        // Chosen by the lowest byte; the upper six tell whose it is, the lower two count.
        let Some(slot) = self.0.get((id & 0xff) as usize) else { return false };
        let whose = id & !0xffff;
        let next = |word: u64| {
            let count = if word & !0xffff == whose { word & 0xffff } else { 0 };
            (count < u64::from(SPANS)).then_some(whose | (count + 1))
        };
        slot.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

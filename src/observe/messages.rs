//! A broker.

use gusset_broker::{Broker, End as Ended, SampleKind, Span, SpanKind as Side, TraceLayer};
use gusset_sidecar::{End, Metrics, Recorder, SpanKind};

/// A layer whose spans go into `recorder`: around [`Broker::publisher`] those of kind producer, around a handler those of kind consumer, with the messaging attributes as tags. The
/// recorder's export takes them to a collector.
///
/// A trace that begins with a message is sampled; one that a sidecar began keeps its mark.
#[must_use]
pub fn spans(broker: &Broker, recorder: &Recorder) -> TraceLayer {
    let recorder = recorder.clone();
    TraceLayer::new(broker, move |span| record(&recorder, &span))
}

fn record(recorder: &Recorder, span: &Span) {
    let kind = match span.kind {
        Side::Producer => SpanKind::Producer,
        Side::Consumer => SpanKind::Consumer,
    };
    let mut record = recorder.finished(span.trace, kind, span.name(), span.duration);
    record.parent_id = span.parent;
    record.attempt = span.attempt.map_or(1, |attempt| attempt.number());
    record.end = match span.end {
        Ended::Complete | Ended::Retry => End::Complete,
        Ended::Cancelled => End::Cancelled,
        Ended::Panicked => End::Panicked,
        _ => End::Error,
    };
    record.error = span.error.clone().map(Into::into);
    let attributes = span.attributes().into_iter();
    record.tags = attributes.map(|(name, text)| (name.into(), text.into_owned().into())).collect();
    recorder.record(record);
}

/// Adds the numbers of [`Stats::samples`](gusset_broker::Stats::samples) to whatever `metrics` renders, which then keeps the broker. Several brokers need a registry each: their numbers have the same names.
pub fn numbers(broker: &Broker, metrics: &Metrics) {
    let broker = broker.clone();
    metrics.on_render(move |samples| {
        for sample in broker.stats().samples() {
            let label = sample.group.as_deref().map(|group| ("group", group));
            let (name, help, labels) = (sample.name, sample.help, label.as_slice());
            match sample.kind {
                SampleKind::Counter => samples.counter(name, help, labels, sample.value),
                SampleKind::Gauge => samples.gauge(name, help, labels, sample.value),
            }
        }
    });
}

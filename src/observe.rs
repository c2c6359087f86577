//! What a broker does, as a sidecar shows it: its spans among the records, its numbers among the metrics.
//!
//! ```
//! use gusset::{
//!     broker::{Broker, Delivery, Message},
//!     observe,
//!     sidecar::{Sidecar, SpanKind},
//! };
//! use tower::{Layer, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! let (broker, sidecar) = (Broker::new(), Sidecar::new("orders"));
//! let trace = observe::spans(&broker, sidecar.recorder());
//! observe::numbers(&broker, sidecar.metrics());
//!
//! let handler = service_fn(|_: Delivery<u32>| async { Ok::<_, std::io::Error>(()) });
//! let _stock = broker.subscribe("order.*").group("stock").handle(trace.layer(handler)).await?;
//! trace.layer(broker.publisher()).oneshot(Message::json("order.created", &7)?).await?;
//! # tokio::time::sleep(std::time::Duration::from_secs(1)).await;
//!
//! let handled = &sidecar.recorder().recent(1)[0];
//! assert_eq!((handled.kind, &*handled.name()), (SpanKind::Consumer, "process order.created"));
//! let text = sidecar.metrics().render_prometheus();
//! assert!(text.contains("gusset_broker_acked_total{group=\"stock\"} 1\n"));
//! # Ok::<(), gusset::broker::Error>(())
//! # }).unwrap();
//! ```

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

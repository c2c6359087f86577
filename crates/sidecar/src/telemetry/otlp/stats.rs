//! What became of what was to be exported.

use std::sync::Arc;

use super::{settings::Signal, worker::Counters};
use crate::Metrics;

/// What became of what was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportStats {
    /// Spans.
    pub traces: SignalStats,
    /// Figures.
    pub metrics: SignalStats,
    /// Logs.
    pub logs: SignalStats,
}

/// The same for one signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SignalStats {
    /// What the collector has.
    pub exported: u64,
    /// What it refused for good.
    pub rejected: u64,
    /// What it did not take in 30 tries, or until the process ended.
    pub dropped: u64,
    /// What was overwritten before it could be exported.
    pub missed: u64,
    /// Requests after which a batch had to wait.
    pub failures: u64,
}

/// The counters of the signals that are exported.
#[derive(Clone, Debug, Default)]
pub(in crate::telemetry) struct Stats(pub(super) Vec<(Signal, Arc<Counters>)>);

impl Stats {
    /// What becomes of what is exported is a metric, too.
    pub(in crate::telemetry) fn measured_by(&self, metrics: &Metrics) {
        let this = self.clone();
        metrics.on_render(move |samples| {
            for (signal, counters) in &this.0 {
                let (signal, stats) = (signal.name(), counters.read());
                let (name, help) =
                    ("gusset_export_items_total", "What became of what is exported.");
                for (outcome, count) in [
                    ("exported", stats.exported),
                    ("rejected", stats.rejected),
                    ("dropped", stats.dropped),
                    ("missed", stats.missed),
                ] {
                    let labels = [("signal", signal), ("outcome", outcome)];
                    samples.counter(name, help, &labels, count as f64);
                }
                let (name, help) =
                    ("gusset_export_failures_total", "Requests to the collector that failed.");
                samples.counter(name, help, &[("signal", signal)], stats.failures as f64);
            }
        });
    }

    pub(in crate::telemetry) fn read(&self) -> ExportStats {
        let of = |signal| {
            let counters = self.0.iter().find(|(of, _)| *of == signal);
            counters.map(|(_, counters)| counters.read()).unwrap_or_default()
        };
        ExportStats {
            traces: of(Signal::Traces),
            metrics: of(Signal::Metrics),
            logs: of(Signal::Logs),
        }
    }
}

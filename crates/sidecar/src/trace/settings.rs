//! What all calls of a layer have in common, in one place that a call needs only one pointer to.

use crate::{
    Details, Metrics, Propagation, Ratio, Recorder, Route, SpanKind,
    names::{MethodName, Naming},
};

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) recorder: Recorder,
    /// Counts the calls as well.
    pub(crate) metrics: Option<Metrics>,
    pub(crate) kind: SpanKind,
    pub(crate) sampling: Ratio,
    pub(crate) naming: Naming,
    pub(crate) propagation: Propagation,
    pub(crate) details: Details,
}

impl Settings {
    pub(crate) const fn new(recorder: Recorder, kind: SpanKind) -> Self {
        let naming = match kind {
            SpanKind::Client => Naming::Upstream(None),
            _ => Naming::Router(None),
        };
        Self {
            recorder,
            metrics: None,
            kind,
            sampling: Ratio::ALL,
            naming,
            propagation: Propagation::new(),
            details: Details::new(),
        }
    }

    pub(super) fn begin(&self, method: MethodName) {
        if let Some(metrics) = &self.metrics {
            metrics.registry().begin(self.kind, method);
        }
    }

    /// The time on the recorder's clock, where somebody wants to know it.
    pub(super) fn now(&self) -> u64 {
        if self.recorder.is_off() && self.metrics.is_none() { 0 } else { self.recorder.now() }
    }

    /// The name of a server's call, known better by its answer.
    pub(super) fn answered(&self, route: &mut Option<Route>, extensions: &http::Extensions) {
        if self.kind == SpanKind::Server && !extensions.is_empty() {
            if let Some(better) = extensions.get::<Route>() {
                *route = Some(better.clone());
            }
        }
    }
}

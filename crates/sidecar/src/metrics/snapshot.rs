//! What the layers have counted, in figures for programs.

use std::sync::Arc;

use super::{collected::Exemplar, histogram::Durations, registry::Registry, series::Facts};
use crate::{
    SpanKind,
    names::MethodName,
    watched::{End, is_server_fault},
};

pub(crate) const KINDS: [SpanKind; 3] = [SpanKind::Server, SpanKind::Client, SpanKind::Internal];

pub(super) const fn index(kind: SpanKind) -> usize {
    match kind {
        SpanKind::Server => 0,
        SpanKind::Client => 1,
        // Messages are counted by who carries them.
        SpanKind::Internal | SpanKind::Producer | SpanKind::Consumer => 2,
    }
}

pub(super) fn read(registry: &Registry) -> Snapshot {
    let mut series: Vec<_> = registry
        .series
        .iter()
        .map(|series| {
            let key = series.key();
            let Facts { kind, method, status, grpc_status, end, .. } = key.facts;
            SeriesSnapshot {
                kind,
                method: method.as_str(),
                route: key.route.map(Into::into),
                peer: key.peer.map(Into::into),
                status: (status != 0).then_some(status),
                grpc_status,
                end,
                durations: series.spans.read(),
                exemplars: series.exemplars.read(),
            }
        })
        .collect();
    series.sort_by(|a, b| a.order().cmp(&b.order()));
    let overflow = registry.overflow.read();
    Snapshot { series, active: active(registry), overflow, overflowed: overflow.count() }
}

pub(super) fn active(registry: &Registry) -> Vec<Active> {
    let all = KINDS.into_iter().flat_map(|kind| {
        MethodName::all().map(move |method| Active {
            kind,
            method: method.as_str(),
            calls: registry.active(kind, method),
        })
    });
    all.filter(|active| active.calls != 0).collect()
}

/// What a [`Metrics`](crate::Metrics) registry has counted.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// One for each combination of labels, in a stable order.
    pub series: Vec<SeriesSnapshot>,
    /// Calls under way, where there are any.
    pub active: Vec<Active>,
    /// Calls that found no room for a series of their own.
    pub overflow: Durations,
    /// How many those are.
    pub overflowed: u64,
}

/// One series of a [`Snapshot`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SeriesSnapshot {
    /// Which side of the calls this process was.
    pub kind: SpanKind,
    /// HTTP method; empty for work that is no HTTP request.
    pub method: &'static str,
    /// The matched route, the operation, or the method of a call by gRPC, where it was known.
    pub route: Option<Arc<str>>,
    /// Whom a client called: the name of its upstream, or else the host.
    pub peer: Option<Arc<str>>,
    /// HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// gRPC status, where there was one.
    pub grpc_status: Option<u8>,
    /// How the calls were over.
    pub end: End,
    /// How long they took.
    pub durations: Durations,
    /// Calls among them that failed or were slow.
    pub exemplars: Vec<Exemplar>,
}

/// Calls under way at the moment of a [`Snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Active {
    /// Which side of the calls this process is.
    pub kind: SpanKind,
    /// HTTP method; empty for work that is no HTTP request.
    pub method: &'static str,
    /// How many.
    pub calls: i64,
}

impl SeriesSnapshot {
    /// Whether these calls went wrong; the same rule as `Record::is_failure`.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        is_failure(self.kind, self.end, self.status, self.grpc_status)
    }

    fn order(&self) -> impl Ord {
        let kind = index(self.kind);
        (
            kind,
            self.route.clone(),
            self.peer.clone(),
            self.method,
            self.status,
            self.grpc_status,
            self.end as u8,
        )
    }
}

impl Facts {
    #[inline]
    pub(super) fn is_failure(self) -> bool {
        let status = (self.status != 0).then_some(self.status);
        is_failure(self.kind, self.end, status, self.grpc_status)
    }
}

/// Whether a call went wrong; see `Record::is_failure`.
#[inline]
pub(crate) fn is_failure(
    kind: SpanKind,
    end: End,
    status: Option<u16>,
    grpc_status: Option<u8>,
) -> bool {
    let client = kind == SpanKind::Client;
    matches!(end, End::Error | End::Panicked)
        || status.is_some_and(|status| status >= if client { 400 } else { 500 })
        || grpc_status.is_some_and(|code| is_server_fault(code) || client && code != 0)
}

impl Snapshot {
    /// All calls of one kind together.
    #[must_use]
    pub fn total(&self, kind: SpanKind) -> Summary {
        self.summary(|series| series.kind == kind)
    }

    /// The series that `wanted` chooses together. Those in the overflow have lost their labels and are in no summary.
    #[must_use]
    pub fn summary(&self, wanted: impl Fn(&SeriesSnapshot) -> bool) -> Summary {
        let mut summary = Summary::default();
        for series in self.series.iter().filter(|series| wanted(series)) {
            summary.durations.add(&series.durations);
            if series.is_failure() {
                summary.errors += series.durations.count();
            }
        }
        summary
    }
}

/// Several series in a few figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// How many calls went wrong.
    pub errors: u64,
    /// How long all of them took: count, average, quantiles.
    pub durations: Durations,
}

impl Summary {
    /// How many calls there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.durations.count()
    }

    /// Share of the calls that went wrong, between 0 and 1; 0 where there were none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share for humans")]
    pub fn error_rate(&self) -> f64 {
        if self.count() == 0 { 0.0 } else { self.errors as f64 / self.count() as f64 }
    }
}

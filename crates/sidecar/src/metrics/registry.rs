use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{
    histogram::{Durations, Histogram},
    prometheus::{self, Samples},
    series::{Labels, Table},
};
use crate::{Route, SpanKind, names::MethodName, watched::End, watched::is_server_fault};

/// Counts and times calls. Clones share one registry.
///
/// It holds at most 1,000 combinations of labels, about 200 bytes each ([`Metrics::with_max_series`] changes that);
/// what comes after goes into one overflow series, and [`Snapshot::overflowed`] counts it. At most 256 sources of
/// further samples can be added.
///
/// ```
/// use gusset_sidecar::Metrics;
///
/// let metrics = Metrics::new();
/// metrics.on_render(|samples| {
///     samples.gauge("queue_depth", "Messages that wait.", &[("queue", "orders")], 7.0);
/// });
/// assert!(metrics.render_prometheus().contains("queue_depth{queue=\"orders\"} 7\n"));
/// ```
#[derive(Clone)]
pub struct Metrics(Arc<Shared>);

type Source = Arc<dyn Fn(&mut Samples) + Send + Sync>;

struct Shared {
    table: Table,
    overflow: Histogram,
    overflowed: AtomicU64,
    active: [[AtomicI64; MethodName::COUNT]; KINDS.len()],
    sources: Mutex<Vec<Source>>,
}

pub(crate) const KINDS: [SpanKind; 3] = [SpanKind::Server, SpanKind::Client, SpanKind::Internal];

fn index(kind: SpanKind) -> usize {
    match kind {
        SpanKind::Server => 0,
        SpanKind::Client => 1,
        // Messages are counted by who carries them.
        SpanKind::Internal | SpanKind::Producer | SpanKind::Consumer => 2,
    }
}

impl Metrics {
    /// How many series [`Metrics::new`] allows: 50 routes with 4 methods and 5 outcomes each.
    pub const MAX_SERIES: usize = 1_000;
    const MAX_SOURCES: usize = 256;

    /// An empty registry for at most 1,000 series.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_series(Self::MAX_SERIES)
    }

    /// An empty registry for at most `max` series, a million at most, and the overflow. Cells for them, 32 bytes a series, are
    /// taken at once.
    #[must_use]
    pub fn with_max_series(max: usize) -> Self {
        Self(Arc::new(Shared {
            table: Table::new(max),
            overflow: Histogram::default(),
            overflowed: AtomicU64::new(0),
            active: Default::default(),
            sources: Mutex::new(Vec::new()),
        }))
    }

    /// Adds gauges and counters of others: `source` is asked whenever the metrics are rendered, on the thread that renders and
    /// under no lock. Sources stay for as long as the registry; a 257th is ignored with a warning.
    pub fn on_render(&self, source: impl Fn(&mut Samples) + Send + Sync + 'static) {
        let mut sources = self.0.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() < Self::MAX_SOURCES {
            sources.push(Arc::new(source));
        } else {
            drop(sources);
            tracing::warn!(max = Self::MAX_SOURCES, "too many sources of metrics, one is ignored");
        }
    }

    /// All that was counted so far; not of one instant, but no count is lost.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let shared = &self.0;
        let mut series: Vec<_> = shared
            .table
            .iter()
            .map(|series| {
                let labels = series.labels();
                SeriesSnapshot {
                    kind: labels.kind,
                    method: labels.method.as_str(),
                    route: labels.route.map(Into::into),
                    status: (labels.status != 0).then_some(labels.status),
                    grpc_status: labels.grpc_status,
                    end: labels.end,
                    durations: series.histogram.read(),
                }
            })
            .collect();
        series.sort_by(|a, b| a.order().cmp(&b.order()));
        let active = KINDS.into_iter().flat_map(|kind| {
            MethodName::all().map(move |method| Active {
                kind,
                method: method.as_str(),
                calls: shared.active[index(kind)][method.index()].load(Relaxed),
            })
        });
        Snapshot {
            series,
            active: active.filter(|active| active.calls != 0).collect(),
            overflow: shared.overflow.read(),
            overflowed: shared.overflowed.load(Relaxed),
        }
    }

    /// Everything in Prometheus' text format (version 0.0.4, `text/plain; version=0.0.4`).
    #[must_use]
    pub fn render_prometheus(&self) -> String {
        let sources = self.0.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut samples = Samples::default();
        for source in sources {
            source(&mut samples);
        }
        prometheus::render(&self.snapshot(), &samples)
    }

    pub(crate) fn record(&self, labels: &Labels<'_>, route: Option<&Route>, span: Duration) {
        match self.0.table.get(labels, route) {
            Some(series) => series.histogram.record(span),
            None => {
                self.0.overflowed.fetch_add(1, Relaxed);
                self.0.overflow.record(span);
            }
        }
    }

    pub(crate) fn active(&self, kind: SpanKind, method: MethodName) -> &AtomicI64 {
        &self.0.active[index(kind)][method.index()]
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("series", &self.0.table.iter().count())
            .finish_non_exhaustive()
    }
}

/// What a [`Metrics`] registry has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SeriesSnapshot {
    /// Which side of the calls this process was.
    pub kind: SpanKind,
    /// HTTP method; empty for work that is no HTTP request.
    pub method: &'static str,
    /// The matched route, the upstream of a client, or the operation, where it was known.
    pub route: Option<Arc<str>>,
    /// HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// gRPC status, where there was one.
    pub grpc_status: Option<u8>,
    /// How the calls were over.
    pub end: End,
    /// How long they took.
    pub durations: Durations,
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
        (kind, self.route.clone(), self.method, self.status, self.grpc_status, self.end as u8)
    }
}

/// Whether a call went wrong; see `Record::is_failure`.
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

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    calls,
    collected::Collected,
    histogram::Histogram,
    samples::Samples,
    series::{Key, Table},
    snapshot::{Active, KINDS, SeriesSnapshot, Snapshot, index},
    text::{self, Format},
};
use crate::{Route, SpanKind, names::MethodName};

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
    start_unix_nanos: u64,
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
            start_unix_nanos: unix_nanos(),
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
                    exemplars: Vec::new(),
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

    /// Everything, as plain data: what [`snapshot`](Self::snapshot) has, and the samples of all sources. Exporters take this.
    #[must_use]
    pub fn collect(&self) -> Collected {
        let sources = self.0.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut samples = Samples::default();
        for source in sources {
            source(&mut samples);
        }
        let mut families = calls::families(&self.snapshot());
        families.extend(samples.into_families());
        families.sort_by(|a, b| a.name.cmp(&b.name));
        // A source may use a name of ours; ours came first.
        families.dedup_by(|later, earlier| later.name == earlier.name);
        let start_unix_nanos = self.0.start_unix_nanos;
        // The system's clock may have been set back.
        Collected { start_unix_nanos, unix_nanos: unix_nanos().max(start_unix_nanos), families }
    }

    /// Everything in Prometheus' text format (version 0.0.4, `text/plain; version=0.0.4`).
    #[must_use]
    pub fn render_prometheus(&self) -> String {
        text::render(&self.collect(), Format::Text)
    }

    /// A call begins, and is one of those under way until it is told to [`finish`](Self::finish).
    pub(crate) fn begin(&self, kind: SpanKind, method: MethodName) {
        self.active(kind, method).fetch_add(1, Relaxed);
    }

    /// The end of a call that began. `route` is that of the labels.
    pub(crate) fn finish(&self, labels: &Key<'_>, route: Option<&Route>, span: Duration) {
        self.active(labels.kind, labels.method).fetch_sub(1, Relaxed);
        match self.0.table.get(labels, route) {
            Some(series) => series.histogram.record(span),
            None => {
                self.0.overflowed.fetch_add(1, Relaxed);
                self.0.overflow.record(span);
            }
        }
    }

    fn active(&self, kind: SpanKind, method: MethodName) -> &AtomicI64 {
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

#[expect(
    clippy::disallowed_methods,
    reason = "figures are placed on the wall, nothing is decided by it"
)]
fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

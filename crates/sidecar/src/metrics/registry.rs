use std::{
    fmt,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use gusset_call::{Clock, TraceContext};

use super::{
    calls,
    collected::{Collected, Family, FamilyKind, count},
    histogram::{Spans, bucket_of},
    instruments::Instruments,
    lines::{LINES, Line, Sums, line},
    names::Names,
    samples::Samples,
    series::{AllSeries, Key},
    snapshot::{self, KINDS, Snapshot},
    text::{self, Format},
};
use crate::{SpanKind, names::MethodName};

/// Counts and times calls, and whatever else the program counts. Clones share one registry.
///
/// It holds at most 1,000 combinations of labels of calls ([`Metrics::with_max_series`] changes that), 500 bytes each and 128 more for each thread that measures
/// such calls, of which at most 20 are told apart; what comes after goes into one overflow series, and
/// [`Snapshot::overflowed`] counts it. At most 256 sources of further samples can be added.
///
/// Threads count in cache lines of their own, so that they do not wait for each other.
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
pub struct Metrics(Arc<Handles>);

struct Handles {
    registry: Arc<Registry>,
    leases: [Lease; LINES],
}

/// A handle of the registry that a call can hold. There is one for each line of threads, so that threads do not fight for one count of holders.
#[derive(Clone)]
pub(crate) struct Lease(Arc<Apart>);

/// A cache line of its own.
#[repr(align(64))]
struct Apart(Arc<Registry>);

type Source = Arc<dyn Fn(&mut Samples) + Send + Sync>;

pub(crate) struct Registry {
    pub(super) series: AllSeries,
    pub(super) overflow: Spans,
    /// By kind and method; each thread knows only what began or ended on it.
    active: Sums<{ (MethodName::COUNT * KINDS.len()).div_ceil(Line::NUMBERS) }>,
    /// Hosts that clients without a name for their upstream call.
    pub(super) peers: Names,
    /// Methods of remote procedure calls that this process has answered.
    pub(super) methods: Names,
    pub(crate) clock: Clock,
    start_unix_nanos: u64,
    sources: Mutex<Vec<Source>>,
    source_panics: AtomicU64,
    reports_process: AtomicBool,
    pub(super) instruments: Instruments,
}

/// From which duration on a call is an exemplar though it did not fail: when a user has noticed.
const SLOW: u64 = 1_000_000_000;

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
        let registry = Arc::new(Registry {
            series: AllSeries::new(max),
            overflow: Spans::default(),
            active: Sums::default(),
            peers: Names::new(100),
            methods: Names::new(Self::MAX_SERIES),
            clock: Clock::new(),
            start_unix_nanos: unix_nanos(),
            sources: Mutex::new(Vec::new()),
            source_panics: AtomicU64::new(0),
            reports_process: AtomicBool::new(false),
            instruments: Instruments::default(),
        });
        let lease = |_| Lease(Arc::new(Apart(registry.clone())));
        let leases = std::array::from_fn(lease);
        Self(Arc::new(Handles { registry, leases }))
    }

    /// Adds gauges and counters of others: `source` is asked whenever the metrics are read, on the thread that reads and
    /// under no lock. Should it panic, the others are read all the same, and `gusset_source_panics_total` counts that. Sources stay for as long as the registry;
    /// a 257th is ignored with a warning.
    pub fn on_render(&self, source: impl Fn(&mut Samples) + Send + Sync + 'static) {
        let mut sources = self.registry().sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() < Self::MAX_SOURCES {
            sources.push(Arc::new(source));
        } else {
            drop(sources);
            tracing::warn!(max = Self::MAX_SOURCES, "too many sources of metrics, one is ignored");
        }
    }

    /// What the layers have counted so far; not of one instant, but no count is lost.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        snapshot::read(self.registry())
    }

    /// Everything, as plain data: what the layers have counted, the program's own counters, gauges and histograms, and the samples of all sources. Exporters take
    /// this.
    #[must_use]
    pub fn collect(&self) -> Collected {
        let registry = self.registry();
        let sources = registry.sources.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut samples = Samples::default();
        for source in sources {
            // What it has added by then is whole, and stays.
            if catch_unwind(AssertUnwindSafe(|| source(&mut samples))).is_err() {
                registry.source_panics.fetch_add(1, Relaxed);
            }
        }
        let mut families = calls::families(registry);
        families.push(registry.panics());
        families.extend(registry.instruments.families());
        families.extend(samples.into_families());
        families.sort_by(|a, b| a.name.cmp(&b.name));
        // Others may use a name of ours; ours came first.
        families.dedup_by(|later, earlier| later.name == earlier.name);
        let start_unix_nanos = registry.start_unix_nanos;
        // The system's clock may have been set back.
        Collected { start_unix_nanos, unix_nanos: unix_nanos().max(start_unix_nanos), families }
    }

    /// Everything in Prometheus' text format (version 0.0.4, `text/plain; version=0.0.4`).
    #[must_use]
    pub fn render_prometheus(&self) -> String {
        text::render(&self.collect(), Format::Text)
    }

    /// A handle for a call, which this thread shares with few others.
    #[inline]
    pub(crate) fn lease(&self) -> Lease {
        self.0.leases[line()].clone()
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.0.registry
    }
}

impl Registry {
    /// A call begins, and is one of those under way until it is told to [`finish`](Self::finish).
    #[inline]
    pub(crate) fn begin(&self, kind: SpanKind, method: MethodName) {
        self.active.here().add(place(kind, method), 1);
    }

    /// A call that began is over, after so many nanoseconds; `trace` is asked if it may become an exemplar.
    #[inline]
    pub(crate) fn finish(
        &self,
        key: &Key<'_>,
        nanos: u64,
        trace: impl FnOnce() -> Option<TraceContext>,
    ) {
        let facts = key.facts;
        self.active.here().add(place(facts.kind, facts.method), u64::MAX);
        let Some(series) = self.series.get(key) else { return self.overflow.record(nanos) };
        series.spans.record(nanos);
        if nanos >= SLOW || facts.is_failure() {
            if let Some(trace) = trace() {
                let times = (nanos, self.clock.nanos());
                series.exemplars.offer(bucket_of(nanos), times, trace, unix_nanos);
            }
        }
    }

    /// How many calls are under way.
    pub(super) fn active(&self, kind: SpanKind, method: MethodName) -> i64 {
        // Threads are read one after the other: a call may be seen to end on one that was not seen to begin on another. Less than none is
        // a huge number here.
        i64::try_from(self.active.sum(place(kind, method))).unwrap_or(0)
    }

    /// Whether somebody has asked this before.
    pub(super) fn reports_process(&self) -> bool {
        self.reports_process.swap(true, Relaxed)
    }

    fn panics(&self) -> Family {
        let help = "Sources of metrics that panicked.";
        let family = Family::new("gusset_source_panics_total", help, "", FamilyKind::Counter);
        family.with(Vec::new(), count(self.source_panics.load(Relaxed)))
    }
}

fn place(kind: SpanKind, method: MethodName) -> usize {
    snapshot::index(kind) * MethodName::COUNT + method.index()
}

impl Deref for Lease {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.0.0
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
            .field("series", &self.registry().series.iter().count())
            .finish_non_exhaustive()
    }
}

/// The time on the wall.
#[expect(
    clippy::disallowed_methods,
    reason = "figures are placed on the wall, nothing is decided by it"
)]
fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

//! The program's own figures: counters, gauges, histograms, alone or by labels.

use std::{
    any::Any,
    borrow::Cow,
    fmt,
    hash::{BuildHasher, Hasher},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use foldhash::fast::RandomState;

use super::{
    collected::{Distribution, Family, FamilyKind, Label, Value, count},
    histogram::BOUNDS,
    lines::{Line, Sums},
    registry::Metrics,
    samples::unit_of,
    table::Table,
};

/// Counts what only grows, such as orders taken. Clones count the same; adding takes a few nanoseconds and no lock.
#[derive(Clone, Default)]
pub struct Counter(Arc<Sums<1>>);

impl Counter {
    /// Adds one.
    #[inline]
    pub fn increment(&self) {
        self.add(1);
    }

    /// Adds so many.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.here().add(0, more);
    }

    /// How many there are.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.sum(0)
    }
}

/// A value that goes up and down, such as a temperature or the length of a queue. Clones are the same. For what a program holds for a while, see
/// [`hold`](Self::hold).
#[derive(Clone, Default)]
pub struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// The value is this one now.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Relaxed);
    }

    /// Adds, or takes off what is negative.
    pub fn add(&self, more: f64) {
        let added = |bits| Some((f64::from_bits(bits) + more).to_bits());
        let _ = self.0.fetch_update(Relaxed, Relaxed, added);
    }

    /// The value.
    #[must_use]
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Relaxed))
    }

    /// Adds one until the guard is dropped, however that comes about.
    ///
    /// ```
    /// # let metrics = gusset_sidecar::Metrics::new();
    /// let open = metrics.gauge("open_files", "Files that are open.");
    /// let held = open.hold();
    /// assert_eq!(open.get(), 1.0);
    /// drop(held);
    /// assert_eq!(open.get(), 0.0);
    /// ```
    pub fn hold(&self) -> Held {
        self.add(1.0);
        Held(self.clone())
    }
}

/// Guard of [`Gauge::hold`].
#[derive(Debug)]
#[must_use = "dropping it takes the one off again"]
pub struct Held(Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.add(-1.0);
    }
}

/// Counts measured values in buckets, such as durations or sizes. Clones count the same; a value takes a few nanoseconds and no lock.
#[derive(Clone)]
pub struct Histogram(Arc<Buckets>);

struct Buckets {
    bounds: Arc<[f64]>,
    /// A number for each bucket, and the sum behind them.
    sums: Sums<{ (Histogram::MAX_BOUNDS + 2).div_ceil(Line::NUMBERS) }>,
}

impl Histogram {
    /// Bounds for durations in seconds, from 5 ms to 10 s, as OpenTelemetry advises them.
    pub const SECONDS: &'static [f64] = &BOUNDS;
    /// Bounds for sizes in bytes, from 64 bytes to 64 MiB.
    pub const BYTES: &'static [f64] = &[
        64.0,
        256.0,
        1_024.0,
        4_096.0,
        16_384.0,
        65_536.0,
        262_144.0,
        1_048_576.0,
        4_194_304.0,
        16_777_216.0,
        67_108_864.0,
    ];
    /// Most bounds of a histogram.
    pub const MAX_BOUNDS: usize = 30;

    /// Counts a value. What is no finite number is not counted: one of those would spoil the sum for good.
    #[inline]
    pub fn record(&self, value: f64) {
        if !value.is_finite() {
            return;
        }
        let Buckets { bounds, sums } = &*self.0;
        let here = sums.here();
        here.add(bounds.partition_point(|bound| *bound < value), 1);
        here.add_float(bounds.len() + 1, value);
    }

    /// Counts a duration, in seconds.
    #[inline]
    pub fn record_duration(&self, span: Duration) {
        self.record(span.as_secs_f64());
    }

    fn read(&self) -> Distribution {
        let Buckets { bounds, sums } = &*self.0;
        Distribution {
            bounds: bounds.to_vec().into(),
            buckets: (0..=bounds.len()).map(|bucket| sums.sum(bucket)).collect(),
            sum: sums.float_sum(bounds.len() + 1),
            exemplars: Vec::new(),
        }
    }
}

/// One instrument for each combination of values of `N` labels, for instance a [`Counter`] by channel. Clones share them.
///
/// There are at most 1,000 combinations; those that come later are counted together, under the label `otel.metric.overflow`. So a label whose values come from
/// outside cannot exhaust the memory, but it can crowd out the rest: do not use user names, paths or texts of errors.
///
/// ```
/// # let metrics = gusset_sidecar::Metrics::new();
/// let orders = metrics.counter_by("orders_total", "Orders taken.", ["channel", "kind"]);
/// orders.with(["web", "gift"]).increment();
/// // What is counted often is looked up once.
/// let by_phone = orders.with(["phone", "normal"]).clone();
/// by_phone.add(2);
/// assert!(metrics.render_prometheus().contains("orders_total{channel=\"phone\",kind=\"normal\"} 2\n"));
/// ```
pub struct Labelled<I, const N: usize>(Arc<ByLabels<I>>);

struct ByLabels<I> {
    name: Cow<'static, str>,
    help: Cow<'static, str>,
    labels: Vec<Cow<'static, str>>,
    bounds: Arc<[f64]>,
    members: Table<Member<I>>,
    hasher: RandomState,
    overflow: I,
}

struct Member<I> {
    values: Box<[Box<str>]>,
    instrument: I,
}

/// Most combinations of one name.
const MAX_MEMBERS: usize = 1_000;
/// Most names.
const MAX_FAMILIES: usize = 1_000;

impl<I: Instrument, const N: usize> Labelled<I, N> {
    /// The instrument for these values, in the order of the labels' names.
    #[inline]
    #[must_use]
    pub fn with(&self, values: [&str; N]) -> &I {
        self.0.member(&values)
    }
}

impl<I: Instrument> ByLabels<I> {
    #[inline]
    fn member(&self, values: &[&str]) -> &I {
        let mut hasher = self.hasher.build_hasher();
        for value in values {
            hasher.write(value.as_bytes());
            hasher.write_u8(0xff);
        }
        let is = |member: &Member<I>| {
            member.values.iter().zip(values).all(|(known, value)| **known == **value)
        };
        let make = || Member {
            values: values.iter().map(|value| (*value).into()).collect(),
            instrument: I::new(&self.bounds),
        };
        let found = self.members.get(hasher.finish(), is, make);
        found.map_or(&self.overflow, |member| &member.instrument)
    }
}

/// A kind of figure. Implemented here for [`Counter`], [`Gauge`] and [`Histogram`], and for nothing else.
pub trait Instrument: Clone + sealed::Instrument {}

impl<I: Clone + sealed::Instrument> Instrument for I {}

mod sealed {
    use super::{Arc, FamilyKind, Value};

    /// What the registry needs of one.
    pub trait Instrument: Send + Sync + 'static {
        const KIND: FamilyKind;
        fn new(bounds: &Arc<[f64]>) -> Self;
        fn value(&self) -> Value;
    }
}

impl sealed::Instrument for Counter {
    const KIND: FamilyKind = FamilyKind::Counter;

    fn new(_: &Arc<[f64]>) -> Self {
        Self::default()
    }

    fn value(&self) -> Value {
        count(self.get())
    }
}

impl sealed::Instrument for Gauge {
    const KIND: FamilyKind = FamilyKind::Gauge;

    fn new(_: &Arc<[f64]>) -> Self {
        Self::default()
    }

    fn value(&self) -> Value {
        Value::Float(self.get())
    }
}

impl sealed::Instrument for Histogram {
    const KIND: FamilyKind = FamilyKind::Histogram;

    fn new(bounds: &Arc<[f64]>) -> Self {
        Self(Arc::new(Buckets { bounds: bounds.clone(), sums: Sums::default() }))
    }

    fn value(&self) -> Value {
        Value::Distribution(self.read())
    }
}

/// The families of one registry.
#[derive(Default)]
pub(crate) struct Instruments {
    /// Asked when an instrument is made and when all are read.
    all: Mutex<Vec<Registered>>,
    refused: AtomicU64,
}

#[derive(Clone)]
struct Registered {
    name: Cow<'static, str>,
    /// A [`ByLabels`] of some instrument.
    of: Arc<dyn Any + Send + Sync>,
    family: fn(&(dyn Any + Send + Sync)) -> Option<Family>,
}

/// The program's own figures.
///
/// A name is registered once: who asks for it again with the same labels gets the same instrument. Who asks with others, or for more than 1,000 names, gets one that
/// counts and that nobody sees, and a warning tells so. The unit is read from the name's end (`_seconds`, `_bytes`, `_ratio`), and the name of a counter ends in `_total`: that is what
/// Prometheus' users expect.
///
/// **When to use which.** What the program does (an order taken, a payment refused) is a [`Counter`]; what it holds, a [`Gauge`]; how long or how large something
/// is, a [`Histogram`]. What another part counts already, such as the depth of a queue, is better asked for when the metrics are read: [`on_render`](Self::on_render). Calls need none
/// of these: [`MetricsLayer`](crate::MetricsLayer) and [`Sidecar::intercept`](crate::Sidecar::intercept) measure them.
impl Metrics {
    /// A counter.
    ///
    /// ```
    /// # let metrics = gusset_sidecar::Metrics::new();
    /// let orders = metrics.counter("orders_total", "Orders taken.");
    /// orders.increment();
    /// assert!(metrics.render_prometheus().contains("\norders_total 1\n"));
    /// ```
    pub fn counter(
        &self,
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
    ) -> Counter {
        self.counter_by(name, help, []).with([]).clone()
    }

    /// A counter for each combination of labels.
    pub fn counter_by<const N: usize>(
        &self,
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        labels: [&'static str; N],
    ) -> Labelled<Counter, N> {
        self.registry().instruments.register(name.into(), help.into(), labels, &[])
    }

    /// A gauge.
    pub fn gauge(
        &self,
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
    ) -> Gauge {
        self.gauge_by(name, help, []).with([]).clone()
    }

    /// A gauge for each combination of labels.
    pub fn gauge_by<const N: usize>(
        &self,
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        labels: [&'static str; N],
    ) -> Labelled<Gauge, N> {
        self.registry().instruments.register(name.into(), help.into(), labels, &[])
    }

    /// A histogram whose buckets have these upper bounds, for instance [`Histogram::SECONDS`]. Their order does not matter; what is no finite
    /// number is left out, and so is what comes after the 30 lowest.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use gusset_sidecar::{Histogram, Metrics};
    /// # let metrics = Metrics::new();
    /// let waits = metrics.histogram("checkout_seconds", "Time to check out.", Histogram::SECONDS);
    /// waits.record_duration(Duration::from_millis(200));
    /// assert!(metrics.render_prometheus().contains("\ncheckout_seconds_bucket{le=\"0.25\"} 1\n"));
    /// ```
    pub fn histogram(
        &self,
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        bounds: &[f64],
    ) -> Histogram {
        self.histogram_by(name, help, bounds, []).with([]).clone()
    }

    /// A histogram for each combination of labels.
    pub fn histogram_by<const N: usize>(
        &self,
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        bounds: &[f64],
        labels: [&'static str; N],
    ) -> Labelled<Histogram, N> {
        self.registry().instruments.register(name.into(), help.into(), labels, bounds)
    }
}

impl Instruments {
    fn register<I: Instrument, const N: usize>(
        &self,
        name: Cow<'static, str>,
        help: Cow<'static, str>,
        labels: [&'static str; N],
        bounds: &[f64],
    ) -> Labelled<I, N> {
        let mut bounds: Vec<_> = bounds.iter().copied().filter(|bound| bound.is_finite()).collect();
        bounds.sort_by(f64::total_cmp);
        bounds.dedup();
        bounds.truncate(Histogram::MAX_BOUNDS);
        let bounds: Arc<[f64]> = bounds.into();
        let labels = labels.map(Cow::Borrowed).to_vec();
        let members = Table::new(if N == 0 { 1 } else { MAX_MEMBERS });
        let (hasher, overflow) = (RandomState::default(), I::new(&bounds));
        let made = ByLabels { name, help, labels, bounds, members, hasher, overflow };

        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.iter().find(|known| known.name == made.name);
        let known = known.map(|known| known.of.clone().downcast::<ByLabels<I>>());
        match known {
            Some(Ok(of)) if of.labels == made.labels && of.bounds == made.bounds => {
                return Labelled(of);
            }
            None if all.len() < MAX_FAMILIES => {
                let (name, of) = (made.name.clone(), Arc::new(made));
                let family: fn(&(dyn Any + Send + Sync)) -> Option<Family> =
                    |of| of.downcast_ref::<ByLabels<I>>().map(ByLabels::family);
                all.push(Registered { name, of: of.clone(), family });
                return Labelled(of);
            }
            _ => drop(all),
        }
        self.refused.fetch_add(1, Relaxed);
        tracing::warn!(name = &*made.name, "a metric has a name that is taken, or is one too many");
        Labelled(Arc::new(made))
    }

    pub(super) fn families(&self) -> impl Iterator<Item = Family> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (name, help) = ("gusset_instruments_refused_total", "Metrics that nobody sees.");
        let refused = Family::new(name, help, "", FamilyKind::Counter);
        let refused = refused.with(Vec::new(), count(self.refused.load(Relaxed)));
        all.into_iter().filter_map(|known| (known.family)(&*known.of)).chain([refused])
    }
}

impl<I: Instrument> ByLabels<I> {
    fn family(&self) -> Family {
        let unit = unit_of(&self.name);
        let mut family = Family::new(self.name.clone(), self.help.clone(), unit, I::KIND);
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by(|a, b| a.values.cmp(&b.values));
        for Member { values, instrument } in members {
            let values = values.iter().map(|value| Label::from(value.to_string()));
            family.add(self.labels.iter().cloned().zip(values).collect(), instrument.value());
        }
        let overflow = self.overflow.value();
        if overflow != I::new(&self.bounds).value() {
            family.add(vec![("otel.metric.overflow".into(), Label::Bool(true))], overflow);
        }
        family
    }
}

impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Counter").field(&self.get()).finish()
    }
}

impl fmt::Debug for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gauge").field(&self.get()).finish()
    }
}

impl fmt::Debug for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Histogram").field(&self.read()).finish()
    }
}

impl<I, const N: usize> Clone for Labelled<I, N> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I, const N: usize> fmt::Debug for Labelled<I, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Labelled").field("name", &self.0.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

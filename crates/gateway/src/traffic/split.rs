use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use gusset_call::Clock;
use gusset_registry::hash_key;
use http::{HeaderMap, HeaderValue};
use thiserror::Error;

use super::{
    rollout::{Course, Rollout, RolloutState, RolloutStatus},
    sample::{Outcome, Sample, Tally},
    sticky::{Keeping, SplitKey, Sticky},
};
use crate::{Route, Upstream, routes::Leads};

/// Several upstreams that share the requests of a route by weight: [`Route::split`]. Clones share the weights, which may change at any time.
///
/// A change holds for every request that comes after it. What is under way goes on where it is, so no request is lost by one. A variant without a healthy instance is
/// passed over as long as another one with a weight has some.
///
/// ```
/// use gusset_gateway::{Rollout, Route, Split, Upstream, Variant};
///
/// let stable = Variant::new("stable", Upstream::service("orders").without_tag("canary"), 1);
/// let canary = Variant::new("canary", Upstream::service("orders").with_tag("canary"), 0);
/// let split = Split::new([stable, canary]);
/// let orders = Route::new("/orders/{*rest}").split(split.clone());
///
/// // By hand, at once:
/// split.switch_to("canary")?;
/// split.revert();
/// // Or step by step, as long as it does no worse than the other:
/// split.roll_out("canary", Rollout::new())?;
/// assert_eq!(split.weights()[1], ("canary".into(), 1));
/// # Ok::<(), gusset_gateway::SplitError>(())
/// ```
#[derive(Clone)]
pub struct Split {
    shared: Arc<Shared>,
    keeping: Option<Result<Keeping, String>>,
}

/// One of the upstreams of a [`Split`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant {
    name: Arc<str>,
    upstream: Upstream,
    weight: u32,
}

impl Variant {
    /// `weight` is its part of the sum of all; with 0 it gets nothing until that changes.
    pub fn new(name: impl Into<Arc<str>>, upstream: impl Into<Upstream>, weight: u32) -> Self {
        Self { name: name.into(), upstream: upstream.into(), weight }
    }
}

/// What became of the requests of one variant, since its split was made.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct VariantStats {
    /// Its name.
    pub name: Arc<str>,
    /// Where it leads.
    pub upstream: Upstream,
    /// Its weight at present.
    pub weight: u64,
    /// Calls that it answered, or failed to; not those that clients gave up.
    pub calls: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// What 95 % of its calls took at most until the head of the answer, to an eighth.
    pub p95: Duration,
}

/// Why a split cannot change so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SplitError {
    /// There is no such variant.
    #[error("there is no variant {name:?}; there are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// Nobody would get the requests, or nobody but the variant that is to be compared with the others.
    #[error("no other variant has a weight")]
    NoWeight,
    /// The plan makes no sense.
    #[error("{reason}")]
    Plan {
        /// What is wrong.
        reason: String,
    },
}

struct Shared {
    variants: Vec<Member>,
    weights: ArcSwap<Weights>,
    clock: Clock,
    /// Whether there is a rollout to look after.
    rolling: AtomicBool,
    /// When somebody looks at the rollout next, in nanoseconds of the clock.
    next_look: AtomicU64,
    rollout: Mutex<Option<Rolling>>,
}

struct Member {
    name: Arc<str>,
    upstream: Upstream,
    /// Of its name, so that the same keys go to it in every process.
    hash: u64,
    tally: Tally,
}

#[derive(Debug)]
struct Weights {
    parts: Box<[u64]>,
    before: Option<Box<[u64]>>,
}

struct Rolling {
    variant: usize,
    course: Course,
    /// The weights without the variant.
    others: Box<[u64]>,
    /// Counts when the step began, and when the rollout did.
    step_began: Sample,
    began: Sample,
}

impl Split {
    /// How often a rollout is looked at, at most.
    const LOOK: Duration = Duration::from_millis(100);

    /// These variants, with different names.
    pub fn new(variants: impl IntoIterator<Item = Variant>) -> Self {
        let variants: Vec<Variant> = variants.into_iter().collect();
        let parts = variants.iter().map(|variant| variant.weight.into()).collect();
        let member = |Variant { name, upstream, .. }| {
            let hash = hash_key(&*name);
            Member { name, upstream, hash, tally: Tally::default() }
        };
        let shared = Shared {
            variants: variants.into_iter().map(member).collect(),
            weights: ArcSwap::from_pointee(Weights { parts, before: None }),
            clock: Clock::new(),
            rolling: AtomicBool::new(false),
            next_look: AtomicU64::new(0),
            rollout: Mutex::new(None),
        };
        Self { shared: Arc::new(shared), keeping: None }
    }

    /// Clients stay with the variant that they got. Default: each request goes by chance.
    #[must_use]
    pub fn sticky(mut self, by: Sticky) -> Self {
        self.keeping = Some(by.compile());
        self
    }

    /// Gives each variant this weight, and those that are not named none. A rollout ends with it.
    ///
    /// # Errors
    ///
    /// [`SplitError::Unknown`], or [`SplitError::NoWeight`] if all are 0; nothing changes then.
    pub fn set_weights(&self, weights: &[(&str, u32)]) -> Result<(), SplitError> {
        let mut parts = vec![0; self.shared.variants.len()];
        for &(name, weight) in weights {
            parts[self.shared.place(name)?] = weight.into();
        }
        if parts.iter().all(|part| *part == 0) {
            return Err(SplitError::NoWeight);
        }
        let mut rollout = self.shared.lock();
        *rollout = None;
        self.shared.rolling.store(false, Relaxed);
        self.shared.set(parts.into(), true);
        Ok(())
    }

    /// Gives all requests to one variant at once. A rollout ends with it.
    ///
    /// # Errors
    ///
    /// [`SplitError::Unknown`].
    pub fn switch_to(&self, variant: &str) -> Result<(), SplitError> {
        self.set_weights(&[(variant, 1)])
    }

    /// Goes back to the weights before the last [`set_weights`](Self::set_weights), [`switch_to`](Self::switch_to) or [`roll_out`](Self::roll_out), at once. A rollout ends with
    /// it. Twice is as nothing.
    pub fn revert(&self) {
        let mut rollout = self.shared.lock();
        *rollout = None;
        self.shared.rolling.store(false, Relaxed);
        if let Some(before) = self.shared.weights.load().before.clone() {
            self.shared.set(before, true);
        }
    }

    /// Gives a variant more and more of the requests, at the cost of the others, as the plan says; and none as soon as it does worse than they. It begins with the first
    /// step now. Nobody needs to look after it: calls that end do, ten times a second at most.
    ///
    /// # Errors
    ///
    /// [`SplitError`]; nothing changes then.
    pub fn roll_out(&self, variant: &str, plan: Rollout) -> Result<(), SplitError> {
        let shared = &*self.shared;
        let variant = shared.place(variant)?;
        if let Some(reason) = plan.mistake() {
            return Err(SplitError::Plan { reason });
        }
        let mut rollout = shared.lock();
        let mut others = shared.weights.load().parts.clone();
        others[variant] = 0;
        if others.iter().all(|part| *part == 0) {
            return Err(SplitError::NoWeight);
        }
        let course = Course::new(plan, shared.clock.now());
        let (step_began, began) =
            (shared.variants[variant].tally.read(), shared.of_others(variant));
        let rolling = Rolling { variant, course, others, step_began, began };
        shared.set(rolling.parts(), true);
        *rollout = Some(rolling);
        shared.rolling.store(true, Relaxed);
        Ok(())
    }

    /// Ends a rollout under way, at once: the weights are those before it. Returns whether there was one. Unlike [`revert`](Self::revert), it does nothing the second time.
    pub fn abort(&self) -> bool {
        let mut rollout = self.shared.lock();
        let running = |rolling: &Rolling| rolling.course.state() == RolloutState::Running;
        if !rollout.as_ref().is_some_and(running) {
            return false;
        }
        *rollout = None;
        self.shared.rolling.store(false, Relaxed);
        if let Some(before) = self.shared.weights.load().before.clone() {
            self.shared.set(before, true);
        }
        true
    }

    /// The same weights, counts and rollout, for clients that stay with their variant in this way.
    #[cfg(feature = "config")]
    pub(crate) fn going_on(&self, sticky: Option<&Sticky>) -> Self {
        Self { shared: self.shared.clone(), keeping: sticky.map(Sticky::compile) }
    }

    /// How far the last rollout is, unless the weights were set by hand since.
    #[must_use]
    pub fn rollout(&self) -> Option<RolloutStatus> {
        let rollout = self.shared.lock();
        let rolling = rollout.as_ref()?;
        let member = &self.shared.variants[rolling.variant];
        let calls = member.tally.read().since(&rolling.step_began);
        Some(RolloutStatus {
            variant: member.name.clone(),
            percent: rolling.course.percent(),
            state: rolling.course.state(),
            calls: calls.calls,
            failures: calls.failures,
        })
    }

    /// The variants and their weights, in the order that they were given in.
    #[must_use]
    pub fn weights(&self) -> Vec<(Arc<str>, u64)> {
        let weights = self.shared.weights.load();
        let names = self.shared.variants.iter().map(|variant| variant.name.clone());
        names.zip(weights.parts.iter().copied()).collect()
    }

    /// What became of the requests, variant by variant.
    #[must_use]
    pub fn stats(&self) -> Vec<VariantStats> {
        let weights = self.shared.weights.load();
        let read = |(member, weight): (&Member, &u64)| {
            let sample = member.tally.read();
            VariantStats {
                name: member.name.clone(),
                upstream: member.upstream.clone(),
                weight: *weight,
                calls: sample.calls,
                failures: sample.failures,
                p95: sample.quantile(0.95),
            }
        };
        self.shared.variants.iter().zip(&weights.parts).map(read).collect()
    }

    pub(crate) fn upstreams(&self) -> Vec<Upstream> {
        self.shared.variants.iter().map(|variant| variant.upstream.clone()).collect()
    }

    /// What is wrong with it.
    pub(crate) fn mistake(&self) -> Option<String> {
        let variants = &self.shared.variants;
        for (at, variant) in variants.iter().enumerate() {
            if variants[..at].iter().any(|other| other.name == variant.name) {
                return Some(format!("the split has two variants {:?}", variant.name));
            }
        }
        if self.shared.weights.load().parts.iter().all(|part| *part == 0) {
            return Some("no variant of the split has a weight".into());
        }
        self.keeping.as_ref().and_then(|keeping| keeping.as_ref().err().cloned())
    }

    /// The key of a request with these fields, and the cookie that its client gets.
    pub(crate) fn key(&self, headers: &HeaderMap) -> (Option<SplitKey>, Option<HeaderValue>) {
        match &self.keeping {
            Some(Ok(keeping)) => keeping.key(headers),
            _ => (None, None),
        }
    }

    pub(crate) const fn keeps_senders(&self) -> bool {
        matches!(self.keeping, Some(Ok(Keeping::Sender)))
    }

    /// The variant of a request, by chance if it has no key. Those that cannot be had are passed over while there are others.
    pub(crate) fn choose(
        &self,
        key: Option<SplitKey>,
        can_be_had: impl Fn(usize) -> bool,
    ) -> usize {
        let weights = self.shared.weights.load();
        let chosen = self.shared.chosen(&weights.parts, key);
        if can_be_had(chosen) {
            return chosen;
        }
        let mut parts = weights.parts.clone();
        for (at, part) in parts.iter_mut().enumerate() {
            if *part > 0 && (at == chosen || !can_be_had(at)) {
                *part = 0;
            }
        }
        let any = parts.iter().any(|part| *part > 0);
        if any { self.shared.chosen(&parts, key) } else { chosen }
    }

    /// Tells how a call of a variant went.
    pub(crate) fn record(&self, variant: usize, outcome: Outcome, span: Duration) {
        let shared = &*self.shared;
        shared.variants[variant].tally.record(outcome, span);
        if shared.rolling.load(Relaxed) {
            shared.look();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<Rolling>> {
        self.rollout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, name: &str) -> Result<usize, SplitError> {
        let place = self.variants.iter().position(|variant| &*variant.name == name);
        place.ok_or_else(|| {
            let known: Vec<_> = self.variants.iter().map(|v| format!("{:?}", v.name)).collect();
            SplitError::Unknown { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Under the lock of the rollout, so that changes come one after the other.
    fn set(&self, parts: Box<[u64]>, by_hand: bool) {
        let present = self.weights.load();
        let before = if by_hand { Some(present.parts.clone()) } else { present.before.clone() };
        self.weights.store(Arc::new(Weights { parts, before }));
    }

    fn chosen(&self, parts: &[u64], key: Option<SplitKey>) -> usize {
        match key {
            Some(SplitKey(key)) => self.by_key(parts, key),
            None => by_chance(parts, rand::random()),
        }
    }

    /// Weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash tables", 2005): the least of -ln(hash) / weight.
    fn by_key(&self, parts: &[u64], key: u64) -> usize {
        let (mut best, mut least) = (0, f64::INFINITY);
        for (at, (member, part)) in self.variants.iter().zip(parts).enumerate() {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&key.to_le_bytes());
            bytes[8..].copy_from_slice(&member.hash.to_le_bytes());
            // 53 bits are what a number between 0 and 1 has.
            let unit = ((hash_key(bytes) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
            let score = -unit.ln() / *part as f64;
            if *part > 0 && score < least {
                (best, least) = (at, score);
            }
        }
        best
    }

    fn of_others(&self, variant: usize) -> Sample {
        let others = self.variants.iter().enumerate().filter(|(at, _)| *at != variant);
        others.fold(Sample::empty(), |sum, (_, member)| sum.add(&member.tally.read()))
    }

    /// Looks at the rollout if it is time, unless somebody does so already.
    fn look(&self) {
        let now = self.clock.now();
        let nanos = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        if nanos < self.next_look.load(Relaxed) {
            return;
        }
        let mut rollout = match self.rollout.try_lock() {
            Ok(rollout) => rollout,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let Some(rolling) = &mut *rollout else { return };
        let pause = u64::try_from(Split::LOOK.as_nanos()).unwrap_or(u64::MAX);
        self.next_look.store(nanos.saturating_add(pause), Relaxed);
        let tally = &self.variants[rolling.variant].tally;
        let present = tally.read();
        let own = present.clone().since(&rolling.step_began);
        let others = self.of_others(rolling.variant).since(&rolling.began);
        if !rolling.course.look(now, &own, &others) {
            return;
        }
        rolling.step_began = present;
        let name = &*self.variants[rolling.variant].name;
        let percent = rolling.course.percent();
        match rolling.course.state() {
            RolloutState::Running => tracing::info!(variant = name, percent, "rollout goes on"),
            RolloutState::Done => tracing::info!(variant = name, percent, "rollout is done"),
            RolloutState::Aborted(reason) => {
                tracing::warn!(variant = name, %reason, "rollout is aborted");
            }
        }
        if rolling.course.state() != RolloutState::Running {
            self.rolling.store(false, Relaxed);
        }
        self.set(rolling.parts(), false);
    }
}

impl Rolling {
    fn parts(&self) -> Box<[u64]> {
        let percent = u64::from(self.course.percent());
        let sum: u64 = self.others.iter().sum();
        let mut parts: Box<[u64]> = self.others.iter().map(|part| part * (100 - percent)).collect();
        parts[self.variant] = sum * percent;
        simplest(parts)
    }
}

/// The same parts in the smallest numbers.
fn simplest(mut parts: Box<[u64]>) -> Box<[u64]> {
    let divisor = parts.iter().fold(0, |mut a, &part| {
        let mut b = part;
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    });
    // As large as a weight at most, so that none grows without end by rollouts one after the other.
    let largest = parts.iter().max().map_or(0, |part| part / divisor.max(1));
    let scale = largest / u64::from(u32::MAX) + 1;
    for part in parts.iter_mut().filter(|part| **part > 0) {
        *part = (*part / divisor.max(1) / scale).max(1);
    }
    parts
}

/// `random` is one of all numbers.
fn by_chance(parts: &[u64], random: u64) -> usize {
    let sum: u128 = parts.iter().map(|part| u128::from(*part)).sum();
    let mut point = (u128::from(random) * sum) >> 64;
    for (at, part) in parts.iter().enumerate() {
        let part = u128::from(*part);
        if point < part {
            return at;
        }
        point -= part;
    }
    0
}

impl Route {
    /// Where its requests go, by weight, instead of [`to`](Self::to).
    #[must_use]
    pub fn split(mut self, split: Split) -> Self {
        self.leads = Leads::Split(split);
        self
    }
}

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Split").field("weights", &self.weights()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

mod shared;
mod variant;

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use gusset_call::Clock;
use gusset_registry::hash_key;
use http::{HeaderMap, HeaderValue};

use self::shared::{Member, Rolling, Shared, Weights};
use super::{
    rollout::{Course, Rollout, RolloutState, RolloutStatus},
    sample::{Outcome, Tally},
    sticky::{Keeping, SplitKey, Sticky},
};
pub use variant::{SplitError, Variant, VariantStats};

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

impl Split {
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

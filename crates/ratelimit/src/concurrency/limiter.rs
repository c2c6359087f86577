use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use gusset_call::Overloaded;

use super::{
    Concurrency, Outcome, Priority,
    places::Places,
    tally::Tally,
    tuner::{Call, Tuner},
};

/// Places for calls that run at once. Clones share them.
///
/// ```
/// use std::num::NonZeroU32;
/// use gusset_ratelimit::{Concurrency, ConcurrencyLimiter, Priority};
///
/// let limiter = ConcurrencyLimiter::new("reports", Concurrency::fixed(NonZeroU32::MIN));
/// let permit = limiter.try_acquire(Priority::Normal).unwrap();
/// assert_eq!(limiter.try_acquire(Priority::Normal).unwrap_err().to_string(), "reports is overloaded");
/// permit.success();
/// assert!(limiter.try_acquire(Priority::Normal).is_ok());
/// ```
///
/// # Cost
///
/// About 1 KiB. No task, no queue, and no lock but one that is never waited for: whoever ends a window of samples takes it,
/// about ten times a second, and others pass by.
#[derive(Clone)]
pub struct ConcurrencyLimiter(Arc<Shared>);

struct Shared {
    places: Places,
    policy: Concurrency,
    name: Arc<str>,
    tuner: Option<Tuner>,
    tally: Tally,
    refused: [AtomicU64; 2],
}

/// How often what happened to calls of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PriorityStats {
    /// Calls that got a place and gave it back; those that run are [`ConcurrencyLimiter::in_flight`].
    pub ended: u64,
    /// Calls that got none.
    pub refused: u64,
}

/// How often what happened to a limiter, since it was made; not a snapshot of one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConcurrencyStats {
    /// Calls of [`Priority::Normal`].
    pub normal: PriorityStats,
    /// Calls of [`Priority::Low`].
    pub low: PriorityStats,
    /// Calls of either priority that ended as a sign of overload. Always 0 with a fixed limit.
    pub overloads: u64,
}

impl ConcurrencyLimiter {
    /// Nobody runs yet. The name appears in [`Overloaded`].
    pub fn new(name: impl Into<Arc<str>>, policy: Concurrency) -> Self {
        Self::seeded(name, policy, RandomState::new().hash_one(0))
    }

    /// `seed` is for the moments at which the gradient probes.
    pub(super) fn seeded(name: impl Into<Arc<str>>, policy: Concurrency, seed: u64) -> Self {
        Self(Arc::new(Shared {
            places: Places::new(policy.first_limit()),
            policy,
            name: name.into(),
            tuner: policy.tuner(seed),
            tally: Tally::default(),
            refused: Default::default(),
        }))
    }

    /// Name of the limiter.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Takes a place, or refuses at once; nothing ever waits. Tell the permit how the call went.
    ///
    /// # Errors
    ///
    /// [`Overloaded`] if there is no place for this priority. It has no `retry_after`, for nobody knows when
    /// a call will end.
    #[inline]
    pub fn try_acquire(&self, priority: Priority) -> Result<Permit, Overloaded> {
        let Shared { places, policy, tuner, .. } = &*self.0;
        let taken = match priority {
            Priority::Normal => places.take(|limit| limit),
            Priority::Low => places.take(|limit| policy.low_places(limit)),
        };
        if !taken {
            return Err(self.refuse(priority));
        }
        let started = tuner.as_ref().map_or(0, Tuner::now);
        let call = Call { started, priority, outcome: Outcome::Failure };
        Ok(Permit { limiter: self.clone(), call })
    }

    /// How many calls may run at once at present.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.0.places.limit()
    }

    /// How many calls run now. After the limit fell it may be less than that for a while.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.0.places.taken()
    }

    /// Counts since the limiter was made. They cost the calls nothing but a count on a line of their thread, and are added up here.
    #[must_use]
    pub fn stats(&self) -> ConcurrencyStats {
        let of = |priority| PriorityStats {
            ended: self.0.tally.ended(priority),
            refused: self.0.refused[priority as usize].load(Relaxed),
        };
        let reading = self.0.tally.read();
        ConcurrencyStats {
            normal: of(Priority::Normal),
            low: of(Priority::Low),
            overloads: reading.overloads + reading.late_overloads,
        }
    }

    /// Whether no priority gets a place now. For a balancer that passes over full endpoints, which else look quick to it: it
    /// takes no place and counts nothing.
    #[must_use]
    #[inline]
    pub fn is_full(&self) -> bool {
        self.0.places.is_full()
    }

    /// Counts a refusal.
    #[cold]
    pub(super) fn refuse(&self, priority: Priority) -> Overloaded {
        self.0.refused[priority as usize].fetch_add(1, Relaxed);
        Overloaded::new(self.0.name.clone())
    }
}

impl fmt::Debug for ConcurrencyLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrencyLimiter")
            .field("name", &self.name())
            .field("limit", &self.limit())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// A place: the right to make one call, and the duty to tell how it went. Dropping it is [`Outcome::Failure`].
///
/// Whichever way it ends, in a panic as well, the place is free again.
#[derive(Debug)]
#[must_use = "dropping it at once makes no call"]
pub struct Permit {
    limiter: ConcurrencyLimiter,
    call: Call,
}

impl Permit {
    /// The call was served: [`Outcome::Success`].
    pub fn success(self) {
        self.settle(Outcome::Success);
    }

    /// The service had too much to do: [`Outcome::Overload`].
    pub fn overloaded(self) {
        self.settle(Outcome::Overload);
    }

    /// The call says nothing, however long it took: [`Outcome::Ignored`].
    pub fn ignore(self) {
        self.settle(Outcome::Ignored);
    }

    pub(super) fn settle(mut self, outcome: Outcome) {
        self.call.outcome = outcome;
    }
}

impl Drop for Permit {
    #[inline]
    fn drop(&mut self) {
        let Shared { places, tuner, tally, .. } = &*self.limiter.0;
        let running = places.give_back();
        match tuner {
            None => tally.other(self.call.priority),
            Some(tuner) => {
                if let Some(now) = tuner.record(tally, &self.call, running) {
                    tuner.end_window(tally, places, now);
                }
            }
        }
    }
}

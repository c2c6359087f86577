//! How long a circuit stays open, and how it comes back.

use super::{
    Refused, World,
    word::{Closed, Generation, State, Word, millis},
};
use crate::{
    Policy,
    policy::OpenTime,
    sync::{AtomicU64, Ordering::Relaxed},
};

#[derive(Debug)]
pub(super) struct Opening {
    policy: OpenTime,
    /// In milliseconds.
    ramp: u64,
    /// When it last closed; written before the word that closes.
    closed_at: Stamp,
    /// How often it has opened without having been well for long in between, and above that the generation that says so:
    /// an order may come between a trip and its being counted.
    trips_in_a_row: AtomicU64,
}

impl Opening {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            policy: policy.open,
            ramp: if policy.ramp.is_zero() { 0 } else { millis(policy.ramp) },
            closed_at: Stamp::new(),
            trips_in_a_row: AtomicU64::new(0),
        }
    }

    pub(super) fn closes_at(&self, now: u64) {
        self.closed_at.set(now);
    }

    /// In this generation it has opened so often.
    pub(super) fn set_trips_in_a_row(&self, generation: Generation, trips: u32) {
        let mut old = self.trips_in_a_row.load(Relaxed);
        let new = u64::from(generation.number()) << 32 | u64::from(trips);
        while !Generation::of((old >> 32) as u32).is_after(generation) {
            match self.trips_in_a_row.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(newer) => old = newer,
            }
        }
    }

    /// How often it has opened in a row, if it opened again at `now`.
    pub(super) fn trips_in_a_row(&self, from: State, now: u64) -> u32 {
        let healthy =
            from == State::Closed && self.closed_at.age(now) >= millis(self.policy.at_most);
        if healthy || self.policy.factor == 1 {
            0
        } else {
            self.trips_in_a_row.load(Relaxed) as u32
        }
    }

    /// Of a closed circuit: whether the next open time is the shortest.
    pub(super) fn is_at_base(&self, now: u64) -> bool {
        self.trips_in_a_row(State::Closed, now) == 0
    }

    /// In milliseconds; `chance` is any number.
    pub(super) fn span(&self, trips: u32, chance: u64) -> u64 {
        let factor = u64::from(self.policy.factor).saturating_pow(trips);
        let span = millis(self.policy.base).saturating_mul(factor).min(self.longest_span());
        let most = self.policy.jitter.map_or(0, |ratio| ratio.of(span));
        span.saturating_add(drawn(most, chance))
    }

    /// Without jitter, which at most doubles it.
    fn longest_span(&self) -> u64 {
        millis(self.policy.base.max(self.policy.at_most))
    }

    /// The refusal of an open circuit, or none if a probe may pass.
    pub(super) fn refusal(&self, word: Word, now: u64) -> Option<Refused> {
        let left = word.payload().saturating_sub(now);
        // More than there ever is to wait: the clock was set back, as when a machine was suspended.
        let jumped = left > self.longest_span().saturating_mul(2);
        (left > 0 && !jumped).then_some(Refused::for_millis(left))
    }

    pub(super) const fn has_ramp(&self) -> bool {
        self.ramp > 0
    }

    /// Closed since a moment ago: a share of the calls passes that grows with time. The word is without its mark once all pass.
    pub(super) fn ramped(&self, word: Word, world: &impl World) -> Result<Word, Refused> {
        let passed = self.closed_at.age(world.millis());
        if passed >= self.ramp {
            let closed = Closed { ramping: false, ..Closed::unpack(word.payload()) };
            return Ok(word.with_payload(closed.pack()));
        }
        let share = passed.max(self.ramp / 10);
        if drawn(self.ramp, world.chance()) < share {
            return Ok(word);
        }
        // Not all at the end of the ramp, when nothing would hold them back.
        Err(Refused::for_millis(1 + drawn(self.ramp - passed, world.chance())))
    }
}

/// A number below `most`, or 0.
fn drawn(most: u64, chance: u64) -> u64 {
    ((u128::from(most) * u128::from(chance)) >> 64) as u64
}

/// The millisecond at which something last happened.
#[derive(Debug)]
pub(super) struct Stamp(AtomicU64);

impl Stamp {
    /// Threads that read the clock at different times are not so far apart. Who is so far behind reads a clock that was
    /// set back, as when a machine was suspended.
    const JUMP: u64 = 60_000;

    pub(super) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// A thread that read the clock long ago changes nothing.
    pub(super) fn set(&self, now: u64) {
        if self.0.fetch_max(now, Relaxed) > now + Self::JUMP {
            self.0.store(now, Relaxed);
        }
    }

    /// As long as can be, if the clock was set back: whatever waits for something to be over waits no longer.
    pub(super) fn age(&self, now: u64) -> u64 {
        let then = self.0.load(Relaxed);
        if then > now + Self::JUMP { u64::MAX } else { now.saturating_sub(then) }
    }
}

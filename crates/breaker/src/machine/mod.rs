//! A circuit: what it admits, and what it makes of the outcomes.
//!
//! [`Word`] holds the state; all else here is either a count or written just before a word that refers to it.

mod buckets;
pub(crate) mod calls;
mod opening;
mod ring;
mod terms;
pub(crate) mod word;

pub(crate) use self::terms::{Recorded, Refused, Ticket, Transition, Trip, World};
pub use self::word::State;
use self::{
    calls::{Call, Calls, Totals},
    opening::{Opening, Stamp},
    word::{Closed, HalfOpen, Word, millis},
};
use crate::{
    Outcome, Policy, Ratio,
    sync::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

#[derive(Debug)]
pub(crate) struct Machine {
    policy: Policy,
    calls: Calls,
    pub(crate) word: Line<AtomicU64>,
    /// When the newest probe was admitted. Written before the word that admits it, so whoever sees a place taken sees a
    /// time at least as young.
    probed_at: Stamp,
    /// When the first of a row of failures came. Written before the word that counts it. Of two that come at once the later one may count, and the row be
    /// taken for younger than it is.
    failing_since: Stamp,
    opening: Opening,
    /// Counted before they are in `outcomes`, so whoever reads that first sees no success that was none.
    failures: AtomicU64,
    /// Successes and failures that were counted.
    outcomes: Line<AtomicU64>,
}

/// Apart from other lines of the processor's cache: one is read by all, the other written by all.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Line<T>(pub(crate) T);

impl Machine {
    /// In milliseconds.
    const SHORTEST_LEASE: u64 = 100;
    const MOST_DOUBLINGS: u8 = 10;

    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            calls: Calls::new(&policy),
            policy,
            word: Line(AtomicU64::new(0)),
            probed_at: Stamp::new(),
            failing_since: Stamp::new(),
            opening: Opening::new(&policy),
            failures: AtomicU64::new(0),
            outcomes: Line(AtomicU64::new(0)),
        }
    }

    #[inline]
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn state(&self) -> State {
        self.word().state()
    }

    /// How many successes and failures were counted. A success that ends just now may not be among them yet.
    pub(crate) fn successes_and_failures(&self) -> (u64, u64) {
        let outcomes = self.outcomes.0.load(Acquire);
        let failures = self.failures.load(Relaxed);
        (outcomes.saturating_sub(failures), failures)
    }

    /// What is in the window.
    pub(crate) fn totals(&self, world: &impl World) -> Totals {
        self.calls.totals(self.word().generation(), || world.nanos())
    }

    /// Whether nothing would be lost if this machine were replaced by a new one.
    pub(crate) fn is_pristine(&self, world: &impl World) -> bool {
        let word = self.word();
        let totals = self.totals(world);
        word.state() == State::Closed
            && word.payload() == 0
            && (totals.failed, totals.slow) == (0, 0)
            && self.opening.is_at_base(world.millis())
    }

    /// The refusal that any call would meet now, if that is certain without trying.
    #[inline]
    pub(crate) fn certain_refusal(&self, world: &impl World) -> Option<Refused> {
        let word = self.word();
        match word.state() {
            State::Closed | State::ForcedClosed | State::Disabled => None,
            State::ForcedOpen => Some(Refused::UNTIL_SOMEONE_ACTS),
            State::Open => self.opening.refusal(word, world.millis()),
            // Else the inner service would be asked, and whoever comes would wait behind the probes.
            State::HalfOpen => {
                let probes = HalfOpen::unpack(word.payload());
                (!self.has_place(probes, world.millis())).then_some(Refused::UNTIL_SOMEONE_ACTS)
            }
        }
    }

    /// Whether a call that came now would be admitted. Takes no place, so two that ask may both hear yes.
    pub(crate) fn would_admit(&self, world: &impl World) -> bool {
        let word = self.word();
        match word.state() {
            State::Closed | State::ForcedClosed | State::Disabled => true,
            State::ForcedOpen => false,
            State::Open => self.opening.refusal(word, world.millis()).is_none(),
            State::HalfOpen => self.has_place(HalfOpen::unpack(word.payload()), world.millis()),
        }
    }

    #[inline]
    pub(crate) fn admit(
        &self,
        world: &impl World,
    ) -> Result<(Ticket, Option<Transition>), Refused> {
        let word = self.word();
        if word.state() == State::Closed && !Closed::unpack(word.payload()).ramping {
            return Ok((Self::ticket(word), None));
        }
        self.admit_carefully(world)
    }

    #[cold]
    fn admit_carefully(&self, world: &impl World) -> Result<(Ticket, Option<Transition>), Refused> {
        loop {
            let word = self.word();
            let next = match word.state() {
                State::Closed if Closed::unpack(word.payload()).ramping => {
                    self.opening.ramped(word, world)?
                }
                State::Closed | State::ForcedClosed | State::Disabled => word,
                State::ForcedOpen => return Err(Refused::UNTIL_SOMEONE_ACTS),
                State::Open => {
                    let now = world.millis();
                    if let Some(refused) = self.opening.refusal(word, now) {
                        return Err(refused);
                    }
                    self.probed_at.set(now);
                    word.next(State::HalfOpen, HalfOpen::FIRST.pack())
                }
                State::HalfOpen => {
                    let probes = HalfOpen::unpack(word.payload());
                    let now = world.millis();
                    if probes.taken < self.policy.probes.at_once {
                        self.probed_at.set(now);
                        word.with_payload(HalfOpen { taken: probes.taken + 1, ..probes }.pack())
                    } else if self.lease_is_over(probes, now) {
                        // All places are held by probes that hang: a new generation takes them away. Its lease is twice
                        // as long, for else calls that always take longer than the lease would never close the circuit.
                        self.probed_at.set(now);
                        let lost = probes.lost.saturating_add(1);
                        word.next(State::HalfOpen, HalfOpen { lost, ..HalfOpen::FIRST }.pack())
                    } else {
                        return Err(Refused::UNTIL_SOMEONE_ACTS);
                    }
                }
            };
            if next == word {
                return Ok((Self::ticket(word), None));
            }
            if let Ok(transition) = self.replace(word, next, None) {
                return Ok((Self::ticket(next), transition));
            }
        }
    }

    /// A ticket without a place, for news that came without a call; none while the circuit does not listen.
    pub(crate) fn listening(&self) -> Option<Ticket> {
        let word = self.word();
        matches!(word.state(), State::Closed | State::HalfOpen | State::ForcedClosed)
            .then_some(Self::ticket(word))
    }

    /// `slow` is whether the call took long, as far as the policy asks.
    #[inline]
    pub(crate) fn record(
        &self,
        ticket: Ticket,
        outcome: Outcome,
        slow: bool,
        world: &impl World,
    ) -> Recorded {
        // The usual success changes nothing, and must not take the cache line for writing.
        let usual = Word::new(State::Closed, ticket.generation, 0);
        if outcome == Outcome::Success && !slow && self.word() == usual {
            self.count(ticket, Call { failed: false, slow: false }, world);
            return Recorded::Counted(None);
        }
        self.record_carefully(ticket, outcome, slow, world)
    }

    #[cold]
    fn record_carefully(
        &self,
        ticket: Ticket,
        outcome: Outcome,
        slow: bool,
        world: &impl World,
    ) -> Recorded {
        let word = self.word();
        if word.generation() != ticket.generation {
            return Recorded::Late;
        }
        match (word.state(), outcome) {
            (State::Disabled, _) => Recorded::Unmeasured,
            (State::HalfOpen, _) => self.judge_probe(ticket, outcome, slow, world),
            (_, Outcome::Ignored) => Recorded::Counted(None),
            (State::Closed, _) => {
                let call = Call { failed: outcome == Outcome::Failure, slow };
                Recorded::Counted(self.judge(ticket, call, world))
            }
            // No ticket is of a generation that refuses.
            (State::ForcedClosed | State::Open | State::ForcedOpen, _) => {
                self.count_outcome(outcome == Outcome::Failure);
                Recorded::Counted(None)
            }
        }
    }

    /// Closed: counts the call, and opens the circuit if that was too much.
    fn judge(&self, ticket: Ticket, call: Call, world: &impl World) -> Option<Transition> {
        let by_window = self.count(ticket, call, world).and_then(|totals| self.verdict(totals));
        let in_a_row = self.row(ticket, call.failed, world);
        let trip = by_window.or(in_a_row)?;
        loop {
            let word = self.word();
            if word.generation() != ticket.generation {
                return None;
            }
            if let Some(transition) = self.open(word, trip, world) {
                return Some(transition);
            }
        }
    }

    #[inline]
    fn count(&self, ticket: Ticket, call: Call, world: &impl World) -> Option<Totals> {
        let number = self.count_outcome(call.failed);
        self.calls.count(ticket.generation, number, call, || world.nanos())
    }

    /// Gives a number that no other has.
    #[inline]
    fn count_outcome(&self, failed: bool) -> u64 {
        if failed {
            self.failures.fetch_add(1, Relaxed);
        }
        self.outcomes.0.fetch_add(1, Release)
    }

    fn verdict(&self, totals: Totals) -> Option<Trip> {
        if totals.calls < u64::from(self.policy.window.min_calls).min(self.calls.size()) {
            return None;
        }
        let reached = |ratio: Option<Ratio>, some| {
            some > 0 && ratio.is_some_and(|ratio| ratio.is_reached(some, totals.calls))
        };
        if reached(self.policy.failure_ratio, totals.failed) {
            return Some(Trip::Failed(totals));
        }
        reached(self.policy.slow_ratio, totals.slow).then_some(Trip::Slow(totals))
    }

    /// Lengthens the row of failures, or ends it.
    fn row(&self, ticket: Ticket, failed: bool, world: &impl World) -> Option<Trip> {
        if self.policy.consecutive == 0 {
            return None;
        }
        loop {
            let word = self.word();
            if word.generation() != ticket.generation {
                return None;
            }
            let closed = Closed::unpack(word.payload());
            let failures = if failed { closed.failures + 1 } else { 0 };
            if failures == 1 && !self.policy.consecutive_for.is_zero() {
                self.failing_since.set(world.millis());
            }
            if failures >= u64::from(self.policy.consecutive) && self.fails_for_long(world) {
                return Some(Trip::InARow(failures));
            }
            let next = word.with_payload(Closed { failures, ..closed }.pack());
            if next == word || self.replace(word, next, None).is_ok() {
                return None;
            }
        }
    }

    fn fails_for_long(&self, world: &impl World) -> bool {
        let span = self.policy.consecutive_for;
        span.is_zero() || self.failing_since.age(world.millis()) >= millis(span)
    }

    /// Half-open: gives the place back, and closes or opens the circuit if that was the verdict.
    fn judge_probe(
        &self,
        ticket: Ticket,
        outcome: Outcome,
        slow: bool,
        world: &impl World,
    ) -> Recorded {
        loop {
            let word = self.word();
            if word.generation() != ticket.generation {
                return Recorded::Late;
            }
            let probes = HalfOpen::unpack(word.payload()).given_back();
            let done = match outcome {
                Outcome::Ignored => self.replace(word, word.with_payload(probes.pack()), None).ok(),
                Outcome::Success if !slow => {
                    let succeeded = probes.succeeded + 1;
                    if succeeded < self.policy.probes.successes_to_close {
                        let probes = HalfOpen { succeeded, ..probes };
                        self.replace(word, word.with_payload(probes.pack()), None).ok()
                    } else {
                        self.close(word, world).map(Some)
                    }
                }
                _ => self.open(word, Trip::Probe, world).map(Some),
            };
            if let Some(transition) = done {
                if outcome != Outcome::Ignored {
                    self.count_outcome(outcome == Outcome::Failure);
                }
                return Recorded::Counted(transition);
            }
        }
    }

    /// An operator's order: to a closed circuit that begins anew, or to one that ignores what happens.
    pub(crate) fn force(&self, state: State) -> Option<Transition> {
        loop {
            let word = self.word();
            if let Ok(transition) = self.replace(word, word.next(state, 0), None) {
                self.opening.set_trips_in_a_row(word.next(state, 0).generation(), 0);
                return transition;
            }
        }
    }

    fn close(&self, word: Word, world: &impl World) -> Option<Transition> {
        let closed = Closed { ramping: self.opening.has_ramp(), failures: 0 };
        self.opening.closes_at(world.millis());
        self.replace(word, word.next(State::Closed, closed.pack()), None).ok().flatten()
    }

    fn open(&self, word: Word, trip: Trip, world: &impl World) -> Option<Transition> {
        let now = world.millis();
        let trips = self.opening.trips_in_a_row(word.state(), now);
        let until = now.saturating_add(self.opening.span(trips, world.chance()));
        let open = word.next(State::Open, until);
        let transition = self.replace(word, open, Some(trip)).ok()?;
        self.opening.set_trips_in_a_row(open.generation(), trips.saturating_add(1));
        transition
    }

    fn has_place(&self, probes: HalfOpen, now: u64) -> bool {
        probes.taken < self.policy.probes.at_once || self.lease_is_over(probes, now)
    }

    fn lease_is_over(&self, probes: HalfOpen, now: u64) -> bool {
        let lease = millis(self.policy.probes.lease).max(Self::SHORTEST_LEASE);
        self.probed_at.age(now) >= lease << probes.lost.min(Self::MOST_DOUBLINGS)
    }

    const fn ticket(word: Word) -> Ticket {
        Ticket { generation: word.generation() }
    }

    #[inline]
    pub(crate) fn word(&self) -> Word {
        Word(self.word.0.load(Acquire))
    }

    fn replace(&self, old: Word, new: Word, trip: Option<Trip>) -> Result<Option<Transition>, ()> {
        self.word.0.compare_exchange(old.0, new.0, AcqRel, Relaxed).map_err(drop)?;
        let (from, to) = (old.state(), new.state());
        Ok((from != to).then_some(Transition { from, to, trip, began: new.generation() }))
    }
}

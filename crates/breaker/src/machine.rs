//! The state of a circuit in one atomic word.
//!
//! ```text
//! bit 63      61 60            40 39                                   0
//!     [ state  ] [ generation   ] [ payload                            ]
//!                                   Closed:   failures in a row
//!                                   Open:     millisecond at which probes may pass
//!                                   HalfOpen: probes that succeeded (16 bits) | places taken (8 bits)
//! ```
//!
//! Everything that a decision needs is in that word, so every transition is one compare-and-swap, and there is
//! nothing that could be seen half done. A generation comes round after two million transitions; a call would have to
//! outlast them all to be taken for a younger one.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
    time::Duration,
};

use crate::{Outcome, Policy};

/// What a circuit does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Calls pass.
    Closed = 0,
    /// Calls are refused until the open time is over. It stays `Open` after that time until a call arrives.
    Open = 1,
    /// A bounded number of probes pass, other calls are refused.
    HalfOpen = 2,
    /// Calls are refused until an operator resets the circuit.
    ForcedOpen = 3,
    /// Calls pass whatever their outcome, until an operator resets the circuit.
    Disabled = 4,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) from: State,
    pub(crate) to: State,
}

/// Proof of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    generation: u64,
}

/// Why and for how long a call is refused; `None` where the end is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) retry_after: Option<Duration>,
}

/// What became of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    Counted(Option<Transition>),
    /// The ticket is of an older generation.
    Late,
}

/// The circuit itself. `now` is the time since some fixed point, as a closure, because the closed path needs none.
#[derive(Debug)]
pub(crate) struct Machine {
    word: AtomicU64,
    /// Millisecond at which the newest probe was admitted; it only grows, however late a thread is that read the clock
    /// early. Written before the word that admits the probe, so whoever sees a place taken sees a time at least as young.
    probed_at: AtomicU64,
    policy: Policy,
}

impl Machine {
    pub(crate) const fn new(policy: Policy) -> Self {
        Self { word: AtomicU64::new(0), probed_at: AtomicU64::new(0), policy }
    }

    pub(crate) fn state(&self) -> State {
        self.word().state()
    }

    /// Whether nothing would be lost if this machine were replaced by a new one.
    pub(crate) fn is_pristine(&self) -> bool {
        let word = self.word();
        word.state() == State::Closed && word.payload() == 0
    }

    /// The refusal that any call would meet now, if that is certain without trying.
    pub(crate) fn certain_refusal(&self, now: impl FnOnce() -> Duration) -> Option<Refused> {
        let word = self.word();
        match word.state() {
            State::Closed | State::HalfOpen | State::Disabled => None,
            State::ForcedOpen => Some(Refused { retry_after: None }),
            State::Open => word.refusal_at(millis(now())),
        }
    }

    /// Whether a call that came now would be admitted. Takes no place, so two that ask may both hear yes.
    pub(crate) fn would_admit(&self, now: impl FnOnce() -> Duration) -> bool {
        let word = self.word();
        match word.state() {
            State::Closed | State::Disabled => true,
            State::ForcedOpen => false,
            State::Open => word.refusal_at(millis(now())).is_none(),
            State::HalfOpen => {
                HalfOpen::unpack(word.payload()).taken < self.policy.max_probes
                    || self.lease_is_over(millis(now()))
            }
        }
    }

    pub(crate) fn admit(
        &self,
        now: impl Fn() -> Duration,
    ) -> Result<(Ticket, Option<Transition>), Refused> {
        loop {
            let word = self.word();
            let next = match word.state() {
                State::Closed | State::Disabled => return Ok((word.ticket(), None)),
                State::ForcedOpen => return Err(Refused { retry_after: None }),
                State::Open => {
                    let now = millis(now());
                    if let Some(refused) = word.refusal_at(now) {
                        return Err(refused);
                    }
                    self.probed_at.fetch_max(now, Relaxed);
                    word.next(State::HalfOpen, HalfOpen { succeeded: 0, taken: 1 }.pack())
                }
                State::HalfOpen => {
                    let probes = HalfOpen::unpack(word.payload());
                    let now = millis(now());
                    if probes.taken < self.policy.max_probes {
                        self.probed_at.fetch_max(now, Relaxed);
                        word.with_payload(HalfOpen { taken: probes.taken + 1, ..probes }.pack())
                    } else if self.lease_is_over(now) {
                        // All places are held by probes that hang: a new generation takes them away.
                        self.probed_at.fetch_max(now, Relaxed);
                        word.next(State::HalfOpen, HalfOpen { succeeded: 0, taken: 1 }.pack())
                    } else {
                        return Err(Refused { retry_after: None });
                    }
                }
            };
            if let Ok(transition) = self.replace(word, next) {
                return Ok((next.ticket(), transition));
            }
        }
    }

    pub(crate) fn record(
        &self,
        ticket: Ticket,
        outcome: Outcome,
        now: impl Fn() -> Duration,
    ) -> Recorded {
        loop {
            let word = self.word();
            if word.generation() != ticket.generation {
                return Recorded::Late;
            }
            let next = match (word.state(), outcome) {
                (State::Closed, Outcome::Success) => word.with_payload(0),
                (State::Closed, Outcome::Failure) => {
                    let failures = word.payload() + 1;
                    if failures < u64::from(self.policy.failures) {
                        word.with_payload(failures)
                    } else {
                        self.opened(word, now())
                    }
                }
                (State::HalfOpen, Outcome::Success) => {
                    let probes = HalfOpen::unpack(word.payload()).given_back();
                    let succeeded = probes.succeeded + 1;
                    if succeeded < self.policy.successes_to_close {
                        word.with_payload(HalfOpen { succeeded, ..probes }.pack())
                    } else {
                        word.next(State::Closed, 0)
                    }
                }
                (State::HalfOpen, Outcome::Failure) => self.opened(word, now()),
                (State::HalfOpen, Outcome::Ignored) => {
                    word.with_payload(HalfOpen::unpack(word.payload()).given_back().pack())
                }
                (State::Closed, Outcome::Ignored) | (State::Disabled, _) => word,
                // No ticket is of a generation that refuses.
                (State::Open | State::ForcedOpen, _) => word,
            };
            // The usual success changes nothing, and must not take the cache line for writing.
            if next == word {
                return Recorded::Counted(None);
            }
            if let Ok(transition) = self.replace(word, next) {
                return Recorded::Counted(transition);
            }
        }
    }

    /// An operator's order: to a closed circuit, or to one that ignores what happens.
    pub(crate) fn force(&self, state: State) -> Option<Transition> {
        loop {
            let word = self.word();
            if let Ok(transition) = self.replace(word, word.next(state, 0)) {
                return transition;
            }
        }
    }

    fn lease_is_over(&self, now: u64) -> bool {
        now.saturating_sub(self.probed_at.load(Relaxed)) >= millis(self.policy.probe_lease)
    }

    fn opened(&self, word: Word, now: Duration) -> Word {
        word.next(State::Open, millis(now).saturating_add(millis(self.policy.open_for)))
    }

    fn word(&self) -> Word {
        Word(self.word.load(Acquire))
    }

    fn replace(&self, old: Word, new: Word) -> Result<Option<Transition>, ()> {
        self.word.compare_exchange(old.0, new.0, AcqRel, Relaxed).map_err(drop)?;
        let (from, to) = (old.state(), new.state());
        Ok((from != to).then_some(Transition { from, to }))
    }
}

/// Rounded up, so that no span becomes zero.
fn millis(span: Duration) -> u64 {
    let whole = u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(Word::PAYLOAD);
    whole.min(Word::PAYLOAD)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const STATE_SHIFT: u32 = 61;
    const GENERATION_SHIFT: u32 = 40;
    const GENERATION: u64 = (1 << (Self::STATE_SHIFT - Self::GENERATION_SHIFT)) - 1;
    const PAYLOAD: u64 = (1 << Self::GENERATION_SHIFT) - 1;

    const fn new(state: State, generation: u64, payload: u64) -> Self {
        let payload = if payload > Self::PAYLOAD { Self::PAYLOAD } else { payload };
        Self(
            (state as u64) << Self::STATE_SHIFT
                | (generation & Self::GENERATION) << Self::GENERATION_SHIFT
                | payload,
        )
    }

    const fn state(self) -> State {
        match self.0 >> Self::STATE_SHIFT {
            0 => State::Closed,
            1 => State::Open,
            2 => State::HalfOpen,
            3 => State::ForcedOpen,
            _ => State::Disabled,
        }
    }

    const fn generation(self) -> u64 {
        self.0 >> Self::GENERATION_SHIFT & Self::GENERATION
    }

    const fn payload(self) -> u64 {
        self.0 & Self::PAYLOAD
    }

    const fn ticket(self) -> Ticket {
        Ticket { generation: self.generation() }
    }

    /// The word of a new generation.
    const fn next(self, state: State, payload: u64) -> Self {
        Self::new(state, self.generation() + 1, payload)
    }

    const fn with_payload(self, payload: u64) -> Self {
        Self::new(self.state(), self.generation(), payload)
    }

    /// Of an open circuit: the refusal at millisecond `now`, or none if a probe may pass.
    fn refusal_at(self, now: u64) -> Option<Refused> {
        let left = self.payload().saturating_sub(now);
        (left > 0).then_some(Refused { retry_after: Some(Duration::from_millis(left)) })
    }
}

/// Payload of a half-open circuit.
#[derive(Clone, Copy, Debug)]
struct HalfOpen {
    succeeded: u16,
    taken: u8,
}

impl HalfOpen {
    fn unpack(payload: u64) -> Self {
        let [taken, low, high, ..] = payload.to_le_bytes();
        Self { taken, succeeded: u16::from_le_bytes([low, high]) }
    }

    fn pack(self) -> u64 {
        u64::from(self.succeeded) << 8 | u64::from(self.taken)
    }

    const fn given_back(self) -> Self {
        Self { taken: self.taken.saturating_sub(1), ..self }
    }
}

#[cfg(test)]
mod tests;

//! What a circuit remembers in one atomic word.
//!
//! ```text
//! bit 63      61 60            40 39                                   0
//!     [ state  ] [ generation   ] [ payload                            ]
//!                                   Closed:   ramping (1 bit) | failures in a row
//!                                   Open:     millisecond at which probes may pass
//!                                   HalfOpen: leases lost in a row (8 bits) | probes that succeeded (16) | places taken (8)
//! ```
//!
//! Everything that a decision needs is in that word, so every transition is one compare-and-swap, and there is
//! nothing that could be seen half done.

use std::{fmt, time::Duration};

/// What a circuit does with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
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
    /// Calls pass whatever their outcome, and are counted, until an operator resets the circuit.
    ForcedClosed = 4,
    /// Calls pass and nothing is measured, until an operator resets the circuit.
    Disabled = 5,
}

impl State {
    /// All of them, the usual ones first.
    pub const ALL: [Self; 6] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::ForcedClosed,
        Self::Disabled,
    ];

    /// As labels of metrics and pages for operators have it: `closed`, `open`, `half_open`, `forced_open`, `forced_closed` or `disabled`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
            Self::Disabled => "disabled",
        }
    }
}

/// As [`as_str`](State::as_str).
impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Numbers the times between transitions. It comes round after two million of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u32);

impl Generation {
    pub(crate) const BITS: u32 = 21;
    const MASK: u32 = (1 << Self::BITS) - 1;

    /// Whoever is farther behind than this is not late: the other is so old that the numbers have come round since.
    const LATE: u32 = 1 << 16;

    /// From the lowest bits of `number`.
    pub(crate) const fn of(number: u32) -> Self {
        Self(number & Self::MASK)
    }

    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    pub(crate) const fn is_after(self, other: Self) -> bool {
        let ahead = self.0.wrapping_sub(other.0) & Self::MASK;
        ahead != 0 && ahead <= Self::LATE
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

impl Word {
    const STATE_SHIFT: u32 = 61;
    const GENERATION_SHIFT: u32 = Self::STATE_SHIFT - Generation::BITS;
    pub(crate) const PAYLOAD: u64 = (1 << Self::GENERATION_SHIFT) - 1;

    pub(crate) const fn new(state: State, generation: Generation, payload: u64) -> Self {
        let payload = if payload > Self::PAYLOAD { Self::PAYLOAD } else { payload };
        Self(
            (state as u64) << Self::STATE_SHIFT
                | (generation.number() as u64) << Self::GENERATION_SHIFT
                | payload,
        )
    }

    pub(crate) const fn state(self) -> State {
        match self.0 >> Self::STATE_SHIFT {
            0 => State::Closed,
            1 => State::Open,
            2 => State::HalfOpen,
            3 => State::ForcedOpen,
            4 => State::ForcedClosed,
            _ => State::Disabled,
        }
    }

    pub(crate) const fn generation(self) -> Generation {
        Generation::of((self.0 >> Self::GENERATION_SHIFT) as u32)
    }

    pub(crate) const fn payload(self) -> u64 {
        self.0 & Self::PAYLOAD
    }

    /// The word of a new generation.
    pub(crate) const fn next(self, state: State, payload: u64) -> Self {
        let generation = Generation::of(self.generation().number() + 1);
        Self::new(state, generation, payload)
    }

    pub(crate) const fn with_payload(self, payload: u64) -> Self {
        Self::new(self.state(), self.generation(), payload)
    }
}

/// Payload of a closed circuit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Closed {
    /// Whether only a share of the calls passes yet.
    pub(crate) ramping: bool,
    pub(crate) failures: u64,
}

impl Closed {
    const RAMPING: u64 = 1 << 39;

    pub(crate) const fn unpack(payload: u64) -> Self {
        Self { ramping: payload & Self::RAMPING != 0, failures: payload & !Self::RAMPING }
    }

    pub(crate) const fn pack(self) -> u64 {
        self.failures | if self.ramping { Self::RAMPING } else { 0 }
    }
}

/// Payload of a half-open circuit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HalfOpen {
    /// How often in a row all probes lost their places because they hung.
    pub(crate) lost: u8,
    pub(crate) succeeded: u16,
    pub(crate) taken: u8,
}

impl HalfOpen {
    pub(crate) const FIRST: Self = Self { lost: 0, succeeded: 0, taken: 1 };

    pub(crate) fn unpack(payload: u64) -> Self {
        let [taken, low, high, lost, ..] = payload.to_le_bytes();
        Self { taken, succeeded: u16::from_le_bytes([low, high]), lost }
    }

    pub(crate) fn pack(self) -> u64 {
        u64::from(self.lost) << 24 | u64::from(self.succeeded) << 8 | u64::from(self.taken)
    }

    pub(crate) const fn given_back(self) -> Self {
        Self { taken: self.taken.saturating_sub(1), ..self }
    }
}

/// Milliseconds of `span`, rounded up.
pub(crate) fn millis(span: Duration) -> u64 {
    let whole = u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(Word::PAYLOAD);
    whole.min(Word::PAYLOAD)
}

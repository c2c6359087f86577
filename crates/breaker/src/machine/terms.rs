//! What the machine is told, and what it answers.

use std::{fmt, time::Duration};

use super::{
    calls::Totals,
    word::{Generation, State, Word},
};

/// What a machine cannot know by itself.
pub(crate) trait World {
    /// Nanoseconds since some fixed point.
    fn nanos(&self) -> u64;

    /// Any number, each as likely as the others.
    fn chance(&self) -> u64;

    fn millis(&self) -> u64 {
        (self.nanos() / 1_000_000).min(Word::PAYLOAD)
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    pub(crate) from: State,
    pub(crate) to: State,
    /// What opened the circuit, if that did.
    pub(crate) trip: Option<Trip>,
    /// The generation that it began.
    pub(crate) began: Generation,
}

/// What made a circuit open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trip {
    InARow(u64),
    Failed(Totals),
    Slow(Totals),
    Probe,
}

impl fmt::Display for Trip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InARow(1) => f.write_str("a failure"),
            Self::InARow(failures) => write!(f, "{failures} failures in a row"),
            Self::Failed(totals) => write!(f, "{} of {} calls failed", totals.failed, totals.calls),
            Self::Slow(totals) => write!(f, "{} of {} calls were slow", totals.slow, totals.calls),
            Self::Probe => f.write_str("a probe failed"),
        }
    }
}

/// Proof of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) generation: Generation,
}

/// For how long a call is refused; `None` where the end is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) retry_after: Option<Duration>,
}

impl Refused {
    pub(super) const UNTIL_SOMEONE_ACTS: Self = Self { retry_after: None };

    pub(super) const fn for_millis(millis: u64) -> Self {
        Self { retry_after: Some(Duration::from_millis(millis)) }
    }
}

/// What became of an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recorded {
    Counted(Option<Transition>),
    /// The ticket is of an older generation.
    Late,
    /// The circuit is disabled.
    Unmeasured,
}

//! The calls by which a ratio is judged: the last so many, or those of the last so many seconds.
//!
//! Both kinds slide, cost O(1) a call, and take no lock. Neither is ever cleared: what they hold is marked with the
//! generation of the circuit that it belongs to, so that a new generation finds them empty, and a late caller of an old one
//! cannot write into it.

use super::{buckets::Buckets, ring::Ring, word::Generation};
use crate::{
    Policy,
    sync::{Ordering::SeqCst, fence},
    window::Kind,
};

/// What is in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) slow: u64,
}

/// One call as a window sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) failed: bool,
    pub(crate) slow: bool,
}

impl Call {
    const fn is_good(self) -> bool {
        !self.failed && !self.slow
    }
}

/// The calls that are in the window now.
#[derive(Debug)]
pub(crate) enum Calls {
    Unjudged,
    Last(Ring),
    Recent(Buckets),
}

impl Calls {
    pub(crate) fn new(policy: &Policy) -> Self {
        match policy.window.kind {
            _ if !policy.has_window() => Self::Unjudged,
            Kind::Calls(calls) => Self::Last(Ring::new(calls)),
            Kind::Time { span, buckets } => Self::Recent(Buckets::new(span, buckets)),
        }
    }

    /// Counts the call with this `number`, which no other has. Gives the totals with it if it was not good: good calls
    /// trip nothing.
    #[inline]
    pub(crate) fn count(
        &self,
        generation: Generation,
        number: u64,
        call: Call,
        now: impl FnOnce() -> u64,
    ) -> Option<Totals> {
        match self {
            Self::Unjudged => None,
            Self::Last(ring) => {
                ring.put(generation, number, call);
                (!call.is_good()).then(|| ring.totals(generation))
            }
            Self::Recent(buckets) => {
                let at = buckets.at(generation, now());
                buckets.add(at, call);
                (!call.is_good()).then(|| {
                    // Of two callers whose calls fail at once, one at least must see both.
                    fence(SeqCst);
                    buckets.totals(at)
                })
            }
        }
    }

    /// What is in the window of this generation at `now`.
    pub(crate) fn totals(&self, generation: Generation, now: impl FnOnce() -> u64) -> Totals {
        match self {
            Self::Unjudged => Totals::default(),
            Self::Last(ring) => ring.totals(generation),
            Self::Recent(buckets) => buckets.totals(buckets.at(generation, now())),
        }
    }

    /// Of a window of calls: how many fit.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Last(ring) => ring.size(),
            _ => u64::MAX,
        }
    }
}

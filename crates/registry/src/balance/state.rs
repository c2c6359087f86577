//! What is known of the readiness of an endpoint's service.

use crate::sync::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// What is known of the readiness of the current service of an endpoint. It is kept with the load, so that a call needs no more than that.
///
/// ```text
/// bit 63      40 39    8 7     0
///     [ unused ] [ epoch ] [ state ]
/// ```
#[derive(Debug)]
pub(crate) struct State(AtomicU64);

/// Nobody asked whether it is ready.
const IDLE: u8 = 0;
/// Somebody other than a call asks.
const CONNECTING: u8 = 1;
const READY: u8 = 2;
/// Its readiness failed before it had ever been ready: the next set has another one.
const NEVER_READY: u8 = 3;
/// Its readiness failed after it had been ready.
const BROKEN: u8 = 4;

/// How a service ended whose readiness failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    AfterReady,
    NeverReady,
}

impl State {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    const fn word(epoch: u32, state: u8) -> u64 {
        (epoch as u64) << 8 | state as u64
    }

    #[inline]
    fn is(&self, epoch: u32, state: u8) -> bool {
        self.0.load(Relaxed) == Self::word(epoch, state)
    }

    /// Changes the state of the service of this epoch. One that was replaced has none any more, and one of which nothing
    /// was heard is idle.
    fn step(&self, epoch: u32, next: impl Fn(u8) -> Option<u8>) -> bool {
        let word = |word: u64| {
            let state = match ((word >> 8) as u32).wrapping_sub(epoch) as i32 {
                0 => word as u8,
                ..0 => IDLE,
                1.. => return None,
            };
            Some(Self::word(epoch, next(state)?))
        };
        self.0.fetch_update(AcqRel, Acquire, word).is_ok()
    }

    #[inline]
    pub(crate) fn is_ready(&self, epoch: u32) -> bool {
        self.is(epoch, READY)
    }

    #[inline]
    pub(crate) fn is_connecting(&self, epoch: u32) -> bool {
        self.is(epoch, CONNECTING)
    }

    /// How this service ended; `None` if it did not, if its replacement is at work already, or if nothing was heard of it.
    pub(crate) fn ended(&self, epoch: u32) -> Option<Ended> {
        let word = self.0.load(Acquire);
        match word as u8 {
            _ if word >> 8 != u64::from(epoch) => None,
            BROKEN => Some(Ended::AfterReady),
            NEVER_READY => Some(Ended::NeverReady),
            _ => None,
        }
    }

    /// Somebody begins to ask whether it is ready; whether nobody has before.
    pub(crate) fn begin_to_connect(&self, epoch: u32) -> bool {
        self.step(epoch, |state| (state == IDLE).then_some(CONNECTING))
    }

    /// Nobody asks any more.
    pub(crate) fn give_up_connecting(&self, epoch: u32) {
        self.step(epoch, |state| (state == CONNECTING).then_some(IDLE));
    }

    #[inline]
    pub(crate) fn was_ready(&self, epoch: u32) {
        if !self.is(epoch, READY) {
            // One that broke meanwhile stays broken.
            self.step(epoch, |state| (state < READY).then_some(READY));
        }
    }

    /// The readiness of the service failed, so it must not be used any more.
    pub(crate) fn broke(&self, epoch: u32) {
        self.step(epoch, |state| match state {
            READY => Some(BROKEN),
            IDLE | CONNECTING => Some(NEVER_READY),
            _ => None,
        });
    }
}

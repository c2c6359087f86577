//! One endpoint: its service, and a call to it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    time::Duration,
};

use crate::{
    Instance, MakeEndpoint, Needs,
    balance::{
        ejection::nanos,
        hash::chance,
        load::{Load, Seat},
        set::Now,
    },
};

/// The service of an instance, made when it is first needed.
pub(crate) struct Connection<S> {
    service: OnceLock<S>,
    pub(crate) seat: Arc<Seat>,
    /// Which service of its endpoint this is.
    epoch: u32,
    /// How many services before it broke in a row, without any having been ready.
    breaks: u32,
    /// Is not to be used before that, in nanoseconds.
    rests_until: u64,
}

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

impl State {
    pub(crate) const fn new() -> Self {
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

impl<S> Connection<S> {
    /// The rest after a second failure in a row; the first gets none, for most often there is nothing but a connection to renew.
    const FIRST_REST: Duration = Duration::from_millis(100);
    const LONGEST_REST: Duration = Duration::from_secs(10);

    pub(crate) const fn new(seat: Arc<Seat>) -> Self {
        Self { service: OnceLock::new(), seat, epoch: 0, breaks: 0, rests_until: 0 }
    }

    /// What comes in the place of one that is broken.
    pub(crate) fn replacement(&self, now: u64) -> Option<Arc<Self>> {
        let word = self.seat.state.0.load(Acquire);
        let breaks = match word as u8 {
            // Its replacement is at work already, or nothing was heard of it.
            _ if word >> 8 != u64::from(self.epoch) => return None,
            BROKEN => 1,
            NEVER_READY => self.breaks.saturating_add(1),
            _ => return None,
        };
        let rest = match breaks {
            0 | 1 => Duration::ZERO,
            _ => rest(Self::FIRST_REST, Self::LONGEST_REST, breaks - 2, chance()),
        };
        let rests_until = if rest.is_zero() { 0 } else { now.saturating_add(nanos(rest)) };
        let epoch = self.epoch.wrapping_add(1);
        // Another service, but the same endpoint: its failures still count.
        Some(Arc::new(Self { epoch, breaks, rests_until, ..Self::new(self.seat.clone()) }))
    }

    #[inline]
    pub(crate) fn service<M: MakeEndpoint<Service = S>>(&self, make: &M, of: &Instance) -> &S {
        if let Some(service) = self.service.get() {
            return service;
        }
        // Not within `get_or_init`, which would make other callers wait for the maker's code.
        let made = make.make(of);
        self.service.get_or_init(|| made)
    }

    /// Until when it rests, 0 if it does not.
    #[inline]
    pub(crate) fn rests_until(&self, now: impl FnOnce() -> u64) -> u64 {
        if self.rests_until != 0 && now() < self.rests_until { self.rests_until } else { 0 }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.seat.state.is(self.epoch, READY)
    }

    #[inline]
    pub(crate) fn is_connecting(&self) -> bool {
        self.seat.state.is(self.epoch, CONNECTING)
    }

    /// Somebody begins to ask whether it is ready; whether nobody has before.
    pub(crate) fn begin_to_connect(&self) -> bool {
        self.seat.state.step(self.epoch, |state| (state == IDLE).then_some(CONNECTING))
    }

    /// Nobody asks any more.
    pub(crate) fn give_up_connecting(&self) {
        self.seat.state.step(self.epoch, |state| (state == CONNECTING).then_some(IDLE));
    }

    pub(crate) const fn epoch(&self) -> u32 {
        self.epoch
    }
}

/// Doubles from `first` up to `longest`, of which at least half is waited.
fn rest(first: Duration, longest: Duration, doublings: u32, chance: u64) -> Duration {
    let span = first.saturating_mul(1 << doublings.min(20)).min(longest);
    span.mul_f64(0.5 + (chance >> 32) as f64 / (1_u64 << 33) as f64)
}

/// A call under way. Dropping it takes the call off the endpoint's load.
pub(crate) struct InFlight {
    load: Arc<Load>,
    /// When it began, if its latency is measured.
    since: u64,
    epoch: u32,
    /// Over how many seconds latencies are forgotten; 0 if they are not measured, or this one was.
    memory: f32,
    in_total: bool,
}

impl InFlight {
    #[inline]
    pub(crate) fn begin(seat: &Seat, epoch: u32, needs: Needs, now: &Now<'_>) -> Self {
        let load = seat.take();
        if needs.total_pending {
            load.enter_total();
        }
        let (since, memory) = match needs.latency {
            Some(memory) => (now.nanos(), memory.as_secs_f32().max(f32::MIN_POSITIVE)),
            None => (0, 0.0),
        };
        Self { load, since, epoch, memory, in_total: needs.total_pending }
    }

    pub(crate) fn load(&self) -> &Load {
        &self.load
    }

    #[inline]
    pub(crate) fn was_ready(&self) {
        self.load.state.was_ready(self.epoch);
    }

    pub(crate) fn broke(&self) {
        self.load.state.broke(self.epoch);
    }

    /// The endpoint answered, or its readiness failed.
    #[inline]
    pub(crate) fn settle(&mut self, failed: bool) {
        self.load.note(failed, || self.load.clock.nanos());
        self.measure(failed);
    }

    #[inline]
    fn measure(&mut self, failed: bool) {
        if self.memory > 0.0 {
            let now = self.load.clock.nanos();
            self.load.measured(now.saturating_sub(self.since), failed, now, self.memory);
            self.memory = 0.0;
        }
    }
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        // A caller who went away because it took too long tells that it is slow, but not that it is fast.
        self.measure(true);
        if self.in_total {
            self.load.leave_total();
        }
    }
}

/// The endpoint's code is running. Should it panic, the call is over at once and has failed, even where someone catches the
/// panic before the future is dropped.
pub(crate) struct AtWork<'a>(Option<&'a mut Option<InFlight>>);

impl<'a> AtWork<'a> {
    #[inline]
    pub(crate) const fn new(flight: &'a mut Option<InFlight>) -> Self {
        Self(Some(flight))
    }

    /// It did not panic.
    #[inline]
    pub(crate) fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for AtWork<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(mut flight) = self.0.take().and_then(Option::take) {
            flight.settle(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gusset_call::Clock;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn connection() -> Connection<()> {
        Connection::new(Seat::new(Load::new(0, Arc::default(), Clock::new())))
    }

    #[test]
    fn one_that_was_ready_is_replaced_at_once_and_one_that_never_was_rests_from_the_second_time_on()
    {
        let first = connection();
        let state = &first.seat.state;
        assert!(first.replacement(SECOND).is_none(), "it is well");
        state.was_ready(0);
        state.broke(0);
        let second = first.replacement(SECOND).unwrap();
        assert_eq!(second.rests_until, 0);
        state.broke(1);
        state.was_ready(1);
        let third = second.replacement(SECOND).unwrap();
        let rest = third.rests_until - SECOND;
        assert!((SECOND / 20..=SECOND / 10).contains(&rest), "{rest}");
        assert_eq!(third.rests_until(|| third.rests_until), 0, "it is over");
    }

    #[test]
    fn failures_of_all_services_are_those_of_the_endpoint() {
        let first = connection();
        first.seat.note(true, || SECOND);
        first.seat.state.broke(0);
        let second = first.replacement(SECOND).unwrap();
        assert!(Arc::ptr_eq(&first.seat, &second.seat));
    }

    #[test]
    fn a_late_call_of_an_old_service_breaks_no_new_one() {
        let first = connection();
        first.seat.state.0.store(State::word(7, READY), Relaxed);
        first.seat.state.broke(6);
        assert!(first.seat.state.is(7, READY));
    }

    proptest! {
        #[test]
        fn a_rest_is_at_most_the_longest_and_at_least_half_of_what_is_due(doublings: u32, chance: u64) {
            let (first, longest) = (Duration::from_millis(100), Duration::from_secs(10));
            let rest = rest(first, longest, doublings, chance);
            prop_assert!(rest >= first / 2 && rest <= longest);
            prop_assert!(doublings < 7 || rest >= longest / 2);
        }
    }
}

//! One endpoint: its service, and what comes in its place when that breaks.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use crate::{
    Instance, MakeEndpoint,
    balance::{hash::chance, hub::nanos, load::Seat, state::Ended},
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

impl<S> Connection<S> {
    /// The rest after a second failure in a row; the first gets none, for most often there is nothing but a connection to renew.
    const FIRST_REST: Duration = Duration::from_millis(100);
    const LONGEST_REST: Duration = Duration::from_secs(10);

    pub(crate) const fn new(seat: Arc<Seat>) -> Self {
        Self { service: OnceLock::new(), seat, epoch: 0, breaks: 0, rests_until: 0 }
    }

    /// What comes in the place of one that is broken.
    pub(crate) fn replacement(&self, now: u64) -> Option<Arc<Self>> {
        let breaks = match self.seat.state.ended(self.epoch)? {
            Ended::AfterReady => 1,
            Ended::NeverReady => self.breaks.saturating_add(1),
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

    pub(crate) fn made(&self) -> Option<&S> {
        self.service.get()
    }

    /// Until when it rests, 0 if it does not.
    #[inline]
    pub(crate) fn rests_until(&self, now: impl FnOnce() -> u64) -> u64 {
        if self.rests_until != 0 && now() < self.rests_until { self.rests_until } else { 0 }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.seat.state.is_ready(self.epoch)
    }

    #[inline]
    pub(crate) fn is_connecting(&self) -> bool {
        self.seat.state.is_connecting(self.epoch)
    }

    /// Somebody begins to ask whether it is ready; whether nobody has before.
    pub(crate) fn begin_to_connect(&self) -> bool {
        self.seat.state.begin_to_connect(self.epoch)
    }

    /// Nobody asks any more.
    pub(crate) fn give_up_connecting(&self) {
        self.seat.state.give_up_connecting(self.epoch);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{hub::Hub, load::Load, state::State};
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn connection() -> Connection<()> {
        Connection::new(Seat::new(Load::new(0, Hub::new(None))))
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
        first.seat.ended(true);
        first.seat.state.broke(0);
        let second = first.replacement(SECOND).unwrap();
        assert!(Arc::ptr_eq(&first.seat, &second.seat));
    }

    #[test]
    fn a_late_call_of_an_old_service_breaks_no_new_one() {
        let state = State::new();
        (0..7).for_each(|epoch| state.broke(epoch));
        state.was_ready(7);
        state.broke(6);
        assert!(state.is_ready(7) && state.ended(6).is_none());
    }

    #[test]
    fn epochs_may_begin_anew() {
        let state = State::new();
        for epoch in [u32::MAX / 2, u32::MAX, 0] {
            state.was_ready(epoch);
            assert!(state.is_ready(epoch));
        }
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

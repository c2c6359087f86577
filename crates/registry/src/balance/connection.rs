//! One endpoint: its service, and a call to it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU8,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use gusset_call::Clock;

use crate::{
    Instance, MakeEndpoint, Needs,
    balance::{ejection::nanos, hash::chance, load::Load},
};

/// The service of an instance, made when it is first needed.
pub(crate) struct Connection<S> {
    service: OnceLock<S>,
    pub(crate) load: Arc<Load>,
    clock: Clock,
    state: AtomicU8,
    /// How many services before it broke in a row, without any having been ready.
    breaks: u32,
    /// Is not to be used before that, in nanoseconds.
    rests_until: u64,
}

/// Nobody asked whether it is ready.
const IDLE: u8 = 0;
/// Somebody other than a call asks.
const CONNECTING: u8 = 1;
const READY: u8 = 2;
/// Its readiness failed before it had ever been ready: the next set has another one.
const NEVER_READY: u8 = 3;
/// Its readiness failed after it had been ready.
const BROKEN: u8 = 4;

impl<S> Connection<S> {
    /// The rest after a second failure in a row; the first gets none, for most often there is nothing but a connection to renew.
    const FIRST_REST: Duration = Duration::from_millis(100);
    const LONGEST_REST: Duration = Duration::from_secs(10);

    pub(crate) const fn new(load: Arc<Load>, clock: Clock) -> Self {
        Self {
            service: OnceLock::new(),
            load,
            clock,
            state: AtomicU8::new(IDLE),
            breaks: 0,
            rests_until: 0,
        }
    }

    /// What comes in the place of one that is broken.
    pub(crate) fn replacement(&self, clock: &Clock, now: u64) -> Option<Arc<Self>> {
        let breaks = match self.state.load(Acquire) {
            BROKEN => 1,
            NEVER_READY => self.breaks.saturating_add(1),
            _ => return None,
        };
        let rest = match breaks {
            0 | 1 => Duration::ZERO,
            _ => rest(Self::FIRST_REST, Self::LONGEST_REST, breaks - 2, chance()),
        };
        let rests_until = if rest.is_zero() { 0 } else { now.saturating_add(nanos(rest)) };
        // Another service, but the same endpoint: its failures still count.
        let fresh = Self::new(self.load.clone(), clock.clone());
        Some(Arc::new(Self { breaks, rests_until, ..fresh }))
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
        self.state.load(Relaxed) == READY
    }

    #[inline]
    pub(crate) fn is_connecting(&self) -> bool {
        self.state.load(Relaxed) == CONNECTING
    }

    /// Somebody begins to ask whether it is ready; whether nobody has before.
    pub(crate) fn begin_to_connect(&self) -> bool {
        self.state.compare_exchange(IDLE, CONNECTING, Relaxed, Relaxed).is_ok()
    }

    /// Nobody asks any more.
    pub(crate) fn give_up_connecting(&self) {
        let _ = self.state.compare_exchange(CONNECTING, IDLE, Relaxed, Relaxed);
    }

    #[inline]
    pub(crate) fn was_ready(&self) {
        if !self.is_ready() {
            let ready = |state| (state < READY).then_some(READY);
            // One that broke meanwhile stays broken.
            let _ = self.state.fetch_update(Relaxed, Relaxed, ready);
        }
    }

    /// Its readiness failed, so the service must not be used any more.
    pub(crate) fn broke(&self) {
        let broken = |state| match state {
            READY => Some(BROKEN),
            IDLE | CONNECTING => Some(NEVER_READY),
            _ => None,
        };
        let _ = self.state.fetch_update(Release, Relaxed, broken);
    }
}

/// Doubles from `first` up to `longest`, of which at least half is waited.
fn rest(first: Duration, longest: Duration, doublings: u32, chance: u64) -> Duration {
    let span = first.saturating_mul(1 << doublings.min(20)).min(longest);
    span.mul_f64(0.5 + (chance >> 32) as f64 / (1_u64 << 33) as f64)
}

/// A call under way. Dropping it takes the call off the endpoint's load.
pub(crate) struct InFlight<S> {
    connection: Arc<Connection<S>>,
    needs: Needs,
    /// When it began, if its latency is measured.
    since: u64,
    /// The endpoint's code is running, so a panic is that of the endpoint.
    at_work: bool,
}

impl<S> InFlight<S> {
    #[inline]
    pub(crate) fn begin(connection: Arc<Connection<S>>, needs: Needs, since: u64) -> Self {
        connection.load.begin(needs.total_pending);
        Self { connection, needs, since, at_work: false }
    }

    pub(crate) fn connection(&self) -> &Connection<S> {
        &self.connection
    }

    /// Marks it while the endpoint's code runs.
    #[inline]
    pub(crate) const fn at_work(mut self, at_work: bool) -> Self {
        self.at_work = at_work;
        self
    }

    /// The endpoint answered, or its readiness failed.
    #[inline]
    pub(crate) fn settle(&mut self, failed: bool) {
        self.at_work = false;
        let Connection { load, clock, .. } = &*self.connection;
        load.note(failed, || clock.nanos());
        if let Some(memory) = self.needs.latency {
            let now = clock.nanos();
            load.measured(now.saturating_sub(self.since), failed, now, memory);
        }
    }
}

impl<S> Drop for InFlight<S> {
    #[inline]
    fn drop(&mut self) {
        self.connection.load.end(self.needs.total_pending);
        if self.at_work && std::thread::panicking() {
            self.settle(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn connection() -> Connection<()> {
        Connection::new(Arc::new(Load::new(0, Arc::default())), Clock::new())
    }

    #[test]
    fn one_that_was_ready_is_replaced_at_once_and_one_that_never_was_rests_from_the_second_time_on()
    {
        let clock = Clock::new();
        let first = connection();
        assert!(first.replacement(&clock, SECOND).is_none(), "it is well");
        first.was_ready();
        first.broke();
        let second = first.replacement(&clock, SECOND).unwrap();
        assert_eq!(second.rests_until, 0);
        second.broke();
        second.was_ready();
        let third = second.replacement(&clock, SECOND).unwrap();
        let rest = third.rests_until - SECOND;
        assert!((SECOND / 20..=SECOND / 10).contains(&rest), "{rest}");
        assert_eq!(third.rests_until(|| third.rests_until), 0, "it is over");
    }

    #[test]
    fn failures_of_all_services_are_those_of_the_endpoint() {
        let first = connection();
        first.load.note(true, || SECOND);
        first.broke();
        let second = first.replacement(&Clock::new(), SECOND).unwrap();
        assert!(Arc::ptr_eq(&first.load, &second.load));
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

//! A call under way.

use std::sync::Arc;

use crate::{
    Needs,
    balance::{
        load::{Load, Seat},
        set::Now,
    },
};

/// A call under way. Dropping it takes the call off the endpoint's load.
pub(crate) struct InFlight {
    load: Arc<Load>,
    /// When it began, if its latency is measured.
    since: u64,
    epoch: u32,
    /// Over how many seconds latencies are forgotten; 0 if they are not measured, or this one was.
    memory: f32,
    in_total: InTotal,
}

/// Whether it counts among the calls under way at all endpoints.
// As large as its alignment: a byte with padding behind it is copied in pieces, and reading them as one word stalls the processor in each call.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum InTotal {
    No,
    Yes,
}

impl InFlight {
    #[inline]
    pub(crate) fn begin(seat: &Seat, epoch: u32, needs: Needs, now: &Now<'_>) -> Self {
        let load = seat.take();
        let in_total = if needs.total_pending {
            load.hub.enter_total();
            InTotal::Yes
        } else {
            InTotal::No
        };
        let (since, memory) = match needs.latency {
            Some(memory) => (now.nanos(), memory.as_secs_f32().max(f32::MIN_POSITIVE)),
            None => (0, 0.0),
        };
        Self { load, since, epoch, memory, in_total }
    }

    #[inline]
    pub(crate) fn was_ready(&self) {
        self.load.state.was_ready(self.epoch);
    }

    /// The readiness of the service failed, which counts as a failure of the endpoint.
    #[cold]
    pub(crate) fn broke(mut self) {
        self.load.broke(self.epoch);
        self.settle(true);
    }

    /// The endpoint answered, or failed to.
    #[inline]
    pub(crate) fn settle(&mut self, failed: bool) {
        self.load.ended(failed);
        self.measure(failed);
    }

    #[inline]
    fn measure(&mut self, failed: bool) {
        if self.memory > 0.0 {
            let now = self.load.hub.now();
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
        if self.in_total == InTotal::Yes {
            self.load.hub.leave_total();
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

//! Waiting for one's tokens.

use std::{future::Future, time::Duration};

use tokio::time::sleep;

use crate::{Level, bucket::Place, gcra::Unmet, limiter::Shared};

/// What a caller holds that has come to the front of the queue, or waits there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    place: Place,
    generation: u64,
    /// Whether it counts among those who wait.
    waits: bool,
}

impl Shared {
    /// Longer waits are refused: the ticks of the queue must stay within the clock.
    const MAX_WAIT: Duration = Duration::from_secs(365 * 24 * 3600);

    /// From now until that turn.
    pub(crate) fn ready_in(&self, turn: &Turn) -> Duration {
        // Not longer than was promised, even if the clock has gone back since.
        turn.place.wait_from(self.clock.nanos()).min(turn.place.wait())
    }

    pub(crate) fn queue(&self, cost: u32, max_wait: Duration) -> Result<Turn, Unmet> {
        let refuse = |refused| {
            self.counters.count_refused();
            Err(refused)
        };
        let clock = || self.clock.nanos();
        // Before the place is taken: if the quota changes in between, the place is taken for older than it is.
        let generation = self.bucket.generation();
        let mut refused = match self.bucket.take(cost, clock, Duration::ZERO) {
            Ok(place) => return Ok(Turn { place, generation, waits: false }),
            Err(refused) => refused,
        };
        let acceptable =
            |refused: &Unmet| refused.wait().filter(|wait| *wait <= max_wait.min(Self::MAX_WAIT));
        let Some(mut wait) = acceptable(&refused) else { return refuse(refused) };
        let waiters = self.bucket.waiters();
        if !waiters.enter() {
            self.counters.count_queue_full();
            return refuse(refused);
        }
        loop {
            waiters.expect(wait);
            refused = match self.bucket.take(cost, clock, wait) {
                Ok(place) => return Ok(Turn { place, generation, waits: true }),
                // Others were faster, and the wait is longer than thought.
                Err(refused) => refused,
            };
            let Some(longer) = acceptable(&refused) else {
                self.bucket.leave(clock());
                return refuse(refused);
            };
            wait = longer;
        }
    }

    pub(crate) fn used(&self, turn: &Turn) -> Level {
        if turn.waits {
            self.bucket.leave(self.clock.nanos());
        }
        self.counters.count_allowed();
        self.peek()
    }

    pub(crate) fn given_up(&self, turn: &Turn) {
        self.bucket.give_back(&turn.place, turn.generation, self.clock.nanos());
        if turn.waits {
            self.bucket.leave(self.clock.nanos());
        }
    }

    pub(crate) async fn until_ready(&self, cost: u32, max_wait: Duration) -> Result<Level, Unmet> {
        let held = Held { shared: self, turn: self.queue(cost, max_wait)? };
        self.turn_comes(&held.turn).await;
        // What was taken is used.
        let Held { turn, .. } = *std::mem::ManuallyDrop::new(held);
        Ok(self.used(&turn))
    }

    pub(crate) fn turn_comes(&self, turn: &Turn) -> impl Future<Output = ()> + use<> {
        let wait = self.ready_in(turn);
        async move {
            if !wait.is_zero() {
                sleep(wait).await;
            }
        }
    }
}

/// A turn that is given up on drop.
struct Held<'a> {
    shared: &'a Shared,
    turn: Turn,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.shared.given_up(&self.turn);
    }
}

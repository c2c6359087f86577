use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{Level, limiter::Shared, turn::Turn};

/// Tokens that are taken, and will be due. Made by [`RateLimiter::reserve`](crate::RateLimiter::reserve).
///
/// ```
/// # use std::time::Duration;
/// # use gusset_ratelimit::{Quota, RateLimiter};
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
/// let limiter = RateLimiter::new(Quota::per_second(10).burst(1));
/// limiter.check().unwrap();
/// let letter = limiter.reserve(1, Duration::from_secs(1)).unwrap();
/// assert_eq!(letter.ready_in(), Duration::from_millis(100));
/// // Time to write it; then
/// letter.ready().await;
/// # });
/// ```
///
/// Dropped before it is used, it gives its tokens back, at once if nobody waits, and otherwise as
/// [`until_ready`](crate::RateLimiter::until_ready) does when it is dropped. Until it is used or dropped, it counts as a waiter if it had to wait.
#[must_use = "dropped, it gives its tokens back"]
pub struct Reservation {
    shared: Arc<Shared>,
    /// None once it is used.
    turn: Option<Turn>,
}

impl Reservation {
    pub(crate) const fn new(shared: Arc<Shared>, turn: Turn) -> Self {
        Self { shared, turn: Some(turn) }
    }

    /// How long from now until the tokens are due; zero once they are.
    #[must_use]
    pub fn ready_in(&self) -> Duration {
        self.turn.map_or(Duration::ZERO, |turn| self.shared.ready_in(&turn))
    }

    /// When the tokens are due; now if they have been for some time.
    #[must_use]
    pub fn ready_at(&self) -> Instant {
        Instant::now() + self.ready_in()
    }

    /// Uses the tokens when they are due: sleeps once.
    ///
    /// # Panics
    ///
    /// If it has to wait outside of a tokio runtime with time enabled.
    ///
    /// # Cancellation
    ///
    /// Dropping the future before it is ready gives the tokens back.
    pub async fn ready(mut self) -> Level {
        if let Some(turn) = &self.turn {
            self.shared.turn_comes(turn).await;
        }
        self.spend()
    }

    /// Uses the tokens: they are spent whatever comes. Whoever does what they stand for before [`ready_in`](Self::ready_in) has passed exceeds the quota.
    pub fn commit(mut self) {
        self.spend();
    }

    fn spend(&mut self) -> Level {
        match self.turn.take() {
            Some(turn) => self.shared.used(&turn),
            None => self.shared.peek(),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            self.shared.given_up(&turn);
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation").field("ready_in", &self.ready_in()).finish_non_exhaustive()
    }
}

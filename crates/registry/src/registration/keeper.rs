use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::watch,
    time::{Instant, error::Elapsed, timeout},
};

use super::{RegistrationState, Wish};
use crate::{Error, Health, Instance, Registry};

/// The task: brings the registry's view in line with the wish, again and again.
pub(super) struct Keeper<R> {
    pub(super) registry: R,
    pub(super) ttl: Duration,
    pub(super) instance: Arc<Instance>,
    pub(super) wished: watch::Receiver<Wish>,
    pub(super) state: Told,
    pub(super) error: Arc<ArcSwapOption<Error>>,
    /// What the registry was told last, as far as it is believed to remember.
    pub(super) known: Option<Wish>,
    pub(super) failures: u32,
}

/// Tells `Ended` however the task ends, by the end of the runtime as well.
pub(super) struct Told(pub(super) watch::Sender<RegistrationState>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.send_replace(RegistrationState::Ended);
    }
}

impl<R: Registry> Keeper<R> {
    pub(super) async fn run(mut self) -> Result<(), Error> {
        loop {
            let wish = self.wish();
            if wish == Wish::Gone {
                return self.leave().await;
            }
            let pause = self.step(wish).await.max(Duration::from_millis(1));
            // Ends early when the wish changes or its sender is gone.
            let _ = timeout(pause, self.wished.changed()).await;
        }
    }

    fn wish(&mut self) -> Wish {
        let abandoned = self.wished.has_changed().is_err();
        if abandoned { Wish::Gone } else { *self.wished.borrow_and_update() }
    }

    /// One attempt. Returns how long to wait before the next.
    async fn step(&mut self, wish: Wish) -> Duration {
        match self.bring_about(wish).await {
            Ok(()) => {
                if std::mem::take(&mut self.failures) > 0 {
                    let (service, id) = (&*self.instance.service, &*self.instance.id);
                    tracing::info!(service, id, "registered again");
                }
                self.tell(if wish == Wish::Draining {
                    RegistrationState::Draining
                } else {
                    RegistrationState::Registered
                });
                self.error.store(None);
                self.interval()
            }
            Err(error) => self.failed(error),
        }
    }

    fn failed(&mut self, error: Error) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let refused = error.is_refusal();
        let (service, id) = (&*self.instance.service, &*self.instance.id);
        let cause = &error as &dyn std::error::Error;
        // Hours of outage are one warning.
        if self.failures > 1 {
            tracing::debug!(service, id, cause, "still not registered");
        } else if refused {
            tracing::error!(service, id, cause, "the registry refuses the instance");
        } else {
            tracing::warn!(service, id, cause, "registry out of reach, trying again");
        }
        self.error.store(Some(Arc::new(error)));
        if refused {
            self.known = None;
            self.tell(RegistrationState::Lost);
            return self.interval();
        }
        if !matches!(*self.state.0.borrow(), RegistrationState::Retrying { .. }) {
            self.tell(RegistrationState::Retrying { since: Instant::now() });
        }
        backoff(self.ttl, self.failures).mul_f64(rand::random_range(0.5..=1.0))
    }

    fn interval(&self) -> Duration {
        (self.ttl / 3).mul_f64(rand::random_range(0.8..=1.0))
    }

    async fn bring_about(&mut self, wish: Wish) -> Result<(), Error> {
        let Instance { service, id, .. } = &*self.instance;
        if let Some(known) = self.known {
            let answer = if known == wish {
                self.bounded(async { self.registry.heartbeat(self.instance.key()).await }).await
            } else {
                self.bounded(async { self.registry.drain(self.instance.key()).await }).await
            };
            match answer {
                Err(error) if error.is_not_found() => {
                    tracing::info!(service = &**service, id = &**id, "forgotten by the registry");
                    self.known = None;
                }
                Ok(()) => {
                    self.known = Some(wish);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        let draining = wish == Wish::Draining;
        let health = if draining { Health::Draining } else { Health::Healthy };
        let instance = Instance::clone(&self.instance).with_health(health);
        self.bounded(async { self.registry.register(instance).await }).await?;
        self.known = Some(wish);
        Ok(())
    }

    async fn leave(&mut self) -> Result<(), Error> {
        // Draining is a courtesy; what matters is that the second is tried whatever comes of the first.
        if self.known == Some(Wish::Serving) {
            let _ = self.bounded(async { self.registry.drain(self.instance.key()).await }).await;
        }
        match self.bounded(async { self.registry.deregister(self.instance.key()).await }).await {
            // Somebody younger has the place: ours is given up already.
            Err(error) if error.is_not_found() || error.is_refusal() => Ok(()),
            answer => answer,
        }
    }

    /// A registry that hangs must not stop the heartbeat for good, and neither must one that panics.
    async fn bounded(&self, answer: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        let mut answer = pin!(answer);
        let caught = poll_fn(|cx| {
            // After a panic the future is dropped, and nothing else of it is looked at.
            catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))).unwrap_or_else(|_| {
                Poll::Ready(Err(Error::Unavailable("the engine panicked".into())))
            })
        });
        let unavailable = |elapsed: Elapsed| Error::Unavailable(elapsed.into());
        timeout(self.ttl / 6, caught).await.map_err(unavailable)?
    }

    fn tell(&self, state: RegistrationState) {
        self.state.0.send_if_modified(|present| std::mem::replace(present, state) != state);
    }
}

/// The system's time, as nothing else is higher after a restart; and higher than the last of this process. Should that clock be set back
/// before a restart, the new run is refused until the old one has been silent for the TTL, and then taken.
#[allow(clippy::disallowed_methods, reason = "it has to be comparable between processes")]
pub(super) fn next_incarnation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX / 2);
    let next = |last: u64| now.max(last.saturating_add(1));
    let last = LAST.fetch_update(Relaxed, Relaxed, |last| Some(next(last)));
    last.map_or(now, next)
}

fn backoff(ttl: Duration, failures: u32) -> Duration {
    let doubled = 1 << failures.saturating_sub(1).min(16);
    (ttl / 300).saturating_mul(doubled).min(ttl / 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_a_sixth_of_the_ttl() {
        let ttl = Duration::from_secs(30);
        let pauses: Vec<_> = (1..=8).map(|failures| backoff(ttl, failures).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(backoff(ttl, u32::MAX), Duration::from_secs(5));
        assert_eq!(backoff(Duration::MAX, 1), Duration::MAX / 300);
    }
}

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
    task::JoinHandle,
    time::{Instant, error::Elapsed, sleep, timeout},
};

use crate::{Error, Health, Instance, Registry};

/// Keeps an instance registered for as long as it lives.
///
/// A task of its own sends heartbeats, each after a third of the TTL or up to a fifth less, so that many
/// do not beat in step. When the registry has forgotten the instance, the task registers it again at once; when the registry
/// fails or does not answer within a sixth of the TTL, it tries again after a pause that doubles from 1/300 to a sixth
/// of the TTL, of which half is random. It never gives up, not even on an engine that panics.
///
/// Dropping it deregisters on a best-effort basis: the task tries once and ends. Use [`Registration::close`] to know.
///
/// ```
/// use gusset_registry::{Instance, MemoryRegistry, Registration, Registry};
///
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let registry = MemoryRegistry::default();
/// let registration = Registration::spawn(registry.clone(), Instance::new("cart", "10.0.0.7", 8080));
/// registration.registered().await;
/// assert_eq!(registry.discover("cart").await.unwrap().instances().len(), 1);
///
/// registration.close().await.unwrap();
/// assert!(registry.discover("cart").await.is_err());
/// # });
/// ```
#[derive(Debug)]
pub struct Registration {
    ttl: Duration,
    instance: Arc<Instance>,
    /// What the task is to bring about. Its end means the same as `Gone`.
    wish: watch::Sender<Wish>,
    state: watch::Receiver<RegistrationState>,
    error: Arc<ArcSwapOption<Error>>,
    task: JoinHandle<Result<(), Error>>,
}

/// What became of a [`Registration`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegistrationState {
    /// The registry does not know the instance yet, or cannot be reached: the task is trying.
    Retrying {
        /// Since when.
        since: Instant,
    },
    /// The registry answered the last time it was asked.
    Registered,
    /// The same, and callers were told not to use the instance any more.
    Draining,
    /// The registry answers, and will not have it: a younger run of the same id is registered, or the instance
    /// [cannot be](Instance::validate), or the registry is full. [`Registration::last_error`] says which. The task asks again with each heartbeat.
    Lost,
    /// The task has ended: closed, or the runtime is shutting down.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Serving,
    Draining,
    Gone,
}

impl Registration {
    /// Spawns the task that registers `instance` as healthy and keeps it so. Its [incarnation](Instance::incarnation), if it states
    /// none, is the time in microseconds since 1970, and higher than that of any other registration of this process.
    ///
    /// It returns at once, whether the registry can be reached or not: a service must be able to start before its registry.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use = "dropping it deregisters the instance"]
    pub fn spawn(registry: impl Registry, instance: Instance) -> Self {
        let mut instance = instance;
        if instance.incarnation == 0 {
            instance.incarnation = next_incarnation();
        }
        let instance = Arc::new(instance);
        let (wish, wished) = watch::channel(Wish::Serving);
        let retrying = RegistrationState::Retrying { since: Instant::now() };
        let (told, state) = watch::channel(retrying);
        let error = Arc::default();
        let keeper = Keeper {
            ttl: registry.ttl(),
            registry,
            instance: instance.clone(),
            wished,
            state: Told(told),
            error: Arc::clone(&error),
            known: None,
            failures: 0,
        };
        Self { ttl: keeper.ttl, instance, wish, state, error, task: tokio::spawn(keeper.run()) }
    }

    /// The instance as it is registered.
    #[must_use]
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// How things stand.
    #[must_use]
    pub fn state(&self) -> RegistrationState {
        *self.state.borrow()
    }

    /// Follows how things stand.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// Why the last attempt failed, if it did.
    #[must_use]
    pub fn last_error(&self) -> Option<Arc<Error>> {
        self.error.load_full()
    }

    /// Waits until the registry has answered; through an outage of the registry, that is until it is over. Whether
    /// it took the instance is told by [`Registration::state`].
    pub async fn registered(&self) {
        self.reached(|state| !matches!(state, RegistrationState::Retrying { .. })).await;
    }

    /// Asks callers not to use the instance any more, and waits until the registry knows it; through an outage
    /// of the registry, that is until it is over. Calls under way go on.
    ///
    /// # Cancellation
    ///
    /// The task goes on trying.
    pub async fn drain(&self) {
        self.wish.send_if_modified(|wish| {
            let serving = *wish == Wish::Serving;
            if serving {
                *wish = Wish::Draining;
            }
            serving
        });
        self.reached(|state| {
            use RegistrationState::{Draining, Ended, Lost};
            matches!(state, Draining | Lost | Ended)
        })
        .await;
    }

    /// Drains, waits for `grace`, and then [closes](Registration::close). For a server that goes on serving meanwhile: within `grace`, at least
    /// the time that a change needs to get to all callers, they stop sending, and no request is lost.
    ///
    /// Where the registry cannot be reached, the wait for it to know ends after a third of the TTL.
    ///
    /// # Errors
    ///
    /// As [`Registration::close`].
    ///
    /// # Cancellation
    ///
    /// The task goes on to deregister, at once.
    pub async fn close_after(self, grace: Duration) -> Result<(), Error> {
        let _ = timeout(self.ttl / 3, self.drain()).await;
        sleep(grace).await;
        self.close().await
    }

    /// Drains, deregisters, and ends the task. Each step is tried once and takes at most a sixth of the TTL.
    ///
    /// # Errors
    ///
    /// What the registry says, or [`Error::Unavailable`]. The task ends all the same, and the TTL does what is left to do.
    ///
    /// # Cancellation
    ///
    /// The task goes on to deregister.
    pub async fn close(mut self) -> Result<(), Error> {
        self.wish.send_replace(Wish::Gone);
        match (&mut self.task).await {
            Ok(result) => result,
            Err(error) => Err(Error::Unavailable(error.into())),
        }
    }

    async fn reached(&self, wanted: impl Fn(RegistrationState) -> bool) {
        // The channel closes after `Ended` was told, which every caller waits for as well.
        let _ = self.state.clone().wait_for(|state| wanted(*state)).await;
    }
}

/// The task: brings the registry's view in line with the wish, again and again.
struct Keeper<R> {
    registry: R,
    ttl: Duration,
    instance: Arc<Instance>,
    wished: watch::Receiver<Wish>,
    state: Told,
    error: Arc<ArcSwapOption<Error>>,
    /// What the registry was told last, as far as it is believed to remember.
    known: Option<Wish>,
    failures: u32,
}

/// Tells `Ended` however the task ends, by the end of the runtime as well.
struct Told(watch::Sender<RegistrationState>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.send_replace(RegistrationState::Ended);
    }
}

impl<R: Registry> Keeper<R> {
    async fn run(mut self) -> Result<(), Error> {
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
fn next_incarnation() -> u64 {
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

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{error::Elapsed, timeout},
};

use crate::{Error, Health, Instance, Registry};

/// Keeps an instance registered for as long as it lives.
///
/// A task of its own sends heartbeats, each after a third of the TTL or up to a fifth less, so that many
/// do not beat in step. When the registry has forgotten the instance, the task registers it again at once; when the registry
/// fails or does not answer within a sixth of the TTL, it tries again after a pause that doubles from 1/300 to a sixth
/// of the TTL, of which half is random. It never gives up.
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
    instance: Arc<Instance>,
    /// What the task is to bring about. Its end means the same as `Gone`.
    wish: watch::Sender<Wish>,
    state: watch::Receiver<RegistrationState>,
    task: JoinHandle<Result<(), Error>>,
}

/// What became of a [`Registration`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RegistrationState {
    /// The registry does not know the instance yet, or cannot be reached: the task is trying.
    Retrying,
    /// The registry answered the last time it was asked.
    Registered,
    /// The same, and callers were told not to use the instance any more.
    Draining,
    /// The task has ended: closed, or the runtime is shutting down, or the engine panicked.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Serving,
    Draining,
    Gone,
}

impl Registration {
    /// Spawns the task that registers `instance` as healthy and keeps it so.
    ///
    /// It returns at once, whether the registry can be reached or not: a service must be able to start before its registry.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use = "dropping it deregisters the instance"]
    pub fn spawn(registry: impl Registry, instance: Instance) -> Self {
        let instance = Arc::new(instance);
        let (wish, wished) = watch::channel(Wish::Serving);
        let (told, state) = watch::channel(RegistrationState::Retrying);
        let keeper = Keeper {
            ttl: registry.ttl(),
            registry,
            instance: instance.clone(),
            wished,
            state: Told(told),
            known: None,
            failures: 0,
        };
        Self { instance, wish, state, task: tokio::spawn(keeper.run()) }
    }

    /// The instance as it was given.
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

    /// Waits until the registry knows the instance; through an outage of the registry, that is until it is over.
    pub async fn registered(&self) {
        self.reached(|state| state != RegistrationState::Retrying).await;
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
        let drained =
            |state| matches!(state, RegistrationState::Draining | RegistrationState::Ended);
        self.reached(drained).await;
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
    /// What the registry was told last, as far as it is believed to remember.
    known: Option<Wish>,
    failures: u32,
}

/// Tells `Ended` however the task ends, by a panic of an engine or the end of the runtime as well.
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
                (self.ttl / 3).mul_f64(rand::random_range(0.8..=1.0))
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.tell(RegistrationState::Retrying);
                let (service, id) = (&*self.instance.service, &*self.instance.id);
                let cause = &error as &dyn std::error::Error;
                // Hours of outage are one warning.
                if self.failures == 1 {
                    tracing::warn!(service, id, cause, "registry out of reach, trying again");
                } else {
                    tracing::debug!(service, id, cause, "registry still out of reach");
                }
                backoff(self.ttl, self.failures).mul_f64(rand::random_range(0.5..=1.0))
            }
        }
    }

    async fn bring_about(&mut self, wish: Wish) -> Result<(), Error> {
        let Instance { service, id, .. } = &*self.instance;
        if let Some(known) = self.known {
            let answer = if known == wish {
                self.bounded(self.registry.heartbeat(self.instance.key())).await
            } else {
                self.bounded(self.registry.drain(self.instance.key())).await
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
        self.bounded(self.registry.register(instance)).await?;
        self.known = Some(wish);
        Ok(())
    }

    async fn leave(&mut self) -> Result<(), Error> {
        // Draining is a courtesy; what matters is that the second is tried whatever comes of the first.
        if self.known == Some(Wish::Serving) {
            let _ = self.bounded(self.registry.drain(self.instance.key())).await;
        }
        match self.bounded(self.registry.deregister(self.instance.key())).await {
            Err(error) if error.is_not_found() => Ok(()),
            answer => answer,
        }
    }

    /// A registry that hangs must not stop the heartbeat for good.
    async fn bounded(&self, answer: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
        let unavailable = |elapsed: Elapsed| Error::Unavailable(elapsed.into());
        timeout(self.ttl / 6, answer).await.map_err(unavailable)?
    }

    fn tell(&self, state: RegistrationState) {
        self.state.0.send_if_modified(|present| std::mem::replace(present, state) != state);
    }
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

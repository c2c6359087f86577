mod keeper;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use keeper::{Keeper, Told, next_incarnation};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{Error, Instance, Registry};

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
/// registration.registered().await.unwrap();
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
    /// The registry answers, and will not have it: it wants another token or right ([`Error::Refused`]), a younger run of the same id is
    /// registered ([`Error::Superseded`]), the instance [cannot be](Instance::validate), or the registry is full. [`Registration::last_error`] says
    /// which. The task asks again with each heartbeat, so it ends by itself once the cause does.
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

    /// Waits until the registry has taken the instance; through an outage of the registry, that is until it is over.
    ///
    /// # Errors
    ///
    /// Why the registry will not have it, see [`RegistrationState::Lost`]. The task goes on asking.
    ///
    /// # Cancellation
    ///
    /// The task goes on.
    pub async fn registered(&self) -> Result<(), Arc<Error>> {
        self.reached(|state| !matches!(state, RegistrationState::Retrying { .. })).await;
        match self.state() {
            // Without a reason it has been taken since.
            RegistrationState::Lost => self.last_error().map_or(Ok(()), Err),
            _ => Ok(()),
        }
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
    /// The server is to be stopped after this, and not before: whoever stops it first refuses those who do not know yet.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use gusset_registry::{Error, Registration};
    /// # async fn shut_down(registration: Registration, stop: tokio::sync::oneshot::Sender<()>, server: tokio::task::JoinHandle<()>) {
    /// // Callers leave while the server still answers.
    /// let told = registration.close_after(Duration::from_secs(1)).await;
    /// // Then it takes no more, and finishes what it has.
    /// let _ = stop.send(());
    /// let _ = server.await;
    /// # drop(told); }
    /// ```
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

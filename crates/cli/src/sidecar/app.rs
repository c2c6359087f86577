//! Whether the app works, and the registration that follows from it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use gusset_registry::{
    Check, Checker, Health, Instance, MemoryRegistry, Registration, RegistrationState, Registry,
};
use tokio::sync::watch;

/// While it starts it is asked often, so that nobody waits for it longer than it takes.
const STARTING: Duration = Duration::from_millis(200);
const NAME: &str = "app";

/// Follows whether the app works: it is asked every 200 ms until it does for the first time, from then on as `check` says. Ends with the receiver.
pub(super) fn spawn_follow(address: SocketAddr, check: Check) -> watch::Receiver<bool> {
    let (says, works) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            () = follow(address, check, &says) => {}
            () = says.closed() => {}
        }
    });
    works
}

async fn follow(address: SocketAddr, check: Check, says: &watch::Sender<bool>) {
    // A registry of one, of which the checks report.
    let registry = MemoryRegistry::default();
    let app = Instance::at(NAME, address).with_checks();
    let mut snapshots = registry.watch(NAME);
    // Neither full nor away.
    let _ = registry.register(app.clone()).await;
    let checker = Checker::new(registry);
    let mut _guard = checker.spawn(&app, [check.clone().interval(STARTING).rise(1)]);
    tracing::info!(%address, "waiting for the app");
    loop {
        let snapshot = snapshots.changed().await;
        let works = snapshot.instances().iter().any(|app| app.health == Health::Healthy);
        let was = says.send_replace(works);
        match (was, works) {
            (false, true) => tracing::info!(%address, "the app works"),
            (true, false) => tracing::warn!(%address, "the app does not work"),
            _ => continue,
        }
        if works {
            _guard = checker.spawn(&app, [check.clone()]);
        }
    }
}

/// What the registry knows of this instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Registered {
    /// Nothing, for the app does not work.
    Not,
    /// What the registration says.
    As(RegistrationState),
}

/// What is wished of a [`Registering`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    Serve,
    /// Callers are told, and have this long to learn it.
    Leave(Duration),
}

/// Keeps the instance registered for as long as the app works. Dropping it deregisters, if it can.
pub(super) struct Registering {
    wish: watch::Sender<Wish>,
    state: watch::Receiver<Registered>,
    task: tokio::task::JoinHandle<()>,
}

impl Registering {
    pub(super) fn spawn(
        registry: Arc<dyn Registry>,
        instance: Instance,
        works: watch::Receiver<bool>,
    ) -> Self {
        let (wish, wished) = watch::channel(Wish::Serve);
        let (told, state) = watch::channel(Registered::Not);
        let keeper = Keeper { registry, instance, works, wished, told };
        Self { wish, state, task: tokio::spawn(keeper.run()) }
    }

    pub(super) fn state(&self) -> watch::Receiver<Registered> {
        self.state.clone()
    }

    /// Tells callers, waits for `grace` while they learn it, and deregisters. Nothing is waited for where nothing was registered.
    pub(super) async fn leave(mut self, grace: Duration) {
        self.wish.send_replace(Wish::Leave(grace));
        let _ = (&mut self.task).await;
    }
}

struct Keeper {
    registry: Arc<dyn Registry>,
    instance: Instance,
    works: watch::Receiver<bool>,
    wished: watch::Receiver<Wish>,
    told: watch::Sender<Registered>,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            tokio::select! {
                _ = leaves(&mut self.wished) => return,
                works = self.works.wait_for(|works| *works) => if works.is_err() { return },
            }
            let registration = Registration::spawn(self.registry.clone(), self.instance.clone());
            let mut states = registration.subscribe();
            let leave = loop {
                let state = *states.borrow_and_update();
                if self.told.send_replace(Registered::As(state)) != Registered::As(state) {
                    tell(&registration, state);
                }
                tokio::select! {
                    leave = leaves(&mut self.wished) => break leave,
                    _ = self.works.wait_for(|works| !*works) => break Some(Duration::ZERO),
                    changed = states.changed() => if changed.is_err() { break None },
                }
            };
            let Some(grace) = leave else { return };
            let stopped = *self.wished.borrow() != Wish::Serve;
            if stopped {
                self.told.send_replace(Registered::As(RegistrationState::Draining));
            }
            // An app that does not work is left at once; one that leaves is first left by its callers.
            let closed = match grace {
                Duration::ZERO => registration.close().await,
                grace => registration.close_after(grace).await,
            };
            if let Err(error) = closed {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "not deregistered; the registry forgets it by itself");
            }
            self.told.send_replace(Registered::Not);
            if stopped {
                return;
            }
        }
    }
}

/// `None` if nobody is there to wish anything.
async fn leaves(wished: &mut watch::Receiver<Wish>) -> Option<Duration> {
    let wish = wished.wait_for(|wish| *wish != Wish::Serve).await.ok()?;
    match *wish {
        Wish::Leave(grace) => Some(grace),
        Wish::Serve => None,
    }
}

fn tell(registration: &Registration, state: RegistrationState) {
    let instance = registration.instance();
    let (service, id) = (&*instance.service, &*instance.id);
    match state {
        RegistrationState::Registered => tracing::info!(service, id, "registered"),
        RegistrationState::Lost => {
            let error = registration.last_error().map(|error| error.to_string());
            tracing::warn!(service, id, error, "the registry refuses this instance");
        }
        _ => {}
    }
}

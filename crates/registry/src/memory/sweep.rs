use std::{
    sync::{
        Arc,
        atomic::Ordering::{AcqRel, Relaxed},
    },
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    MemoryRegistry, Owner, lock,
    service::{Change, Publishing, Service},
};
use crate::table::Swept;

impl MemoryRegistry {
    /// Spawns the task that finds silent instances, every [`Policy::sweep_every`](crate::Policy::sweep_every), and publishes what was
    /// gathered.
    ///
    /// Where sweeps come late, because the process was paused or no sweeper was running, the time beyond one interval
    /// is not held against anybody: no heartbeat could arrive in it. A test must therefore let the clock
    /// run (`tokio::time::sleep`) rather than jump (`tokio::time::advance`) for instances to expire. A second sweeper does no harm.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use = "dropping it ends the sweeping"]
    pub fn spawn_sweeper(&self) -> Sweeper {
        let registry = self.clone();
        let publishing = Publishing::begin(&self.0);
        Sweeper(tokio::spawn(async move {
            // Ends with the task, however that ends.
            let _publishing = publishing;
            loop {
                let due = lock(&registry.0.rota).due();
                // Not less than a tokio timer can wait, or it would be a busy loop.
                let pause =
                    due.saturating_sub(registry.0.board.now()).max(Duration::from_millis(1));
                if timeout(pause, registry.0.is_held.notified()).await.is_ok() {
                    sleep(registry.0.hold).await;
                    registry.0.catch_up();
                }
                registry.sweep();
            }
        }))
    }

    /// Looks at those that may be silent, if it is time to. For who has a timer of his own; it does the same as one turn
    /// of [`MemoryRegistry::spawn_sweeper`].
    pub fn sweep(&self) {
        let Some(due) = lock(&self.0.rota).advance(&self.0.board, self.0.board.now()) else {
            return;
        };
        let mut entries = due;
        entries.sort_by_key(|(_, (service, _))| Arc::as_ptr(service));
        for entries in entries.chunk_by(|(_, (one, _)), (_, (other, _))| Arc::ptr_eq(one, other)) {
            self.check(entries);
        }
        // Taken out: the lock of a service is not taken under this one.
        let protected = std::mem::take(&mut *lock(&self.0.protected));
        for service in protected {
            self.review(service);
        }
    }

    /// Looks at instances of one service, and publishes once for all.
    fn check(&self, entries: &[(u32, Owner)]) {
        let Some((_, (service, _))) = entries.first() else { return };
        let (swept, began) = service.change(&self.0, |state| {
            let (mut swept, was) = (Swept::default(), state.table.is_protected());
            for (index, (_, id)) in entries {
                let (due, freed) = state.table.check(id, &mut swept);
                let mut rota = lock(&self.0.rota);
                rota.put(*index, due, self.0.board.tick());
                freed.into_iter().for_each(|freed| rota.release(freed));
            }
            ((swept, !was && state.table.is_protected()), Change::any(swept != Swept::default()))
        });
        self.count(service, swept);
        if began {
            tracing::warn!(
                service = &*service.name,
                "most instances fell silent at once, keeping them"
            );
            lock(&self.0.protected).push(service.clone());
        }
    }

    fn review(&self, service: Arc<Service>) {
        let (swept, goes_on) = service.change(&self.0, |state| {
            let mut swept = Swept::default();
            state.table.review(&mut swept);
            ((swept, state.table.is_protected()), Change::any(swept != Swept::default()))
        });
        self.count(&service, swept);
        if goes_on {
            lock(&self.0.protected).push(service);
        } else {
            tracing::info!(service = &*service.name, "no longer keeping silent instances");
        }
    }

    fn count(&self, service: &Service, swept: Swept) {
        let Swept { expired, evicted, .. } = swept;
        self.0.instances.fetch_sub(evicted, AcqRel);
        self.0.counters.expired.fetch_add(expired as u64, Relaxed);
        self.0.counters.evicted.fetch_add(evicted as u64, Relaxed);
        if expired + evicted > 0 {
            tracing::warn!(service = &*service.name, expired, evicted, "instances fell silent");
        }
    }
}

/// Guard of the task of [`MemoryRegistry::spawn_sweeper`]: dropping it ends the task.
#[derive(Debug)]
pub struct Sweeper(JoinHandle<()>);

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{Check, threshold::Threshold};
use crate::{Error, Instance, InstanceKey, MemoryRegistry, Registry};

/// Runs active checks of the instances of a registry. Clones share one bound of how many run at once.
///
/// ```
/// use gusset_registry::{Check, Checker, Instance, MemoryRegistry, Registry};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let registry = MemoryRegistry::default();
/// let checker = Checker::new(registry.clone());
/// let cart = Instance::new("cart", "127.0.0.1", 1).with_checks();
/// registry.register(cart.clone()).await.unwrap();
/// // Nobody listens there.
/// let _guard = checker.spawn(&cart, [Check::tcp()]);
/// let down = registry.watch("cart").changed().await;
/// assert_eq!(down.healthy().count(), 0);
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Checker {
    registry: MemoryRegistry,
    places: Arc<Semaphore>,
}

impl Checker {
    /// Runs up to 64 checks at once: with the default interval and answers within 100 ms, that is enough for 6,400 of them. Those that find no place
    /// wait for one, so many slow instances make checks rarer, and never more at once.
    #[must_use]
    pub fn new(registry: MemoryRegistry) -> Self {
        const PLACES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(63);
        Self::with_concurrency(registry, PLACES)
    }

    /// Runs up to `places` checks at once, at most 2^29.
    #[must_use]
    pub fn with_concurrency(registry: MemoryRegistry, places: NonZeroUsize) -> Self {
        let places = places.get().min(Semaphore::MAX_PERMITS);
        Self { registry, places: Arc::new(Semaphore::new(places)) }
    }

    /// Spawns a task for each of the checks, which [reports](MemoryRegistry::report) what it finds: the instance works if all of
    /// them say so. A task ends when the instance is not registered any more, or another run of it is; then it has to be checked anew.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use = "dropping it ends the checks"]
    pub fn spawn(
        &self,
        instance: &Instance,
        checks: impl IntoIterator<Item = Check>,
    ) -> CheckGuard {
        let checks: Vec<_> = checks.into_iter().collect();
        let found: Arc<Mutex<Vec<_>>> = Arc::new(Mutex::new(vec![None; checks.len()]));
        let tasks = checks.into_iter().enumerate().map(|(place, check)| {
            let round = Round {
                checker: self.clone(),
                instance: instance.clone(),
                threshold: Threshold::new(check.rise, check.fall),
                check,
                found: found.clone(),
                place,
                failing_since: None,
            };
            tokio::spawn(round.run())
        });
        CheckGuard(tasks.collect())
    }
}

/// One check of one instance, again and again.
struct Round {
    checker: Checker,
    instance: Instance,
    check: Check,
    threshold: Threshold,
    /// What each check of the instance says, if it has run.
    found: Arc<Mutex<Vec<Option<bool>>>>,
    place: usize,
    failing_since: Option<Instant>,
}

impl Round {
    async fn run(mut self) {
        let interval = self.check.interval.max(Duration::from_millis(10));
        // The first attempt is soon, but not that of all at once.
        let mut pause = interval.min(Duration::from_secs(1)).mul_f64(rand::random_range(0.0..=1.0));
        loop {
            sleep(pause).await;
            let works = self.attempt().await;
            if self.tell(works).await.is_err() {
                return;
            }
            pause = interval.mul_f64(rand::random_range(0.9..=1.0));
        }
    }

    async fn attempt(&mut self) -> bool {
        // It is closed by nobody; and where it is, the bound is not ours to keep.
        let _place = self.checker.places.acquire().await.ok();
        let found = self.check.probe(&self.instance.host, self.instance.port).await;
        if let Err(error) = &found {
            let (service, id) = (&*self.instance.service, &*self.instance.id);
            let cause = error as &dyn std::error::Error;
            tracing::debug!(service, id, cause, "check failed");
        }
        self.threshold.note(found.is_ok())
    }

    async fn tell(&mut self, works: bool) -> Result<(), Error> {
        let key = self.instance.key();
        let registry = &self.checker.registry;
        match all(&self.found, self.place, works) {
            Some(all_work) => registry.report(key, all_work)?,
            // Some have not run yet, and none has failed.
            None => is_there(registry, key)?,
        }
        if works {
            self.failing_since = None;
            return Ok(());
        }
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        match self.check.deregister_after {
            Some(span) if since.elapsed() >= span => {
                tracing::warn!(service = key.service, id = key.id, "has not worked for too long");
                registry.deregister(key).await?;
                // Nothing is left to be checked.
                Err(Error::NoSuchInstance { service: key.service.into(), id: key.id.into() })
            }
            _ => Ok(()),
        }
    }
}

/// What all say together, once this says `works`.
fn all(found: &Mutex<Vec<Option<bool>>>, place: usize, works: bool) -> Option<bool> {
    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
    found[place] = Some(works);
    if found.contains(&Some(false)) {
        return Some(false);
    }
    (!found.contains(&None)).then_some(true)
}

fn is_there(registry: &MemoryRegistry, key: InstanceKey<'_>) -> Result<(), Error> {
    registry.lease(key).map(drop)
}

/// Guard of the tasks of [`Checker::spawn`]: dropping it ends them. What they found last stays.
#[derive(Debug)]
pub struct CheckGuard(Vec<JoinHandle<()>>);

impl CheckGuard {
    /// Whether the instance is not there any more, so that nothing is checked.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.iter().all(JoinHandle::is_finished)
    }
}

impl Drop for CheckGuard {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

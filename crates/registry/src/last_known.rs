//! What an engine over a network knows of one service, who is told of it, and whether it is to be doubted.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Instance, LastSeen, Publisher, Snapshot, Watch};

/// For how long a service that nobody watches is remembered after it was last asked for.
pub(crate) const IDLE: Duration = Duration::from_secs(300);

/// The machine that puts together what is heard.
pub(crate) trait Mirror {
    /// Whether anything was ever heard.
    fn is_known(&self) -> bool;

    fn instances(&self) -> Vec<Arc<Instance>>;
}

#[derive(Debug)]
pub(crate) struct LastKnown<M> {
    publisher: Publisher,
    epoch: Instant,
    /// Shared by all instances: what confirms one confirms all.
    confirmed: LastSeen,
    state: Mutex<State<M>>,
}

#[derive(Debug)]
struct State<M> {
    mirror: M,
    asked: Instant,
    /// What is known is old, and says so.
    suspect: bool,
    /// How often something was confirmed.
    answers: u64,
}

/// When something is confirmed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    /// Since the service was first thought of.
    pub(crate) at: Duration,
    /// How often it was before.
    #[cfg_attr(not(feature = "remote"), allow(dead_code, reason = "etcd tells by revisions"))]
    pub(crate) answers: u64,
}

impl<M: Mirror> LastKnown<M> {
    pub(crate) fn new(service: Arc<str>, mirror: M) -> Self {
        let now = Instant::now();
        Self {
            publisher: Publisher::new(service),
            epoch: now,
            confirmed: LastSeen::never(now),
            state: Mutex::new(State { mirror, asked: now, suspect: false, answers: 0 }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn watch(&self) -> Watch {
        self.publisher.watch()
    }

    pub(crate) fn is_watched(&self) -> bool {
        !self.publisher.is_alone()
    }

    /// Somebody asks for it. Returns how often something was confirmed so far.
    pub(crate) fn ask(&self) -> u64 {
        let mut state = self.lock();
        state.asked = Instant::now();
        state.answers
    }

    /// The last known set, if any is known.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.lock().mirror.is_known().then(|| self.publisher.snapshot())
    }

    /// When all that is known was confirmed last.
    pub(crate) const fn confirmed(&self) -> &LastSeen {
        &self.confirmed
    }

    pub(crate) fn age(&self) -> Option<Duration> {
        self.confirmed.age()
    }

    /// Whether nobody watches it, or has asked for it for a while.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_watched() && self.lock().asked.elapsed() > IDLE
    }

    /// Takes in what was heard: what is known is believed again.
    pub(crate) fn confirm<T>(&self, change: impl FnOnce(&mut M, Heard) -> T) -> T {
        let mut state = self.lock();
        let heard = Heard { at: self.epoch.elapsed(), answers: state.answers };
        self.confirmed.hear(heard.at);
        let result = change(&mut state.mirror, heard);
        state.answers += 1;
        state.suspect = false;
        self.publish(state);
        result
    }

    /// Changes what is known, and nothing of whether it is believed.
    #[cfg(feature = "remote")]
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut M) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state.mirror);
        self.publish(state);
        result
    }

    /// Nothing is learnt at the moment.
    #[cfg(feature = "remote")]
    pub(crate) fn failed(&self, note: impl FnOnce(&mut M)) {
        note(&mut self.lock().mirror);
    }

    /// What was confirmed longer ago than `old` is suspect, until something confirms it. Returns how long it is until then.
    pub(crate) fn doubt(&self, old: Duration) -> Option<Duration> {
        let mut state = self.lock();
        let age = self.age()?;
        if age < old {
            return Some(old - age);
        }
        if !mem::replace(&mut state.suspect, true) {
            self.publish(state);
        }
        None
    }

    /// Nobody is woken under the lock.
    fn publish(&self, state: MutexGuard<'_, State<M>>) {
        let mut instances = state.mirror.instances();
        if state.suspect {
            instances.iter_mut().for_each(|instance| Arc::make_mut(instance).suspect = true);
        }
        self.publisher.store(instances);
        drop(state);
        self.publisher.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct One(bool);

    impl Mirror for One {
        fn is_known(&self) -> bool {
            self.0
        }

        fn instances(&self) -> Vec<Arc<Instance>> {
            let one = self.0.then(|| Arc::new(Instance::new("s", "h", 1)));
            one.into_iter().collect()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_is_suspect_until_it_is_confirmed() {
        let (known, second) = (LastKnown::new("s".into(), One(false)), Duration::from_secs(1));
        assert_eq!((known.doubt(Duration::ZERO), known.snapshot().is_none()), (None, true));
        known.confirm(|one, _| one.0 = true);
        tokio::time::advance(second).await;
        assert_eq!(known.doubt(3 * second), Some(2 * second));
        let suspect = || known.snapshot().unwrap().is_suspect();
        assert!(!suspect());
        tokio::time::advance(2 * second).await;
        let mut watch = known.watch();
        assert_eq!((known.doubt(3 * second), suspect()), (None, true));
        assert!(watch.changed().await.is_suspect());
        known.change(|_| ());
        assert!(suspect(), "a change of ours confirms nothing");
        let heard = known.confirm(|_, heard| heard);
        assert_eq!((heard.at, heard.answers, suspect()), (3 * second, 1, false));
        assert_eq!(known.age(), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_idle_when_nobody_watches_or_has_asked_for_five_minutes() {
        let known = LastKnown::new("s".into(), One(true));
        tokio::time::advance(IDLE).await;
        let watch = known.watch();
        known.ask();
        tokio::time::advance(2 * IDLE).await;
        assert!(!known.is_idle());
        drop(watch);
        assert!(known.is_idle());
        known.ask();
        assert!(!known.is_idle());
    }
}

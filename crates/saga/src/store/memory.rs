mod events;
mod kept;
mod outbox;
mod tables;

use std::{
    collections::BTreeMap,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{FutureExt, future::ready};
use gusset_call::Clock;

use events::Events;
use tables::{Entry, Tables, millis};

use crate::{
    Begin, Bundle, Claim, Commit, Journal, Mail, Pending, Post, Query, Relay, Relayed, Release,
    Renewed, Retention, SagaId, State, Store, StoreError, StoreFuture, Summary,
};

/// Journals in memory: they end with the process. Clones share them.
///
/// # Memory
///
/// At most [`UNFINISHED`](Self::UNFINISHED) sagas that are not in a final state, further ones are refused with
/// [`StoreError::Full`]; at most [`FINISHED`](Self::FINISHED) that are, the oldest make room and
/// [`purged`](Self::purged) counts them. Those whose messages wait to be relayed stay beside them until that is done. [`with_limits`](Self::with_limits) sets both. A saga has at most two records
/// for each step and two more, each of at most [`Json::MAX`](crate::Json::MAX) and some KiB of errors; one more for each time that it
/// was interrupted; and at most [`Mail::MOST`] that come from mail. At most [`MESSAGES`](Self::MESSAGES) wait to be relayed; what would add another
/// is refused until there is room. At most [`EVENTS`](Self::EVENTS) of aggregates are kept, and further ones refused.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    unfinished: usize,
    finished: usize,
    /// What `clock` began with, in milliseconds since 1970.
    since: u64,
    clock: Clock,
    tables: Mutex<Tables>,
    events: Mutex<Events>,
}

impl Default for Shared {
    fn default() -> Self {
        Self::new(MemoryStore::UNFINISHED, MemoryStore::FINISHED)
    }
}

impl Shared {
    fn new(unfinished: usize, finished: usize) -> Self {
        #[expect(clippy::disallowed_methods, reason = "read once: from here on the clock counts")]
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (clock, since) = (Clock::new(), millis(since_1970));
        let (tables, events) = (Mutex::default(), Mutex::default());
        Self { unfinished, finished, since, clock, tables, events }
    }
}

impl MemoryStore {
    /// Default bound of sagas that are not in a final state.
    pub const UNFINISHED: usize = 10_000;

    /// Default bound of sagas in a final state.
    pub const FINISHED: usize = 10_000;

    /// Bound of messages that wait to be relayed.
    pub const MESSAGES: usize = 100_000;

    /// Bound of events of aggregates.
    pub const EVENTS: usize = 1_000_000;

    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store with these bounds.
    #[must_use]
    pub fn with_limits(unfinished: usize, finished: usize) -> Self {
        Self(Arc::new(Shared::new(unfinished, finished)))
    }

    /// How many finished sagas were forgotten so far.
    #[must_use]
    pub fn purged(&self) -> u64 {
        self.tables().purged
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.0.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self) -> u64 {
        self.0.since + millis(self.0.clock.now())
    }
}

/// All done when the future is made: nothing here waits.
impl Store for MemoryStore {
    fn now(&self) -> StoreFuture<'_, u64> {
        ready(Ok(self.time())).boxed()
    }

    fn create<'a>(&'a self, begin: &'a Begin) -> StoreFuture<'a, ()> {
        let now = self.time();
        written(self.tables().create(begin, self.0.unfinished, now))
    }

    fn append<'a>(&'a self, commit: &'a Commit) -> StoreFuture<'a, ()> {
        let now = self.time();
        let (answer, mut forgotten) = {
            let mut tables = self.tables();
            let answer = tables.append(commit, now);
            let ended = answer.is_ok() && commit.state.is_final();
            (answer, if ended { tables.forget(self.0.finished, 0) } else { None })
        };
        // Not under the lock. There are more only where messages have kept some until now.
        while let Some(entry) = forgotten.take() {
            drop(entry);
            let mut tables = self.tables();
            if tables.order.len() > self.0.finished {
                forgotten = tables.forget(self.0.finished, 0);
            }
        }
        written(answer)
    }

    fn load<'a>(&'a self, saga: &'a SagaId) -> StoreFuture<'a, Option<Journal>> {
        ready(Ok(self.tables().get(saga).map(|entry| entry.journal(saga)))).boxed()
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Vec<Journal>> {
        let now = self.time();
        let mut tables = self.tables();
        let mut taken = Vec::new();
        for saga in tables.wanted(&claim.wanted, now) {
            if let Some(entry) = tables.unfinished.get_mut(&saga) {
                entry.epoch += 1;
                entry.crashes = entry.crashes.saturating_add(u32::from(entry.node.is_some()));
                entry.node = Some(claim.node.clone());
                entry.due = Some(now.saturating_add(millis(claim.lease)));
                taken.push(entry.journal(&saga));
            }
        }
        ready(Ok(taken)).boxed()
    }

    fn renew<'a>(&'a self, held: &'a [(SagaId, u64)], lease: Duration) -> StoreFuture<'a, Renewed> {
        let until = self.time().saturating_add(millis(lease));
        let mut tables = self.tables();
        let mut renewed = Renewed::default();
        for (saga, epoch) in held {
            let ours = |entry: &&mut Box<Entry>| entry.epoch == *epoch && entry.node.is_some();
            match tables.unfinished.get_mut(saga).filter(ours) {
                Some(entry) => {
                    entry.due = Some(until);
                    if entry.has_mail() {
                        renewed.mail.push(saga.clone());
                    }
                }
                None => renewed.lost.push(saga.clone()),
            }
        }
        ready(Ok(renewed)).boxed()
    }

    fn release<'a>(&'a self, release: &'a Release) -> StoreFuture<'a, ()> {
        let now = self.time();
        let mut tables = self.tables();
        let ours = |entry: &&mut Box<Entry>| entry.epoch == release.epoch && entry.node.is_some();
        if let Some(entry) = tables.unfinished.get_mut(&release.saga).filter(ours) {
            entry.park(release.due, release.note.clone(), now);
            if release.blocked {
                entry.state = State::Blocked;
            }
        }
        ready(Ok(())).boxed()
    }

    fn send<'a>(&'a self, mail: &'a Mail) -> StoreFuture<'a, bool> {
        let now = self.time();
        let answer = self.tables().send(mail, now);
        ready(answer).boxed()
    }

    fn mail<'a>(&'a self, saga: &'a SagaId, from: u64) -> StoreFuture<'a, Vec<Post>> {
        ready(Ok(self.tables().get(saga).map_or_else(Vec::new, |entry| entry.post(from)))).boxed()
    }

    fn query<'a>(&'a self, query: &'a Query) -> StoreFuture<'a, Vec<Summary>> {
        let tables = self.tables();
        let fits = |(saga, entry): &(&SagaId, &Entry)| {
            query.state.is_none_or(|state| state == entry.state)
                && query.definition.as_ref().is_none_or(|name| *name == entry.definition)
                && query
                    .after
                    .as_ref()
                    .is_none_or(|after| (*saga > after) != query.newest_first && *saga != after)
        };
        let mut found: Vec<_> = tables
            .unfinished
            .iter()
            .chain(&tables.finished)
            .map(|(saga, entry)| (saga, &**entry))
            .filter(fits)
            .collect();
        found.sort_unstable_by_key(|(saga, _)| *saga);
        if query.newest_first {
            found.reverse();
        }
        found.truncate(query.limit);
        ready(Ok(found.into_iter().map(|(saga, entry)| entry.summary(saga)).collect())).boxed()
    }

    fn count(&self) -> StoreFuture<'_, Vec<(State, u64)>> {
        let tables = self.tables();
        let mut counts = BTreeMap::new();
        for entry in tables.unfinished.values().chain(tables.finished.values()) {
            *counts.entry(entry.state).or_insert(0) += 1;
        }
        ready(Ok(counts.into_iter().collect())).boxed()
    }

    fn purge<'a>(&'a self, keep: &'a Retention) -> StoreFuture<'a, u64> {
        // What finished in this very millisecond is younger than one.
        let limit = |age| self.time().saturating_sub(millis(age)) + u64::from(age.is_zero());
        let limit = keep.younger_than.map_or(0, limit);
        let mut forgotten = 0;
        loop {
            let oldest = self.tables().forget(keep.newest, limit);
            match oldest {
                Some(_) => forgotten += 1,
                None => return ready(Ok(forgotten)).boxed(),
            }
        }
    }

    fn outbox<'a>(&'a self, relay: &'a Relay) -> StoreFuture<'a, Vec<Bundle>> {
        let now = self.time();
        ready(Ok(self.tables().bundles(relay, now))).boxed()
    }

    fn relayed<'a>(&'a self, done: &'a [Relayed]) -> StoreFuture<'a, ()> {
        let now = self.time();
        let mut tables = self.tables();
        for done in done {
            tables.relayed(done, now);
        }
        ready(Ok(())).boxed()
    }

    fn pending(&self) -> StoreFuture<'_, Pending> {
        let now = self.time();
        let pending = self.tables().pending(now);
        ready(Ok(pending)).boxed()
    }
}

/// The answer to a write. The usual one takes no room, and so its box no allocation.
fn written(answer: Result<(), StoreError>) -> StoreFuture<'static, ()> {
    struct Done;

    impl Future for Done {
        type Output = Result<(), StoreError>;

        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Ready(Ok(()))
        }
    }

    match answer {
        Ok(()) => Box::pin(Done),
        Err(error) => ready(Err(error)).boxed(),
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.tables();
        f.debug_struct("MemoryStore")
            .field("unfinished", &tables.unfinished.len())
            .field("finished", &tables.finished.len())
            .field("messages", &tables.outbox.len())
            .field("purged", &tables.purged)
            .finish()
    }
}

#[cfg(test)]
mod tests;

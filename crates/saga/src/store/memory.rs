use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt, future::ready};
use gusset_call::Overloaded;
use tokio::time::Instant;

use crate::{
    Begin, Claim, Commit, Journal, Query, Record, Retention, SagaId, State, Store, StoreError,
    StoreFuture, Summary, Wanted,
};

/// Journals in memory: they end with the process. Clones share them.
///
/// # Memory
///
/// At most [`UNFINISHED`](Self::UNFINISHED) sagas that are not in a final state, further ones are refused with
/// [`StoreError::Full`]; at most [`FINISHED`](Self::FINISHED) that are, the oldest make room and
/// [`purged`](Self::purged) counts them. [`with_limits`](Self::with_limits) sets both. A saga has at most two records
/// for each step and two more, each of at most [`Json::MAX`](crate::Json::MAX) and some KiB of errors; one more for each time that it
/// was interrupted; and at most 10,000 that come from operators.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    unfinished: usize,
    finished: usize,
    tables: Mutex<Tables>,
}

impl Default for Shared {
    fn default() -> Self {
        let (unfinished, finished) = (MemoryStore::UNFINISHED, MemoryStore::FINISHED);
        Self { unfinished, finished, tables: Mutex::default() }
    }
}

#[derive(Default)]
struct Tables {
    unfinished: BTreeMap<SagaId, Entry>,
    finished: BTreeMap<SagaId, Entry>,
    /// Those of `finished`, oldest first.
    order: VecDeque<(Instant, SagaId)>,
    purged: u64,
}

struct Entry {
    state: State,
    epoch: u64,
    node: Arc<str>,
    /// Nobody holds it from here on.
    held_until: Option<Instant>,
    records: Vec<Record>,
}

impl MemoryStore {
    /// Default bound of sagas that are not in a final state.
    pub const UNFINISHED: usize = 10_000;

    /// Default bound of sagas in a final state.
    pub const FINISHED: usize = 10_000;

    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store with these bounds.
    #[must_use]
    pub fn with_limits(unfinished: usize, finished: usize) -> Self {
        Self(Arc::new(Shared { unfinished, finished, tables: Mutex::default() }))
    }

    /// How many finished sagas were forgotten so far.
    #[must_use]
    pub fn purged(&self) -> u64 {
        self.tables().purged
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.0.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tables {
    fn get(&self, saga: &SagaId) -> Option<&Entry> {
        self.unfinished.get(saga).or_else(|| self.finished.get(saga))
    }

    fn append(&mut self, commit: &Commit, keep: usize) -> Result<(), StoreError> {
        let saga = &commit.saga;
        let Some(entry) = self.unfinished.get_mut(saga) else {
            return Err(match self.finished.get(saga) {
                Some(entry) => entry.admit(commit).err().unwrap_or_else(|| entry.conflict(commit)),
                None => StoreError::NoSuchSaga(saga.clone()),
            });
        };
        entry.admit(commit)?;
        entry.records.extend_from_slice(&commit.records);
        entry.state = commit.state;
        if commit.state == State::Stuck {
            entry.held_until = None;
        }
        if commit.state.is_final() {
            if let Some(mut entry) = self.unfinished.remove(saga) {
                entry.held_until = None;
                self.finished.insert(saga.clone(), entry);
                self.order.push_back((Instant::now(), saga.clone()));
                self.forget(keep, None);
            }
        }
        Ok(())
    }

    /// Forgets the oldest until at most `keep` are left, and none that finished before `limit`.
    fn forget(&mut self, keep: usize, limit: Option<Instant>) -> u64 {
        let mut forgotten = 0;
        while let Some((at, _)) = self.order.front() {
            if self.order.len() <= keep && limit.is_none_or(|limit| *at >= limit) {
                break;
            }
            if let Some((_, saga)) = self.order.pop_front() {
                self.finished.remove(&saga);
                forgotten += 1;
            }
        }
        self.purged += forgotten;
        forgotten
    }

    fn wanted(&self, wanted: &Wanted, now: Instant) -> Vec<SagaId> {
        let free = |entry: &Entry| entry.held_until.is_none_or(|until| until <= now);
        match wanted {
            Wanted::One(saga) => {
                let entry = self.unfinished.get(saga).filter(|entry| free(entry));
                entry.map(|_| saga.clone()).into_iter().collect()
            }
            Wanted::Abandoned { after, except, limit } => behind(&self.unfinished, after.as_ref())
                .filter(|(_, entry)| entry.state != State::Stuck && free(entry))
                .map(|(saga, _)| saga)
                .filter(|saga| !except.contains(saga))
                .take(*limit)
                .cloned()
                .collect(),
        }
    }
}

fn behind<'a>(
    entries: &'a BTreeMap<SagaId, Entry>,
    after: Option<&SagaId>,
) -> impl Iterator<Item = (&'a SagaId, &'a Entry)> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    entries.range::<SagaId, _>((from, Bound::Unbounded))
}

impl Entry {
    fn admit(&self, commit: &Commit) -> Result<(), StoreError> {
        if commit.epoch != self.epoch {
            return Err(StoreError::Fenced { saga: commit.saga.clone(), epoch: commit.epoch });
        }
        let first = commit.records.first().map(|record| record.sequence);
        if first != Some(self.records.len() as u64) {
            return Err(self.conflict(commit));
        }
        Ok(())
    }

    fn conflict(&self, commit: &Commit) -> StoreError {
        StoreError::Conflict { saga: commit.saga.clone(), next: self.records.len() as u64 }
    }

    fn journal(&self, saga: &SagaId) -> Journal {
        Journal::new(saga.clone(), self.node.clone(), self.epoch, self.records.clone())
    }
}

impl Store for MemoryStore {
    fn create<'a>(&'a self, begin: &'a Begin) -> StoreFuture<'a, ()> {
        let answer = || {
            let mut tables = self.tables();
            if tables.get(&begin.saga).is_some() {
                return Err(StoreError::Exists(begin.saga.clone()));
            }
            if tables.unfinished.len() >= self.0.unfinished {
                return Err(StoreError::Full(Overloaded::new("saga store")));
            }
            let entry = Entry {
                state: State::Running,
                epoch: 1,
                node: begin.node.clone(),
                held_until: after(begin.lease),
                records: vec![begin.record.clone()],
            };
            tables.unfinished.insert(begin.saga.clone(), entry);
            Ok(())
        };
        ready(answer()).boxed()
    }

    fn append<'a>(&'a self, commit: &'a Commit) -> StoreFuture<'a, ()> {
        ready(self.tables().append(commit, self.0.finished)).boxed()
    }

    fn load<'a>(&'a self, saga: &'a SagaId) -> StoreFuture<'a, Option<Journal>> {
        ready(Ok(self.tables().get(saga).map(|entry| entry.journal(saga)))).boxed()
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Vec<Journal>> {
        let mut tables = self.tables();
        let mut taken = Vec::new();
        for saga in tables.wanted(&claim.wanted, Instant::now()) {
            if let Some(entry) = tables.unfinished.get_mut(&saga) {
                entry.epoch += 1;
                entry.node = claim.node.clone();
                entry.held_until = after(claim.lease);
                taken.push(entry.journal(&saga));
            }
        }
        ready(Ok(taken)).boxed()
    }

    fn renew<'a>(
        &'a self,
        held: &'a [(SagaId, u64)],
        lease: Duration,
    ) -> StoreFuture<'a, Vec<SagaId>> {
        let mut tables = self.tables();
        let mut lost = Vec::new();
        for (saga, epoch) in held {
            match tables.unfinished.get_mut(saga).filter(|entry| entry.epoch == *epoch) {
                Some(entry) => entry.held_until = after(lease),
                None => lost.push(saga.clone()),
            }
        }
        ready(Ok(lost)).boxed()
    }

    fn release<'a>(&'a self, saga: &'a SagaId, epoch: u64) -> StoreFuture<'a, ()> {
        let mut tables = self.tables();
        if let Some(entry) = tables.unfinished.get_mut(saga).filter(|entry| entry.epoch == epoch) {
            entry.held_until = None;
        }
        ready(Ok(())).boxed()
    }

    fn query<'a>(&'a self, query: &'a Query) -> StoreFuture<'a, Vec<Summary>> {
        let tables = self.tables();
        let page = |entries: &BTreeMap<SagaId, Entry>| -> Vec<Summary> {
            behind(entries, query.after.as_ref())
                .filter(|(_, entry)| query.state.is_none_or(|state| state == entry.state))
                .filter_map(|(saga, entry)| {
                    Summary::of(saga.clone(), entry.state, entry.epoch, &entry.records)
                })
                .take(query.limit)
                .collect()
        };
        let mut sagas = page(&tables.unfinished);
        sagas.extend(page(&tables.finished));
        sagas.sort_unstable_by(|one, two| one.saga.cmp(&two.saga));
        sagas.truncate(query.limit);
        ready(Ok(sagas)).boxed()
    }

    fn purge<'a>(&'a self, keep: &'a Retention) -> StoreFuture<'a, u64> {
        let limit = keep.younger_than.and_then(|age| Instant::now().checked_sub(age));
        ready(Ok(self.tables().forget(keep.newest, limit))).boxed()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tables = self.tables();
        f.debug_struct("MemoryStore")
            .field("unfinished", &tables.unfinished.len())
            .field("finished", &tables.finished.len())
            .field("purged", &tables.purged)
            .finish()
    }
}

/// A lease too long for the clock never ends by itself, but may be released.
fn after(lease: Duration) -> Option<Instant> {
    let far = Duration::from_secs(30 * 365 * 24 * 3600);
    Instant::now().checked_add(lease.min(far))
}

#[cfg(test)]
mod tests;

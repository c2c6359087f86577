use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use foldhash::fast::RandomState;
use futures_util::{FutureExt, future::ready};
use gusset_call::Clock;

use crate::{
    Begin, Claim, Commit, Hold, Journal, Json, Mail, Message, MessageId, Outgoing, Post, Query,
    Record, Relay, Release, Renewed, Retention, SagaId, State, Store, StoreError, StoreFuture,
    Summary, Wanted,
};

/// Journals in memory: they end with the process. Clones share them.
///
/// # Memory
///
/// At most [`UNFINISHED`](Self::UNFINISHED) sagas that are not in a final state, further ones are refused with
/// [`StoreError::Full`]; at most [`FINISHED`](Self::FINISHED) that are, the oldest make room and
/// [`purged`](Self::purged) counts them. [`with_limits`](Self::with_limits) sets both. A saga has at most two records
/// for each step and two more, each of at most [`Json::MAX`](crate::Json::MAX) and some KiB of errors; one more for each time that it
/// was interrupted; and at most [`Mail::MOST`] that come from mail. At most [`MESSAGES`](Self::MESSAGES) wait to be relayed; what would add another
/// is refused until there is room.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    unfinished: usize,
    finished: usize,
    /// What `clock` began with, in milliseconds since 1970.
    since: u64,
    clock: Clock,
    tables: Mutex<Tables>,
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
        let (clock, tables) = (Clock::new(), Mutex::default());
        Self { unfinished, finished, since: millis(since_1970), clock, tables }
    }
}

#[derive(Default)]
struct Tables {
    unfinished: HashMap<SagaId, Entry, RandomState>,
    finished: HashMap<SagaId, Entry, RandomState>,
    /// Those of `finished`, oldest first.
    order: VecDeque<(u64, SagaId)>,
    purged: u64,
    outbox: BTreeMap<MessageId, Message>,
    /// Who relays messages, and until when nobody else may.
    relay: Option<(Arc<str>, u64)>,
}

struct Entry {
    definition: Arc<str>,
    version: u32,
    state: State,
    epoch: u64,
    node: Option<Arc<str>>,
    /// With a node: until when it holds the saga. Without: from when on it may be claimed.
    due: Option<u64>,
    crashes: u32,
    note: Option<Json>,
    created_at: u64,
    changed_at: u64,
    /// Number of the next record.
    next: u64,
    /// Batches as they were written.
    records: Vec<Arc<[Record]>>,
    mail: Vec<Post>,
    keys: BTreeSet<Arc<str>>,
    mail_taken: u64,
}

impl MemoryStore {
    /// Default bound of sagas that are not in a final state.
    pub const UNFINISHED: usize = 10_000;

    /// Default bound of sagas in a final state.
    pub const FINISHED: usize = 10_000;

    /// Bound of messages that wait to be relayed.
    pub const MESSAGES: usize = 100_000;

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

    fn time(&self) -> u64 {
        self.0.since + millis(self.0.clock.now())
    }
}

impl Tables {
    fn get(&self, saga: &SagaId) -> Option<&Entry> {
        self.unfinished.get(saga).or_else(|| self.finished.get(saga))
    }

    fn append(&mut self, commit: &Commit, now: u64, keep: usize) -> Result<(), StoreError> {
        let saga = &commit.saga;
        let Some(entry) = self.unfinished.get_mut(saga) else {
            return Err(match self.finished.get(saga) {
                Some(entry) => entry.admit(commit).err().unwrap_or_else(|| entry.conflict(saga)),
                None => StoreError::NoSuchSaga(saga.clone()),
            });
        };
        entry.admit(commit)?;
        if self.outbox.len() + commit.outbox.len() > MemoryStore::MESSAGES {
            return Err(StoreError::full("saga outbox"));
        }
        entry.write(commit, now);
        for Outgoing { id, message } in &*commit.outbox {
            self.outbox.insert(id.clone(), message.clone());
        }
        if commit.state.is_final() {
            if let Some((saga, mut entry)) = self.unfinished.remove_entry(saga) {
                (entry.node, entry.due) = (None, None);
                self.order.push_back((now, saga.clone()));
                self.finished.insert(saga, entry);
                self.forget(keep, 0);
            }
        }
        Ok(())
    }

    /// Forgets the oldest until at most `keep` are left, and none that finished before `limit`.
    fn forget(&mut self, keep: usize, limit: u64) -> u64 {
        let mut forgotten = 0;
        while let Some((at, _)) = self.order.front() {
            if self.order.len() <= keep && *at >= limit {
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

    fn wanted(&self, wanted: &Wanted, now: u64) -> Vec<SagaId> {
        match wanted {
            Wanted::One(saga) => {
                let free = |entry: &&Entry| entry.node.is_none() || entry.is_due(now);
                let entry = self.unfinished.get(saga).filter(free);
                entry.map(|_| saga.clone()).into_iter().collect()
            }
            Wanted::Due { known, orphaned, except, limit } => {
                let known: HashSet<_> = known.iter().map(|(name, v)| (&**name, *v)).collect();
                let except: HashSet<_> = except.iter().collect();
                let overdue = now.saturating_sub(millis(*orphaned));
                let wanted = |(saga, entry): &(&SagaId, &Entry)| {
                    let since = if known.contains(&(&*entry.definition, entry.version)) {
                        now
                    } else {
                        overdue
                    };
                    entry.is_due(since) && !except.contains(saga)
                };
                let due = self.unfinished.iter().filter(wanted);
                let mut due: Vec<_> = due.map(|(saga, entry)| (entry.due, saga)).collect();
                due.sort_unstable();
                due.into_iter().take(*limit).map(|(_, saga)| saga.clone()).collect()
            }
        }
    }
}

impl Entry {
    fn is_due(&self, now: u64) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    fn admit(&self, commit: &Commit) -> Result<(), StoreError> {
        if commit.epoch != self.epoch {
            return Err(StoreError::Fenced { saga: commit.saga.clone(), epoch: commit.epoch });
        }
        if commit.records.is_empty() || commit.expected() != self.next {
            return Err(self.conflict(&commit.saga));
        }
        Ok(())
    }

    fn conflict(&self, saga: &SagaId) -> StoreError {
        StoreError::Conflict { saga: saga.clone(), next: self.next }
    }

    fn write(&mut self, commit: &Commit, now: u64) {
        self.next += commit.records.len() as u64;
        self.records.push(commit.records.clone());
        self.state = commit.state;
        self.mail_taken = commit.mail_taken;
        self.changed_at = now;
        self.crashes = 0;
        match &commit.hold {
            Hold::Keep(lease) => self.due = Some(now.saturating_add(millis(*lease))),
            Hold::Park { due, note } => self.park(*due, note.clone(), now),
        }
    }

    fn park(&mut self, due: Option<u64>, note: Option<Json>, now: u64) {
        self.node = None;
        self.note = note;
        self.due = if self.has_mail() { Some(now) } else { due };
    }

    fn has_mail(&self) -> bool {
        (self.mail.len() as u64) > self.mail_taken
    }

    fn post(&self, from: u64) -> Vec<Post> {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        self.mail.get(from..).unwrap_or_default().to_vec()
    }

    fn journal(&self, saga: &SagaId) -> Journal {
        let records = self.records.iter().flat_map(|batch| batch.iter());
        Journal {
            node: self.node.clone(),
            crashes: self.crashes,
            note: self.note.clone(),
            mail: self.post(self.mail_taken),
            mail_taken: self.mail_taken,
            ..Journal::new(saga.clone(), self.epoch, records.map(Record::readable).collect())
        }
    }

    fn summary(&self, saga: &SagaId) -> Summary {
        Summary {
            state: self.state,
            epoch: self.epoch,
            records: self.next,
            created_at: self.created_at,
            changed_at: self.changed_at,
            node: self.node.clone(),
            due: self.due,
            ..Summary::new(saga.clone(), self.definition.clone(), self.version)
        }
    }
}

/// All done when the future is made: nothing here waits.
impl Store for MemoryStore {
    fn now(&self) -> StoreFuture<'_, u64> {
        ready(Ok(self.time())).boxed()
    }

    fn create<'a>(&'a self, begin: &'a Begin) -> StoreFuture<'a, ()> {
        let now = self.time();
        let answer = || {
            let mut tables = self.tables();
            if tables.get(&begin.saga).is_some() {
                return Err(StoreError::Exists(begin.saga.clone()));
            }
            if tables.unfinished.len() >= self.0.unfinished {
                return Err(StoreError::full("saga store"));
            }
            let entry = Entry {
                definition: begin.definition.clone(),
                version: begin.version,
                state: State::Running,
                epoch: 1,
                node: Some(begin.node.clone()),
                due: Some(now.saturating_add(millis(begin.lease))),
                crashes: 0,
                note: None,
                created_at: now,
                changed_at: now,
                next: begin.records.len() as u64,
                records: vec![begin.records.clone()],
                mail: Vec::new(),
                keys: BTreeSet::new(),
                mail_taken: 0,
            };
            tables.unfinished.insert(begin.saga.clone(), entry);
            Ok(())
        };
        ready(answer()).boxed()
    }

    fn append<'a>(&'a self, commit: &'a Commit) -> StoreFuture<'a, ()> {
        let now = self.time();
        ready(self.tables().append(commit, now, self.0.finished)).boxed()
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
            let ours = |entry: &&mut Entry| entry.epoch == *epoch && entry.node.is_some();
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
        let ours = |entry: &&mut Entry| entry.epoch == release.epoch && entry.node.is_some();
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
        let answer = || {
            let mut tables = self.tables();
            let ended = tables.finished.contains_key(&mail.saga);
            let Some(entry) = tables.unfinished.get_mut(&mail.saga) else {
                let saga = mail.saga.clone();
                return Err(if ended {
                    StoreError::Ended(saga)
                } else {
                    StoreError::NoSuchSaga(saga)
                });
            };
            if entry.keys.contains(&mail.key) {
                return Ok(false);
            }
            let number = entry.mail.len() as u64;
            if number >= Mail::MOST {
                return Err(StoreError::full("mail of a saga"));
            }
            entry.keys.insert(mail.key.clone());
            entry.mail.push(Post::new(number, mail.key.clone(), mail.body.clone()));
            if entry.node.is_none() {
                entry.due = Some(now);
            }
            Ok(true)
        };
        ready(answer()).boxed()
    }

    fn mail<'a>(&'a self, saga: &'a SagaId, from: u64) -> StoreFuture<'a, Vec<Post>> {
        ready(Ok(self.tables().get(saga).map_or_else(Vec::new, |entry| entry.post(from)))).boxed()
    }

    fn query<'a>(&'a self, query: &'a Query) -> StoreFuture<'a, Vec<Summary>> {
        let tables = self.tables();
        let fits = |(saga, entry): &(&SagaId, &Entry)| {
            query.state.is_none_or(|state| state == entry.state)
                && query.definition.as_ref().is_none_or(|name| *name == entry.definition)
                && query.after.as_ref().is_none_or(|after| *saga > after)
        };
        let mut found: Vec<_> =
            tables.unfinished.iter().chain(&tables.finished).filter(fits).collect();
        found.sort_unstable_by_key(|(saga, _)| *saga);
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
        ready(Ok(self.tables().forget(keep.newest, limit))).boxed()
    }

    fn outbox<'a>(&'a self, relay: &'a Relay) -> StoreFuture<'a, Vec<Outgoing>> {
        let now = self.time();
        let mut tables = self.tables();
        if tables.relay.as_ref().is_some_and(|(node, until)| *node != relay.node && *until > now) {
            return ready(Ok(Vec::new())).boxed();
        }
        tables.relay = Some((relay.node.clone(), now.saturating_add(millis(relay.lease))));
        let oldest = tables.outbox.iter().take(relay.limit);
        let oldest =
            oldest.map(|(id, message)| Outgoing { id: id.clone(), message: message.clone() });
        ready(Ok(oldest.collect())).boxed()
    }

    fn relayed<'a>(&'a self, sent: &'a [MessageId]) -> StoreFuture<'a, ()> {
        let mut tables = self.tables();
        for id in sent {
            tables.outbox.remove(id);
        }
        ready(Ok(())).boxed()
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

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

//! A store of somebody else's: all that it needs is public, and the conformance kit judges it. It is as simple as a store can be.

#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::ready};
use gusset_saga::{
    Begin, Bundle, Claim, Commit, Hold, Journal, Mail, MessageId, Pending, Post, Query, Record,
    Relay, Relayed, Release, Renewed, Retention, SagaId, State, Store, StoreError, StoreFuture,
    Summary, Unreadable, Wanted, testing::conformance,
};

/// All as text, as a database has it.
struct Row {
    summary: Summary,
    crashes: u32,
    note: Option<String>,
    records: Vec<String>,
    mail: Vec<(Arc<str>, String)>,
    mail_taken: u64,
    finished_at: Option<u64>,
}

#[derive(Default)]
struct Tables {
    sagas: BTreeMap<SagaId, Row>,
    outbox: BTreeMap<MessageId, (String, u64)>,
    /// Who relays the messages of a saga, until when, and how often that failed.
    relaying: BTreeMap<SagaId, (Option<Arc<str>>, u64, u32)>,
}

#[derive(Clone)]
struct OneLock(Arc<Mutex<Tables>>, tokio::time::Instant);

const SINCE: u64 = 1_700_000_000_000;

fn text(records: &[Record]) -> impl Iterator<Item = String> {
    records.iter().map(|record| record.to_json().unwrap())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Row {
    fn journal(&self) -> Journal {
        let records: Result<Vec<_>, Unreadable> =
            self.records.iter().map(|text| Record::from_json(text)).collect();
        let mut journal = Journal::new(self.summary.saga.clone(), self.summary.epoch, records);
        journal.node = self.summary.node.clone();
        journal.crashes = self.crashes;
        journal.note = self.note.as_ref().map(|note| serde_json::from_str(note).unwrap());
        journal.mail = self.post(self.mail_taken);
        journal.mail_taken = self.mail_taken;
        journal
    }

    fn post(&self, from: u64) -> Vec<Post> {
        let post = |(number, (key, body)): (u64, &(Arc<str>, String))| {
            Post::new(number, key.clone(), serde_json::from_str(body).unwrap())
        };
        (0..).zip(&self.mail).skip(from as usize).map(post).collect()
    }

    fn park(&mut self, due: Option<u64>, note: Option<String>, now: u64) {
        let unread = self.mail.len() as u64 > self.mail_taken;
        self.summary.node = None;
        self.summary.due = if unread { Some(now) } else { due };
        self.note = note;
    }

    fn is_held(&self, epoch: u64) -> bool {
        self.summary.epoch == epoch && self.summary.node.is_some()
    }
}

impl OneLock {
    fn new() -> Self {
        Self(Arc::default(), tokio::time::Instant::now())
    }

    fn time(&self) -> u64 {
        SINCE + millis(self.1.elapsed())
    }

    fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables, u64) -> Result<T, StoreError>,
    ) -> StoreFuture<'static, T> {
        let now = self.time();
        ready(work(&mut self.0.lock().unwrap(), now)).boxed()
    }
}

impl Tables {
    fn append(&mut self, commit: &Commit, now: u64) -> Result<(), StoreError> {
        let saga = commit.saga.clone();
        let Some(row) = self.sagas.get_mut(&saga) else {
            return Err(StoreError::NoSuchSaga(saga));
        };
        if row.summary.epoch != commit.epoch {
            return Err(StoreError::Fenced { saga, epoch: commit.epoch });
        }
        let next = row.summary.records;
        if commit.expected() != next || row.finished_at.is_some() {
            return Err(StoreError::Conflict { saga, next });
        }
        row.records.extend(text(&commit.records));
        row.mail_taken = commit.mail_taken;
        row.crashes = 0;
        let summary = &mut row.summary;
        (summary.records, summary.state) = (next + commit.records.len() as u64, commit.state);
        summary.changed_at = now;
        match &commit.hold {
            Hold::Keep(lease) => summary.due = Some(now.saturating_add(millis(*lease))),
            Hold::Park { due, note } => {
                row.park(*due, note.as_ref().map(|note| note.get().to_owned()), now);
            }
        }
        if commit.state.is_final() {
            row.finished_at = Some(now);
            (row.summary.node, row.summary.due) = (None, None);
        }
        for message in &*commit.outbox {
            let text = serde_json::to_string(&message.message).unwrap();
            self.outbox.insert(message.id.clone(), (text, now));
        }
        Ok(())
    }

    fn wanted(&self, wanted: &Wanted, now: u64) -> Vec<SagaId> {
        let free =
            |row: &Row| row.finished_at.is_none() && row.summary.due.is_some_and(|due| due <= now);
        match wanted {
            Wanted::One(saga) => {
                let takes = |row: &&Row| {
                    row.finished_at.is_none() && (row.summary.node.is_none() || free(row))
                };
                self.sagas.get(saga).filter(takes).map(|_| saga.clone()).into_iter().collect()
            }
            Wanted::Due { known, orphaned, except, limit } => {
                let overdue = now.saturating_sub(millis(*orphaned));
                let takes = |row: &&Row| {
                    let one = &row.summary;
                    let mine = known.contains(&(one.definition.clone(), one.version));
                    free(row)
                        && (mine || one.due.is_some_and(|due| due <= overdue))
                        && !except.contains(&one.saga)
                };
                let mut due: Vec<_> = self.sagas.values().filter(takes).collect();
                due.sort_by_key(|row| row.summary.due);
                due.truncate(*limit);
                due.into_iter().map(|row| row.summary.saga.clone()).collect()
            }
        }
    }

    fn bundle(&mut self, saga: &SagaId, relay: &Relay, now: u64) -> Option<Bundle> {
        let (_, until, failures) = self.relaying.get(saga).cloned().unwrap_or_default();
        if until > now {
            return None;
        }
        let until = now.saturating_add(millis(relay.lease));
        self.relaying.insert(saga.clone(), (Some(relay.node.clone()), until, failures));
        let mine = self.outbox.iter().filter(|(id, _)| id.saga == *saga);
        let texts = mine.map(|(id, (text, _))| (id.clone(), &**text));
        Some(Bundle::new(saga.clone(), failures, texts.take(relay.messages.max(1))))
    }
}

impl Store for OneLock {
    fn now(&self) -> StoreFuture<'_, u64> {
        self.with(|_, now| Ok(now))
    }

    fn create<'a>(&'a self, begin: &'a Begin) -> StoreFuture<'a, ()> {
        self.with(|tables, now| {
            if tables.sagas.contains_key(&begin.saga) {
                return Err(StoreError::Exists(begin.saga.clone()));
            }
            let (saga, definition) = (begin.saga.clone(), begin.definition.clone());
            let mut summary = Summary::new(saga.clone(), definition, begin.version);
            summary.records = begin.records.len() as u64;
            (summary.created_at, summary.changed_at) = (now, now);
            summary.node = Some(begin.node.clone());
            summary.due = Some(now.saturating_add(millis(begin.lease)));
            let records = text(&begin.records).collect();
            let (note, mail, finished_at) = (None, Vec::new(), None);
            let row = Row { summary, crashes: 0, note, records, mail, mail_taken: 0, finished_at };
            tables.sagas.insert(saga, row);
            Ok(())
        })
    }

    fn append<'a>(&'a self, commit: &'a Commit) -> StoreFuture<'a, ()> {
        self.with(|tables, now| tables.append(commit, now))
    }

    fn load<'a>(&'a self, saga: &'a SagaId) -> StoreFuture<'a, Option<Journal>> {
        self.with(|tables, _| Ok(tables.sagas.get(saga).map(Row::journal)))
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Vec<Journal>> {
        self.with(|tables, now| {
            let mut taken = Vec::new();
            for saga in tables.wanted(&claim.wanted, now) {
                let row = tables.sagas.get_mut(&saga).unwrap();
                row.crashes += u32::from(row.summary.node.is_some());
                row.summary.epoch += 1;
                row.summary.node = Some(claim.node.clone());
                row.summary.due = Some(now.saturating_add(millis(claim.lease)));
                taken.push(row.journal());
            }
            Ok(taken)
        })
    }

    fn renew<'a>(&'a self, held: &'a [(SagaId, u64)], lease: Duration) -> StoreFuture<'a, Renewed> {
        self.with(|tables, now| {
            let mut renewed = Renewed::default();
            for (saga, epoch) in held {
                match tables.sagas.get_mut(saga).filter(|row| row.is_held(*epoch)) {
                    Some(row) => {
                        row.summary.due = Some(now.saturating_add(millis(lease)));
                        if row.mail.len() as u64 > row.mail_taken {
                            renewed.mail.push(saga.clone());
                        }
                    }
                    None => renewed.lost.push(saga.clone()),
                }
            }
            Ok(renewed)
        })
    }

    fn release<'a>(&'a self, release: &'a Release) -> StoreFuture<'a, ()> {
        self.with(|tables, now| {
            let row = tables.sagas.get_mut(&release.saga);
            if let Some(row) = row.filter(|row| row.is_held(release.epoch)) {
                row.park(release.due, release.note.as_ref().map(|note| note.get().to_owned()), now);
                if release.blocked {
                    row.summary.state = State::Blocked;
                }
            }
            Ok(())
        })
    }

    fn send<'a>(&'a self, mail: &'a Mail) -> StoreFuture<'a, bool> {
        self.with(|tables, now| {
            let Some(row) = tables.sagas.get_mut(&mail.saga) else {
                return Err(StoreError::NoSuchSaga(mail.saga.clone()));
            };
            if row.finished_at.is_some() {
                return Err(StoreError::Ended(mail.saga.clone()));
            }
            if row.mail.iter().any(|(key, _)| *key == mail.key) {
                return Ok(false);
            }
            if row.mail.len() as u64 >= Mail::MOST {
                return Err(StoreError::full("mail of a saga"));
            }
            row.mail.push((mail.key.clone(), mail.body.get().to_owned()));
            if row.summary.node.is_none() {
                row.summary.due = Some(now);
            }
            Ok(true)
        })
    }

    fn mail<'a>(&'a self, saga: &'a SagaId, from: u64) -> StoreFuture<'a, Vec<Post>> {
        self.with(|tables, _| {
            Ok(tables.sagas.get(saga).map_or_else(Vec::new, |row| row.post(from)))
        })
    }

    fn query<'a>(&'a self, query: &'a Query) -> StoreFuture<'a, Vec<Summary>> {
        self.with(|tables, _| {
            let fits = |one: &&Summary| {
                query.state.is_none_or(|state| state == one.state)
                    && query.definition.as_ref().is_none_or(|name| *name == one.definition)
                    && query.after.as_ref().is_none_or(|after| {
                        (one.saga > *after) != query.newest_first && one.saga != *after
                    })
            };
            let all = tables.sagas.values().map(|row| &row.summary);
            let mut found: Vec<_> = all.filter(fits).cloned().collect();
            if query.newest_first {
                found.reverse();
            }
            found.truncate(query.limit);
            Ok(found)
        })
    }

    fn count(&self) -> StoreFuture<'_, Vec<(State, u64)>> {
        self.with(|tables, _| {
            let mut counts = BTreeMap::new();
            for row in tables.sagas.values() {
                *counts.entry(row.summary.state).or_insert(0) += 1;
            }
            Ok(counts.into_iter().collect())
        })
    }

    fn purge<'a>(&'a self, keep: &'a Retention) -> StoreFuture<'a, u64> {
        self.with(|tables, now| {
            let finished = |row: &Row| Some((row.finished_at?, row.summary.saga.clone()));
            let mut all: Vec<_> = tables.sagas.values().filter_map(finished).collect();
            all.sort_by(|a, b| b.cmp(a));
            let old = |at: u64| keep.younger_than.is_some_and(|age| now - at >= millis(age));
            let gone = (0..).zip(all).filter(|(place, (at, _))| *place >= keep.newest || old(*at));
            let gone: BTreeSet<_> = gone.map(|(_, (_, saga))| saga).collect();
            let waits = |saga: &SagaId| tables.outbox.keys().any(|id| id.saga == *saga);
            let gone: BTreeSet<_> = gone.into_iter().filter(|saga| !waits(saga)).collect();
            tables.sagas.retain(|saga, _| !gone.contains(saga));
            Ok(gone.len() as u64)
        })
    }

    fn outbox<'a>(&'a self, relay: &'a Relay) -> StoreFuture<'a, Vec<Bundle>> {
        self.with(|tables, now| {
            let all: BTreeSet<SagaId> = tables.outbox.keys().map(|id| id.saga.clone()).collect();
            let all = all
                .into_iter()
                .filter(|saga| relay.after.as_ref().is_none_or(|after| saga > after));
            let mut bundles = Vec::new();
            for saga in all {
                if bundles.len() == relay.sagas {
                    break;
                }
                bundles.extend(tables.bundle(&saga, relay, now));
            }
            Ok(bundles)
        })
    }

    fn relayed<'a>(&'a self, done: &'a [Relayed]) -> StoreFuture<'a, ()> {
        self.with(|tables, now| {
            for done in done {
                for id in &done.sent {
                    tables.outbox.remove(id);
                }
                let held = tables.relaying.get_mut(&done.saga);
                let held = held.filter(|(node, ..)| node.as_ref() == Some(&done.node));
                match (held, done.pause) {
                    (None, _) => {}
                    (Some(_), None) => drop(tables.relaying.remove(&done.saga)),
                    (Some(held), Some((span, failures))) => {
                        *held = (None, now.saturating_add(millis(span)), failures);
                    }
                }
            }
            Ok(())
        })
    }

    fn pending(&self) -> StoreFuture<'_, Pending> {
        self.with(|tables, now| {
            let since = tables.outbox.values().map(|(_, since)| *since).min();
            let oldest = since.map(|since| Duration::from_millis(now - since));
            let failing = tables.relaying.values().filter(|(.., failures)| *failures > 0).count();
            Ok(Pending::new(tables.outbox.len() as u64, oldest, failing as u64))
        })
    }
}

struct Bed(OneLock);

impl conformance::Bed for Bed {
    fn open(&self) -> StoreFuture<'_, Arc<dyn Store>> {
        ready(Ok(Arc::new(self.0.clone()) as Arc<dyn Store>)).boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_made_outside_of_the_crate_is_one() {
    conformance::run(async || Bed(OneLock::new())).await;
}

/// A store that forgets to fence is found out.
#[derive(Clone)]
struct Unfenced(OneLock);

macro_rules! pass {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty;)*) => {$(
        fn $name<'a>(&'a self, $($arg: &'a $type),*) -> StoreFuture<'a, $answer> {
            self.0.$name($($arg),*)
        }
    )*};
}

impl Store for Unfenced {
    pass! {
        create(begin: Begin) -> ();
        load(saga: SagaId) -> Option<Journal>;
        claim(claim: Claim) -> Vec<Journal>;
        release(release: Release) -> ();
        send(mail: Mail) -> bool;
        query(query: Query) -> Vec<Summary>;
        purge(keep: Retention) -> u64;
        outbox(relay: Relay) -> Vec<Bundle>;
        relayed(done: [Relayed]) -> ();
    }

    fn now(&self) -> StoreFuture<'_, u64> {
        self.0.now()
    }

    fn append<'a>(&'a self, commit: &'a Commit) -> StoreFuture<'a, ()> {
        // Whoever it is, it is taken for who holds the saga.
        let epoch = self.0.0.lock().unwrap().sagas.get(&commit.saga).map(|row| row.summary.epoch);
        let mut commit = commit.clone();
        commit.epoch = epoch.unwrap_or(commit.epoch);
        self.0.with(|tables, now| tables.append(&commit, now))
    }

    fn renew<'a>(&'a self, held: &'a [(SagaId, u64)], lease: Duration) -> StoreFuture<'a, Renewed> {
        self.0.renew(held, lease)
    }

    fn mail<'a>(&'a self, saga: &'a SagaId, from: u64) -> StoreFuture<'a, Vec<Post>> {
        self.0.mail(saga, from)
    }

    fn count(&self) -> StoreFuture<'_, Vec<(State, u64)>> {
        self.0.count()
    }

    fn pending(&self) -> StoreFuture<'_, Pending> {
        self.0.pending()
    }
}

struct UnfencedBed(Unfenced);

impl conformance::Bed for UnfencedBed {
    fn open(&self) -> StoreFuture<'_, Arc<dyn Store>> {
        ready(Ok(Arc::new(self.0.clone()) as Arc<dyn Store>)).boxed()
    }
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "Ok(())")]
async fn a_store_that_takes_what_an_older_epoch_writes_is_found_out() {
    let name = "an_older_epoch_can_neither_append_nor_renew_nor_release";
    let case = conformance::cases().iter().find(|case| case.name == name).unwrap();
    case.run(&UnfencedBed(Unfenced(OneLock::new()))).await;
}

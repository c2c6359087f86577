//! A store that crashes, for tests of what a saga leaves behind.

use std::{
    fmt,
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::watch;

pub mod conformance;
pub mod crash;

use crate::{
    Begin, Bundle, Claim, Commit, Journal, Mail, Pending, Post, Query, Relay, Relayed, Release,
    Renewed, Retention, SagaId, State, Store, StoreError, StoreFuture, Summary,
};

/// What happens at the chosen write. Reads, leases and claims are not writes here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is gone before the store has the write: no answer, and none to anything that follows.
    CrashBefore,
    /// The store has the write, but the process is gone before the answer.
    CrashAfter,
    /// The write fails, and only this one.
    FailBefore,
    /// The store has the write, but answers with a failure.
    FailAfter,
    /// The process stands still before the write, its renewals of leases as well, until [`FaultyStore::thaw`], and then goes on as if nothing had happened.
    Freeze,
    /// The store panics instead of writing, and only this once.
    Panic,
}

/// Wraps a store, counts the writes, and does as told at one of them. Clones share all.
///
/// To simulate a crash: run a saga on it, wait for [`hit`](Self::hit), drop the orchestrator, and
/// [recover](crate::Orchestrator::recover) with a new one on the store inside, after the lease.
#[derive(Clone)]
pub struct FaultyStore(Arc<Shared>);

struct Shared {
    inner: Arc<dyn Store>,
    fault: Option<(u64, Fault)>,
    writes: AtomicU64,
    hit: watch::Sender<bool>,
    frozen: watch::Sender<bool>,
}

impl FaultyStore {
    /// Passes all on, and counts.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self::build(inner, None)
    }

    /// `fault` happens at write number `write`, counted from 1.
    pub fn failing_at(inner: Arc<dyn Store>, write: u64, fault: Fault) -> Self {
        Self::build(inner, Some((write, fault)))
    }

    fn build(inner: Arc<dyn Store>, fault: Option<(u64, Fault)>) -> Self {
        let (hit, frozen) = (watch::Sender::new(false), watch::Sender::new(true));
        Self(Arc::new(Shared { inner, fault, writes: AtomicU64::new(0), hit, frozen }))
    }

    /// How many writes were begun.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.0.writes.load(SeqCst)
    }

    /// Until the fault has happened.
    pub async fn hit(&self) {
        // The sender is ours, so it does not err.
        let _ = self.0.hit.subscribe().wait_for(|hit| *hit).await;
    }

    /// Ends a [`Fault::Freeze`].
    pub fn thaw(&self) {
        self.0.frozen.send_replace(false);
    }

    fn is_crashed(&self) -> bool {
        let crash = |fault| matches!(fault, Fault::CrashBefore | Fault::CrashAfter);
        *self.0.hit.borrow() && self.0.fault.is_some_and(|(_, fault)| crash(fault))
    }

    async fn write(&self, write: StoreFuture<'_, ()>) -> Result<(), StoreError> {
        let number = self.0.writes.fetch_add(1, SeqCst) + 1;
        let fault = self.0.fault.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
        let lost = || StoreError::failed("the store fails as it was told to");
        match fault {
            _ if self.is_crashed() => pending().await,
            None => write.await,
            Some(Fault::CrashBefore) => {
                self.0.hit.send_replace(true);
                pending().await
            }
            Some(Fault::CrashAfter) => {
                let _ = write.await;
                self.0.hit.send_replace(true);
                pending().await
            }
            #[expect(clippy::panic, reason = "as it was told to")]
            Some(Fault::Panic) => {
                self.0.hit.send_replace(true);
                panic!("the store panics as it was told to")
            }
            Some(Fault::FailBefore) => {
                self.0.hit.send_replace(true);
                Err(lost())
            }
            Some(Fault::FailAfter) => {
                let _ = write.await;
                self.0.hit.send_replace(true);
                Err(lost())
            }
            Some(Fault::Freeze) => {
                self.0.hit.send_replace(true);
                let _ = self.0.frozen.subscribe().wait_for(|frozen| !frozen).await;
                write.await
            }
        }
    }

    async fn other<T>(&self, answer: StoreFuture<'_, T>) -> Result<T, StoreError> {
        if self.is_crashed() {
            pending().await
        }
        let frozen = self.0.fault.is_some_and(|(_, fault)| fault == Fault::Freeze);
        if frozen && *self.0.hit.borrow() {
            let _ = self.0.frozen.subscribe().wait_for(|frozen| !frozen).await;
        }
        answer.await
    }
}

/// Writes begin when their futures are polled, so that a crash before one really is before it.
impl Store for FaultyStore {
    fn create<'a>(&'a self, begin: &'a Begin) -> StoreFuture<'a, ()> {
        self.write(async { self.0.inner.create(begin).await }.boxed()).boxed()
    }

    fn append<'a>(&'a self, commit: &'a Commit) -> StoreFuture<'a, ()> {
        self.write(async { self.0.inner.append(commit).await }.boxed()).boxed()
    }

    fn load<'a>(&'a self, saga: &'a SagaId) -> StoreFuture<'a, Option<Journal>> {
        self.other(async { self.0.inner.load(saga).await }.boxed()).boxed()
    }

    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Vec<Journal>> {
        self.other(async { self.0.inner.claim(claim).await }.boxed()).boxed()
    }

    fn renew<'a>(&'a self, held: &'a [(SagaId, u64)], lease: Duration) -> StoreFuture<'a, Renewed> {
        self.other(async move { self.0.inner.renew(held, lease).await }.boxed()).boxed()
    }

    fn release<'a>(&'a self, release: &'a Release) -> StoreFuture<'a, ()> {
        self.other(async { self.0.inner.release(release).await }.boxed()).boxed()
    }

    fn now(&self) -> StoreFuture<'_, u64> {
        self.other(async { self.0.inner.now().await }.boxed()).boxed()
    }

    fn send<'a>(&'a self, mail: &'a Mail) -> StoreFuture<'a, bool> {
        self.other(async { self.0.inner.send(mail).await }.boxed()).boxed()
    }

    fn mail<'a>(&'a self, saga: &'a SagaId, from: u64) -> StoreFuture<'a, Vec<Post>> {
        self.other(async move { self.0.inner.mail(saga, from).await }.boxed()).boxed()
    }

    fn count(&self) -> StoreFuture<'_, Vec<(State, u64)>> {
        self.other(async { self.0.inner.count().await }.boxed()).boxed()
    }

    fn outbox<'a>(&'a self, relay: &'a Relay) -> StoreFuture<'a, Vec<Bundle>> {
        self.other(async { self.0.inner.outbox(relay).await }.boxed()).boxed()
    }

    fn relayed<'a>(&'a self, done: &'a [Relayed]) -> StoreFuture<'a, ()> {
        self.other(async move { self.0.inner.relayed(done).await }.boxed()).boxed()
    }

    fn pending(&self) -> StoreFuture<'_, Pending> {
        self.other(async { self.0.inner.pending().await }.boxed()).boxed()
    }

    fn query<'a>(&'a self, query: &'a Query) -> StoreFuture<'a, Vec<Summary>> {
        self.other(async { self.0.inner.query(query).await }.boxed()).boxed()
    }

    fn purge<'a>(&'a self, keep: &'a Retention) -> StoreFuture<'a, u64> {
        self.other(async { self.0.inner.purge(keep).await }.boxed()).boxed()
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore")
            .field("fault", &self.0.fault)
            .field("writes", &self.writes())
            .finish_non_exhaustive()
    }
}

//! Where journals are kept.

mod answers;
mod memory;
mod messages;
#[cfg(feature = "postgres")]
mod postgres;
mod requests;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::{error::Error, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use gusset_call::Overloaded;

use crate::{BoxError, SagaId, State};

pub use answers::{Bundle, Journal, Outgoing, Pending, Post, Renewed, Summary};
pub use memory::MemoryStore;
pub use messages::{Message, MessageId, Relay, Relayed};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresOptions, PostgresStore};
pub use requests::{Begin, Claim, Commit, Hold, Mail, Query, Release, Retention, Wanted};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteError, SqliteStore};

/// Future of a [`Store`].
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Keeps the journals of sagas, who works on which, their mail, and the messages that they want sent.
///
/// # Contract
///
/// - **Durable**: what a future answered `Ok` to is durable, as far as the store is. A future that failed as [`StoreError::Failed`], or was
///   dropped, may have had its effect, then or later: callers repeat the call and recognise their own work.
/// - **Whole**: everything in one [`Commit`], [`Begin`], [`Release`] or [`Mail`] becomes durable, or nothing of it.
/// - **One writer**: a journal is written by the one that holds the saga's current epoch. [`claim`](Self::claim) makes a new epoch, from which
///   moment appends, renewals and releases of older ones have no effect, however late they come.
/// - **One clock**: leases, due times and ages are decided by the store's clock alone, see [`now`](Self::now). Where nodes share a
///   database that is the clock of the database. No node's wall clock is ever compared with another's, so their skew does not matter.
/// - **Opaque**: a store looks neither into events nor into mail, messages or notes. It keeps a [`Record`](crate::Record) as
///   [`Record::to_json`](crate::Record::to_json) and reads it back by [`Record::from_json`](crate::Record::from_json). What it cannot read goes into
///   [`Journal::records`] as an error, and hinders no other saga.
/// - **Bounded**: what has no room is refused as [`StoreError::Full`], and had no effect.
///
/// `testing::conformance` (feature `testing`) checks all of it, for any store.
pub trait Store: Send + Sync + 'static {
    /// The store's clock, in milliseconds since 1970. It may be set, and then leases and timers move with it.
    fn now(&self) -> StoreFuture<'_, u64>;

    /// Begins the journal of a new saga, in epoch 1 and [`State::Running`], held by `begin.node` for `begin.lease`.
    ///
    /// Fails with [`StoreError::Exists`], [`StoreError::Full`] or [`StoreError::Failed`].
    fn create<'a>(&'a self, begin: &'a Begin) -> StoreFuture<'a, ()>;

    /// Adds records to the journal, notes the state that they lead to, keeps messages to be relayed, and prolongs or ends the lease.
    /// It sets [`Journal::crashes`] back to 0. A lease that has lapsed does not matter as long as nobody has claimed the saga.
    ///
    /// Fails, checked in this order, with [`StoreError::NoSuchSaga`]; with [`StoreError::Fenced`] if `commit.epoch` is not the saga's; with
    /// [`StoreError::Conflict`] if the journal does not end where `commit.records` begin, or the saga is in a final state; with
    /// [`StoreError::Full`] if there is no room for its messages; or with [`StoreError::Failed`].
    fn append<'a>(&'a self, commit: &'a Commit) -> StoreFuture<'a, ()>;

    /// The journal of a saga, or `None` if there is none.
    fn load<'a>(&'a self, saga: &'a SagaId) -> StoreFuture<'a, Option<Journal>>;

    /// Takes sagas over: gives each a new epoch, held by `claim.node` for `claim.lease`, and hands out their journals. One that was held until its lease
    /// lapsed has [`Journal::crashes`] raised by one.
    ///
    /// No two claims get one saga, whoever makes them. See [`Wanted`] for which sagas are taken; an empty answer means that there is none.
    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Vec<Journal>>;

    /// Prolongs leases to `lease` from now, given as saga and epoch. One that has lapsed is prolonged as well, if nobody has claimed the saga.
    fn renew<'a>(&'a self, held: &'a [(SagaId, u64)], lease: Duration) -> StoreFuture<'a, Renewed>;

    /// Ends a lease. Mail that the journal does not have yet makes the saga due at once, whatever `release.due` says. An epoch that is
    /// over, a saga in a final state, and one that there is not are ignored.
    fn release<'a>(&'a self, release: &'a Release) -> StoreFuture<'a, ()>;

    /// Puts mail for a saga where whoever holds it finds it, numbered from 0 in the order of arrival, and makes the saga due at once if nobody holds it.
    /// Answers whether it is new: mail with a key that this saga has had before is dropped.
    ///
    /// Fails with [`StoreError::NoSuchSaga`]; with [`StoreError::Ended`] if the saga is in a final state; with [`StoreError::Full`] if it has had
    /// [`Mail::MOST`]; or with [`StoreError::Failed`].
    fn send<'a>(&'a self, mail: &'a Mail) -> StoreFuture<'a, bool>;

    /// Mail of a saga that has number `from` or a higher one, in order.
    fn mail<'a>(&'a self, saga: &'a SagaId, from: u64) -> StoreFuture<'a, Vec<Post>>;

    /// Lists sagas by id.
    fn query<'a>(&'a self, query: &'a Query) -> StoreFuture<'a, Vec<Summary>>;

    /// How many sagas are in each state; those with none may be left out.
    fn count(&self) -> StoreFuture<'_, Vec<(State, u64)>>;

    /// Forgets sagas in a final state that `keep` does not cover, with all that belongs to them, and answers how many. Their ids can be created anew. One that
    /// has messages which were not relayed yet stays, whatever `keep` says, until they are and it is purged again: so two sagas of one id never have
    /// messages in the store at once.
    fn purge<'a>(&'a self, keep: &'a Retention) -> StoreFuture<'a, u64>;

    /// Hands out messages that wait to be relayed, by the ids of their sagas, and makes `relay.node` the only one that gets messages of these sagas for
    /// `relay.lease` from now, or until they are [`relayed`](Self::relayed). Sagas that somebody has, and those that pause, are passed over.
    ///
    /// One relay at a time for each saga, because two would send its messages out of order. A bundle may be empty, and is to be given back like the others.
    fn outbox<'a>(&'a self, relay: &'a Relay) -> StoreFuture<'a, Vec<Bundle>>;

    /// Forgets messages that the broker has by now, and ends or prolongs what [`outbox`](Self::outbox) gave, where `done.node` still has it: who lost it to another
    /// one has its messages forgotten all the same. Ids that there are not are ignored, and so are those of an earlier saga of the same id: they differ in
    /// [`MessageId::life`](crate::MessageId::life).
    fn relayed<'a>(&'a self, done: &'a [Relayed]) -> StoreFuture<'a, ()>;

    /// What waits to be relayed.
    fn pending(&self) -> StoreFuture<'_, Pending>;
}

/// Why a [`Store`] did not do as it was told.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// There is a journal under this id.
    #[error("saga {0} exists")]
    Exists(SagaId),
    /// There is no journal under this id.
    #[error("no saga {0}")]
    NoSuchSaga(SagaId),
    /// The saga is in a final state.
    #[error("saga {0} has come to its end")]
    Ended(SagaId),
    /// Another process has taken the saga over.
    #[error("epoch {epoch} of saga {saga} is over")]
    Fenced {
        /// The saga.
        saga: SagaId,
        /// Epoch of the one who asked.
        epoch: u64,
    },
    /// The journal does not end where the writer believed.
    #[error("journal of saga {saga} goes on at {next}")]
    Conflict {
        /// The saga.
        saga: SagaId,
        /// Sequence number of the next record.
        next: u64,
    },
    /// No room: for a further saga, for mail, or for messages.
    #[error("the store takes no more")]
    Full(#[source] Overloaded),
    /// Whatever else; it may have had its effect.
    #[error("the store did not answer as it should")]
    Failed(#[source] Arc<dyn Error + Send + Sync>),
}

impl StoreError {
    /// Any error as [`StoreError::Failed`].
    pub fn failed(error: impl Into<BoxError>) -> Self {
        Self::Failed(error.into().into())
    }

    /// No room at `what`.
    #[must_use]
    pub fn full(what: &'static str) -> Self {
        Self::Full(Overloaded::new(what))
    }
}

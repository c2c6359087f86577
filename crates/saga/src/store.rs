//! Where journals are kept.

mod memory;

use std::{error::Error, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use gusset_call::Overloaded;

use crate::{BoxError, Record, SagaId, State};

pub use memory::MemoryStore;

/// Future of a [`Store`].
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// Keeps the journals of sagas, and who works on which.
///
/// # Contract
///
/// - What a future answered `Ok` to is durable, as far as the store is. A future that answered an error other than
///   the ones below, or was dropped, may have had its effect: callers repeat the call and recognise their own work.
/// - A journal has one writer: the one that holds the saga's current epoch. [`claim`](Self::claim) makes a new epoch, from
///   which moment appends and renewals of older ones fail as [`StoreError::Fenced`], however late they come.
/// - All records of one append become durable, or none.
pub trait Store: Send + Sync + 'static {
    /// Begins the journal of a new saga, in epoch 1, held by `begin.node` for `begin.lease`.
    ///
    /// Fails with [`StoreError::Exists`], [`StoreError::Full`] or [`StoreError::Failed`].
    fn create<'a>(&'a self, begin: &'a Begin) -> StoreFuture<'a, ()>;

    /// Adds records to the journal, and notes the state that they lead to. In a final state, or stuck, the lease ends with it.
    ///
    /// Fails with [`StoreError::Fenced`] if `commit.epoch` is not the saga's, with [`StoreError::Conflict`] if the journal does not
    /// end where `commit.records` begin, with [`StoreError::NoSuchSaga`] or [`StoreError::Failed`].
    fn append<'a>(&'a self, commit: &'a Commit) -> StoreFuture<'a, ()>;

    /// The journal of a saga, or `None` if there is none.
    fn load<'a>(&'a self, saga: &'a SagaId) -> StoreFuture<'a, Option<Journal>>;

    /// Takes sagas over: gives each a new epoch, held by `claim.node` for `claim.lease`, and hands out their journals.
    ///
    /// Only sagas that nobody holds, or whose lease is over, are taken; see [`Wanted`] for which of them.
    fn claim<'a>(&'a self, claim: &'a Claim) -> StoreFuture<'a, Vec<Journal>>;

    /// Prolongs leases to `lease` from now, given as saga and epoch. Answers with those that are of an older epoch, or gone.
    fn renew<'a>(
        &'a self,
        held: &'a [(SagaId, u64)],
        lease: Duration,
    ) -> StoreFuture<'a, Vec<SagaId>>;

    /// Ends a lease, so that others can take the saga over at once. An older epoch is ignored.
    fn release<'a>(&'a self, saga: &'a SagaId, epoch: u64) -> StoreFuture<'a, ()>;

    /// Lists sagas by id.
    fn query<'a>(&'a self, query: &'a Query) -> StoreFuture<'a, Vec<Summary>>;

    /// Forgets sagas in a final state that `keep` does not cover, and answers how many.
    fn purge<'a>(&'a self, keep: &'a Retention) -> StoreFuture<'a, u64>;
}

/// A new journal.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Begin {
    /// The saga.
    pub saga: SagaId,
    /// Who begins it.
    pub node: Arc<str>,
    /// For how long it holds it.
    pub lease: Duration,
    /// The first record, an [`Event::Started`](crate::Event::Started).
    pub record: Record,
}

/// Records to add.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Commit {
    /// The saga.
    pub saga: SagaId,
    /// Epoch of the writer.
    pub epoch: u64,
    /// At least one, with sequence numbers that follow each other. The first is where the writer believes the journal to end.
    pub records: Vec<Record>,
    /// Where the saga stands after them.
    pub state: State,
}

/// Sagas to take over.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// Who takes them.
    pub node: Arc<str>,
    /// For how long it will hold them.
    pub lease: Duration,
    /// Which ones.
    pub wanted: Wanted,
}

/// Which sagas a [`Claim`] is for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wanted {
    /// This one, in any state that is not final.
    One(SagaId),
    /// Those that can be carried on, that is, neither in a final state nor stuck, by id.
    Abandoned {
        /// Only ids behind this one.
        after: Option<SagaId>,
        /// None of these: the claimer is working on them.
        except: Vec<SagaId>,
        /// At most so many.
        limit: usize,
    },
}

/// What to list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query {
    /// Only sagas in this state.
    pub state: Option<State>,
    /// Only ids behind this one: the last of the page before.
    pub after: Option<SagaId>,
    /// At most so many.
    pub limit: usize,
}

impl Query {
    /// All sagas, the first 100.
    #[must_use]
    pub const fn all() -> Self {
        Self { state: None, after: None, limit: 100 }
    }

    /// Those in `state`, the first 100.
    #[must_use]
    pub const fn in_state(state: State) -> Self {
        Self { state: Some(state), after: None, limit: 100 }
    }

    /// Only those behind `saga`.
    #[must_use]
    pub fn after(mut self, saga: SagaId) -> Self {
        self.after = Some(saga);
        self
    }

    /// At most `limit`.
    #[must_use]
    pub const fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }
}

/// Which finished sagas to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retention {
    /// At most so many, the ones that finished last.
    pub newest: usize,
    /// Only those that finished less than this ago.
    pub younger_than: Option<Duration>,
}

impl Retention {
    /// The `newest` so many.
    #[must_use]
    pub const fn newest(newest: usize) -> Self {
        Self { newest, younger_than: None }
    }

    /// Of those only the ones that finished less than `age` ago.
    #[must_use]
    pub const fn younger_than(mut self, age: Duration) -> Self {
        self.younger_than = Some(age);
        self
    }
}

/// A saga in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The saga.
    pub saga: SagaId,
    /// Name of its definition.
    pub definition: Arc<str>,
    /// Version of its definition.
    pub version: u32,
    /// Where it stands.
    pub state: State,
    /// How often it was taken over, and 1.
    pub epoch: u64,
    /// How many records its journal has.
    pub records: u64,
    /// When the last one was written, in milliseconds since 1970.
    pub changed_at: u64,
}

impl Summary {
    /// What a journal says; `None` of one that does not begin with a start.
    #[must_use]
    pub fn of(saga: SagaId, state: State, epoch: u64, records: &[Record]) -> Option<Self> {
        let crate::Event::Started { shape, .. } = &records.first()?.event else { return None };
        Some(Self {
            saga,
            definition: shape.name.clone(),
            version: shape.version,
            state,
            epoch,
            records: records.len() as u64,
            changed_at: records.last()?.at,
        })
    }
}

/// A journal as it was loaded.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Journal {
    /// The saga.
    pub saga: SagaId,
    /// Who holds or held it last.
    pub node: Arc<str>,
    /// Its epoch.
    pub epoch: u64,
    /// All records.
    pub records: Vec<Record>,
}

impl Journal {
    /// A journal of these parts; for stores.
    #[must_use]
    pub const fn new(saga: SagaId, node: Arc<str>, epoch: u64, records: Vec<Record>) -> Self {
        Self { saga, node, epoch, records }
    }
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
    /// No room for a further saga.
    #[error("the store takes no further saga")]
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
}

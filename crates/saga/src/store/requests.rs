use std::{sync::Arc, time::Duration};

use super::Outgoing;
use crate::{Json, Record, SagaId, State};

/// A new journal.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Begin {
    /// The saga.
    pub saga: SagaId,
    /// Name of its definition.
    pub definition: Arc<str>,
    /// Version of its definition.
    pub version: u32,
    /// Who begins it.
    pub node: Arc<str>,
    /// For how long it holds it.
    pub lease: Duration,
    /// The first records, with sequence numbers from 0 on; at least one.
    pub records: Arc<[Record]>,
}

/// Records to add, and what becomes durable together with them.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Commit {
    /// The saga.
    pub saga: SagaId,
    /// Epoch of the writer.
    pub epoch: u64,
    /// At least one, with sequence numbers that follow each other. The first is where the writer believes the journal to end.
    pub records: Arc<[Record]>,
    /// Where the saga stands after them. A final state ends the lease, whatever `hold` says.
    pub state: State,
    /// Whether the writer goes on.
    pub hold: Hold,
    /// Mail with a lower number than this is in the journal. Never less than in an earlier commit.
    pub mail_taken: u64,
    /// Messages for the broker, numbered by the sequence of their record.
    pub outbox: Arc<[Outgoing]>,
}

impl Commit {
    /// The sequence number at which the journal is expected to end so far.
    #[must_use]
    pub fn expected(&self) -> u64 {
        self.records.first().map_or(0, |record| record.sequence)
    }
}

/// What becomes of a lease.
#[derive(Clone, Debug, PartialEq)]
pub enum Hold {
    /// It lasts for so long from now.
    Keep(Duration),
    /// It ends. As [`Release`], except that a blocked saga writes no records.
    Park {
        /// From when on others may claim the saga, by the store's clock; `None`: not before there is mail, or by name.
        due: Option<u64>,
        /// Replaces the note that there is.
        note: Option<Json>,
    },
}

/// The end of a lease.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Release {
    /// The saga.
    pub saga: SagaId,
    /// Epoch of the one who held it.
    pub epoch: u64,
    /// From when on others may claim it, by the store's clock: 0 is at once. `None`: not before there is mail, or by name.
    pub due: Option<u64>,
    /// What the next holder is told, in [`Journal::note`](crate::Journal::note). Replaces the note that there is.
    pub note: Option<Json>,
    /// Lists the saga as [`State::Blocked`], until the next append: its journal cannot be read here, so no record can say it.
    pub blocked: bool,
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

/// Which sagas a [`Claim`] is for. Never those in a final state, and never those that somebody holds whose lease lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This one, due or not.
    One(SagaId),
    /// Those that are due: their lease has lapsed, or was ended and their due time has come. The ones that are due for longest come first.
    Due {
        /// Of these definitions, by name and version ...
        known: Vec<(Arc<str>, u32)>,
        /// ... and of any other that has been due for so long: nobody seems to know it.
        orphaned: Duration,
        /// None of these: the claimer is working on them.
        except: Vec<SagaId>,
        /// At most so many.
        limit: usize,
    },
}

/// What a saga is sent: a signal, or an operator's order.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Mail {
    /// The saga.
    pub saga: SagaId,
    /// The same for what is the same, at most 256 bytes: a second one is dropped.
    pub key: Arc<str>,
    /// What it says.
    pub body: Json,
}

impl Mail {
    /// Mail that a saga takes in its life. Orders and signals are in its journal, which must not grow without end.
    pub const MOST: u64 = 1_000;
}

/// What to list.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query {
    /// Only sagas in this state.
    pub state: Option<State>,
    /// Only sagas of the definition of this name.
    pub definition: Option<Arc<str>>,
    /// Only ids behind this one: the last of the page before.
    pub after: Option<SagaId>,
    /// From the last id to the first.
    pub newest_first: bool,
    /// At most so many.
    pub limit: usize,
}

impl Query {
    /// All sagas, the first 100.
    #[must_use]
    pub const fn all() -> Self {
        Self { state: None, definition: None, after: None, newest_first: false, limit: 100 }
    }

    /// Those in `state`, the first 100.
    #[must_use]
    pub const fn in_state(state: State) -> Self {
        Self { state: Some(state), definition: None, after: None, newest_first: false, limit: 100 }
    }

    /// Only those of the definition `name`.
    #[must_use]
    pub fn of(mut self, name: impl Into<Arc<str>>) -> Self {
        self.definition = Some(name.into());
        self
    }

    /// Only those behind `saga`.
    #[must_use]
    pub fn after(mut self, saga: SagaId) -> Self {
        self.after = Some(saga);
        self
    }

    /// From the last id to the first; `after` goes on from there. Those that [`SagaId::random`] makes grow with time, so the youngest come first; with ids of your own it is
    /// by their letters.
    #[must_use]
    pub const fn newest_first(mut self) -> Self {
        self.newest_first = true;
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
    /// Only those that finished less than this ago, by the store's clock.
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

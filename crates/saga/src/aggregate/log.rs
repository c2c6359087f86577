//! Where the events of aggregates are kept.

use std::{borrow::Borrow, error::Error, fmt, str::FromStr, sync::Arc};

use futures_util::future::BoxFuture;
use gusset_call::Overloaded;

use crate::{BoxError, InvalidName, Json, StoreError, id::check_name};

/// Future of an [`EventLog`].
pub type EventLogFuture<'a, T> = BoxFuture<'a, Result<T, EventLogError>>;

/// Keeps the events of aggregates, each in a stream of its own with versions 1, 2, 3 and so on, and for each stream a snapshot.
///
/// All stores of this crate are one: [`MemoryStore`](crate::MemoryStore), `SqliteStore` and `PostgresStore`.
///
/// # Contract
///
/// - **Durable** and **whole**: as for a [`Store`](crate::Store). All events of one [`NewEvents`] are kept, or none.
/// - **One order**: events follow the version that their writer expected, or are refused. Versions have no gaps, and what was kept is not changed.
/// - **Repeatable**: whoever repeats what was kept, under the same key, is answered as if it had just been kept. So a writer that got no answer asks again.
/// - **Opaque**: it looks into no event and no snapshot.
///
/// `testing::conformance::events` (feature `testing`) checks all of it.
pub trait EventLog: Send + Sync + 'static {
    /// Keeps events behind the expected version, and answers the version of the last one.
    ///
    /// Fails with [`EventLogError::Conflict`], [`EventLogError::Full`] or [`EventLogError::Failed`].
    fn extend<'a>(&'a self, new: &'a NewEvents) -> EventLogFuture<'a, u64>;

    /// Events with a higher version than `after`, in order, at most `limit`.
    fn read<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        limit: usize,
    ) -> EventLogFuture<'a, Vec<Recorded>>;

    /// Keeps a snapshot in place of the one that there is, unless that one is of a higher version.
    fn keep<'a>(&'a self, stream: &'a StreamId, snapshot: &'a Snapshot) -> EventLogFuture<'a, ()>;

    /// The snapshot of a stream.
    fn snapshot<'a>(&'a self, stream: &'a StreamId) -> EventLogFuture<'a, Option<Snapshot>>;

    /// Streams of one kind of aggregate, by their ids.
    fn streams<'a>(&'a self, page: &'a StreamPage) -> EventLogFuture<'a, Vec<StreamSummary>>;
}

/// A kind of aggregate, and which one: `<kind>/<id>`, both 1 to 128 visible ASCII characters, the kind without `/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// The stream of this aggregate.
    ///
    /// # Errors
    ///
    /// When one of them is no such name.
    pub fn new(kind: &str, id: &str) -> Result<Self, InvalidName> {
        check_name(kind)?;
        check_name(id)?;
        if kind.contains('/') {
            return Err(InvalidName(kind.to_owned()));
        }
        Ok(Self(format!("{kind}/{id}").into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Which one of its kind.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, id)| id)
    }
}

impl FromStr for StreamId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (kind, id) = text.split_once('/').ok_or_else(|| InvalidName(text.to_owned()))?;
        Self::new(kind, id)
    }
}

/// Compares, sorts and hashes as its text.
impl Borrow<str> for StreamId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Events to keep.
#[derive(Clone, Debug, PartialEq)]
pub struct NewEvents {
    /// Of which stream.
    pub stream: StreamId,
    /// The version that they follow; 0 where there is none yet.
    pub expected: u64,
    /// The same for a repetition of the same, and different from all others.
    pub key: Arc<str>,
    /// Who did it, or why: for the audit.
    pub note: Arc<str>,
    /// Version of the form of the events.
    pub format: u32,
    /// At least one.
    pub events: Arc<[Json]>,
}

impl NewEvents {
    /// They do not follow what there is.
    pub(crate) fn conflict(&self, found: u64) -> EventLogError {
        let (stream, expected) = (self.stream.clone(), self.expected);
        EventLogError::Conflict { stream, expected, found }
    }
}

/// An event that was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Its version, from 1 on.
    pub version: u64,
    /// When, by the store's clock, in milliseconds since 1970.
    pub at: u64,
    /// As it was given.
    pub note: Arc<str>,
    /// Version of its form.
    pub format: u32,
    /// What happened.
    pub event: Json,
}

/// An aggregate as it was at some version.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Version of the last event in it.
    pub version: u64,
    /// Version of its form.
    pub format: u32,
    /// What it was.
    pub state: Json,
}

/// Which streams to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamPage {
    /// Of this kind.
    pub kind: Arc<str>,
    /// Only behind this one: the last of the page before.
    pub after: Option<StreamId>,
    /// At most so many.
    pub limit: usize,
}

impl StreamPage {
    /// All of them lie between these two texts, both excluded.
    pub(crate) fn bounds(&self) -> (String, String) {
        let first = format!("{}/", self.kind);
        // `0` is what follows `/`.
        let end = format!("{}0", self.kind);
        let after = self.after.as_ref().map_or("", StreamId::as_str);
        (first.max(after.to_owned()), end)
    }
}

/// A stream in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSummary {
    /// Which one.
    pub stream: StreamId,
    /// Version of its last event.
    pub version: u64,
    /// When that was kept, by the store's clock, in milliseconds since 1970.
    pub changed_at: u64,
}

/// Why an [`EventLog`] did not do as it was told.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventLogError {
    /// Somebody else was quicker, or the version never was.
    #[error("{stream} is at version {found}, not at {expected}")]
    Conflict {
        /// The stream.
        stream: StreamId,
        /// Where the writer believed it to be.
        expected: u64,
        /// Where it is.
        found: u64,
    },
    /// No room; nothing was kept.
    #[error("the event log takes no more")]
    Full(#[source] Overloaded),
    /// Whatever else; it may have had its effect.
    #[error("the event log did not answer as it should")]
    Failed(#[source] Arc<dyn Error + Send + Sync>),
}

impl EventLogError {
    /// Any error as [`EventLogError::Failed`].
    pub fn failed(error: impl Into<BoxError>) -> Self {
        Self::Failed(error.into().into())
    }
}

impl From<StoreError> for EventLogError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(error) => Self::Full(error),
            StoreError::Failed(error) => Self::Failed(error),
            error => Self::failed(error),
        }
    }
}

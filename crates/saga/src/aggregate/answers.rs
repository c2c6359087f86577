//! What is told of aggregates.

use std::sync::Arc;

use super::{Aggregate, EventLogError, Recorded, StreamId};
use crate::{BoxError, InvalidName, Json, error::error_line};

/// An aggregate as it is at one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versioned<A> {
    /// What it is.
    pub state: A,
    /// How many events made it that; 0 if it does not exist.
    pub version: u64,
}

/// An event with what the audit wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change<E> {
    /// Version of the aggregate after it.
    pub version: u64,
    /// When, by the store's clock, in milliseconds since 1970.
    pub at: u64,
    /// Who did it, or why, as it was given.
    pub note: Arc<str>,
    /// The format that it was written in.
    pub format: u32,
    /// What happened, in today's form.
    pub event: E,
}

/// Why aggregates were not read or changed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AggregateError {
    /// The log refused or failed. [`EventLogError::Conflict`] names both versions.
    #[error(transparent)]
    Log(#[from] EventLogError),
    /// No name of an aggregate.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// A later release wrote an event.
    #[error("event {version} of {stream} is of format {format}, this release reads up to {known}")]
    Newer {
        /// The stream.
        stream: StreamId,
        /// Version of the event.
        version: u64,
        /// Its format.
        format: u32,
        /// [`Aggregate::FORMAT`] here.
        known: u32,
    },
    /// An event that is not what it should be.
    #[error("event {version} of {stream} cannot be read: {reason}")]
    Unreadable {
        /// The stream.
        stream: StreamId,
        /// Version of the event.
        version: u64,
        /// What is wrong.
        reason: Arc<str>,
    },
    /// An event that has no JSON form, too long a one, or none of the format that is [written](Aggregate::WRITTEN).
    #[error("event cannot be written: {0}")]
    Unwritable(Arc<str>),
}

/// Why an aggregate was not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError<E> {
    /// The decision was no.
    #[error("refused")]
    Refused(E),
    /// It was not read or written.
    #[error(transparent)]
    Aggregate(#[from] AggregateError),
}

/// What was kept in today's form, if it follows `before`.
pub(super) fn change<A: Aggregate>(
    stream: &StreamId,
    before: u64,
    recorded: Recorded,
) -> Result<Change<A::Event>, AggregateError> {
    let Recorded { version, at, note, format, event } = recorded;
    let unreadable =
        |reason: Arc<str>| AggregateError::Unreadable { stream: stream.clone(), version, reason };
    if version != before + 1 {
        return Err(unreadable(format!("it follows version {before}").into()));
    }
    if format > A::FORMAT {
        let (stream, known) = (stream.clone(), A::FORMAT);
        return Err(AggregateError::Newer { stream, version, format, known });
    }
    let event = if format == A::FORMAT {
        event.decode().map_err(BoxError::from)
    } else {
        let old = event.decode().map_err(BoxError::from);
        old.and_then(|old| A::upcast(format, old)).and_then(|new| Ok(serde_json::from_value(new)?))
    };
    let event = event.map_err(|error| unreadable(error_line(&*error)))?;
    Ok(Change { version, at, note, format, event })
}

/// An event in the form that others are to read.
pub(super) fn written<A: Aggregate>(event: &A::Event) -> Result<Json, BoxError> {
    const { assert!(A::WRITTEN <= A::FORMAT, "what is written must be readable here") };
    if A::WRITTEN == A::FORMAT {
        return Json::encode(event);
    }
    Json::encode(&A::downcast(serde_json::to_value(event)?)?)
}

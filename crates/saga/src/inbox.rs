#[cfg(any(test, feature = "postgres", feature = "sqlite"))]
mod machine;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::sync::Arc;

use crate::{BoxError, Direction, Json, StepContext};

#[cfg(feature = "postgres")]
pub use postgres::PostgresInbox;
#[cfg(feature = "sqlite")]
pub use sqlite::SqliteInbox;

/// A call of a saga's step as its receiver sees it: which operation, in which direction, from which epoch.
///
/// The sender passes on [`StepContext::idempotency_key`] and [`StepContext::epoch`], and the receiver asks its inbox, see [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboxCall {
    operation: Arc<str>,
    direction: Direction,
    epoch: u64,
}

impl InboxCall {
    /// Longest operation, in bytes: a saga and a step of a child of a child, at their longest.
    pub const LONGEST: usize = 1_024;

    /// The attempt of this context, where the receiver is the step itself.
    #[must_use]
    pub fn of(cx: &StepContext) -> Self {
        let operation = format!("{}/{}", cx.saga(), cx.step()).into();
        Self { operation, direction: cx.direction(), epoch: cx.epoch() }
    }

    /// The call with this [idempotency key](StepContext::idempotency_key) and [epoch](StepContext::epoch).
    ///
    /// # Errors
    ///
    /// [`InboxError::Key`] when it is not such a key.
    pub fn from_key(key: &str, epoch: u64) -> Result<Self, InboxError> {
        let ends = [("/do", Direction::Act), ("/undo", Direction::Undo)];
        let found =
            ends.iter().find_map(|(end, direction)| Some((key.strip_suffix(end)?, direction)));
        let fits = |operation: &str| {
            let text = operation.bytes().all(|byte| byte.is_ascii_graphic());
            text && operation.len() <= Self::LONGEST && operation.trim_matches('/').contains('/')
        };
        match found {
            Some((operation, direction)) if fits(operation) => {
                Ok(Self { operation: operation.into(), direction: *direction, epoch })
            }
            _ => Err(InboxError::Key(key.chars().take(64).collect())),
        }
    }
}

/// What a receiver has to do about a call, as its inbox says: `SqliteInbox` (feature `sqlite`) and `PostgresInbox` (feature `postgres`), whose row becomes
/// durable in the same transaction as the receiver's own work.
///
/// **An action has its effect once, its undo takes it back once and only if it is there, and nothing has an effect after that**, however often, in whatever order, and how late
/// calls arrive, and whatever crashes: as long as the receiver does its work in the transaction that it entered with, and keeps the rows long enough.
///
/// | there was | call | entry |
/// |---|---|---|
/// | nothing | action | [`Act`](Self::Act) |
/// | nothing | undo | [`NothingToUndo`](Self::NothingToUndo): the action never came, and is too late from now on |
/// | action | action | [`Repeated`](Self::Repeated), with the answer of then |
/// | action | undo | [`Undo`](Self::Undo), with the answer of then |
/// | action that was refused | action | [`Refused`](Self::Refused), with the reason of then |
/// | action that was refused | undo | [`NothingToUndo`](Self::NothingToUndo) |
/// | undo | action | [`TooLate`](Self::TooLate) |
/// | undo | undo | [`Repeated`](Self::Repeated) |
/// | any, from a higher epoch | any | [`Stale`](Self::Stale) |
#[derive(Clone, Debug, PartialEq)]
#[must_use = "it says what to do"]
pub enum Entry {
    /// Do it, in this transaction. It counts as done when the transaction commits.
    Act,
    /// Undo it, in this transaction. It counts as undone when the transaction commits.
    Undo {
        /// What the action answered, if it said so.
        answer: Option<Json>,
    },
    /// It was done: do nothing, and answer the same.
    Repeated {
        /// What was answered to an action, if it said so.
        answer: Option<Json>,
    },
    /// It was refused: do nothing, and refuse again.
    Refused {
        /// Why it was.
        reason: Arc<str>,
    },
    /// Do nothing, commit, and answer that it is undone.
    NothingToUndo,
    /// It was undone, possibly before it came: do nothing, and refuse, as rejected. Who asks is not heard any more.
    TooLate,
    /// Another process has taken the saga over: do nothing, and refuse. Whether it was done says the one that has it.
    Stale {
        /// The highest epoch that this operation was called from.
        seen: u64,
    },
}

/// Why an inbox could not be asked. The transaction is to be rolled back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InboxError {
    /// It is no idempotency key of a saga's step.
    #[error("{0:?} is not the key of a step: <saga>/<step>/do or <saga>/<step>/undo")]
    Key(String),
    /// It is no name of a table.
    #[error(
        "{0:?} is not a table: lower-case letters, digits and '_', and a schema before a '.' if need be"
    )]
    Table(String),
    /// A later release made the table.
    #[error("inbox is of format {0}, this release knows up to {known}", known = FORMAT)]
    Newer(i64),
    /// There is no such row, or it is in no state that this release knows.
    #[error("inbox has no entry for {0} that this could be done with")]
    NoEntry(Arc<str>),
    /// The answer has no JSON form, or too long a one, or what is kept is not one.
    #[error("answer cannot be kept or read")]
    Answer(#[source] BoxError),
    /// Whatever SQLite says.
    #[cfg(feature = "sqlite")]
    #[error("SQLite")]
    Sqlite(#[from] rusqlite::Error),
    /// Whatever PostgreSQL says.
    #[cfg(feature = "postgres")]
    #[error("PostgreSQL")]
    Postgres(#[from] tokio_postgres::Error),
}

/// What the row without an operation says in its column `epoch`.
const FORMAT: i64 = 1;

#[cfg(test)]
mod tests;

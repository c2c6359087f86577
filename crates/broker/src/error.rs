use std::{convert::Infallible, sync::Arc};

use gusset_call::{BoxError, DeadlineExceeded, Overloaded};

use crate::{InvalidSubject, Subject};

/// Why the broker did not do what it was asked.
///
/// Where it is a refusal of the family, that is the source, so that `gusset_call::refusal_in` finds it and a server
/// answers 503 or 504.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The subject or the pattern breaks a rule.
    #[error(transparent)]
    Subject(InvalidSubject),
    /// The name of a group is empty, longer than 128 bytes, begins with `_`, or has white space or control characters.
    #[error("{0:?} is no name for a group")]
    GroupName(String),
    /// The body cannot be written by its codec.
    #[error("message cannot be encoded")]
    Encode(#[source] BoxError),
    /// An answer cannot be read by its codec.
    #[error("answer cannot be decoded")]
    Decode(#[source] BoxError),
    /// A group has no room, after waiting where its policy says so. No group has got the message.
    #[error("not published")]
    Full(#[source] Overloaded),
    /// The deadline of the call passed while a group had no room, a server had not confirmed, or nobody had answered. Groups may have got the message.
    #[error("not done in time")]
    DeadlineExceeded(#[source] DeadlineExceeded),
    /// The message can never fit into a group. No group has got it.
    #[error("message of {size} bytes exceeds the {limit} bytes of group {group}")]
    TooLarge {
        /// The group.
        group: Arc<str>,
        /// [`Message::size`](crate::Message::size) of the message.
        size: usize,
        /// [`Policy::max_bytes`](crate::Policy::max_bytes) of the group.
        limit: usize,
    },
    /// The broker is closed or about to be.
    #[error("broker is closed")]
    Closed,
    /// The group exists with another pattern or policy. A group has one of each; other subjects need another group.
    #[error("group {group} exists with another {what}")]
    GroupDiffers {
        /// The group.
        group: Arc<str>,
        /// What differs: `pattern`, `policy` or `order`.
        what: &'static str,
    },
    /// No group of this name.
    #[error("no group {0}")]
    NoSuchGroup(Arc<str>),
    /// There are [`Limits::groups`](crate::Limits::groups) groups already.
    #[error("there are {0} groups already")]
    TooManyGroups(usize),
    /// Handlers need a tokio runtime, and there is none here.
    #[error("no tokio runtime to run the handler in")]
    NoRuntime,
    /// The engine cannot do this; see [`Capabilities`](crate::Capabilities).
    #[error("the {engine} engine cannot {what}")]
    Unsupported {
        /// Name of the engine.
        engine: &'static str,
        /// What was asked of it.
        what: &'static str,
    },
    /// The delivery was over before it was settled: its time had run out, or its group is gone. The message is, or was, delivered again.
    #[error("the delivery is over")]
    LeaseLost,
    /// Nobody handles messages with this subject, so nobody will answer.
    #[error("nobody answers {0}")]
    NoResponders(Subject),
    /// The engine failed, as when its server cannot be reached or its disk is full. Whether it took the message is not known.
    #[error("the engine failed")]
    Engine(#[source] BoxError),
    /// There is no room for another dead letter, by [`WhenLettersFull::Refuse`](crate::WhenLettersFull::Refuse); the message stays in its group, or was not published.
    #[error("no room for another dead letter")]
    LettersFull(#[source] Overloaded),
    /// No dead letter with this id, or no longer.
    #[error("no such dead letter")]
    NoSuchDeadLetter,
    /// It was redriven [`Limits::redrives`](crate::Limits::redrives) times and died each time.
    #[error("redriven {0} times already")]
    RedrivenTooOften(u32),
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<InvalidSubject> for Error {
    fn from(error: InvalidSubject) -> Self {
        Self::Subject(error)
    }
}

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Failure, Json};

/// An entry in the journal of a saga.
///
/// Its JSON form is for ever: a release reads what the one before it wrote, and refuses what a later one wrote in a newer [`format`](Self::format).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// Version of the form it is written in.
    pub format: u32,
    /// Place in the journal, counted from 0 without gaps.
    pub sequence: u64,
    /// Epoch of the process that wrote it.
    pub epoch: u64,
    /// When, in milliseconds since 1970, by the store's clock as the process knew it. Timers and the saga's deadline count from here.
    pub at: u64,
    /// What happened.
    pub event: Event,
}

impl Record {
    /// The form that this release writes.
    pub const FORMAT: u32 = 1;

    pub(crate) const fn new(sequence: u64, epoch: u64, at: u64, event: Event) -> Self {
        Self { format: Self::FORMAT, sequence, epoch, at, event }
    }

    /// The record as one line of JSON: what a store keeps.
    ///
    /// # Errors
    ///
    /// None that is known; serde has the last word.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }

    /// The record that a store kept.
    ///
    /// # Errors
    ///
    /// When its format is newer than [`FORMAT`](Self::FORMAT), or it is no record.
    pub fn from_json(text: &str) -> Result<Self, Unreadable> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        match serde_json::from_str::<Self>(text) {
            Ok(record) => record.readable(),
            // Read in full first, since nearly all are fine.
            Err(error) => match serde_json::from_str(text) {
                Ok(Version { format }) if format > Self::FORMAT => Err(Unreadable::Newer(format)),
                _ => Err(Unreadable::Damaged(error.to_string().into())),
            },
        }
    }

    /// A copy, if this release knows the format.
    pub(crate) fn readable(&self) -> Result<Self, Unreadable> {
        if self.format > Self::FORMAT {
            return Err(Unreadable::Newer(self.format));
        }
        Ok(self.clone())
    }
}

/// Why a journal cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreadable {
    /// A later release wrote it.
    #[error("journal is of format {0}, this release reads up to {max}", max = Record::FORMAT)]
    Newer(u32),
    /// It is no journal.
    #[error("journal is damaged: {0}")]
    Damaged(Arc<str>),
}

/// What a definition looks like from outside: the part that the journal keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Shape {
    /// Name of the definition.
    pub name: Arc<str>,
    /// Version of the definition.
    pub version: u32,
    /// The steps in order; events name them by their place here.
    pub steps: Vec<StepShape>,
}

/// A step as the journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepShape {
    /// Name of the step.
    pub name: Arc<str>,
    /// Whether it has an undo.
    pub undo: bool,
    /// Places of the steps whose outputs it needs.
    pub needs: Vec<u32>,
}

/// What happened to a saga. `opens` names the steps that may be under way from then on: the record is durable before
/// their first attempt begins, so no effect is ever unheard of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The saga began.
    Started {
        /// What it runs.
        shape: Arc<Shape>,
        /// What it was given.
        input: Json,
        /// W3C `traceparent` of the call that began it.
        trace: Option<Arc<str>>,
        /// Steps whose actions begin.
        opens: Vec<u32>,
    },
    /// Steps begin that no earlier record opened, because the saga paused there for a shutdown.
    Opened {
        /// Steps whose actions, or undos if the saga has turned back, begin.
        opens: Vec<u32>,
    },
    /// An action succeeded.
    Done {
        /// Its step.
        step: u32,
        /// What it returned.
        output: Json,
        /// Steps whose actions begin.
        opens: Vec<u32>,
    },
    /// An action was given up, and the saga turns back.
    TurnedBack {
        /// Its step.
        step: u32,
        /// Why.
        failure: Failure,
        /// Whether it may have had an effect all the same.
        maybe: bool,
        /// Steps whose undos begin.
        opens: Vec<u32>,
    },
    /// An undo succeeded.
    Undone {
        /// Its step.
        step: u32,
        /// Steps whose undos begin.
        opens: Vec<u32>,
    },
    /// An undo was given up; a human has to look.
    UndoFailed {
        /// Its step.
        step: u32,
        /// Why.
        failure: Failure,
        /// Steps whose undos begin.
        opens: Vec<u32>,
    },
    /// An operator had the undos that were given up tried again.
    Retried {
        /// What the operator noted.
        note: Arc<str>,
        /// Steps whose undos begin.
        opens: Vec<u32>,
    },
    /// An operator settled an undo by hand.
    Skipped {
        /// Its step.
        step: u32,
        /// What the operator noted.
        note: Arc<str>,
    },
    /// The saga was parked, since this process could not carry it on.
    Blocked {
        /// What was in the way.
        reason: Arc<str>,
    },
    /// What was in the way is gone.
    Unblocked,
}

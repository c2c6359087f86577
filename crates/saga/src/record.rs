use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::{Failure, Json};

/// An entry in the journal of a saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Record {
    /// Place in the journal, counted from 0 without gaps.
    pub sequence: u64,
    /// Epoch of the process that wrote it.
    pub epoch: u64,
    /// When, in milliseconds since 1970, by that process's wall clock: for people, nothing is decided by it.
    pub at: u64,
    /// What happened.
    pub event: Event,
}

impl Record {
    pub(crate) fn new(sequence: u64, epoch: u64, event: Event) -> Self {
        #[expect(clippy::disallowed_methods, reason = "shown to people, nothing is decided by it")]
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        Self { sequence, epoch, at, event }
    }
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

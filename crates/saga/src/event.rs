use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Failure, Json, Shape};

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde wants it")]
const fn is_zero(life: &u64) -> bool {
    *life == 0
}

/// What happened to a saga.
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace: Option<Arc<str>>,
        /// W3C `tracestate` of that call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trace_state: Option<Arc<str>>,
        /// Drawn by lot, below 2^53: tells it from an earlier saga of the same id, which was purged. 0 for one that began before there were lots.
        #[serde(default, skip_serializing_if = "is_zero")]
        life: u64,
    },
    /// Steps begin that no earlier record opened, because the saga paused there for a shutdown.
    Opened,
    /// A step succeeded.
    Done {
        /// Its place.
        step: u32,
        /// What it returned.
        output: Json,
    },
    /// A step was given up. The first one turns the saga back.
    Failed {
        /// Its place.
        step: u32,
        /// Why.
        failure: Failure,
        /// Whether it may have had an effect all the same.
        maybe: bool,
    },
    /// A step behind the pivot cannot go on; an operator has to look.
    Halted {
        /// Its place.
        step: u32,
        /// Why.
        failure: Failure,
    },
    /// The saga turns back because its deadline has passed.
    Expired {
        /// Says so.
        failure: Failure,
    },
    /// An undo succeeded.
    Undone {
        /// Place of its step.
        step: u32,
    },
    /// An undo was given up; an operator has to look.
    UndoFailed {
        /// Place of its step.
        step: u32,
        /// Why.
        failure: Failure,
    },
    /// A signal came, and waits for the step that wants it.
    Signalled {
        /// Which signal: the name of the step that waits for it.
        name: Arc<str>,
        /// What it says.
        payload: Json,
    },
    /// An operator gave an order.
    Ordered {
        /// Key of the order.
        key: Arc<str>,
        /// What to do.
        order: Order,
        /// What the operator noted.
        note: Arc<str>,
        /// Why it was not carried out, if so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<Arc<str>>,
    },
    /// The saga was parked, since this process could not carry it on.
    Blocked {
        /// What was in the way.
        reason: Arc<str>,
    },
    /// What was in the way is gone.
    Unblocked,
}

/// What an operator can have done with a saga.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Order {
    /// Try all that was given up again, with new attempts, and all that pauses now.
    Retry,
    /// Do not undo this step: it was done by hand, or is not needed.
    Skip {
        /// Name of the step.
        step: Arc<str>,
    },
    /// Take this for the output of a step that is under way or given up.
    Supply {
        /// Name of the step.
        step: Arc<str>,
        /// Its output.
        output: Json,
    },
    /// Undo all that was done.
    TurnBack,
    /// Do nothing more, whatever is left to do.
    Close,
}

/// What the mail of a saga is kept as.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<L> {
    pub(crate) format: u32,
    pub(crate) letter: L,
}

impl<L> Envelope<L> {
    /// The form that this release writes, and the newest that it reads.
    pub(crate) const FORMAT: u32 = 1;
}

/// What the mail of a saga says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Letter {
    Signal { name: Arc<str>, payload: Json },
    Order { order: Order, note: Arc<str> },
}

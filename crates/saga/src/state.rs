use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where a saga stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// On its way forward.
    Running,
    /// On its way back.
    TurningBack,
    /// All steps are done. Final.
    Completed,
    /// All effects are undone, or were settled by an operator. Final.
    Compensated,
    /// An operator closed it, whatever was left to do. Final.
    Closed,
    /// All that could be carried out is, and an undo, or a step behind the pivot, was given up: an operator has to act.
    Stuck,
    /// This process does not know the definition, or cannot read the journal: recovery tries again each time.
    Blocked,
}

impl State {
    /// Whether nothing more will ever happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Compensated | Self::Closed)
    }
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum StepState {
    /// Not begun.
    Waiting,
    /// Its action may be under way.
    Acting,
    /// Its action succeeded.
    Done,
    /// Its action was given up, without an effect.
    Failed,
    /// Its action was given up, and may have had an effect.
    Unknown,
    /// Its undo may be under way.
    Undoing,
    /// Its undo succeeded.
    Undone,
    /// Its undo was given up.
    UndoFailed,
    /// An operator settled its undo by hand.
    Skipped,
    /// Behind the pivot, and given up: it waits for an operator.
    Halted,
}

/// An undo that an operator settled by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Skipped {
    /// Name of the step.
    pub step: Arc<str>,
    /// What the operator noted.
    pub note: Arc<str>,
}

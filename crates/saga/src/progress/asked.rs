//! Where the saga stands, and what is due.

use std::sync::Arc;

use super::{Progress, StepProgress};
use crate::{
    Json, State, StepKind, StepState,
    StepState::{Acting, Undoing},
};

impl Progress {
    /// Steps that could begin, or be undone.
    pub(crate) fn ready(&self) -> &[u32] {
        if self.closed || self.blocked.is_some() { &[] } else { &self.ready }
    }

    pub(crate) fn state(&self) -> State {
        if self.closed {
            State::Closed
        } else if self.blocked.is_some() {
            State::Blocked
        } else if self.failure.is_none() {
            let idle = self.calling == 0 && self.ready.is_empty();
            if self.done == self.steps.len() {
                State::Completed
            } else if self.halted > 0 && idle {
                State::Stuck
            } else {
                State::Running
            }
        } else if self.unsettled > 0 {
            State::TurningBack
        } else if self.given_up > 0 {
            State::Stuck
        } else {
            State::Compensated
        }
    }

    /// Steps that wait for time or a signal.
    pub(crate) fn waits(&self) -> &[u32] {
        &self.waits
    }

    /// Whether no step calls anything, and none could begin.
    pub(crate) fn only_waits(&self) -> bool {
        self.calling == 0 && self.ready.is_empty()
    }

    /// The oldest signal that waits for this step.
    pub(crate) fn signal_for(&self, step: u32) -> Option<&Json> {
        let name = &self.shape.steps[step as usize].name;
        self.signals.iter().find(|(signal, _)| signal == name).map(|(_, payload)| payload)
    }

    /// When a waiting step is over if no signal comes, by the store's clock.
    pub(crate) fn wait_ends(&self, step: u32) -> Option<u64> {
        let opened_at = self.steps[step as usize].opened_at;
        match self.shape.steps[step as usize].kind {
            StepKind::Timer { millis } => Some(later(opened_at, millis)),
            StepKind::Signal { within } => within.map(|span| later(opened_at, span)),
            _ => None,
        }
    }

    /// When the saga turns back if it is not past its pivot by then.
    pub(crate) fn expires_at(&self) -> Option<u64> {
        let deadline = self.shape.deadline.filter(|_| self.may_turn())?;
        Some(later(self.started_at, deadline))
    }

    /// Whether it may turn back: it is on its way forward, and its pivot has not begun.
    pub(crate) fn may_turn(&self) -> bool {
        let begun = |step: u32| self.steps[step as usize].state != StepState::Waiting;
        self.failure.is_none()
            && self.done < self.steps.len()
            && !self.closed
            && !self.pivot.is_some_and(begun)
    }

    /// Steps under way.
    pub(crate) fn under_way(&self) -> impl Iterator<Item = u32> {
        let open = |(_, step): &(u32, &StepProgress)| matches!(step.state, Acting | Undoing);
        (0..).zip(&self.steps).filter(open).map(|(place, _)| place)
    }

    pub(crate) fn name(&self, step: u32) -> Arc<str> {
        self.shape.steps[step as usize].name.clone()
    }

    /// Place of the step with this name.
    pub(crate) fn place(&self, name: &str) -> Option<u32> {
        let place = self.shape.steps.iter().position(|step| &*step.name == name);
        place.map(|place| place as u32)
    }
}

/// No later than what a store can keep: a signed number of 64 bits.
fn later(at: u64, span: u64) -> u64 {
    at.saturating_add(span).min(i64::MAX as u64)
}

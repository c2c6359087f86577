//! The journal's meaning: a fold of its events, and what comes next.
//!
//! A sequence: each step begins when the one before it is done. On the way back each undo begins when the one after it is
//! settled, that is, undone or given up; one that is given up holds up none of the others.

use std::sync::Arc;

use crate::{
    Direction, Event, Failure, Journal, Json, Record, Shape, Skipped, State, StepState, StoreError,
    Unreadable,
};

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Attempt a step that a record opened.
    Attempt(u32, Direction),
    /// Write that this step begins.
    Open(u32),
    /// Nothing: the saga is at its end, or stuck.
    Park,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StepProgress {
    pub(crate) state: StepState,
    /// Kept until the end, for steps that need it and for the undo.
    pub(crate) output: Option<Json>,
}

/// A saga as its journal tells it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress {
    pub(crate) shape: Arc<Shape>,
    pub(crate) input: Json,
    pub(crate) trace: Option<Arc<str>>,
    pub(crate) steps: Vec<StepProgress>,
    pub(crate) failure: Option<Failure>,
    pub(crate) undo_failures: Vec<Failure>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) blocked: Option<Arc<str>>,
    /// On the way forward: all steps before it are done. On the way back: all from it on are settled.
    cursor: usize,
    /// How many steps are [`StepState::UndoFailed`].
    given_up: usize,
}

impl Progress {
    /// How many failures of undos are remembered: operators can have them tried again and again.
    const KEPT: usize = 100;

    /// The first event of a saga.
    pub(crate) fn started(shape: Arc<Shape>, input: Json, trace: Option<Arc<str>>) -> Event {
        Event::Started { shape, input, trace, opens: vec![0] }
    }

    /// The saga that `records` tell of, from the first on.
    pub(crate) fn replay(records: &[Record]) -> Result<Self, Corrupt> {
        let (first, rest) = records.split_first().ok_or(Corrupt("it is empty"))?;
        let mut progress = Self::begin(&first.event)?;
        for (record, sequence) in rest.iter().zip(1..) {
            if record.sequence != sequence {
                return Err(Corrupt("a record is missing"));
            }
            progress.apply(&record.event)?;
        }
        Ok(progress)
    }

    /// The saga that a journal tells of.
    pub(crate) fn of(journal: &Journal) -> Result<Self, Unreadable> {
        let records = journal.records.as_ref().map_err(Clone::clone)?;
        Self::replay(records).map_err(|Corrupt(what)| Unreadable::Damaged(what.into()))
    }

    pub(crate) fn begin(event: &Event) -> Result<Self, Corrupt> {
        let Event::Started { shape, input, trace, opens } = event else {
            return Err(Corrupt("it does not begin with a start"));
        };
        let waiting = StepProgress { state: StepState::Waiting, output: None };
        let mut progress = Self {
            steps: vec![waiting; shape.steps.len()],
            shape: shape.clone(),
            input: input.clone(),
            trace: trace.clone(),
            failure: None,
            undo_failures: Vec::new(),
            skipped: Vec::new(),
            blocked: None,
            cursor: 0,
            given_up: 0,
        };
        progress.open(opens)?;
        Ok(progress)
    }

    /// Takes note of what happened. An event that cannot follow changes nothing that matters: the saga is not carried on.
    pub(crate) fn apply(&mut self, event: &Event) -> Result<(), Corrupt> {
        match event {
            Event::Started { .. } => return Err(Corrupt("it starts twice")),
            Event::Opened { opens } => self.open(opens)?,
            Event::Done { step, output, opens } => {
                self.expect(*step, StepState::Acting)?.state = StepState::Done;
                self.steps[*step as usize].output = Some(output.clone());
                self.cursor = *step as usize + 1;
                self.open(opens)?;
            }
            Event::TurnedBack { step, failure, maybe, opens } => {
                let state = if *maybe { StepState::Unknown } else { StepState::Failed };
                self.expect(*step, StepState::Acting)?.state = state;
                self.failure = Some(failure.clone());
                self.rewind(*step as usize + 1);
                self.open(opens)?;
            }
            Event::Undone { step, opens } => {
                self.expect(*step, StepState::Undoing)?.state = StepState::Undone;
                self.rewind(*step as usize);
                self.open(opens)?;
            }
            Event::UndoFailed { step, failure, opens } => {
                self.expect(*step, StepState::Undoing)?.state = StepState::UndoFailed;
                self.given_up += 1;
                if self.undo_failures.len() == Self::KEPT {
                    self.undo_failures.remove(0);
                }
                self.undo_failures.push(failure.clone());
                self.rewind(*step as usize);
                self.open(opens)?;
            }
            Event::Retried { opens, .. } => {
                self.reopen();
                self.open(opens)?;
            }
            Event::Skipped { step, note } => {
                self.expect(*step, StepState::UndoFailed)?.state = StepState::Skipped;
                self.given_up -= 1;
                let step = self.name(*step);
                self.skipped.push(Skipped { step, note: note.clone() });
            }
            Event::Blocked { reason } => self.blocked = Some(reason.clone()),
            Event::Unblocked => self.blocked = None,
        }
        Ok(())
    }

    pub(crate) fn state(&self) -> State {
        if self.blocked.is_some() {
            State::Blocked
        } else if self.failure.is_none() {
            if self.cursor == self.steps.len() { State::Completed } else { State::Running }
        } else if self.cursor > 0 {
            State::TurningBack
        } else if self.given_up > 0 {
            State::Stuck
        } else {
            State::Compensated
        }
    }

    pub(crate) fn next(&self) -> Next {
        let (index, direction, open) = match self.state() {
            State::Running => (self.cursor, Direction::Act, StepState::Acting),
            State::TurningBack => (self.cursor - 1, Direction::Undo, StepState::Undoing),
            _ => return Next::Park,
        };
        let step = index as u32;
        if self.steps[index].state == open {
            Next::Attempt(step, direction)
        } else {
            Next::Open(step)
        }
    }

    /// The event of a success. Without `go_on`, what follows is left to an [`Event::Opened`].
    pub(crate) fn succeeded(&self, step: u32, output: Option<Json>, go_on: bool) -> Event {
        match output {
            Some(output) => {
                let next = step + 1;
                let more = go_on && (next as usize) < self.steps.len();
                Event::Done { step, output, opens: if more { vec![next] } else { Vec::new() } }
            }
            None => Event::Undone { step, opens: self.opens_before(step as usize, go_on) },
        }
    }

    /// The event of an attempt that was the last one. `maybe`: whether any of them may have had an effect.
    pub(crate) fn gave_up(&self, step: u32, failure: Failure, maybe: bool, go_on: bool) -> Event {
        let index = step as usize;
        if self.failure.is_some() {
            return Event::UndoFailed { step, failure, opens: self.opens_before(index, go_on) };
        }
        let opens = if !go_on {
            Vec::new()
        } else if maybe && self.shape.steps[index].undo {
            vec![step]
        } else {
            self.opens_before(index, go_on)
        };
        Event::TurnedBack { step, failure, maybe, opens }
    }

    pub(crate) fn retried(&self, note: Arc<str>) -> Event {
        let last = self.steps.iter().rposition(|step| step.state == StepState::UndoFailed);
        Event::Retried { note, opens: last.map(|index| index as u32).into_iter().collect() }
    }

    pub(crate) fn name(&self, step: u32) -> Arc<str> {
        self.shape.steps[step as usize].name.clone()
    }

    /// Place of the step with this name, or of none.
    pub(crate) fn place(&self, name: &str) -> u32 {
        let place = self.shape.steps.iter().position(|step| &*step.name == name);
        place.map_or(u32::MAX, |place| place as u32)
    }

    /// The last step before `end` that is to be undone.
    fn opens_before(&self, end: usize, go_on: bool) -> Vec<u32> {
        let last = (0..end).rev().find(|&index| self.wants_undo(index)).filter(|_| go_on);
        last.map(|index| index as u32).into_iter().collect()
    }

    fn wants_undo(&self, index: usize) -> bool {
        let state = self.steps[index].state;
        self.shape.steps[index].undo && matches!(state, StepState::Done | StepState::Unknown)
    }

    /// Moves the cursor back over what needs no undo.
    fn rewind(&mut self, from: usize) {
        self.cursor = (0..from).rev().find(|&index| self.wants_undo(index)).map_or(0, |at| at + 1);
    }

    /// All undos that were given up are wanted again.
    fn reopen(&mut self) {
        for step in &mut self.steps {
            if step.state == StepState::UndoFailed {
                let known = step.output.is_some();
                step.state = if known { StepState::Done } else { StepState::Unknown };
            }
        }
        self.given_up = 0;
        self.rewind(self.steps.len());
    }

    fn open(&mut self, opens: &[u32]) -> Result<(), Corrupt> {
        for &step in opens {
            let backwards = self.failure.is_some();
            let index = step as usize;
            let due = if backwards { self.cursor.checked_sub(1) } else { Some(self.cursor) };
            if due != Some(index) || index >= self.steps.len() {
                return Err(Corrupt("a step begins out of turn"));
            }
            self.steps[index].state =
                if backwards { StepState::Undoing } else { StepState::Acting };
        }
        Ok(())
    }

    fn expect(&mut self, step: u32, state: StepState) -> Result<&mut StepProgress, Corrupt> {
        self.steps
            .get_mut(step as usize)
            .filter(|step| step.state == state)
            .ok_or(Corrupt("something ends that had not begun"))
    }
}

/// A journal that no saga can have written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("journal is damaged: {0}")]
pub(crate) struct Corrupt(pub(crate) &'static str);

impl From<Unreadable> for StoreError {
    fn from(unreadable: Unreadable) -> Self {
        Self::failed(unreadable)
    }
}

impl From<Corrupt> for StoreError {
    fn from(corrupt: Corrupt) -> Self {
        Self::failed(corrupt)
    }
}

#[cfg(test)]
mod tests;

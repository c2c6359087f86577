//! The journal's meaning: a fold of its events, and what comes next.
//!
//! Forward, a step begins when all that it waits for are done. On the way back its undo begins when all that waited for it are settled, that is,
//! undone, given up, or without anything to undo. Both ways each step counts how many of them are left, so all work on a saga is linear in its
//! steps and edges.

mod back;
mod orders;

use std::sync::Arc;

use crate::{
    Event, Failure, Journal, Json, Record, Shape, Skipped, State, StepKind, StepState, StoreError,
    Unreadable, shape::Graph,
};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StepProgress {
    pub(crate) state: StepState,
    /// Kept until the end, for steps that need it and for the undo.
    pub(crate) output: Option<Json>,
    /// When it was opened last, by the store's clock.
    pub(crate) opened_at: u64,
    /// Forward: how many of those that it waits for are not done. Back: how many of those that waited for it are not settled.
    waiting: u32,
}

/// A saga as its journal tells it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Progress {
    pub(crate) shape: Arc<Shape>,
    graph: Arc<Graph>,
    pub(crate) input: Json,
    pub(crate) trace: Option<Arc<str>>,
    pub(crate) started_at: u64,
    pub(crate) steps: Vec<StepProgress>,
    /// There is one from the moment on that the saga turned back.
    pub(crate) failure: Option<Failure>,
    pub(crate) undo_failures: Vec<Failure>,
    /// Of steps behind the pivot.
    pub(crate) halts: Vec<Failure>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) blocked: Option<Arc<str>>,
    closed: bool,
    /// Steps that could begin, or be undone, and that no record has opened yet.
    ready: Vec<u32>,
    /// How many steps are [`StepState::Acting`] or [`StepState::Undoing`] and call something.
    calling: usize,
    /// Steps that are [`StepState::Acting`] and wait for time or a signal.
    waits: Vec<u32>,
    /// Signals that no step has had yet.
    signals: Vec<(Arc<str>, Json)>,
    pivot: Option<u32>,
    done: usize,
    halted: usize,
    given_up: usize,
    unsettled: usize,
}

impl Progress {
    /// How many failures of one kind are remembered: operators can have them tried again and again.
    const KEPT: usize = 100;

    /// The saga that `records` tell of, from the first on.
    pub(crate) fn replay(records: &[Record]) -> Result<Self, Corrupt> {
        let (first, rest) = records.split_first().ok_or(Corrupt("it is empty"))?;
        let mut progress = Self::begin(&first.event, None, first.at)?;
        progress.open(&first.opens, first.at)?;
        for (record, sequence) in rest.iter().zip(1..) {
            if record.sequence != sequence {
                return Err(Corrupt("a record is missing"));
            }
            progress.apply(&record.event)?;
            progress.open(&record.opens, record.at)?;
        }
        Ok(progress)
    }

    /// The saga that a journal tells of.
    pub(crate) fn of(journal: &Journal) -> Result<Self, Unreadable> {
        let records = journal.records.as_ref().map_err(Clone::clone)?;
        Self::replay(records).map_err(|Corrupt(what)| Unreadable::Damaged(what.into()))
    }

    /// A saga that starts, with nothing opened. `graph` is that of the shape, if it is known.
    pub(crate) fn begin(
        event: &Event,
        graph: Option<Arc<Graph>>,
        at: u64,
    ) -> Result<Self, Corrupt> {
        let Event::Started { shape, input, trace } = event else {
            return Err(Corrupt("it does not begin with a start"));
        };
        let graph = graph.or_else(|| Graph::of(shape).map(Arc::new));
        let graph = graph.ok_or(Corrupt("its steps wait for each other"))?;
        let steps = (0..shape.steps.len() as u32).map(|step| StepProgress {
            state: StepState::Waiting,
            output: None,
            opened_at: 0,
            waiting: graph.before(step).len() as u32,
        });
        let steps: Vec<_> = steps.collect();
        let pivot = shape.steps.iter().position(|step| step.kind == StepKind::Pivot);
        let ready = (0..).zip(&steps).filter(|(_, step)| step.waiting == 0);
        Ok(Self {
            ready: ready.map(|(step, _)| step).collect(),
            shape: shape.clone(),
            graph,
            input: input.clone(),
            trace: trace.clone(),
            started_at: at,
            failure: None,
            undo_failures: Vec::new(),
            halts: Vec::new(),
            skipped: Vec::new(),
            blocked: None,
            closed: false,
            calling: 0,
            waits: Vec::new(),
            signals: Vec::new(),
            pivot: pivot.map(|place| place as u32),
            done: 0,
            halted: 0,
            given_up: 0,
            unsettled: steps.len(),
            steps,
        })
    }

    /// Takes note of what happened. An event that cannot follow changes nothing that matters: the saga is not carried on.
    pub(crate) fn apply(&mut self, event: &Event) -> Result<(), Corrupt> {
        match event {
            Event::Started { .. } => return Err(Corrupt("it starts twice")),
            Event::Opened => {}
            Event::Done { step, output } => {
                self.take_signal(*step);
                self.end(*step, StepState::Acting, StepState::Done)?;
                self.done(*step, output.clone());
            }
            Event::Failed { step, failure, maybe } => {
                let state = if *maybe { StepState::Unknown } else { StepState::Failed };
                self.end(*step, StepState::Acting, state)?;
                if self.failure.is_some() {
                    self.settle_if_free(*step);
                } else {
                    self.turn(failure.clone());
                }
            }
            Event::Halted { step, failure } => {
                self.end(*step, StepState::Acting, StepState::Halted)?;
                self.halted += 1;
                keep(&mut self.halts, failure);
            }
            Event::Expired { failure } => {
                if !self.may_turn() {
                    return Err(Corrupt("it expires after its pivot"));
                }
                self.turn(failure.clone());
            }
            Event::Undone { step } => {
                self.end(*step, StepState::Undoing, StepState::Undone)?;
                self.settle_if_free(*step);
            }
            Event::UndoFailed { step, failure } => {
                self.end(*step, StepState::Undoing, StepState::UndoFailed)?;
                self.given_up += 1;
                keep(&mut self.undo_failures, failure);
                self.settle_if_free(*step);
            }
            Event::Signalled { name, payload } => {
                self.signals.push((name.clone(), payload.clone()));
            }
            Event::Ordered { refused: Some(_), .. } => {}
            Event::Ordered { order, note, refused: None, .. } => {
                self.obey(order, note).map_err(Corrupt)?;
            }
            Event::Blocked { reason } => self.blocked = Some(reason.clone()),
            Event::Unblocked => self.blocked = None,
        }
        Ok(())
    }

    /// Steps begin, forward or back.
    pub(crate) fn open(&mut self, opens: &[u32], at: u64) -> Result<(), Corrupt> {
        let backwards = self.failure.is_some();
        for &place in opens {
            let index = place as usize;
            let shape = self.shape.steps.get(index).ok_or(Corrupt("a step is none"))?;
            let step = &mut self.steps[index];
            let due = step.waiting == 0
                && match step.state {
                    StepState::Waiting => !backwards,
                    StepState::Done | StepState::Unknown => backwards && shape.undo,
                    _ => false,
                };
            if !due {
                return Err(Corrupt("a step begins out of turn"));
            }
            step.opened_at = at;
            step.state = if backwards { StepState::Undoing } else { StepState::Acting };
            if shape.kind.waits() {
                self.waits.push(place);
            } else {
                self.calling += 1;
            }
        }
        if opens.len() == self.ready.len() {
            self.ready.clear();
        } else {
            let (steps, open) = (&self.steps, if backwards { Undoing } else { Acting });
            self.ready.retain(|step| steps[*step as usize].state != open);
        }
        Ok(())
    }

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

    fn end(&mut self, step: u32, from: StepState, to: StepState) -> Result<(), Corrupt> {
        let found = self.steps.get_mut(step as usize).filter(|step| step.state == from);
        found.ok_or(Corrupt("something ends that had not begun"))?.state = to;
        self.shut(step);
        Ok(())
    }

    /// The step is under way no longer.
    fn shut(&mut self, step: u32) {
        if self.shape.steps[step as usize].kind.waits() {
            self.waits.retain(|wait| *wait != step);
        } else {
            self.calling -= 1;
        }
    }

    fn done(&mut self, step: u32, output: Json) {
        self.steps[step as usize].output = Some(output);
        self.done += 1;
        if self.failure.is_some() {
            return self.settle_if_free(step);
        }
        for &next in self.graph.after(step) {
            let left = &mut self.steps[next as usize].waiting;
            *left -= 1;
            if *left == 0 {
                self.ready.push(next);
            }
        }
    }

    fn take_signal(&mut self, step: u32) {
        let Some(shape) = self.shape.steps.get(step as usize) else { return };
        if matches!(shape.kind, StepKind::Signal { .. }) {
            let mine = self.signals.iter().position(|(signal, _)| *signal == shape.name);
            mine.map(|place| self.signals.remove(place));
        }
    }
}

use StepState::{Acting, Undoing};

/// No later than what a store can keep: a signed number of 64 bits.
fn later(at: u64, span: u64) -> u64 {
    at.saturating_add(span).min(i64::MAX as u64)
}

fn keep(failures: &mut Vec<Failure>, failure: &Failure) {
    if failures.len() == Progress::KEPT {
        failures.remove(0);
    }
    failures.push(failure.clone());
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

//! The journal's meaning: a fold of its events, and what comes next.
//!
//! What happens is taken in here; [`forward`], [`back`] and [`orders`] say what it changes, [`asked`] what follows.
//!
//! Forward, a step begins when all that it waits for are done. On the way back its undo begins when all that waited for it are settled, that is,
//! undone, given up, or without anything to undo. Both ways each step counts how many of them are left, so all work on a saga is linear in its
//! steps and edges.

mod asked;
mod back;
mod forward;
mod orders;

use std::sync::Arc;

use crate::{
    Event, Failure, Journal, Json, Record, Shape, Skipped, StepKind, StepState, StoreError,
    Unreadable, few::Few, shape::Graph,
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
    pub(crate) trace_state: Option<Arc<str>>,
    pub(crate) life: u64,
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
    ready: Few,
    /// How many steps are [`StepState::Acting`] or [`StepState::Undoing`] and call something.
    calling: usize,
    /// Steps that are [`StepState::Acting`] and wait for time or a signal.
    waits: Few,
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
        let Event::Started { shape, input, trace, trace_state, life } = event else {
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
            trace_state: trace_state.clone(),
            life: *life,
            started_at: at,
            failure: None,
            undo_failures: Vec::new(),
            halts: Vec::new(),
            skipped: Vec::new(),
            blocked: None,
            closed: false,
            calling: 0,
            waits: Few::new(),
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

//! What operators can have done.

use std::sync::Arc;

use super::Progress;
use crate::{Failure, FailureKind, Order, Skipped, StepState};

impl Progress {
    /// Why an order cannot be carried out, if so.
    pub(crate) fn objects_to(&self, order: &Order) -> Result<(), &'static str> {
        self.clone().obey(order, &"".into())
    }

    /// Carries out an order, or changes nothing.
    pub(super) fn obey(&mut self, order: &Order, note: &Arc<str>) -> Result<(), &'static str> {
        if self.state().is_final() {
            return Err("has come to its end");
        }
        match order {
            Order::Retry => self.retry(),
            Order::Skip { step } => return self.skip(step, note),
            Order::Supply { step, output } => {
                let place = self.place(step).ok_or("has no such step")?;
                let state = self.steps[place as usize].state;
                match state {
                    StepState::Acting => self.shut(place),
                    StepState::Halted => self.halted -= 1,
                    _ => return Err("has no such step under way or given up"),
                }
                self.steps[place as usize].state = StepState::Done;
                self.done(place, output.clone());
            }
            Order::TurnBack if self.may_turn() => {
                let why = format!("turned back by an operator: {note}");
                self.turn(Failure::of_the_saga(FailureKind::Ordered, why));
            }
            Order::TurnBack if self.failure.is_some() => return Err("has turned back already"),
            Order::TurnBack => return Err("is past the point where it can turn back"),
            Order::Close => self.closed = true,
        }
        Ok(())
    }

    /// All that was given up is wanted again.
    fn retry(&mut self) {
        for place in 0..self.steps.len() {
            let step = &mut self.steps[place];
            match step.state {
                StepState::UndoFailed if step.output.is_some() => step.state = StepState::Done,
                StepState::UndoFailed => step.state = StepState::Unknown,
                StepState::Halted => {
                    step.state = StepState::Waiting;
                    self.ready.push(place as u32);
                }
                _ => {}
            }
        }
        self.halted = 0;
        if self.given_up > 0 {
            self.given_up = 0;
            self.rewind();
        }
    }

    fn skip(&mut self, name: &Arc<str>, note: &Arc<str>) -> Result<(), &'static str> {
        let place = self.place(name).ok_or("has no such step")?;
        let step = &mut self.steps[place as usize];
        let state = std::mem::replace(&mut step.state, StepState::Skipped);
        match state {
            StepState::UndoFailed => self.given_up -= 1,
            StepState::Undoing => {
                self.shut(place);
                self.settle_if_free(place);
            }
            _ => {
                self.steps[place as usize].state = state;
                return Err("has no undo of that step to skip");
            }
        }
        self.skipped.push(Skipped { step: name.clone(), note: note.clone() });
        Ok(())
    }
}

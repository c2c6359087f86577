//! The way there: steps begin, end, and set others free.

use super::{Corrupt, Progress};
use crate::{
    Json, StepKind, StepState,
    StepState::{Acting, Undoing},
};

impl Progress {
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
            self.ready.retain(|step| steps[step as usize].state != open);
        }
        Ok(())
    }

    pub(super) fn end(&mut self, step: u32, from: StepState, to: StepState) -> Result<(), Corrupt> {
        let found = self.steps.get_mut(step as usize).filter(|step| step.state == from);
        found.ok_or(Corrupt("something ends that had not begun"))?.state = to;
        self.shut(step);
        Ok(())
    }

    /// The step is under way no longer.
    pub(super) fn shut(&mut self, step: u32) {
        if self.shape.steps[step as usize].kind.waits() {
            self.waits.retain(|wait| wait != step);
        } else {
            self.calling -= 1;
        }
    }

    pub(super) fn done(&mut self, step: u32, output: Json) {
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

    pub(super) fn take_signal(&mut self, step: u32) {
        let Some(shape) = self.shape.steps.get(step as usize) else { return };
        if matches!(shape.kind, StepKind::Signal { .. }) {
            let mine = self.signals.iter().position(|(signal, _)| *signal == shape.name);
            mine.map(|place| self.signals.remove(place));
        }
    }
}

//! The way back.

use super::Progress;
use crate::{Failure, StepState};

impl Progress {
    /// The saga turns back. Steps that wait are over; those that call something are let end.
    pub(super) fn turn(&mut self, failure: Failure) {
        self.failure = Some(failure);
        for wait in &*self.waits {
            self.steps[*wait as usize].state = StepState::Waiting;
        }
        self.waits.clear();
        self.rewind();
    }

    /// Counts anew what is left to undo.
    pub(super) fn rewind(&mut self) {
        self.ready.clear();
        self.unsettled = self.steps.len();
        let mut last = Vec::new();
        for place in 0..self.steps.len() as u32 {
            let left = self.graph.after(place).len() as u32;
            self.steps[place as usize].waiting = left;
            if left == 0 {
                last.push(place);
            }
        }
        self.settle(last);
    }

    /// Something happened to a step on the way back.
    pub(super) fn settle_if_free(&mut self, step: u32) {
        if self.steps[step as usize].waiting == 0 {
            self.settle(vec![step]);
        }
    }

    /// Of each of these all that waited for it are settled: its undo is due, or it is settled as well.
    fn settle(&mut self, mut free: Vec<u32>) {
        while let Some(place) = free.pop() {
            let undo = self.shape.steps[place as usize].undo;
            match self.steps[place as usize].state {
                StepState::Acting | StepState::Undoing => continue,
                StepState::Done | StepState::Unknown if undo => {
                    self.ready.push(place);
                    continue;
                }
                _ => self.unsettled -= 1,
            }
            for &before in self.graph.before(place) {
                let left = &mut self.steps[before as usize].waiting;
                *left -= 1;
                if *left == 0 {
                    free.push(before);
                }
            }
        }
    }
}

//! What follows from an attempt.

use rand::Rng;

use super::{Runner, Stopped, attempt::Attempted};
use crate::{
    Direction, Event, FailureKind, Json, StepError,
    tries::{Tries, Verdict},
};

/// How often a step that cannot be given up may take the process with it, before an operator has to look.
const FATAL: u32 = 20;

impl Runner {
    pub(super) fn attempted(&mut self, attempted: Attempted) -> Result<(), Stopped> {
        let Attempted { step, direction, begun, result, ground } = attempted;
        let messages = ground.as_ref().map_or_else(Vec::new, |ground| ground.take());
        self.ground = ground;
        let error = match (result, direction) {
            (Ok(output), Direction::Act) => {
                self.tries.remove(&step);
                let output = output.unwrap_or_else(Json::null);
                return self.write_with(Event::Done { step, output }, messages);
            }
            (Ok(_), Direction::Undo) => {
                self.tries.remove(&step);
                return self.write_with(Event::Undone { step }, messages);
            }
            (Err(error), _) => error,
        };
        self.seat.engine.counters.failed_attempts.add(1);
        tracing::warn!(
            saga = %self.seat.saga, step = %self.progress.name(step), ?direction, kind = ?error.kind(),
            error = %error.line(), "saga step failed"
        );
        let mut tries = self.tries.remove(&step).unwrap_or_else(|| Tries::new(direction));
        tries.begun = begun;
        match self.verdict(step, &mut tries, &error, &mut rand::rng()) {
            Verdict::RetryAfter(pause) => {
                tries.pausing = true;
                self.running.pause(step, pause, self.seat.engine.now());
                self.tries.insert(step, tries);
                Ok(())
            }
            Verdict::GiveUp(kind) => {
                let event = self.gave_up(step, &tries, kind);
                self.write(event)
            }
        }
    }

    fn verdict(
        &self,
        step: u32,
        tries: &mut Tries,
        error: &StepError,
        rng: &mut impl Rng,
    ) -> Verdict {
        let direction = tries.direction;
        let policy = self.plan.policy(step, direction);
        let verdict = tries.failed(error, &policy, rng);
        if direction == Direction::Undo {
            return verdict;
        }
        if self.progress.failure.is_some() {
            return Verdict::GiveUp(error.kind());
        }
        if self.plan.must_know(step) && tries.maybe {
            if error.kind() == FailureKind::Rejected {
                // Under its key it was never done, and never will be.
                tries.maybe = false;
                return verdict;
            }
            return Verdict::RetryAfter(tries.pause(error, &policy, rng));
        }
        verdict
    }

    /// The event of an attempt that was the last one.
    fn gave_up(&self, step: u32, tries: &Tries, kind: FailureKind) -> Event {
        let failure = tries.failure(self.progress.name(step), kind);
        if tries.direction == Direction::Undo {
            Event::UndoFailed { step, failure }
        } else if self.plan.is_certain(step) {
            Event::Halted { step, failure }
        } else {
            Event::Failed { step, failure, maybe: tries.maybe }
        }
    }

    /// Whether a step that another process left under way is not attempted again.
    pub(super) fn is_over(&self, step: u32, tries: &Tries) -> bool {
        let forward = tries.direction == Direction::Act;
        let attempts = if !forward {
            self.plan.policy(step, Direction::Undo).attempts
        } else if self.plan.is_certain(step) {
            return tries.crashes >= FATAL;
        } else if self.plan.must_know(step) {
            u32::MAX
        } else {
            self.plan.policy(step, Direction::Act).attempts
        };
        tries.begun >= attempts || forward && self.progress.failure.is_some()
    }

    /// Ends steps between two attempts that get no further one, because the saga has turned back, or took too many processes with them.
    pub(super) fn write_given_up(&mut self) -> Result<(), Stopped> {
        let over = |(step, tries): (&u32, &Tries)| {
            (!self.running.has(*step) || tries.pausing) && self.is_over(*step, tries)
        };
        let over: Vec<u32> =
            self.tries.iter().filter(|tries| over(*tries)).map(|(s, _)| *s).collect();
        for step in over {
            self.running.drop_step(step);
            let Some(tries) = self.tries.remove(&step) else { continue };
            let kind = if tries.maybe { FailureKind::Unknown } else { FailureKind::Transient };
            let event = self.gave_up(step, &tries, kind);
            self.write(event)?;
        }
        Ok(())
    }
}

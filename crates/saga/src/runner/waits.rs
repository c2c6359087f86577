//! What follows from the time, and how long nothing does.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Runner, Stopped, running::Happened};
use crate::{Direction, Event, Failure, FailureKind, Json, StepKind, tries::Tries};

/// Waits of this length and longer are not held in memory, where a recovery fetches the saga again.
const LONG: Duration = Duration::from_secs(5);

const DAY: Duration = Duration::from_secs(86_400);

impl Runner {
    /// Until something happens, or is due, or somebody wants something.
    pub(super) async fn wait(&mut self) -> Option<Happened> {
        let due = self.next_wait().map(|due| due.saturating_sub(self.seat.engine.now()));
        // No clock overflows by a day; then it looks again.
        let due = due.map(|span| Instant::now() + Duration::from_millis(span).min(DAY));
        tokio::select! {
            biased;
            happened = self.running.next() => return Some(happened),
            () = self.seat.called() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => return None,
        }
        if self.seat.take_mail() {
            self.fetch_mail().await;
        }
        None
    }

    /// Writes what follows from the time, from signals, and from attempts that are not made again.
    pub(super) fn write_what_is_due(&mut self) -> Result<(), Stopped> {
        let expires_at = self.progress.expires_at();
        let waits = !self.progress.waits().is_empty();
        if waits || expires_at.is_some() {
            let now = self.seat.engine.now();
            if expires_at.is_some_and(|at| at <= now) {
                let why = "the deadline of the saga has passed".to_owned();
                let failure = Failure::of_the_saga(FailureKind::Overdue, why);
                self.write(Event::Expired { failure })?;
            } else if waits {
                self.write_ended_waits(now)?;
            }
        }
        if std::mem::take(&mut self.reconsider) {
            self.write_given_up()?;
        }
        if !self.progress.ready().is_empty() && !self.seat.engine.is_draining() {
            self.write(Event::Opened)?;
        }
        Ok(())
    }

    fn write_ended_waits(&mut self, now: u64) -> Result<(), Stopped> {
        for step in self.progress.waits().to_vec() {
            let over = self.progress.wait_ends(step).is_some_and(|end| end <= now);
            let kind = &self.progress.shape.steps[step as usize].kind;
            let signal = self.progress.signal_for(step).cloned();
            let event = match (kind, signal) {
                (StepKind::Timer { .. }, _) if over => Event::Done { step, output: Json::null() },
                (StepKind::Signal { .. }, Some(output)) => Event::Done { step, output },
                (StepKind::Signal { .. }, None) if over => {
                    let mut tries = Tries::new(Direction::Act);
                    tries.note("no signal came in time".into());
                    let failure = tries.failure(self.progress.name(step), FailureKind::Rejected);
                    Event::Failed { step, failure, maybe: false }
                }
                _ => continue,
            };
            let turns = matches!(event, Event::Failed { .. });
            self.write(event)?;
            if turns {
                break;
            }
        }
        Ok(())
    }

    /// When there is something to do without anybody's asking, by the store's clock.
    pub(super) fn next_due(&self) -> Option<u64> {
        self.next_wait().into_iter().chain(self.running.next_due()).min()
    }

    fn next_wait(&self) -> Option<u64> {
        let waits = self.progress.waits().iter().filter_map(|step| self.progress.wait_ends(*step));
        waits.chain(self.progress.expires_at()).min()
    }

    pub(super) fn is_long_wait(&self) -> bool {
        if self.running.is_busy() || !self.seat.engine.is_recovering() || !self.mail.is_empty() {
            return false;
        }
        let long = self.seat.engine.now().saturating_add(LONG.as_millis() as u64);
        self.next_due().is_none_or(|due| due >= long)
    }
}

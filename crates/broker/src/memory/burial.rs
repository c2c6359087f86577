//! How a delivery ends among the dead letters, or does not.

use std::time::Duration;

use tokio::time::Instant;

use super::{group::Group, morgue::Remains, queue::Token, scribe::Event};
use crate::{Error, Failure, Reason, attempt::discard, message::wall_clock, policy::after};

impl Group {
    /// The record is written before the message leaves the group, so that it is always in one of them.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`]; [`Error::LettersFull`], after which the message is delivered again when `otherwise` has passed.
    pub(super) fn bury(
        &self,
        token: Token,
        reason: Reason,
        failure: Option<Failure>,
        otherwise: Duration,
    ) -> Result<(), Error> {
        let unasked = failure.is_none() && matches!(reason, Reason::Expired | Reason::Exhausted);
        let remains = self.locked(|state| {
            if unasked {
                state.queue.undeliver(token);
            }
            // It must not come back while its record is written.
            state.queue.hold(token);
            let entry = state.queue.lent(token)?;
            if let Some(failure) = failure.clone() {
                entry.note(failure);
            }
            Some(Remains::of(entry))
        });
        let remains = remains.ok_or(Error::LeaseLost)?;
        match self.morgue.insert(&self.info.name, self.info.id, remains, reason) {
            Ok(buried) => {
                let entry = self.locked(|state| state.queue.bury(token));
                buried.announce();
                entry.map(discard).ok_or(Error::LeaseLost)
            }
            Err(error) => {
                self.keep(token, failure, !unasked, otherwise);
                Err(error)
            }
        }
    }

    /// What could not be buried comes again. A delivery that only tried to bury it is not charged.
    fn keep(&self, token: Token, failure: Option<Failure>, charged: bool, otherwise: Duration) {
        let due = after(Instant::now(), otherwise);
        self.locked(|state| {
            let Some(entry) = state.queue.lent(token) else { return };
            let serial = entry.serial();
            if let Some(failure) = failure {
                let at = wall_clock();
                self.note(|group| Event::Retried { group, serial, failure, at, after: otherwise });
            } else {
                if charged {
                    entry.uncharge();
                }
                let attempts = entry.attempts();
                self.note(|group| Event::Attempts { group, serial, attempts });
            }
            if state.queue.retry(token, due) {
                self.expect(state, due);
            }
        });
    }
}

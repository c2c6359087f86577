//! How deliveries end.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    group::{Group, State},
    queue::{Entry, Token},
    scribe::Event,
};
use crate::{
    Error, Failure,
    attempt::discard,
    engine::{Keeper, Settling, Verdict},
    message::wall_clock,
    policy::after,
};

impl Group {
    pub(super) fn acked(&self, state: &mut State, token: Token) -> Option<Entry> {
        self.gone(state.queue.ack(token))
    }

    fn gone(&self, entry: Option<Entry>) -> Option<Entry> {
        let serial = entry.as_ref()?.serial();
        self.note(|group| Event::Gone { group, serial });
        entry
    }
}

impl Keeper for Group {
    fn settle(self: Arc<Self>, token: u64, verdict: Verdict) -> Settling {
        let token = Token::from_bits(token);
        // Entries, and with them perhaps the owners of payloads, are dropped outside of the lock.
        let known = match verdict {
            Verdict::Ack => over(self.locked(|state| self.acked(state, token))),
            Verdict::Retry { after: span, failure } => {
                let due = after(Instant::now(), span);
                self.locked(|state| {
                    if let Some(entry) = state.queue.lent(token) {
                        let serial = entry.serial();
                        self.note(|group| retried(group, serial, failure.clone(), span));
                        entry.note(failure);
                    }
                    let known = state.queue.retry(token, due);
                    if known {
                        self.expect(state, due);
                    }
                    known
                })
            }
            Verdict::Bury { reason, failure, otherwise } => {
                return Settling::Done(self.bury(token, reason, failure, otherwise));
            }
            Verdict::Expire => over(self.locked(|state| {
                state.queue.undeliver(token);
                self.gone(state.queue.expire(token))
            })),
            Verdict::GiveBack => self.locked(|state| {
                let standing =
                    state.queue.lent(token).map(|e| (e.serial(), e.attempts().saturating_sub(1)));
                if let Some((serial, attempts)) = standing {
                    self.note(|group| Event::Attempts { group, serial, attempts });
                }
                state.queue.give_back(token)
            }),
        };
        Settling::Done(if known { Ok(()) } else { Err(Error::LeaseLost) })
    }

    /// Whoever answers in time anyway has nothing to say.
    fn in_progress(self: Arc<Self>, token: u64) -> Settling {
        let known = self.locked(|state| state.queue.lent(Token::from_bits(token)).is_some());
        Settling::Done(if known { Ok(()) } else { Err(Error::LeaseLost) })
    }
}

/// Whether there was one.
fn over(entry: Option<Entry>) -> bool {
    let known = entry.is_some();
    discard(entry);
    known
}

fn retried(group: u64, serial: u64, failure: Failure, after: Duration) -> Event {
    Event::Retried { group, serial, failure, at: wall_clock(), after }
}

/// Settles deliveries that have a time limit.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) group: Arc<Group>,
    pub(super) ack_wait: Duration,
}

impl Keeper for Watched {
    fn settle(self: Arc<Self>, token: u64, verdict: Verdict) -> Settling {
        self.group.clone().settle(token, verdict)
    }

    fn in_progress(self: Arc<Self>, token: u64) -> Settling {
        let until = after(Instant::now(), self.ack_wait);
        let known = self.group.locked(|state| {
            let known = state.queue.extend(Token::from_bits(token), until);
            self.group.expect(state, until);
            known
        });
        Settling::Done(if known { Ok(()) } else { Err(Error::LeaseLost) })
    }
}

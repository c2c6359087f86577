//! What members of a group hold: their membership, the places of their workers, and the leases.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

use super::{
    group::Group,
    queue::{Entry, Token},
    scribe::Event,
    shared::{Shared, bury_unhandled},
};
use crate::{
    Error, Failure,
    engine::{GroupInfo, GroupSpec, Keeper, Lease, Member, Settling, Source, Verdict},
    message::wall_clock,
    policy::after,
};

/// Being a member of a group; ends when dropped.
#[derive(Debug)]
pub(crate) struct MemoryMember {
    shared: Arc<Shared>,
    group: Arc<Group>,
    clock: AbortHandle,
}

impl MemoryMember {
    pub(crate) fn join(shared: &Arc<Shared>, spec: GroupSpec) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let mut registry = shared.registry();
        let group = shared.find_or_add(&mut registry, spec)?;
        group.lock().join();
        drop(registry);
        let clock = runtime.spawn(keep_time(group.clone())).abort_handle();
        Ok(Self { shared: shared.clone(), group, clock })
    }
}

impl Member for MemoryMember {
    fn group(&self) -> &GroupInfo {
        &self.group.info
    }

    fn source(&self, ack_wait: Option<Duration>) -> Box<dyn Source> {
        static WORKERS: AtomicU64 = AtomicU64::new(0);
        let worker = WORKERS.fetch_add(1, Relaxed);
        Box::new(MemorySource { group: self.group.clone(), worker, sleeps: false, ack_wait })
    }
}

impl Drop for MemoryMember {
    fn drop(&mut self) {
        self.clock.abort();
        let registry = self.shared.registry();
        // What is closed keeps what is written down for the process after this.
        let lasts = self.group.is_scribed() && self.shared.closed.load(SeqCst);
        let group_goes = self.group.lock().leave() && !lasts;
        let dropped = group_goes.then(|| self.shared.drop_group(&registry, &self.group));
        drop(registry);
        if let Some(dropped) = dropped {
            bury_unhandled(&self.group, dropped);
        }
    }
}

/// Makes messages of a group ready when they are due. One for each member, so that waiting workers need no timers.
async fn keep_time(group: Arc<Group>) {
    let mut next = group.next_due();
    loop {
        let due = *next.borrow_and_update();
        let due = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => group.tick(Instant::now()),
            changed = next.changed() => if changed.is_err() { return },
        }
    }
}

/// One worker's place.
#[derive(Debug)]
struct MemorySource {
    group: Arc<Group>,
    worker: u64,
    /// It lies among the sleepers, unless it was called since.
    sleeps: bool,
    ack_wait: Option<Duration>,
}

impl Source for MemorySource {
    fn take(&mut self) -> Option<Lease> {
        let until = self.ack_wait.map(|span| after(Instant::now(), span));
        let mut state = self.group.lock();
        let (token, entry) = state.queue.take(until)?;
        let (message, attempt) = (entry.message.clone(), entry.attempts);
        let (expires, serial, redriven) = (entry.expires, entry.serial, entry.redrives > 0);
        self.group.note(|group| Event::Attempts { group, serial, attempts: attempt });
        if let Some(until) = until {
            self.group.expect(until);
        }
        let called = state.call_worker();
        drop(state);
        if let Some(worker) = called {
            worker.wake();
        }
        let expired = expires.is_some_and(|expires| expires <= Instant::now());
        let keeper = match self.ack_wait {
            None => self.group.clone() as Arc<dyn Keeper>,
            Some(ack_wait) => Arc::new(Watched { group: self.group.clone(), ack_wait }),
        };
        Some(
            Lease::new(message, attempt, keeper, token.to_bits())
                .expired(expired)
                .redriven(redriven),
        )
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        // Cloned out here, since it is foreign code.
        let waker = cx.waker().clone();
        let mut state = self.group.lock();
        let over = state.gone || state.queue.is_stopped();
        let (ready, unused) = if over || state.queue.has_work() {
            let left = if self.sleeps { state.sleepers.leave(self.worker) } else { None };
            self.sleeps = false;
            (true, [left, Some(waker)])
        } else {
            self.sleeps = true;
            (false, [state.sleepers.sleep(self.worker, waker), None])
        };
        drop(state);
        drop(unused);
        if ready { Poll::Ready(!over) } else { Poll::Pending }
    }

    fn rest(&mut self) {
        self.wake_up();
        self.group.pass_on();
    }
}

impl MemorySource {
    fn wake_up(&mut self) {
        if std::mem::take(&mut self.sleeps) {
            let own = self.group.lock().sleepers.leave(self.worker);
            drop(own);
        }
    }
}

impl Drop for MemorySource {
    fn drop(&mut self) {
        self.rest();
    }
}

impl Group {
    fn gone(&self, entry: Option<Entry>) -> Option<Entry> {
        let serial = entry.as_ref()?.serial;
        self.note(|group| Event::Gone { group, serial });
        entry
    }
}

impl Keeper for Group {
    fn settle(self: Arc<Self>, token: u64, verdict: Verdict) -> Settling {
        let token = Token::from_bits(token);
        // Entries, and with them perhaps the owners of payloads, are dropped outside of the lock.
        let known = match verdict {
            Verdict::Ack => self.locked(|state| self.gone(state.queue.ack(token))).is_some(),
            Verdict::Retry { after: span, failure } => {
                let due = after(Instant::now(), span);
                self.locked(|state| {
                    if let Some(entry) = state.queue.lent(token) {
                        let serial = entry.serial;
                        entry.note(failure.clone());
                        self.note(|group| retried(group, serial, failure, span));
                    }
                    let known = state.queue.retry(token, due);
                    if known {
                        self.expect(due);
                    }
                    known
                })
            }
            Verdict::Bury { reason, failure, otherwise } => {
                return Settling::Done(self.bury(token, reason, failure, otherwise));
            }
            Verdict::Expire => self.locked(|state| self.gone(state.queue.expire(token))).is_some(),
            Verdict::GiveBack => {
                let known = self.locked(|state| {
                    let standing = state.queue.lent(token).map(|e| (e.serial, e.attempts - 1));
                    if let Some((serial, attempts)) = standing {
                        self.note(|group| Event::Attempts { group, serial, attempts });
                    }
                    state.queue.give_back(token)
                });
                self.pass_on();
                known
            }
        };
        Settling::Done(if known { Ok(()) } else { Err(Error::LeaseLost) })
    }

    /// Whoever answers in time anyway has nothing to say.
    fn in_progress(self: Arc<Self>, token: u64) -> Settling {
        let known = self.locked(|state| state.queue.lent(Token::from_bits(token)).is_some());
        Settling::Done(if known { Ok(()) } else { Err(Error::LeaseLost) })
    }
}

fn retried(group: u64, serial: u64, failure: Failure, after: Duration) -> Event {
    Event::Retried { group, serial, failure, at: wall_clock(), after }
}

/// Settles deliveries that have a time limit.
#[derive(Debug)]
struct Watched {
    group: Arc<Group>,
    ack_wait: Duration,
}

impl Keeper for Watched {
    fn settle(self: Arc<Self>, token: u64, verdict: Verdict) -> Settling {
        self.group.clone().settle(token, verdict)
    }

    fn in_progress(self: Arc<Self>, token: u64) -> Settling {
        let until = after(Instant::now(), self.ack_wait);
        let known = self.group.locked(|state| {
            let known = state.queue.extend(Token::from_bits(token), until);
            self.group.expect(until);
            known
        });
        Settling::Done(if known { Ok(()) } else { Err(Error::LeaseLost) })
    }
}

//! Where a worker gets its messages, and lays down what is done.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    group::{Group, State},
    keeper::Watched,
    queue::{Entry, Token},
    scribe::Event,
};
use crate::{
    Message,
    attempt::contain,
    engine::{Claim, Keeper, Lease, Settling, Source, Verdict},
    policy::after,
};

/// One worker's place.
///
/// A worker whose handler is done at once finds the next messages here, set aside for it under one lock, and what it has acknowledged is told under
/// the next. How many that are doubles up to [`MOST`] as long as it takes them one after the other; when it has to let go, it begins anew
/// with one. So a worker that waits holds nothing that others could take.
/// One whose handler suddenly blocks its thread keeps as many less one.
pub(crate) struct MemorySource {
    group: Arc<Group>,
    /// Where it lies among the sleepers, unless it was called since.
    sleeps: Option<u64>,
    ack_wait: Option<Duration>,
    /// Taken from the queue, and not handed over.
    aside: VecDeque<Taken>,
    /// Acknowledged, and still in the queue.
    acked: Vec<Token>,
    /// Taken out of the queue; empty but for a moment.
    gone: Vec<Entry>,
    /// How many are taken next.
    appetite: usize,
    /// One that came back with an acknowledgement, for the next lease.
    keeper: Option<Arc<dyn Keeper>>,
}

/// Enough to make the price of a lock small, few enough to be handled while another worker would be woken.
const MOST: usize = 32;

#[derive(Debug)]
struct Taken {
    token: Token,
    message: Arc<Message>,
    attempts: u32,
    expires: Option<Instant>,
    redriven: bool,
}

impl MemorySource {
    pub(crate) fn new(group: Arc<Group>, ack_wait: Option<Duration>) -> Self {
        Self {
            group,
            sleeps: None,
            ack_wait,
            aside: VecDeque::new(),
            acked: Vec::new(),
            gone: Vec::new(),
            appetite: 1,
            keeper: None,
        }
    }

    /// Takes from the queue, and hands over the first.
    fn fetch(&mut self) -> Option<Taken> {
        // One that takes without being called must not lie there and be called for another message.
        self.wake_up();
        let until = self.ack_wait.map(|span| after(Instant::now(), span));
        let Self { group, aside, acked, gone, appetite, .. } = self;
        let alone = until.is_some() || group.is_scribed();
        let first = group.locked(|state| {
            lay_down(group, state, acked, gone);
            let first = take_one(group, state, until)?;
            if !alone {
                // The others that have nothing to do get theirs.
                let share = 1 + state.queue.ready() / (1 + state.sleepers.len());
                let more = (*appetite).min(share) - 1;
                state.queue.warm(more);
                aside.extend((0..more).map_while(|_| take_one(group, state, None)));
            }
            Some(first)
        });
        bury(gone);
        *appetite = (*appetite * 2).min(MOST);
        first
    }

    /// Puts back what was set aside, and tells what was acknowledged.
    fn tell(&mut self) {
        let Self { group, aside, acked, gone, .. } = self;
        group.locked(|state| {
            lay_down(group, state, acked, gone);
            while let Some(taken) = aside.pop_back() {
                state.queue.put_back(taken.token);
            }
        });
        bury(gone);
    }

    fn wake_up(&mut self) {
        if let Some(place) = self.sleeps.take() {
            let own = self.group.lock().sleepers.leave(place);
            drop(own);
        }
    }

    fn lease(&mut self, taken: Taken) -> Lease {
        let Taken { token, message, attempts, expires, redriven } = taken;
        let expired = expires.is_some_and(|expires| expires <= Instant::now());
        let keeper = self.keeper.take().unwrap_or_else(|| match self.ack_wait {
            None => self.group.clone(),
            Some(ack_wait) => Arc::new(Watched { group: self.group.clone(), ack_wait }),
        });
        let lease = Lease::new(message, attempts, keeper, token.to_bits());
        lease.expired(expired).redriven(redriven)
    }
}

impl Source for MemorySource {
    fn take(&mut self) -> Option<Lease> {
        if self.group.is_stopped() {
            self.let_go();
            return None;
        }
        let taken = match self.aside.pop_front() {
            Some(taken) => taken,
            None => self.fetch()?,
        };
        Some(self.lease(taken))
    }

    fn ack(&mut self, claim: Claim) -> Settling {
        if self.ack_wait.is_some() {
            // It may have been lost, and then whoever has it is told.
            return claim.settle(Verdict::Ack);
        }
        let (keeper, token) = claim.into_parts();
        self.keeper = keeper;
        self.acked.push(Token::from_bits(token));
        if self.acked.len() >= MOST {
            self.tell();
        }
        Settling::Done(Ok(()))
    }

    fn let_go(&mut self) {
        self.appetite = 1;
        if !self.aside.is_empty() || !self.acked.is_empty() {
            self.tell();
        }
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        // Cloned out here, since it is foreign code.
        let waker = cx.waker().clone();
        self.let_go();
        let mut state = self.group.lock();
        let over = state.gone || state.queue.is_stopped();
        let (ready, unused) = if over || state.queue.has_work() {
            let left = self.sleeps.take().and_then(|place| state.sleepers.leave(place));
            (true, [left, Some(waker)])
        } else {
            let (place, replaced) = state.sleepers.sleep(self.sleeps, waker);
            self.sleeps = Some(place);
            (false, [replaced, None])
        };
        drop(state);
        drop(unused);
        if ready { Poll::Ready(!over) } else { Poll::Pending }
    }

    fn rest(&mut self) {
        self.let_go();
        self.wake_up();
        self.group.pass_on();
    }
}

impl Drop for MemorySource {
    fn drop(&mut self) {
        self.rest();
    }
}

fn take_one(group: &Group, state: &mut State, until: Option<Instant>) -> Option<Taken> {
    let (token, entry) = state.queue.take(until)?;
    let (message, attempts) = (entry.message.clone(), entry.attempts());
    let (expires, serial, redriven) = (entry.expires(), entry.serial(), entry.redrives() > 0);
    group.note(|group| Event::Attempts { group, serial, attempts });
    if let Some(until) = until {
        group.expect(state, until);
    }
    Some(Taken { token, message, attempts, expires, redriven })
}

fn bury(gone: &mut Vec<Entry>) {
    // One that panics ends what it is caught in, and the others still go one by one.
    while !gone.is_empty() {
        contain(|| while gone.pop().is_some() {});
    }
}

/// What was acknowledged leaves the queue, to be dropped outside of the lock.
fn lay_down(group: &Group, state: &mut State, acked: &mut Vec<Token>, gone: &mut Vec<Entry>) {
    gone.extend(acked.drain(..).filter_map(|token| group.acked(state, token)));
}

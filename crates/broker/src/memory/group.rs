use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU64,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::Waker,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    morgue::Morgue,
    queue::{Entry, Queue},
    scribe::{Event, GroupRecord, Scribe},
    sleepers::Sleepers,
    turnstile::Turnstile,
};
use crate::{
    GroupStats, Message, OrderBy, Pattern, Policy, engine::GroupInfo, judge, message::wall_clock,
};

/// One group: its queue, those who wait to put in, and those who wait to take out.
#[derive(Debug)]
pub(crate) struct Group {
    /// Ids grow in the order in which groups are made, in the whole process; locks of several groups are taken in it.
    pub(crate) info: GroupInfo,
    pub(crate) pattern: Pattern,
    pub(crate) order: Option<OrderBy>,
    pub(crate) morgue: Arc<Morgue>,
    /// Where its changes are written down; nowhere, if it ends with its members or with the process.
    pub(super) scribe: Option<Arc<dyn Scribe>>,
    state: Mutex<State>,
    /// Whether the queue is stopped, to be asked without the lock.
    stopped: AtomicBool,
    hasher: RandomState,
    /// When the first of the delayed comes due, or earlier.
    next_due: watch::Sender<Option<Instant>>,
    /// Nothing is in flight any more, in a queue that was stopped.
    idle: Notify,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) queue: Queue,
    pub(crate) turnstile: Turnstile,
    pub(crate) sleepers: Sleepers,
    /// What was last said of it to those who keep time.
    next_due: Option<Instant>,
    members: usize,
    /// Stays when the last member leaves.
    declared: bool,
    /// No longer among the broker's groups: takes nothing in, keeps nothing.
    pub(crate) gone: bool,
    refused: u64,
}

impl Group {
    pub(crate) fn new(
        info: GroupInfo,
        pattern: Pattern,
        order: Option<OrderBy>,
        morgue: Arc<Morgue>,
    ) -> Self {
        let scribe = morgue.scribe().filter(|_| !info.name.starts_with('_')).cloned();
        let state = State {
            queue: Queue::new(info.policy.capacity, info.policy.max_bytes, Instant::now()),
            turnstile: Turnstile::default(),
            sleepers: Sleepers::default(),
            next_due: None,
            members: 0,
            declared: false,
            gone: false,
            refused: 0,
        };
        let (idle, next_due) = (Notify::new(), watch::Sender::new(None));
        Self {
            info,
            pattern,
            order,
            morgue,
            scribe,
            state: Mutex::new(state),
            stopped: AtomicBool::new(false),
            hasher: RandomState::new(),
            next_due,
            idle,
        }
    }

    pub(crate) const fn policy(&self) -> &Policy {
        &self.info.policy
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another worker should look, if there is anything to look for: of one who was called and cannot take.
    pub(crate) fn pass_on(&self) {
        let called = self.lock().call_worker();
        if let Some(worker) = called {
            worker.wake();
        }
    }

    /// Makes ready what is due, and says when to ask again.
    pub(crate) fn tick(&self, now: Instant) {
        let mut state = self.lock();
        let policy = self.policy();
        state.queue.promote(now, |attempt| judge::overdue(policy, attempt));
        // Published under the lock, lest an older answer overwrite a younger one.
        let due = state.queue.next_due();
        if std::mem::replace(&mut state.next_due, due) != due {
            self.next_due.send_replace(due);
        }
        let called = state.call_worker();
        drop(state);
        if let Some(worker) = called {
            worker.wake();
        }
    }

    /// A message has been delayed until `due`.
    pub(crate) fn expect(&self, state: &mut State, due: Instant) {
        if state.next_due.is_none_or(|next| due < next) {
            state.next_due = Some(due);
            self.next_due.send_replace(Some(due));
        }
    }

    pub(crate) fn next_due(&self) -> watch::Receiver<Option<Instant>> {
        self.next_due.subscribe()
    }

    /// Writes down what happens, if anybody does. Called under the lock.
    pub(crate) fn note(&self, event: impl FnOnce(u64) -> Event) {
        if let Some(scribe) = &self.scribe {
            scribe.note(event(self.info.id));
        }
    }

    pub(crate) const fn is_scribed(&self) -> bool {
        self.scribe.is_some()
    }

    pub(crate) fn set_declared(&self, state: &mut State, declared: bool) {
        state.declared = declared;
        self.note(|group| Event::Group(group, self.record(declared).into()));
    }

    pub(crate) fn record(&self, declared: bool) -> GroupRecord {
        GroupRecord {
            name: self.info.name.clone(),
            pattern: self.pattern.clone(),
            policy: self.info.policy,
            header: self.order.as_ref().and_then(OrderBy::header_name).map(Into::into),
            declared,
        }
    }

    /// The lane of a message: a hash of its key. Runs foreign code.
    pub(crate) fn lane_of(&self, message: &Message) -> Option<NonZeroU64> {
        let key = self.order.as_ref()?.of(message)?;
        NonZeroU64::new(self.hasher.hash_one(&*key).max(1))
    }

    /// Hands out nothing more.
    pub(crate) fn stop(&self) {
        let waiting = {
            let mut state = self.lock();
            state.queue.stop();
            self.stopped.store(true, Relaxed);
            state.everyone()
        };
        waiting.into_iter().for_each(Waker::wake);
        self.idle.notify_waiters();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    /// Waits until nothing is in flight, after [`stop`](Self::stop).
    pub(crate) async fn idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.idle.notified());
            idle.as_mut().enable();
            if self.lock().queue.in_flight() == 0 {
                return;
            }
            idle.await;
        }
    }

    /// Ends the group; what it held and was not in flight, and how many were.
    pub(crate) fn end(&self) -> (Vec<Entry>, usize) {
        let (dropped, in_flight, waiting) = {
            let mut state = self.lock();
            state.gone = true;
            self.note(Event::GroupGone);
            (state.queue.clear(), state.queue.in_flight(), state.everyone())
        };
        waiting.into_iter().for_each(Waker::wake);
        (dropped, in_flight)
    }

    pub(crate) fn stats(&self) -> GroupStats {
        let now = wall_clock();
        let state = self.lock();
        let (queue, counts) = (&state.queue, state.queue.counts);
        GroupStats {
            group: self.info.name.clone(),
            pattern: self.pattern.clone(),
            subscriptions: state.members,
            ready: queue.ready(),
            in_flight: queue.in_flight(),
            delayed: queue.delayed(),
            in_lanes: queue.in_lanes(),
            bytes: queue.bytes(),
            oldest: queue.oldest_ready().map(|at| now.duration_since(at).unwrap_or_default()),
            waiting: state.turnstile.len(),
            published: counts.published,
            redriven: counts.redriven,
            delivered: counts.delivered,
            redelivered: counts.redelivered,
            acked: counts.acked,
            dead: counts.dead,
            dropped: counts.dropped,
            expired: counts.expired,
            overdue: counts.overdue,
            returned: counts.returned,
            refused: state.refused,
        }
    }

    /// `f` under the lock, and what follows from it after, where foreign code may run: who waits for room, or for something to do, is woken.
    pub(crate) fn locked<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = f(&mut state);
        let (first, called) = (state.turnstile.first(), state.call_worker());
        let idle = state.queue.is_stopped() && state.queue.in_flight() == 0;
        drop(state);
        for waiting in [first, called].into_iter().flatten() {
            waiting.wake();
        }
        if idle {
            self.idle.notify_waiters();
        }
        result
    }
}

impl State {
    /// Whoever waits, to put in or to take out.
    fn everyone(&mut self) -> Vec<Waker> {
        let mut everyone = self.turnstile.everyone();
        everyone.extend(std::iter::from_fn(|| self.sleepers.call()));
        everyone
    }

    /// To be woken outside of the lock: somebody for what is ready, if there is anything and anybody.
    #[must_use]
    pub(crate) fn call_worker(&mut self) -> Option<Waker> {
        if self.queue.has_work() { self.sleepers.call() } else { None }
    }

    /// Whether a message may enter; without a ticket, if it keeps nobody waiting who came before.
    pub(crate) fn has_room_for(&self, size: usize, ticket: Option<u64>) -> bool {
        match ticket {
            Some(ticket) => self.queue.has_room(size) && self.turnstile.admits(ticket),
            None => {
                let (waiting, bytes) = (self.turnstile.len(), self.turnstile.bytes());
                self.queue.has_room_beside(waiting, bytes, size)
            }
        }
    }

    pub(crate) const fn join(&mut self) {
        self.members += 1;
    }

    /// Whether the group goes with this member.
    pub(crate) const fn leave(&mut self) -> bool {
        self.members -= 1;
        self.members == 0 && !self.declared
    }

    #[cfg(feature = "file")]
    pub(crate) const fn restore_declared(&mut self, declared: bool) {
        self.declared = declared;
    }

    pub(crate) const fn has_members(&self) -> bool {
        self.members > 0
    }

    pub(crate) const fn count_refusal(&mut self) {
        self.refused += 1;
    }
}

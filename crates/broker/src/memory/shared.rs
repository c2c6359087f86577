use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use arc_swap::ArcSwap;
use tokio::time::Instant;

use super::{
    group::Group,
    ledger::Ledger,
    morgue::Morgue,
    queue::Entry,
    scribe::{Event, Scribe},
    waits::Waits,
};
use crate::{
    Error, Limits, Message, Retention, Start, WhenUnheard,
    attempt::discard,
    engine::{GroupInfo, GroupSpec},
};

/// What all clones share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    /// By id. Replaced as a whole under the lock of the registry; publishers read it without one.
    pub(crate) groups: ArcSwap<Vec<Arc<Group>>>,
    registry: Mutex<Registry>,
    pub(crate) closed: AtomicBool,
    pub(crate) when_unheard: WhenUnheard,
    /// Which subjects are retained; a copy, to be asked without the lock.
    retention: Option<Retention>,
    ledger: Mutex<Ledger>,
    pub(crate) unroutable: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) discarded: AtomicU64,
    pub(crate) dead: Arc<Morgue>,
    pub(crate) waits: Waits,
}

/// Whoever holds it may change which groups there are.
#[derive(Debug, Default)]
pub(crate) struct Registry;

impl Shared {
    pub(crate) fn new(
        limits: Limits,
        retention: Option<Retention>,
        when_unheard: WhenUnheard,
        scribe: Option<Arc<dyn Scribe>>,
    ) -> Self {
        Self {
            limits,
            groups: ArcSwap::default(),
            registry: Mutex::default(),
            closed: AtomicBool::new(false),
            when_unheard,
            ledger: Mutex::new(Ledger::new(limits, retention.clone())),
            retention,
            unroutable: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
            dead: Morgue::new(limits, scribe).into(),
            waits: Waits::default(),
        }
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the ledger has to do with this message.
    pub(crate) fn is_noted(&self, message: &Message) -> bool {
        message.is_known_by_id() || self.is_retained(message)
    }

    pub(crate) fn is_retained(&self, message: &Message) -> bool {
        self.retention.as_ref().is_some_and(|r| r.subjects.matches(message.subject()))
    }

    /// Under the lock of the registry, so that no group is made after this that nobody stops.
    pub(crate) fn refuse_publishers(&self) {
        let _registry = self.registry();
        self.closed.store(true, SeqCst);
    }

    pub(crate) fn group(&self, name: &str) -> Option<Arc<Group>> {
        self.groups.load().iter().find(|group| &*group.info.name == name).cloned()
    }

    /// The group with this name, or a new one, and the past that it has to be given when the registry is unlocked.
    pub(crate) fn find_or_add(
        &self,
        _registry: &mut Registry,
        spec: GroupSpec,
    ) -> Result<(Arc<Group>, Option<Past<'_>>), Error> {
        if self.closed.load(SeqCst) {
            return Err(Error::Closed);
        }
        if let Some(present) = spec.name.as_deref().and_then(|name| self.group(name)) {
            let group = present.info.name.clone();
            if present.pattern != spec.pattern {
                return Err(Error::GroupDiffers { group, what: "pattern" });
            }
            if spec.policy.is_some_and(|policy| policy != present.info.policy) {
                return Err(Error::GroupDiffers { group, what: "policy" });
            }
            let (wanted, is) = (spec.order.as_ref(), present.order.as_ref());
            if wanted.is_some_and(|wanted| is.is_none_or(|is| is.name() != wanted.name())) {
                return Err(Error::GroupDiffers { group, what: "order" });
            }
            return Ok((present, None));
        }
        let mut groups = Vec::clone(&self.groups.load());
        if groups.len() >= self.limits.groups {
            return Err(Error::TooManyGroups(groups.len()));
        }
        let id = GroupInfo::next_id();
        let name = spec.name.unwrap_or_else(|| format!("_{id}").into());
        let info = GroupInfo { id, name, policy: spec.policy.unwrap_or_default() };
        let group = Arc::new(Group::new(info, spec.pattern, spec.order, self.dead.clone()));
        group.note(|id| Event::Group(id, group.record(false).into()));
        groups.push(group.clone());
        if spec.start == Start::New {
            self.groups.store(groups.into());
            return Ok((group, None));
        }
        group.lock().queue.await_past();
        // No message enters both with the past and with the present, or with neither: those that are retained enter under this lock.
        let ledger = self.ledger();
        let mut messages = ledger.replay(spec.start, Instant::now());
        self.groups.store(groups.into());
        drop(ledger);
        messages.retain(|(_, message)| group.pattern.matches(message.subject()));
        let past = Past { shared: self, group: group.clone(), messages, entered: false };
        Ok((group, Some(past)))
    }

    /// Takes the group out; what it held, to be buried once the registry is unlocked.
    pub(crate) fn drop_group(&self, _registry: &Registry, group: &Group) -> Vec<Entry> {
        let others = |other: &&Arc<Group>| other.info.id != group.info.id;
        let groups: Vec<_> = self.groups.load().iter().filter(others).cloned().collect();
        // First out of sight, then emptied: a publisher that still saw it finds it gone and goes on without it.
        self.groups.store(groups.into());
        let (unhandled, in_flight) = group.end();
        self.discarded.fetch_add((unhandled.len() + in_flight) as u64, Relaxed);
        unhandled
    }
}

/// What a group begins with, before it is there. The keys of its messages are asked for outside of all locks, since that is foreign code.
#[must_use = "the group hands out nothing before it has its past"]
pub(crate) struct Past<'s> {
    shared: &'s Shared,
    group: Arc<Group>,
    messages: Vec<(Instant, Arc<Message>)>,
    entered: bool,
}

impl Past<'_> {
    pub(crate) fn enter(mut self) {
        self.group.enter_past(std::mem::take(&mut self.messages));
        self.entered = true;
    }
}

impl Drop for Past<'_> {
    /// The key of a message panicked: a group without its past is none.
    fn drop(&mut self) {
        if !self.entered {
            let dropped = self.shared.drop_group(&self.shared.registry(), &self.group);
            bury_unhandled(&self.group, dropped);
        }
    }
}

/// Ends what a group that went had held. Foreign code: the owners of payloads, the subscriber of events.
pub(crate) fn bury_unhandled(group: &Group, dropped: Vec<Entry>) -> usize {
    let count = dropped.len();
    if count > 0 {
        let group = &*group.info.name;
        tracing::warn!(group, count, "group removed with messages that nobody handled");
    }
    dropped.into_iter().for_each(discard);
    count
}

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};

use arc_swap::ArcSwap;

use crate::{
    Error, Limits, Pattern, Policy, dead_letters::Morgue, group::Group, queue::Entry,
    subscribe::Members, waits::Waits,
};

/// What all clones share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    /// By id. Replaced as a whole under the lock of the registry; publishers read it without one.
    pub(crate) groups: ArcSwap<Vec<Arc<Group>>>,
    registry: Mutex<Registry>,
    pub(crate) closed: AtomicBool,
    pub(crate) unroutable: AtomicU64,
    pub(crate) discarded: AtomicU64,
    pub(crate) dead: Morgue,
    pub(crate) waits: Waits,
}

/// What changes with subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pub(crate) members: Members,
}

impl Shared {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            groups: ArcSwap::default(),
            registry: Mutex::default(),
            closed: AtomicBool::new(false),
            unroutable: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
            dead: Morgue::new(limits),
            waits: Waits::default(),
        }
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn group(&self, name: &str) -> Option<Arc<Group>> {
        self.groups.load().iter().find(|group| &*group.name == name).cloned()
    }

    /// The group with this name, or a new one.
    pub(crate) fn find_or_add(
        &self,
        _registry: &mut Registry,
        name: Option<Arc<str>>,
        pattern: Pattern,
        policy: Option<Policy>,
    ) -> Result<Arc<Group>, Error> {
        /// One counter for the process, so that handlers of several brokers are told apart.
        static IDS: AtomicU64 = AtomicU64::new(1);
        if self.closed.load(SeqCst) {
            return Err(Error::Closed);
        }
        if let Some(present) = name.as_deref().and_then(|name| self.group(name)) {
            let differs = |what| Err(Error::GroupDiffers { group: present.name.clone(), what });
            if present.pattern != pattern {
                return differs("pattern");
            }
            if policy.is_some_and(|policy| policy != present.policy) {
                return differs("policy");
            }
            return Ok(present);
        }
        let mut groups = Vec::clone(&self.groups.load());
        if groups.len() >= self.limits.groups {
            return Err(Error::TooManyGroups(groups.len()));
        }
        let id = IDS.fetch_add(1, Relaxed);
        let name = name.unwrap_or_else(|| format!("_{id}").into());
        let group = Arc::new(Group::new(id, name, pattern, policy.unwrap_or_default()));
        groups.push(group.clone());
        self.groups.store(groups.into());
        Ok(group)
    }

    /// Takes the group out; what it held, to be buried once the registry is unlocked.
    pub(crate) fn drop_group(&self, _registry: &Registry, group: &Group) -> Vec<Entry> {
        let others = |other: &&Arc<Group>| other.id != group.id;
        let groups: Vec<_> = self.groups.load().iter().filter(others).cloned().collect();
        // First out of sight, then emptied: a publisher that still saw it finds it gone and goes on without it.
        self.groups.store(groups.into());
        let (unhandled, in_flight) = group.end();
        self.discarded.fetch_add((unhandled.len() + in_flight) as u64, Relaxed);
        unhandled
    }
}

/// Ends what a group that went had held. Foreign code: the owners of payloads, the subscriber of events.
pub(crate) fn bury_unhandled(group: &Group, dropped: Vec<Entry>) -> usize {
    let count = dropped.len();
    if count > 0 {
        let group = &*group.name;
        tracing::warn!(group, count, "group removed with messages that nobody handled");
    }
    count
}

pub(crate) fn group_name(name: &str) -> Result<Arc<str>, Error> {
    const LONGEST: usize = 128;
    let strange = |c: char| c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > LONGEST || name.starts_with('_') || name.contains(strange) {
        return Err(Error::GroupName(name.chars().take(LONGEST).collect()));
    }
    Ok(name.into())
}

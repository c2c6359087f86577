//! What this process wants to have registered, and what of it etcd is known to have.
//!
//! One task brings about what is wanted, key by key; whoever wants something waits for its verdict. `now` is the time since the
//! engine was made.

mod holding;

use std::{
    collections::{HashMap, HashSet},
    mem,
    sync::Arc,
    time::Duration,
};

use holding::{Holding, Stored};
use tokio::sync::oneshot;

use crate::{Health, Instance, InstanceKey, key::Run};

/// Service and id.
pub(super) type Name = (Arc<str>, Arc<str>);

#[derive(Debug)]
pub(super) struct Holdings {
    ttl: Duration,
    capacity: usize,
    lease: Option<i64>,
    held: HashMap<Name, Holding>,
    ticked: Duration,
}

/// What became of a wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    /// Another process has this id, as a younger run of the instance.
    Superseded,
    /// etcd refuses.
    Failed(Arc<str>),
}

/// One key to be changed.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) name: Name,
    pub(super) sequence: u64,
    /// `None` if it is to be deleted.
    pub(super) want: Option<Arc<Instance>>,
    /// The revision at which the key is believed to have been changed last.
    pub(super) expected: i64,
    pub(super) incarnation: u64,
    pub(super) may_take: bool,
}

/// What came of a [`Task`].
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Stored(i64),
    /// It is deleted, or was not there, or what is there is not ours; the last with this verdict.
    Gone(Verdict),
    /// Nothing is known, or not yet; it is tried again.
    Again,
    Blocked(Verdict),
}

/// Why nothing is wished for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    NoService,
    NoInstance,
    Superseded,
    Full,
}

pub(super) type Waiting = oneshot::Receiver<Verdict>;

impl Holdings {
    pub(super) fn new(ttl: Duration, capacity: usize) -> Self {
        Self { ttl, capacity, lease: None, held: HashMap::new(), ticked: Duration::ZERO }
    }

    pub(super) fn register(
        &mut self,
        instance: Instance,
        now: Duration,
    ) -> Result<Waiting, Refused> {
        let name = (instance.service.clone(), instance.id.clone());
        if !self.held.contains_key(&name) && self.held.len() >= self.capacity {
            return Err(Refused::Full);
        }
        if matches!(self.find(instance.key()), Err(Refused::Superseded)) {
            return Err(Refused::Superseded);
        }
        let holding = self.held.entry(name).or_insert_with(|| Holding::new(now));
        // One that is kept out by another process does not get in by asking again.
        holding.may_take |= holding.want.is_none();
        holding.heard = now;
        Ok(holding.wish(Some(Arc::new(instance))))
    }

    /// `None` if there is nothing to be stored.
    pub(super) fn heartbeat(
        &mut self,
        key: InstanceKey<'_>,
        now: Duration,
    ) -> Result<Option<Waiting>, Refused> {
        let holding = self.find(key)?;
        holding.heard = now;
        Ok(match &holding.want {
            Some(instance) if instance.health == Health::Unknown => {
                let healthy = Instance::clone(instance).with_health(Health::Healthy);
                Some(holding.wish(Some(Arc::new(healthy))))
            }
            _ if holding.is_stored() => None,
            _ => Some(holding.wait()),
        })
    }

    pub(super) fn drain(&mut self, key: InstanceKey<'_>) -> Result<Waiting, Refused> {
        let holding = self.find(key)?;
        let drained = |instance: &Arc<Instance>| {
            Arc::new(Instance::clone(instance).with_health(Health::Draining))
        };
        let want = holding.want.as_ref().map(drained);
        Ok(holding.wish(want))
    }

    pub(super) fn deregister(&mut self, key: InstanceKey<'_>) -> Result<Waiting, Refused> {
        Ok(self.find(key)?.wish(None))
    }

    /// What is to be done now; those that are blocked only if it is their turn.
    pub(super) fn due(&mut self, turn_of_blocked: bool) -> Vec<Task> {
        let due = self.held.iter_mut().filter(|(_, holding)| {
            !holding.is_stored() && (turn_of_blocked || holding.blocked.is_none())
        });
        due.map(|(name, holding)| Task {
            name: name.clone(),
            sequence: holding.sequence,
            want: holding.want.clone(),
            expected: holding.stored.map_or(0, |stored| stored.revision),
            incarnation: holding.incarnation,
            may_take: holding.may_take,
        })
        .collect()
    }

    pub(super) fn done(&mut self, task: &Task, outcome: Outcome) {
        let Some(holding) = self.held.get_mut(&task.name) else { return };
        let current = holding.sequence == task.sequence;
        match outcome {
            Outcome::Again => {}
            Outcome::Stored(revision) => {
                holding.stored = Some(Stored { sequence: task.sequence, revision });
                holding.may_take = false;
                holding.blocked = None;
                if current {
                    holding.tell(Verdict::Done);
                }
            }
            Outcome::Gone(verdict) => {
                holding.stored = None;
                if current && holding.want.is_none() {
                    holding.tell(verdict);
                    self.held.remove(&task.name);
                }
            }
            Outcome::Blocked(verdict) if current => {
                holding.stored = None;
                holding.blocked = Some(verdict.clone());
                holding.tell(verdict);
            }
            Outcome::Blocked(_) => {}
        }
    }

    pub(super) const fn lease(&self) -> Option<i64> {
        self.lease
    }

    pub(super) const fn granted(&mut self, lease: i64) {
        self.lease = Some(lease);
    }

    /// The lease has expired, and with it all its keys.
    pub(super) fn lease_lost(&mut self) {
        self.lease = None;
        self.held.retain(|_, holding| {
            holding.stored = None;
            if holding.want.is_none() {
                holding.tell(Verdict::Done);
            }
            holding.want.is_some()
        });
    }

    /// Forgets everything, for the lease is about to be revoked. Returns it.
    pub(super) fn close(&mut self) -> Option<i64> {
        for holding in self.held.values_mut() {
            holding.tell(Verdict::Done);
        }
        self.held.clear();
        self.lease.take()
    }

    /// Compares with the keys that are on the lease: counts those of ours that are not, which are due again, and
    /// returns those that nobody here wants.
    pub(super) fn verify(
        &mut self,
        found: Vec<Vec<u8>>,
        key: impl Fn(&Name) -> Vec<u8>,
    ) -> (usize, Vec<Vec<u8>>) {
        let mut found: HashSet<_> = found.into_iter().collect();
        let mut missing = 0;
        for (name, holding) in &mut self.held {
            if !found.remove(&key(name)) && holding.stored.take().is_some() {
                missing += usize::from(holding.want.is_some());
            }
        }
        (missing, found.into_iter().collect())
    }

    /// The keys that are as they should be, as far as is known, each with its revision.
    pub(super) fn stored(&self, key: impl Fn(&Name) -> Vec<u8>) -> Vec<(Vec<u8>, i64)> {
        let stored = self.held.iter().filter(|(_, holding)| holding.is_stored());
        stored.filter_map(|(name, holding)| Some((key(name), holding.stored?.revision))).collect()
    }

    /// The key was changed by another process, at this revision, to this if it is still ours. A drain stays until the instance is registered again.
    pub(super) fn found(&mut self, name: Name, instance: Option<Instance>, revision: i64) {
        let Some(holding) = self.held.get_mut(&name).filter(|holding| holding.is_stored()) else {
            return;
        };
        let Some(stored) = holding.stored.filter(|stored| stored.revision < revision) else {
            return;
        };
        let drained = |want: &Instance| Instance::clone(want).with_health(Health::Draining);
        let drained = holding.want.as_deref().map(drained);
        if drained.is_some() && drained == instance {
            holding.want = drained.map(Arc::new);
            holding.stored = Some(Stored { revision, ..stored });
        }
    }

    /// Takes out those of which nothing was heard for a TTL, and returns how many. Time in which nobody looked, because this process
    /// was paused, is not held against them: no heartbeat could come.
    pub(super) fn expire(&mut self, now: Duration) -> usize {
        let unattended = now.saturating_sub(mem::replace(&mut self.ticked, now));
        let forgiven = if unattended > self.ttl / 2 { unattended } else { Duration::ZERO };
        let mut expired = 0;
        for holding in self.held.values_mut() {
            holding.heard = (holding.heard + forgiven).min(now);
            if holding.want.is_some() && now - holding.heard > self.ttl {
                drop(holding.wish(None));
                expired += 1;
            }
        }
        expired
    }

    fn find(&mut self, key: InstanceKey<'_>) -> Result<&mut Holding, Refused> {
        let name = (key.service.into(), key.id.into());
        let wanted = |holding: &Holding| holding.want.as_ref().map(|want| want.incarnation);
        let Some(registered) = self.held.get(&name).and_then(wanted) else {
            let same = |((service, _), holding): (&Name, &Holding)| {
                **service == *key.service && holding.want.is_some()
            };
            let known = self.held.iter().any(same);
            return Err(if known { Refused::NoInstance } else { Refused::NoService });
        };
        match key.run(registered) {
            Run::Same => self.held.get_mut(&name).ok_or(Refused::NoInstance),
            Run::Older => Err(Refused::Superseded),
            Run::Younger => Err(Refused::NoInstance),
        }
    }
}

#[cfg(test)]
mod tests;

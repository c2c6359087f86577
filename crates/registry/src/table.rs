//! The instances of one service and when each was last heard of.
//!
//! Silence is measured in attended time: the time during which sweeps come as often as they should. When our own process
//! was paused, no heartbeat could arrive, so the pause counts as one sweep interval at most and expires nobody.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{Health, Instance, InstanceKey, LastSeen, Policy, key::Run};

/// The machine. `now` is the time since the epoch that it was made with.
#[derive(Debug)]
pub(crate) struct Table {
    epoch: Instant,
    ttl: Duration,
    evict_after: Duration,
    clock: Attended,
    /// In order of ids, so that listings are stable.
    members: BTreeMap<Arc<str>, Member>,
}

#[derive(Debug)]
struct Member {
    /// As it is listed, with the health that the registry sees.
    instance: Arc<Instance>,
    /// In attended time.
    seen: Duration,
    /// Stays through silence: a draining instance that is heard of again is not picked.
    draining: bool,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) expired: usize,
    pub(crate) evicted: usize,
}

/// Why what was said of an instance does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// It is not in the table.
    Unknown,
    /// A younger run of it is.
    Superseded,
}

impl Table {
    pub(crate) fn new(policy: &Policy, epoch: Instant, now: Duration) -> Self {
        Self {
            epoch,
            ttl: policy.ttl_used(),
            evict_after: policy.ttl_used().saturating_add(policy.evict_after),
            clock: Attended { interval: policy.sweep_used(), ticked: now, counted: Duration::ZERO },
            members: BTreeMap::new(),
        }
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.members.contains_key(id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn listing(&self) -> Vec<Arc<Instance>> {
        self.members.values().map(|member| member.instance.clone()).collect()
    }

    /// Adds `instance`, or puts it in the place of the one with its id, unless that is younger and alive.
    pub(crate) fn register(
        &mut self,
        mut instance: Instance,
        now: Duration,
    ) -> Result<(), Refused> {
        let present = self.members.get(&instance.id);
        if present.is_some_and(|member| member.outlives(instance.key())) {
            return Err(Refused::Superseded);
        }
        instance.last_seen = present
            .map_or_else(|| LastSeen::never(self.epoch), |old| old.instance.last_seen.clone());
        if instance.health != Health::Unknown {
            instance.last_seen.hear(now);
        }
        let draining = instance.health == Health::Draining;
        let seen = self.clock.at(now);
        let id = instance.id.clone();
        self.members.insert(id, Member { instance: Arc::new(instance), seen, draining });
        Ok(())
    }

    fn find(&mut self, key: InstanceKey<'_>) -> Result<&mut Member, Refused> {
        let member = self.members.get_mut(key.id).ok_or(Refused::Unknown)?;
        match key.run(member.instance.incarnation) {
            Run::Same => Ok(member),
            Run::Older => Err(Refused::Superseded),
            Run::Younger => Err(Refused::Unknown),
        }
    }

    /// Notes a sign of life. Says whether the listing changed.
    pub(crate) fn heartbeat(
        &mut self,
        key: InstanceKey<'_>,
        now: Duration,
    ) -> Result<bool, Refused> {
        let attended = self.clock.at(now);
        let member = self.find(key)?;
        member.seen = attended;
        member.instance.last_seen.hear(now);
        Ok(member.set_health(if member.draining { Health::Draining } else { Health::Healthy }))
    }

    /// Notes that the instance is leaving. Says whether the listing changed.
    pub(crate) fn drain(&mut self, key: InstanceKey<'_>) -> Result<bool, Refused> {
        let member = self.find(key)?;
        member.draining = true;
        let silent = member.instance.health == Health::Unhealthy;
        Ok(!silent && member.set_health(Health::Draining))
    }

    pub(crate) fn deregister(&mut self, key: InstanceKey<'_>) -> Result<(), Refused> {
        self.find(key)?;
        self.members.remove(key.id);
        Ok(())
    }

    /// Silent for the TTL: unhealthy. Silent for much longer: forgotten.
    pub(crate) fn sweep(&mut self, now: Duration) -> Swept {
        self.clock.tick(now);
        let now = self.clock.counted;
        let mut swept = Swept::default();
        self.members.retain(|_, member| {
            let silence = now.saturating_sub(member.seen);
            if silence >= self.evict_after {
                swept.evicted += 1;
                return false;
            }
            if silence >= self.ttl && member.set_health(Health::Unhealthy) {
                swept.expired += 1;
            }
            true
        });
        swept
    }
}

impl Member {
    /// Whether this is a younger run than that of `key`, and not silent.
    fn outlives(&self, key: InstanceKey<'_>) -> bool {
        self.instance.health != Health::Unhealthy
            && key.run(self.instance.incarnation) == Run::Older
    }

    fn set_health(&mut self, health: Health) -> bool {
        let changed = self.instance.health != health;
        if changed {
            Arc::make_mut(&mut self.instance).health = health;
        }
        changed
    }
}

/// A clock that counts at most `interval` from one tick to the next.
///
/// Time is cut off rather than corrected afterwards, so that it never runs backwards for who looks between two ticks.
#[derive(Debug)]
struct Attended {
    interval: Duration,
    /// The last tick, in real time.
    ticked: Duration,
    /// The last tick, in attended time.
    counted: Duration,
}

impl Attended {
    fn at(&self, now: Duration) -> Duration {
        self.counted.saturating_add(now.saturating_sub(self.ticked).min(self.interval))
    }

    fn tick(&mut self, now: Duration) {
        self.counted = self.at(now);
        self.ticked = self.ticked.max(now);
    }
}

#[cfg(test)]
mod tests;

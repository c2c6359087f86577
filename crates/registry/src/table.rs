//! The instances of one service and what is thought of their health.
//!
//! Time is counted in ticks of the sweeper (see [`Board`]).

mod board;
mod member;
mod protection;
mod rota;
mod rules;
mod word;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

pub(crate) use board::{Board, NEVER, SlotId, millis};
use member::Member;
#[cfg(feature = "consul")]
pub(crate) use protection::Census;
pub(crate) use protection::Protection;
pub(crate) use rota::Rota;
pub(crate) use rules::Rules;
pub(crate) use word::Beat;

use crate::{Health, Instance, InstanceKey, LastSeen, key::Run};

/// The machine.
#[derive(Debug)]
pub(crate) struct Table {
    rules: Rules,
    board: Arc<Board>,
    /// In order of ids, so that listings are stable.
    members: BTreeMap<Arc<str>, Member>,
    protection: Protection,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    pub(crate) expired: usize,
    pub(crate) evicted: usize,
    /// The listing changed in another way.
    pub(crate) marked: bool,
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
    pub(crate) fn new(rules: Rules, board: Arc<Board>) -> Self {
        Self { rules, board, members: BTreeMap::new(), protection: Protection::default() }
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.members.contains_key(id)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn is_protected(&self) -> bool {
        self.protection.is_on()
    }

    /// Sorted by id, each once.
    pub(crate) fn listing(&self) -> Box<[Arc<Instance>]> {
        self.members.values().map(|member| member.instance.clone()).collect()
    }

    /// The slot of the instance, for heartbeats that need no table.
    pub(crate) fn slot(&mut self, key: InstanceKey<'_>) -> Result<SlotId, Refused> {
        self.find(key).map(|member| member.slot)
    }

    /// Whether `key` may register: not if a younger run of it is there and alive.
    pub(crate) fn admits(&self, key: InstanceKey<'_>) -> Result<(), Refused> {
        let younger = self.members.get(key.id).is_some_and(|member| {
            member.instance.health != Health::Unhealthy
                && key.run(member.instance.incarnation) == Run::Older
        });
        if younger { Err(Refused::Superseded) } else { Ok(()) }
    }

    /// Adds `instance`, or puts it in the place of the one with its id. A new one needs a slot.
    pub(crate) fn register(&mut self, mut instance: Instance, now: Duration, slot: Option<SlotId>) {
        let present = self.members.get(&instance.id);
        let run = present.map(|old| (old.slot, old.instance.incarnation));
        let slot = match (slot, run) {
            (_, Some((slot, incarnation))) if incarnation == instance.incarnation => slot,
            (_, Some((slot, _))) => self.board.renew(slot.index, self.board.heard(slot)),
            (Some(slot), None) => slot,
            // A caller that gives none knows that there is one.
            (None, None) => return,
        };
        self.board.touch(slot);
        if instance.health != Health::Unknown && !instance.suspect {
            self.board.hear(slot, now);
        }
        instance.last_seen = LastSeen::at(&self.board, slot);
        let tick = self.board.tick();
        let member = Member::new(instance, slot, tick);
        member.tell(&self.board);
        self.members.insert(member.instance.id.clone(), member);
    }

    pub(crate) fn mark_restored(&mut self, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            member.restored = true;
        }
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
        let (rise, tick) = (self.rules.rise, self.board.tick());
        let board = self.board.clone();
        let member = self.find(key)?;
        board.touch(member.slot);
        board.hear(member.slot, now);
        (member.written_off, member.restored) = (false, false);
        if member.instance.health == Health::Unhealthy {
            if member.beats == 0 || member.beaten != tick {
                member.beats = member.beats.saturating_add(1);
                member.beaten = tick;
            }
            if member.failing || member.beats < member.falls.min(rise) {
                return Ok(false);
            }
        }
        Ok(member.recover(&board))
    }

    /// Notes what an active check says. Says whether the listing changed.
    pub(crate) fn report(
        &mut self,
        key: InstanceKey<'_>,
        well: bool,
        now: Duration,
    ) -> Result<bool, Refused> {
        let board = self.board.clone();
        let member = self.find(key)?;
        member.failing = !well;
        member.restored = false;
        if well {
            // Whoever is seen to work is expected to go on, also after a protection has given it up.
            member.written_off = false;
            board.touch(member.slot);
            board.hear(member.slot, now);
            return Ok(member.recover(&board));
        }
        Ok(member.fall(&board))
    }

    /// Notes that the instance is leaving. Says whether the listing changed.
    pub(crate) fn drain(&mut self, key: InstanceKey<'_>) -> Result<bool, Refused> {
        let board = self.board.clone();
        let member = self.find(key)?;
        member.draining = true;
        let silent = member.instance.health == Health::Unhealthy;
        Ok(!silent && member.set(Health::Draining, member.instance.suspect, &board))
    }

    /// Removes the instance, and returns its slot.
    pub(crate) fn deregister(&mut self, key: InstanceKey<'_>) -> Result<u32, Refused> {
        self.find(key)?;
        self.remove(key.id).ok_or(Refused::Unknown)
    }

    fn remove(&mut self, id: &str) -> Option<u32> {
        let member = self.members.remove(id)?;
        // Whoever still has a handle is told to register again.
        Some(self.board.renew(member.slot.index, NEVER).index)
    }

    /// Looks whether the instance is silent: for the TTL, then unhealthy, for much longer, then forgotten. Returns when to look
    /// again, and the slot if it was given up.
    pub(crate) fn check(&mut self, id: &str, swept: &mut Swept) -> (u64, Option<u32>) {
        let tick = self.board.tick();
        let (Rules { span, evict, .. }, later) = (self.rules, tick + self.rules.span);
        let Some(member) = self.members.get_mut(id) else { return (later, None) };
        self.board.settle(member.slot);
        if !member.may_fall_silent() {
            return (later, None);
        }
        let seen = self.board.seen(member.slot);
        if member.instance.health == Health::Unhealthy {
            let due = (member.since + evict).max(seen + span);
            if due > tick {
                return (due, None);
            }
            swept.evicted += 1;
            return (later, self.remove(id));
        }
        if seen + span > tick {
            return (seen + span, None);
        }
        if member.instance.health == Health::Healthy && self.protects(tick, swept) {
            self.suspect(id, swept);
        } else if let Some(member) = self.members.get_mut(id) {
            if self.board.silence(member.slot, seen) && member.fall(&self.board) {
                swept.expired += 1;
            }
        }
        (tick + evict.max(1), None)
    }

    fn suspect(&mut self, id: &str, swept: &mut Swept) {
        if let Some(member) = self.members.get_mut(id) {
            swept.marked |= member.set(Health::Healthy, true, &self.board);
        }
    }
}

#[cfg(test)]
mod tests;

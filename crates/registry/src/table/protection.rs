//! When most of a service falls silent at once, the silence is more likely ours than theirs.

use super::{Member, Rules, Swept, Table};
use crate::Health;

/// Whether the last good set is kept in spite of its silence.
#[derive(Debug, Default)]
pub(crate) struct Protection {
    on: Option<On>,
    /// In which tick it was last found not to be needed: one look for all that fall silent in it.
    unneeded: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct On {
    since: u64,
    /// Since when no more than the share is silent.
    calm: Option<u64>,
}

/// Fewer silent instances than these are never a reason.
const AT_LEAST: usize = 5;

impl Protection {
    pub(super) const fn is_on(&self) -> bool {
        self.on.is_some()
    }
}

impl Table {
    /// Whether an instance that falls silent now is kept. Begins the protection if it is time.
    pub(super) fn protects(&mut self, tick: u64, swept: &mut Swept) -> bool {
        if self.protection.is_on() {
            return true;
        }
        if self.protection.unneeded == Some(tick) {
            return false;
        }
        // Who beats every third of the TTL has missed one by then. So it is seen before the first is given up.
        let late = self.rules.span * 2 / 3;
        if !self.is_too_much(late, tick) {
            self.protection.unneeded = Some(tick);
            return false;
        }
        self.protection.on = Some(On { since: tick, calm: None });
        let Rules { span, .. } = self.rules;
        for member in self.members.values_mut() {
            let fell =
                member.instance.health == Health::Unhealthy && member.is_expected(span, tick);
            if fell {
                swept.marked |= member.set(Health::Healthy, true, &self.board);
            }
        }
        true
    }

    /// To be called in each tick while protected: looks whether that is over.
    pub(crate) fn review(&mut self, swept: &mut Swept) {
        let (tick, span) = (self.board.tick(), self.rules.span);
        let (Some(mut on), Some((_, bound))) = (self.protection.on, self.rules.protect) else {
            return;
        };
        if self.is_too_much(span, tick) {
            on.calm = None;
        } else {
            on.calm.get_or_insert(tick);
        }
        self.protection.on = Some(on);
        // Those who come back do so within a heartbeat; a TTL is time enough for all.
        let over = on.calm.is_some_and(|calm| tick >= calm + span);
        if !over && tick < on.since.saturating_add(bound) && self.has_suspects() {
            return;
        }
        self.protection.on = None;
        for member in self.members.values_mut().filter(|member| member.instance.suspect) {
            // What stays silent now is no longer part of what is expected, or it would begin anew.
            member.written_off = true;
            if member.instance.health == Health::Healthy && member.fall(&self.board) {
                swept.expired += 1;
            }
        }
    }

    fn has_suspects(&self) -> bool {
        self.members.values().any(|member| member.instance.suspect)
    }

    /// Whether more than the share of those that should beat have not for `late` ticks.
    fn is_too_much(&self, late: u64, tick: u64) -> bool {
        let Some((share, _)) = self.rules.protect else { return false };
        let (mut expected, mut silent) = (0_usize, 0_usize);
        for member in self.members.values() {
            if member.is_expected(self.rules.span, tick) {
                expected += 1;
                silent += usize::from(self.board.seen(member.slot) + late <= tick);
            }
        }
        #[allow(clippy::cast_precision_loss, reason = "counts of instances")]
        let many = silent as f64 > expected as f64 * share;
        silent >= AT_LEAST && many
    }
}

impl Member {
    /// Whether it was well until a TTL ago at least.
    fn is_expected(&self, span: u64, tick: u64) -> bool {
        let was_well = match self.instance.health {
            Health::Healthy => true,
            Health::Unhealthy => self.since + span > tick,
            Health::Unknown | Health::Draining => false,
        };
        let beats = !self.draining && !self.failing && !self.written_off && self.may_fall_silent();
        was_well && beats
    }
}

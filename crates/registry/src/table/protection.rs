//! When most of a service falls silent at once, the silence is more likely ours than theirs.

use gusset_call::Ratio;

use super::{Member, Rules, Swept, Table};
use crate::Health;

/// Whether the last good set is kept in spite of its silence. Time is in ticks of whoever keeps it.
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

/// How many of a service should beat, and how many of those have not for some time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Census {
    pub(crate) expected: usize,
    pub(crate) silent: usize,
}

impl Census {
    /// Whether more than the share is silent.
    pub(crate) fn is_too_much(self, share: Ratio) -> bool {
        self.silent >= AT_LEAST && self.silent as u64 > share.of(self.expected as u64)
    }
}

impl Protection {
    pub(crate) const fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Begins if it is time, once one falls silent. Says whether it is on; `is_too_much` is asked once in a tick.
    pub(crate) fn begin(&mut self, tick: u64, is_too_much: impl FnOnce() -> bool) -> bool {
        if self.is_on() {
            return true;
        }
        if self.unneeded == Some(tick) {
            return false;
        }
        if !is_too_much() {
            self.unneeded = Some(tick);
            return false;
        }
        self.on = Some(On { since: tick, calm: None });
        true
    }

    /// Ends when it was calm for `span`, when there are no suspects, or after `bound`. Says whether it ended now.
    pub(crate) fn end(
        &mut self,
        tick: u64,
        (span, bound): (u64, u64),
        (is_too_much, has_suspects): (bool, bool),
    ) -> bool {
        let Some(mut on) = self.on else { return false };
        if is_too_much {
            on.calm = None;
        } else {
            on.calm.get_or_insert(tick);
        }
        self.on = Some(on);
        // Those who come back do so within a heartbeat; a TTL is time enough for all.
        let over = on.calm.is_some_and(|calm| tick >= calm.saturating_add(span));
        if !over && tick < on.since.saturating_add(bound) && has_suspects {
            return false;
        }
        self.on = None;
        true
    }
}

impl Table {
    /// Whether an instance that falls silent now is kept. Begins the protection if it is time.
    pub(super) fn protects(&mut self, tick: u64, swept: &mut Swept) -> bool {
        let (was_on, Rules { span, .. }) = (self.protection.is_on(), self.rules);
        // Who beats every third of the TTL has missed one by then. So it is seen before the first is given up.
        let late = span * 2 / 3;
        let mut protection = std::mem::take(&mut self.protection);
        let is_on = protection.begin(tick, || self.is_too_much(late, tick));
        self.protection = protection;
        if is_on && !was_on {
            for member in self.members.values_mut() {
                let fell =
                    member.instance.health == Health::Unhealthy && member.is_expected(span, tick);
                if fell {
                    swept.marked |= member.set(Health::Healthy, true, &self.board);
                }
            }
        }
        is_on
    }

    /// To be called in each tick while protected: looks whether that is over.
    pub(crate) fn review(&mut self, swept: &mut Swept) {
        let (tick, span) = (self.board.tick(), self.rules.span);
        let Some((_, bound)) = self.rules.protect else { return };
        let seen = (self.is_too_much(span, tick), self.has_suspects());
        if !self.protection.end(tick, (span, bound), seen) {
            return;
        }
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
        let mut census = Census::default();
        for member in self.members.values() {
            if member.is_expected(self.rules.span, tick) {
                census.expected += 1;
                census.silent += usize::from(self.board.seen(member.slot) + late <= tick);
            }
        }
        census.is_too_much(share)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_without_end_does_not_overflow_and_the_bound_ends_it() {
        let mut protection = Protection::default();
        assert!(protection.begin(7, || true));
        let times = (u64::MAX, 100);
        assert!(!protection.end(8, times, (false, true)));
        assert!(!protection.end(106, times, (false, true)));
        assert!(protection.end(107, times, (false, true)));
    }
}

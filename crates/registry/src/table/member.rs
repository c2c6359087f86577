use std::sync::Arc;

use super::{Board, SlotId};
use crate::{Health, Instance};

/// An instance, and what is thought of it.
#[derive(Debug)]
pub(super) struct Member {
    /// As it is listed, with the health that the registry sees.
    pub(super) instance: Arc<Instance>,
    pub(super) slot: SlotId,
    /// Stays through silence: a draining instance that is heard of again is not picked.
    pub(super) draining: bool,
    /// An active check has found it not to work; heartbeats do not change that.
    pub(super) failing: bool,
    /// Known from before a restart, and not heard of since: its silence counts even where checks decide, as there may be none any more.
    pub(super) restored: bool,
    /// Its silence is no news any more.
    pub(super) written_off: bool,
    /// When it became what it is now, well or unhealthy.
    pub(super) since: u64,
    /// How often it became unhealthy with little time in between.
    pub(super) falls: u32,
    /// Ticks with a heartbeat since it is unhealthy, and the last of them.
    pub(super) beats: u32,
    pub(super) beaten: u64,
}

impl Member {
    pub(super) fn new(instance: Instance, slot: SlotId, tick: u64) -> Self {
        Self {
            slot,
            draining: instance.health == Health::Draining,
            failing: false,
            restored: false,
            written_off: false,
            since: tick,
            falls: 0,
            beats: 0,
            beaten: 0,
            instance: Arc::new(instance),
        }
    }

    pub(super) fn may_fall_silent(&self) -> bool {
        !self.instance.checked || self.restored
    }

    pub(super) fn recover(&mut self, board: &Board) -> bool {
        if self.instance.health == Health::Unhealthy {
            self.since = board.tick();
            self.beats = 0;
        }
        self.set(if self.draining { Health::Draining } else { Health::Healthy }, false, board)
    }

    pub(super) fn fall(&mut self, board: &Board) -> bool {
        if self.instance.health != Health::Unhealthy {
            // What was well for a quarter of an hour with the usual times begins anew.
            let calm = board.tick().saturating_sub(self.since) >= CALM;
            self.falls = if calm { 1 } else { self.falls.saturating_add(1) };
            self.since = board.tick();
            self.beats = 0;
        }
        self.set(Health::Unhealthy, false, board)
    }

    pub(super) fn set(&mut self, health: Health, suspect: bool, board: &Board) -> bool {
        let changed = self.instance.health != health || self.instance.suspect != suspect;
        if changed {
            let instance = Arc::make_mut(&mut self.instance);
            (instance.health, instance.suspect) = (health, suspect);
        }
        self.tell(board);
        changed
    }

    /// Lets heartbeats come without the table where they change nothing there.
    pub(super) fn tell(&self, board: &Board) {
        let plain = matches!(self.instance.health, Health::Healthy | Health::Draining);
        board.set_slow(self.slot, !plain || self.instance.suspect);
    }
}

/// Ticks for which an instance has to be well until its falls are forgotten.
pub(super) const CALM: u64 = 900;

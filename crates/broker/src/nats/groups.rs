//! What this process has to do with groups.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::sync::watch;

use super::{
    hall::Hall,
    keeper::{Counts, Ledger},
};
use crate::{GroupStats, Pattern, engine::GroupInfo};

/// What this process has to do with groups.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    pub(crate) known: HashMap<Arc<str>, Known>,
    /// Members that have left, to which something may still come.
    pub(crate) departing: Vec<(Arc<str>, Present)>,
}

impl Groups {
    /// Forgets the group unless there is reason to know it.
    pub(crate) fn forget(&mut self, name: &str) {
        let is_idle = |known: &Known| known.members.is_empty() && (known.removed || !known.stays);
        if self.known.get(name).is_some_and(is_idle) {
            self.known.remove(name);
        }
    }
}

/// A group that this process knows.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) info: GroupInfo,
    pub(crate) pattern: Pattern,
    pub(crate) counts: Arc<Counts>,
    pub(crate) members: Vec<Present>,
    /// It is on the server, and stays there without members.
    pub(crate) stays: bool,
    /// To be deleted with its last member here.
    pub(crate) removed: bool,
}

/// A member, as long as it is there.
#[derive(Clone, Debug)]
pub(crate) struct Present {
    pub(crate) id: u64,
    pub(crate) hall: Arc<Hall>,
    pub(crate) ledger: Arc<Ledger>,
    /// Closed when nothing more comes from the server.
    pub(crate) feeder: watch::Receiver<()>,
}

impl Known {
    pub(crate) fn stats(&self) -> GroupStats {
        let counts = &self.counts;
        let halls = self.members.iter().map(|member| member.hall.demand().ready);
        let in_flight: usize = self.members.iter().map(|member| member.ledger.in_flight()).sum();
        let ready: usize = halls.sum();
        GroupStats {
            group: self.info.name.clone(),
            pattern: self.pattern.clone(),
            subscriptions: self.members.len(),
            ready,
            in_flight: in_flight.saturating_sub(ready),
            delayed: 0,
            in_lanes: 0,
            expired: counts.expired.load(Relaxed),
            overdue: counts.overdue.load(Relaxed),
            bytes: 0,
            oldest: None,
            waiting: 0,
            published: 0,
            redriven: counts.redriven.load(Relaxed),
            delivered: counts.delivered.load(Relaxed),
            redelivered: counts.redelivered.load(Relaxed),
            acked: counts.acked.load(Relaxed),
            dead: counts.dead.load(Relaxed),
            dropped: 0,
            returned: counts.returned.load(Relaxed),
            refused: 0,
        }
    }
}

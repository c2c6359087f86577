//! What one process leaves to the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Runner;
use crate::{Direction, Journal, Json, Release, StepState, progress::Progress, tries::Tries};

impl Runner {
    /// Lets others take over at once, or when it is due, instead of after the lease. Failing to changes nothing but the time that takes.
    pub(super) async fn release(&mut self, due: Option<u64>) {
        let (saga, epoch) = (self.saga.clone(), self.epoch);
        let note = note(&self.progress, &self.tries, (epoch, self.crashes));
        let release = Release { saga, epoch, due, note, blocked: false };
        if let Err(error) = self.engine.store(self.engine.store.release(&release)).await {
            tracing::debug!(saga = %self.saga, %error, "lease not released");
        }
    }
}

/// What the one who ends its lease tells the next holder, so that attempts are counted across processes without a record for each.
#[derive(Serialize, Deserialize)]
struct Note {
    format: u32,
    /// Of who wrote it.
    #[serde(default)]
    epoch: u64,
    /// How many of the crashes that the store counts are in it already. A record of a later epoch begins the count anew.
    #[serde(default)]
    crashes: u32,
    steps: BTreeMap<u32, Tries>,
}

const FORMAT: u32 = 1;

/// Steps that call something, and which way.
fn calling(progress: &Progress) -> impl Iterator<Item = (u32, Direction)> {
    let calls = progress.under_way().filter(|step| !progress.waits().contains(step));
    calls.map(|step| match progress.steps[step as usize].state {
        StepState::Undoing => (step, Direction::Undo),
        _ => (step, Direction::Act),
    })
}

fn note(
    progress: &Progress,
    tries: &BTreeMap<u32, Tries>,
    (epoch, crashes): (u64, u32),
) -> Option<Json> {
    let tries = |(step, direction)| {
        (step, tries.get(&step).cloned().unwrap_or_else(|| Tries::new(direction)))
    };
    let steps: BTreeMap<_, _> = calling(progress).map(tries).collect();
    if steps.is_empty() {
        return None;
    }
    Json::encode(&Note { format: FORMAT, epoch, crashes, steps }).ok()
}

/// What those who held the saga until now leave to the next one, in a write that sets the count of crashes back.
pub(crate) fn note_of(progress: &Progress, journal: &Journal) -> Option<Json> {
    note(progress, &inherited(progress, journal), (journal.epoch, 0))
}

/// The attempts of those who held the saga before. Who fell silent may have attempted all that was under way.
pub(super) fn inherited(progress: &Progress, journal: &Journal) -> BTreeMap<u32, Tries> {
    let note = journal.note.as_ref().and_then(|note| note.decode::<Note>().ok());
    let note = note.filter(|note| note.format == FORMAT);
    let counted = note.as_ref().filter(|note| last_epoch(journal) <= note.epoch);
    let crashes = journal.crashes.saturating_sub(counted.map_or(0, |note| note.crashes));
    let mut noted = note.map_or_else(BTreeMap::new, |note| note.steps);
    let inherit = |(step, direction)| {
        let noted = noted.remove(&step).filter(|tries: &Tries| tries.direction == direction);
        let known = noted.is_some() && crashes == 0;
        let mut tries = noted.unwrap_or_else(|| Tries::new(direction));
        tries.maybe |= !known;
        tries.begun = tries.begun.saturating_add(crashes);
        tries.crashes = journal.crashes;
        if crashes > 0 {
            tries.note("a process that may have attempted it fell silent".into());
        }
        (step, tries)
    };
    calling(progress).map(inherit).collect()
}

/// In which epoch it was written to last.
fn last_epoch(journal: &Journal) -> u64 {
    let last = journal.records.as_ref().ok().and_then(|records| records.last());
    last.map_or(u64::MAX, |record| record.epoch)
}

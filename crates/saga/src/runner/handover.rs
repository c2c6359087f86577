//! What one process leaves to the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Runner;
use crate::{Direction, Journal, Json, Release, StepState, progress::Progress, tries::Tries};

impl Runner {
    /// Lets others take over at once, or when it is due, instead of after the lease. Failing to changes nothing but the time that takes.
    pub(super) async fn release(&mut self, due: Option<u64>) {
        let (saga, epoch) = (self.saga.clone(), self.epoch);
        let note = note(&self.progress, &self.tries);
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

fn note(progress: &Progress, tries: &BTreeMap<u32, Tries>) -> Option<Json> {
    let tries = |(step, direction)| {
        (step, tries.get(&step).cloned().unwrap_or_else(|| Tries::new(direction)))
    };
    let steps: BTreeMap<_, _> = calling(progress).map(tries).collect();
    if steps.is_empty() {
        return None;
    }
    Json::encode(&Note { format: FORMAT, steps }).ok()
}

/// What those who held the saga until now leave to the next one.
pub(crate) fn note_of(progress: &Progress, journal: &Journal) -> Option<Json> {
    note(progress, &inherited(progress, journal))
}

/// The attempts of those who held the saga before. Who fell silent may have attempted all that was under way.
pub(super) fn inherited(progress: &Progress, journal: &Journal) -> BTreeMap<u32, Tries> {
    let note = journal.note.as_ref().and_then(|note| note.decode::<Note>().ok());
    let note = note.filter(|note| note.format == FORMAT);
    let mut noted = note.map_or_else(BTreeMap::new, |note| note.steps);
    let inherit = |(step, direction)| {
        let noted = noted.remove(&step).filter(|tries: &Tries| tries.direction == direction);
        let known = noted.is_some() && journal.crashes == 0;
        let mut tries = noted.unwrap_or_else(|| Tries::new(direction));
        tries.maybe |= !known;
        tries.begun = tries.begun.saturating_add(journal.crashes);
        tries.crashes = journal.crashes;
        if journal.crashes > 0 {
            tries.note("a process that may have attempted it fell silent".into());
        }
        (step, tries)
    };
    calling(progress).map(inherit).collect()
}

//! What one process leaves to the next.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Runner;
use crate::{Direction, Journal, Json, Release, StepState, progress::Progress, tries::Tries};

impl Runner {
    /// Lets others take over at once, or when it is due, instead of after the lease. Failing to changes nothing but the time that takes.
    pub(super) async fn release(&mut self, due: Option<u64>) {
        let (saga, epoch) = (self.seat.saga.clone(), self.epoch);
        let note = note(&self.progress, &self.tries, (self.sequence, self.crashes));
        let release = Release { saga, epoch, due, note, blocked: false };
        if let Err(error) = self.seat.engine.store(self.seat.engine.store.release(&release)).await {
            tracing::debug!(saga = %self.seat.saga, %error, "lease not released");
        }
    }
}

/// What the one who ends its lease tells the next holder, so that attempts are counted across processes without a record for each.
#[derive(Serialize, Deserialize)]
struct Note {
    format: u32,
    /// How many of the crashes that the store counts are in it already ...
    #[serde(default)]
    crashes: u32,
    /// ... as long as the journal has so many records: a further one sets the count back.
    #[serde(default)]
    records: u64,
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
    (records, crashes): (u64, u32),
) -> Option<Json> {
    let tries = |(step, direction)| {
        (step, tries.get(&step).cloned().unwrap_or_else(|| Tries::new(direction)))
    };
    let steps: BTreeMap<_, _> = calling(progress).map(tries).collect();
    if steps.is_empty() {
        return None;
    }
    Json::encode(&Note { format: FORMAT, crashes, records, steps }).ok()
}

/// What those who held the saga until now leave to the next one, in a write that sets the count of crashes back.
pub(crate) fn note_of(progress: &Progress, journal: &Journal) -> Option<Json> {
    note(progress, &inherited(progress, journal), (0, 0))
}

/// The attempts of those who held the saga before. Who fell silent may have attempted all that was under way.
pub(super) fn inherited(progress: &Progress, journal: &Journal) -> BTreeMap<u32, Tries> {
    let note = journal.note.as_ref().and_then(|note| note.decode::<Note>().ok());
    let note = note.filter(|note| note.format == FORMAT);
    let counted = note.as_ref().filter(|note| length(journal) == Some(note.records));
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

fn length(journal: &Journal) -> Option<u64> {
    journal.records.as_ref().ok().map(|records| records.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Event, Record, Saga, StepContext, StepError};

    #[test]
    fn a_note_tells_of_the_crashes_before_it_and_of_none_after_it() {
        let mut saga = Saga::define("one", 1);
        let act = |_: StepContext, (): ()| async { Ok::<_, StepError>(()) };
        saga.step("act").run(act).no_undo();
        let shape = saga.finish(()).unwrap().plan.shape.clone();
        let event =
            Event::Started { shape, input: Json::null(), trace: None, trace_state: None, life: 0 };
        let mut progress = Progress::begin(&event, None, 0).unwrap();
        progress.open(&[0], 0).unwrap();
        let started = Record { opens: (&[0][..]).into(), ..Record::new(0, 1, 0, event) };
        let mut journal = Journal::new("s-1".parse().unwrap(), 2, Ok(vec![started]));
        let begun = |journal: &Journal| inherited(&progress, journal)[&0].begun;

        journal.crashes = 1;
        assert_eq!(begun(&journal), 1);
        journal.note = note(&progress, &inherited(&progress, &journal), (1, 1));
        assert_eq!(begun(&journal), 1, "let go of, and taken up");
        journal.crashes = 2;
        assert_eq!(begun(&journal), 2, "one more");
        // What was written, be it by who left the note and did not hear of it, has set the count back.
        let written = Record::new(1, 2, 0, Event::Opened);
        journal.records = journal.records.map(|records| [records, vec![written]].concat());
        journal.crashes = 1;
        assert_eq!(begun(&journal), 2, "another one");
        assert!(inherited(&progress, &journal)[&0].maybe);
    }
}

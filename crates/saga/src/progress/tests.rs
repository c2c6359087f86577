use super::*;
use crate::{FailureKind, StepShape};
use proptest::prelude::*;

fn shape(undos: &[bool]) -> Arc<Shape> {
    let step = |(place, &undo)| StepShape { name: format!("s{place}").into(), undo, needs: vec![] };
    let steps = undos.iter().enumerate().map(step).collect();
    Arc::new(Shape { name: "test".into(), version: 1, steps })
}

fn failure(step: u32) -> Failure {
    Failure {
        step: format!("s{step}").into(),
        kind: FailureKind::Unknown,
        errors: vec![],
        attempts: 1,
    }
}

/// A journal in the making.
struct Saga {
    progress: Progress,
    records: Vec<Record>,
}

impl Saga {
    fn new(undos: &[bool]) -> Self {
        let event = Progress::started(shape(undos), Json::encode(&7).unwrap(), None);
        let progress = Progress::begin(&event).unwrap();
        Self { progress, records: vec![Record::new(0, 1, 0, event)] }
    }

    fn write(&mut self, event: Event) {
        self.progress.apply(&event).unwrap();
        self.records.push(Record::new(self.records.len() as u64, 1, 0, event));
    }

    fn done(&mut self) -> &mut Self {
        let Next::Attempt(step, direction) = self.progress.next() else { panic!("nothing to do") };
        let output = (direction == Direction::Act).then(|| Json::encode(&step).unwrap());
        self.write(self.progress.succeeded(step, output, true));
        self
    }

    fn given_up(&mut self, maybe: bool) -> &mut Self {
        let Next::Attempt(step, _) = self.progress.next() else { panic!("nothing to do") };
        self.write(self.progress.gave_up(step, failure(step), maybe, true));
        self
    }

    fn states(&self) -> Vec<StepState> {
        self.progress.steps.iter().map(|step| step.state).collect()
    }
}

use StepState::{
    Acting, Done, Failed, Skipped as Settled, UndoFailed, Undoing, Undone, Unknown, Waiting,
};

#[test]
fn one_record_ends_a_step_and_begins_the_next() {
    let mut saga = Saga::new(&[true; 3]);
    assert_eq!(saga.states(), [Acting, Waiting, Waiting]);
    saga.done();
    assert_eq!(saga.states(), [Done, Acting, Waiting]);
    saga.done().done();
    assert_eq!(saga.progress.state(), State::Completed);
    assert_eq!(saga.records.len(), 4, "N + 1");
}

#[test]
fn the_way_back_passes_over_what_needs_no_undo() {
    let mut saga = Saga::new(&[true, false, true, true]);
    saga.done().done().done().given_up(false);
    assert_eq!(saga.states(), [Done, Done, Undoing, Failed]);
    saga.done();
    assert_eq!(saga.states(), [Undoing, Done, Undone, Failed]);
    saga.done();
    assert_eq!(saga.progress.state(), State::Compensated);
}

#[test]
fn a_possible_effect_is_undone_as_unknown() {
    let mut saga = Saga::new(&[true, true]);
    saga.done().given_up(true);
    assert_eq!(saga.progress.next(), Next::Attempt(1, Direction::Undo));
    assert_eq!(saga.progress.steps[1].output, None);

    let mut without_undo = Saga::new(&[false]);
    without_undo.given_up(true);
    assert_eq!(without_undo.progress.state(), State::Compensated);
}

#[test]
fn an_undo_that_is_given_up_holds_up_no_other_and_waits_for_an_operator() {
    let mut saga = Saga::new(&[true; 4]);
    saga.done().done().done().given_up(false);
    saga.given_up(false).done().given_up(false);
    assert_eq!(saga.states(), [UndoFailed, Undone, UndoFailed, Failed]);
    assert_eq!(saga.progress.state(), State::Stuck);
    assert_eq!(saga.progress.next(), Next::Park);

    saga.write(saga.progress.retried("again".into()));
    assert_eq!(saga.states(), [Done, Undone, Undoing, Failed]);
    saga.done().given_up(false);
    assert_eq!(saga.states(), [UndoFailed, Undone, Undone, Failed]);
    assert_eq!(saga.progress.undo_failures.len(), 3, "each is kept");

    saga.write(Event::Skipped { step: 0, note: "by hand".into() });
    assert_eq!(saga.states(), [Settled, Undone, Undone, Failed]);
    assert_eq!(saga.progress.state(), State::Compensated);
}

#[test]
fn a_blocked_saga_stands_where_it_stood() {
    let mut saga = Saga::new(&[true; 2]);
    saga.write(Event::Blocked { reason: "unknown".into() });
    assert_eq!((saga.progress.state(), saga.progress.next()), (State::Blocked, Next::Park));
    saga.write(Event::Unblocked);
    assert_eq!(saga.progress.next(), Next::Attempt(0, Direction::Act));
}

#[test]
fn damaged_journals_are_recognised() {
    let mut saga = Saga::new(&[true; 3]);
    saga.done().done();
    let records = &saga.records;
    assert!(Progress::replay(&[]).is_err());
    assert!(Progress::replay(&records[1..]).is_err());
    assert!(Progress::replay(&[records[0].clone(), records[2].clone()]).is_err());
    for wrong in [
        Event::Done { step: 0, output: Json::encode(&0).unwrap(), opens: vec![] },
        Event::Done { step: 2, output: Json::encode(&0).unwrap(), opens: vec![3] },
        Event::Opened { opens: vec![9] },
        Event::Undone { step: 0, opens: vec![] },
        Event::Skipped { step: u32::MAX, note: "".into() },
        records[0].event.clone(),
    ] {
        assert!(saga.progress.clone().apply(&wrong).is_err(), "{wrong:?}");
    }
}

/// The format is for ever: what this release writes, later ones read.
#[test]
fn the_json_of_the_first_format_is_read() {
    let fixture = include_str!("journal-1.jsonl");
    let records: Vec<Record> =
        fixture.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let progress = Progress::replay(&records).unwrap();
    assert_eq!(progress.state(), State::Compensated);
    assert_eq!(progress.undo_failures[0].error(), "refund refused");
    let written: Vec<_> =
        records.iter().map(|record| serde_json::to_string(record).unwrap()).collect();
    assert_eq!(written, fixture.lines().collect::<Vec<_>>(), "and written alike");
}

proptest! {
    /// Whatever happens: each prefix of the journal tells what was true then, the saga parks within 2N + 3 records if no process
    /// pauses, and no effect is left without an undo, an operator's task or an end.
    #[test]
    fn the_journal_tells_all_and_every_saga_parks(
        undos in prop::collection::vec(any::<bool>(), 1..8),
        luck in prop::collection::vec((0..10_u8, any::<bool>(), any::<bool>()), 40),
    ) {
        let mut saga = Saga::new(&undos);
        let mut luck = luck.into_iter();
        let mut pauses = 0;
        loop {
            prop_assert_eq!(&Progress::replay(&saga.records).unwrap(), &saga.progress);
            let event = match saga.progress.next() {
                Next::Park => break,
                Next::Open(step) => {
                    pauses += 1;
                    Event::Opened { opens: vec![step] }
                }
                Next::Attempt(step, direction) => {
                    let (dice, maybe, go_on) = luck.next().unwrap();
                    if dice < 3 {
                        saga.progress.gave_up(step, failure(step), maybe, go_on)
                    } else {
                        let output = (direction == Direction::Act).then(|| Json::encode(&0).unwrap());
                        saga.progress.succeeded(step, output, go_on)
                    }
                }
            };
            saga.write(event);
        }
        prop_assert!(saga.records.len() <= 2 * undos.len() + 3 + pauses);
        let owed = |(state, undo): (StepState, &bool)| *undo && matches!(state, Done | Unknown | Undoing);
        let owed = saga.states().into_iter().zip(&undos).filter(|step| owed(*step)).count();
        let given_up = saga.states().into_iter().filter(|state| *state == UndoFailed).count();
        match saga.progress.state() {
            State::Completed => prop_assert!(saga.states().iter().all(|state| *state == Done)),
            State::Compensated => prop_assert_eq!((owed, given_up), (0, 0)),
            State::Stuck => prop_assert!(owed == 0 && given_up > 0),
            other => prop_assert!(false, "parked while {:?}", other),
        }
    }
}

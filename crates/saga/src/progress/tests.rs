use super::*;
use crate::{FailureKind, Order, State, StepShape};
use proptest::prelude::*;

/// Steps as (undo, what they wait for).
fn shape(steps: &[(bool, &[u32])]) -> Arc<Shape> {
    let step = |(place, (undo, after)): (usize, &(bool, &[u32]))| StepShape {
        name: format!("s{place}").into(),
        kind: StepKind::Action,
        undo: *undo,
        needs: vec![],
        after: after.to_vec(),
    };
    let steps = steps.iter().enumerate().map(step).collect();
    Arc::new(Shape { name: "test".into(), version: 1, deadline: None, steps })
}

fn failure(step: u32) -> Failure {
    Failure {
        step: format!("s{step}").into(),
        kind: FailureKind::Unknown,
        errors: vec![],
        attempts: 1,
    }
}

fn json() -> Json {
    Json::encode(&7).unwrap()
}

/// A journal in the making.
struct Saga {
    progress: Progress,
    records: Vec<Record>,
}

impl Saga {
    fn of(shape: Arc<Shape>) -> Self {
        let event =
            Event::Started { shape, input: json(), trace: None, trace_state: None, life: 0 };
        let progress = Progress::begin(&event, None, 0).unwrap();
        let mut saga = Self { progress, records: vec![Record::new(0, 1, 0, event)] };
        saga.open_all(0);
        saga
    }

    /// A sequence.
    fn new(undos: &[bool]) -> Self {
        let before: Vec<Vec<u32>> = (0..undos.len() as u32)
            .map(|place| place.checked_sub(1).into_iter().collect())
            .collect();
        let steps: Vec<(bool, &[u32])> =
            undos.iter().copied().zip(before.iter().map(|before| &before[..])).collect();
        Self::of(shape(&steps))
    }

    fn write(&mut self, event: Event) -> &mut Self {
        self.write_only(event);
        self.open_all(self.records.len() - 1);
        self
    }

    fn write_only(&mut self, event: Event) {
        self.progress.apply(&event).unwrap();
        self.records.push(Record::new(self.records.len() as u64, 1, 0, event));
    }

    fn open_all(&mut self, record: usize) {
        let opens = self.progress.ready().to_vec();
        self.progress.open(&opens, 0).unwrap();
        self.records[record].opens = opens.as_slice().into();
    }

    fn end(&mut self, step: u32) -> &mut Self {
        let event = match self.progress.steps[step as usize].state {
            Undoing => Event::Undone { step },
            _ => Event::Done { step, output: json() },
        };
        self.write(event)
    }

    fn fail(&mut self, step: u32, maybe: bool) -> &mut Self {
        let failure = failure(step);
        let event = match self.progress.steps[step as usize].state {
            Undoing => Event::UndoFailed { step, failure },
            _ => Event::Failed { step, failure, maybe },
        };
        self.write(event)
    }

    fn order(&mut self, order: Order) -> &mut Self {
        self.progress.objects_to(&order).unwrap();
        self.write(Event::Ordered { key: "k".into(), order, note: "n".into(), refused: None })
    }

    fn states(&self) -> Vec<StepState> {
        self.progress.steps.iter().map(|step| step.state).collect()
    }
}

use StepState::{
    Acting, Done, Failed, Halted, Skipped as Settled, UndoFailed, Undoing, Undone, Unknown, Waiting,
};

#[test]
fn one_record_ends_a_step_and_begins_the_next() {
    let mut saga = Saga::new(&[true; 3]);
    assert_eq!(saga.states(), [Acting, Waiting, Waiting]);
    saga.end(0);
    assert_eq!(saga.states(), [Done, Acting, Waiting]);
    saga.end(1).end(2);
    assert_eq!(saga.progress.state(), State::Completed);
    assert_eq!(saga.records.len(), 4, "N + 1");
}

#[test]
fn a_diamond_runs_at_once_and_is_undone_from_its_end() {
    let mut saga =
        Saga::of(shape(&[(true, &[]), (true, &[0]), (true, &[0]), (true, &[1, 2]), (true, &[3])]));
    saga.end(0);
    assert_eq!(saga.states(), [Done, Acting, Acting, Waiting, Waiting]);
    saga.end(2).end(1);
    assert_eq!(*saga.records.last().unwrap().opens, [3]);
    saga.end(3).fail(4, false);
    assert_eq!(saga.states(), [Done, Done, Done, Undoing, Failed]);
    saga.end(3);
    assert_eq!(saga.states(), [Done, Undoing, Undoing, Undone, Failed]);
    saga.end(1);
    assert_eq!(saga.states()[0], Done, "it waits for both");
    saga.end(2).end(0);
    assert_eq!(saga.progress.state(), State::Compensated);
}

#[test]
fn the_way_back_waits_for_what_is_still_under_way() {
    let mut saga = Saga::of(shape(&[(true, &[]), (true, &[0]), (true, &[0])]));
    saga.end(0).fail(1, false);
    assert_eq!(saga.states(), [Done, Failed, Acting], "not undone under the feet of another");
    assert_eq!(saga.progress.state(), State::TurningBack);
    saga.end(2);
    assert_eq!(saga.states(), [Done, Failed, Undoing]);
    saga.end(2).end(0);
    assert_eq!(saga.progress.state(), State::Compensated);
    assert_eq!(saga.progress.failure, Some(failure(1)), "the first one");
}

#[test]
fn the_way_back_passes_over_what_needs_no_undo() {
    let mut saga = Saga::new(&[true, false, true, true]);
    saga.end(0).end(1).end(2).fail(3, false);
    assert_eq!(saga.states(), [Done, Done, Undoing, Failed]);
    saga.end(2);
    assert_eq!(saga.states(), [Undoing, Done, Undone, Failed]);
    saga.end(0);
    assert_eq!(saga.progress.state(), State::Compensated);
}

#[test]
fn a_possible_effect_is_undone_as_unknown() {
    let mut saga = Saga::new(&[true, true]);
    saga.end(0).fail(1, true);
    assert_eq!(saga.states(), [Done, Undoing]);
    assert_eq!(saga.progress.steps[1].output, None);

    let mut without_undo = Saga::new(&[false]);
    without_undo.fail(0, true);
    assert_eq!(without_undo.progress.state(), State::Compensated);
}

#[test]
fn an_undo_that_is_given_up_holds_up_no_other_and_waits_for_an_operator() {
    let mut saga = Saga::new(&[true; 4]);
    saga.end(0).end(1).end(2).fail(3, false);
    saga.fail(2, false).end(1).fail(0, false);
    assert_eq!(saga.states(), [UndoFailed, Undone, UndoFailed, Failed]);
    assert_eq!(saga.progress.state(), State::Stuck);

    saga.order(Order::Retry);
    assert_eq!(saga.states(), [Done, Undone, Undoing, Failed], "in the old order");
    saga.end(2).fail(0, false);
    assert_eq!(saga.states(), [UndoFailed, Undone, Undone, Failed]);
    assert_eq!(saga.progress.undo_failures.len(), 3, "each is kept");

    saga.order(Order::Skip { step: "s0".into() });
    assert_eq!(saga.states(), [Settled, Undone, Undone, Failed]);
    assert_eq!(saga.progress.state(), State::Compensated);
}

#[test]
fn a_retry_while_others_still_are_undone_keeps_the_order() {
    let mut saga = Saga::new(&[true; 3]);
    saga.end(0).end(1).end(2);
    let mut saga = Saga::of(shape(&[(true, &[]), (true, &[0]), (true, &[1]), (true, &[])]));
    saga.end(0).end(1).end(2).fail(3, false);
    saga.fail(2, false);
    assert_eq!(saga.states(), [Done, Undoing, UndoFailed, Failed]);
    saga.order(Order::Retry);
    assert_eq!(saga.states(), [Done, Undoing, Undoing, Failed]);
    saga.end(1);
    assert_eq!(saga.states()[0], Done, "the later one is not settled");
    saga.end(2);
    assert_eq!(saga.states(), [Undoing, Undone, Undone, Failed]);
    saga.end(0);
    assert_eq!(saga.progress.state(), State::Compensated);
}

#[test]
fn a_halt_behind_the_pivot_waits_for_an_operator_when_all_else_is_done() {
    let of = |kinds: &[StepKind]| {
        let mut of = (*shape(&[(true, &[]), (false, &[0]), (false, &[0])])).clone();
        for (step, kind) in of.steps.iter_mut().zip(kinds) {
            step.kind = kind.clone();
        }
        Saga::of(Arc::new(of))
    };
    let mut saga = of(&[StepKind::Pivot, StepKind::Certain, StepKind::Certain]);
    assert_eq!(
        saga.progress.objects_to(&Order::TurnBack),
        Err("is past the point where it can turn back")
    );
    saga.end(0).write(Event::Halted { step: 1, failure: failure(1) });
    assert_eq!(
        (saga.states(), saga.progress.state()),
        (vec![Done, Halted, Acting], State::Running)
    );
    saga.end(2);
    assert_eq!(saga.progress.state(), State::Stuck);
    saga.order(Order::Retry);
    assert_eq!((saga.states(), saga.progress.state()), (vec![Done, Acting, Done], State::Running));
    saga.write(Event::Halted { step: 1, failure: failure(1) });
    saga.order(Order::Supply { step: "s1".into(), output: json() });
    assert_eq!(saga.progress.state(), State::Completed);
}

#[test]
fn orders_that_do_not_fit_are_refused_and_change_nothing() {
    let mut saga = Saga::new(&[true; 2]);
    let before = saga.progress.clone();
    for order in [
        Order::Skip { step: "s0".into() },
        Order::Skip { step: "s7".into() },
        Order::Supply { step: "s1".into(), output: json() },
    ] {
        assert!(saga.progress.objects_to(&order).is_err(), "{order:?}");
        let refused = Some("no".into());
        saga.write(Event::Ordered { key: "k".into(), order, note: "".into(), refused });
    }
    assert_eq!(saga.progress, before);
    saga.order(Order::TurnBack).order(Order::Close);
    assert_eq!(saga.progress.state(), State::Closed);
    assert!(saga.progress.objects_to(&Order::Retry).is_err());
    assert!(saga.progress.ready().is_empty());
}

#[test]
fn signals_wait_for_their_step_in_order_and_timers_count_from_their_record() {
    let mut of = (*shape(&[(false, &[]), (false, &[0]), (false, &[])])).clone();
    of.steps[1].kind = StepKind::Signal { within: Some(50) };
    of.steps[2].kind = StepKind::Timer { millis: 1_000 };
    let mut saga = Saga::of(Arc::new(of));
    for payload in [1, 2] {
        let payload = Json::encode(&payload).unwrap();
        saga.write(Event::Signalled { name: "s1".into(), payload });
    }
    assert_eq!(saga.progress.waits(), [2]);
    assert_eq!(saga.progress.wait_ends(2), Some(1_000));
    saga.end(0);
    let first = saga.progress.signal_for(1).unwrap().clone();
    assert_eq!(first.get(), "1");
    assert!(saga.progress.only_waits());
    saga.write(Event::Done { step: 1, output: first });
    assert_eq!(saga.progress.signals.len(), 1, "taken once");
    saga.order(Order::TurnBack);
    assert_eq!(saga.progress.state(), State::Compensated, "a wait is over at once");
}

#[test]
fn a_blocked_saga_stands_where_it_stood() {
    let mut saga = Saga::new(&[true; 2]);
    saga.write(Event::Blocked { reason: "unknown".into() });
    assert_eq!(saga.progress.state(), State::Blocked);
    saga.write(Event::Unblocked);
    assert_eq!((saga.progress.state(), saga.states()[0]), (State::Running, Acting));
}

#[test]
fn damaged_journals_are_recognised() {
    let mut saga = Saga::new(&[true; 3]);
    saga.end(0).end(1);
    let records = &saga.records;
    assert!(Progress::replay(&[]).is_err());
    assert!(Progress::replay(&records[1..]).is_err());
    assert!(Progress::replay(&[records[0].clone(), records[2].clone()]).is_err());
    for wrong in [
        Event::Done { step: 0, output: json() },
        Event::Done { step: 9, output: json() },
        Event::Undone { step: 0 },
        Event::Halted { step: u32::MAX, failure: failure(0) },
        records[0].event.clone(),
    ] {
        assert!(saga.progress.clone().apply(&wrong).is_err(), "{wrong:?}");
    }
    for wrong in [0, 2, 9] {
        assert!(
            saga.progress.clone().open(&[wrong], 0).is_err()
                || wrong == 2 && saga.states()[2] == Waiting
        );
    }
}

/// The format is for ever: what this release writes, later ones read.
#[test]
fn the_json_of_the_first_format_is_read() {
    let fixture = include_str!("journal-1.jsonl");
    let records: Vec<Record> =
        fixture.lines().map(|line| Record::from_json(line).unwrap()).collect();
    let progress = Progress::replay(&records).unwrap();
    assert_eq!(progress.state(), State::Compensated);
    assert_eq!(progress.undo_failures[0].error(), "refund refused");
    let written: Vec<_> = records.iter().map(|record| record.to_json().unwrap()).collect();
    assert_eq!(written, fixture.lines().collect::<Vec<_>>(), "and written alike");

    let newer = fixture.lines().next().unwrap().replace("\"format\":1", "\"format\":2");
    assert_eq!(Record::from_json(&newer), Err(Unreadable::Newer(2)));
    let other = "{\"format\":2,\"what\":\"ever\"}";
    assert_eq!(Record::from_json(other), Err(Unreadable::Newer(2)));
    assert!(matches!(Record::from_json("{\"format\":1}"), Err(Unreadable::Damaged(_))));
}

/// A saga of width 2: building, running and undoing it touches each edge a fixed number of times.
#[test]
fn a_ladder_of_depth_1000_is_linear() {
    let edges: Vec<Vec<u32>> = (0..2_000_u32)
        .map(|place| if place < 2 { vec![] } else { vec![place / 2 * 2 - 2, place / 2 * 2 - 1] })
        .collect();
    let steps: Vec<(bool, &[u32])> = edges.iter().map(|edges| (true, &edges[..])).collect();
    let mut saga = Saga::of(shape(&steps));
    for place in 0..1_999 {
        saga.end(place);
    }
    saga.fail(1_999, false);
    for place in (0..1_999).rev() {
        assert_eq!(saga.states()[place as usize], Undoing, "{place}");
        saga.progress.steps[place as usize].state = Undoing;
        saga.progress.apply(&Event::Undone { step: place }).unwrap();
        let opens = saga.progress.ready().to_vec();
        assert!(opens.len() <= 2);
        saga.progress.open(&opens, 0).unwrap();
    }
    assert_eq!(saga.progress.state(), State::Compensated);
}

proptest! {
    /// Whatever the graph and whatever happens: each prefix of the journal tells what was true then, the saga parks within 2N + 2 records if no process
    /// pauses, no step is undone before those that waited for it, and no effect is left without an undo, an operator's task or an end.
    #[test]
    fn the_journal_tells_all_and_every_saga_parks(
        steps in prop::collection::vec((any::<bool>(), any::<u16>()), 1..9),
        luck in prop::collection::vec((0..10_u8, any::<bool>(), any::<bool>(), any::<usize>()), 60),
    ) {
        let edges: Vec<Vec<u32>> = steps.iter().enumerate().map(|(place, (_, bits))| {
            (0..place as u32).filter(|before| bits >> before & 1 == 1).collect()
        }).collect();
        let undos: Vec<bool> = steps.iter().map(|(undo, _)| *undo).collect();
        let of: Vec<(bool, &[u32])> = undos.iter().copied().zip(edges.iter().map(|edges| &edges[..])).collect();
        let mut saga = Saga::of(shape(&of));
        let mut luck = luck.into_iter();
        let mut pauses = 0;
        loop {
            prop_assert_eq!(&Progress::replay(&saga.records).unwrap(), &saga.progress);
            let under_way: Vec<u32> = saga.progress.under_way().collect();
            for step in &under_way {
                let before = &edges[*step as usize];
                if saga.states()[*step as usize] == Acting {
                    prop_assert!(before.iter().all(|before| saga.progress.steps[*before as usize].output.is_some()));
                }
                let waiting = |(after, edges): (usize, &Vec<u32>)| {
                    edges.contains(step) && matches!(saga.states()[after], Acting | Undoing | Done)
                };
                if saga.states()[*step as usize] == Undoing {
                    prop_assert!(!edges.iter().enumerate().any(|one| waiting(one) && undos[one.0]));
                }
            }
            let (dice, maybe, go_on, which) = luck.next().unwrap();
            let event = match under_way.get(which % under_way.len().max(1)) {
                None if saga.progress.ready().is_empty() => break,
                None => {
                    pauses += 1;
                    Event::Opened
                }
                Some(&step) => match (saga.states()[step as usize], dice < 3) {
                    (Undoing, false) => Event::Undone { step },
                    (Undoing, true) => Event::UndoFailed { step, failure: failure(step) },
                    (_, false) => Event::Done { step, output: json() },
                    (_, true) => Event::Failed { step, failure: failure(step), maybe },
                },
            };
            let opened = matches!(event, Event::Opened);
            saga.write_only(event);
            if go_on || opened {
                saga.open_all(saga.records.len() - 1);
            }
        }
        prop_assert!(saga.records.len() <= 2 * undos.len() + 2 + pauses);
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

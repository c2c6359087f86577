use std::{sync::Arc, thread};

use super::*;
use proptest::prelude::*;

const OPEN_FOR: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(40);

/// 5 failures, 30 s, 3 successes, at most 3 probes.
fn machine() -> Machine {
    Machine::new(Policy::consecutive(5).open_for(OPEN_FOR).probe_lease(LEASE))
}

fn secs(secs: u64) -> impl Fn() -> Duration + Copy {
    move || Duration::from_secs(secs)
}

fn admitted(machine: &Machine, now: u64) -> Option<Ticket> {
    machine.admit(secs(now)).ok().map(|(ticket, _)| ticket)
}

fn record(machine: &Machine, ticket: Ticket, outcome: Outcome, now: u64) -> Recorded {
    machine.record(ticket, outcome, secs(now))
}

fn tripped_at(now: u64) -> Machine {
    let machine = machine();
    for _ in 0..5 {
        let ticket = admitted(&machine, now).unwrap();
        record(&machine, ticket, Outcome::Failure, now);
    }
    assert_eq!(machine.state(), State::Open);
    machine
}

#[test]
fn it_trips_at_the_fifth_failure_in_a_row_and_not_before() {
    let machine = machine();
    let mut results = Vec::new();
    for outcome in "FFFFSFFIFFF".chars() {
        let outcome = match outcome {
            'F' => Outcome::Failure,
            'S' => Outcome::Success,
            _ => Outcome::Ignored,
        };
        let ticket = admitted(&machine, 0).unwrap();
        results.push(record(&machine, ticket, outcome, 0));
    }
    let trip = Transition { from: State::Closed, to: State::Open };
    assert_eq!(results.pop(), Some(Recorded::Counted(Some(trip))));
    assert!(results.iter().all(|result| *result == Recorded::Counted(None)));
}

#[test]
fn an_open_circuit_says_when_to_come_back() {
    let machine = tripped_at(100);
    let refused = machine.admit(secs(112)).unwrap_err();
    assert_eq!(refused.retry_after, Some(Duration::from_secs(18)));
    assert_eq!(machine.certain_refusal(secs(112)), Some(refused));
    assert_eq!(machine.certain_refusal(secs(130)), None);
}

#[test]
fn after_the_open_time_at_most_three_probes_pass() {
    let machine = tripped_at(0);
    assert!(admitted(&machine, 29).is_none());
    assert!(!machine.would_admit(secs(29)) && machine.would_admit(secs(30)));
    let passed = (0..10).filter_map(|_| admitted(&machine, 30)).count();
    assert_eq!(passed, 3);
    assert_eq!(machine.state(), State::HalfOpen);
    assert!(!machine.would_admit(secs(69)), "all places are taken");
    assert!(machine.would_admit(secs(70)), "their lease is over");
}

#[test]
fn three_successful_probes_close_it() {
    let machine = tripped_at(0);
    for expected in [State::HalfOpen, State::HalfOpen, State::Closed] {
        let probe = admitted(&machine, 30).unwrap();
        record(&machine, probe, Outcome::Success, 30);
        assert_eq!(machine.state(), expected);
    }
    assert!(machine.is_pristine());
}

#[test]
fn one_failed_probe_opens_it_for_the_whole_time_again() {
    let machine = tripped_at(0);
    let probes = [(); 3].map(|()| admitted(&machine, 35).unwrap());
    record(&machine, probes[0], Outcome::Success, 36);
    record(&machine, probes[1], Outcome::Failure, 36);
    assert_eq!(machine.state(), State::Open);
    assert!(admitted(&machine, 65).is_none());
    assert!(admitted(&machine, 66).is_some());
}

#[test]
fn a_probe_without_verdict_gives_its_place_back() {
    let machine = tripped_at(0);
    for _ in 0..20 {
        let probe = admitted(&machine, 30).unwrap();
        record(&machine, probe, Outcome::Ignored, 30);
    }
    assert_eq!(machine.state(), State::HalfOpen);
}

#[test]
fn probes_that_hang_lose_their_places_after_the_lease() {
    let machine = tripped_at(0);
    let hung = [(); 3].map(|()| admitted(&machine, 30).unwrap());
    assert!(admitted(&machine, 69).is_none());

    let fresh = admitted(&machine, 70).unwrap();
    for probe in hung {
        assert_eq!(record(&machine, probe, Outcome::Failure, 71), Recorded::Late);
    }
    assert_eq!(machine.state(), State::HalfOpen, "what hung no longer counts");
    record(&machine, fresh, Outcome::Failure, 71);
    assert_eq!(machine.state(), State::Open);
}

#[test]
fn a_thread_that_read_the_clock_long_ago_does_not_shorten_the_lease() {
    let machine = tripped_at(0);
    for now in [69, 69, 30] {
        admitted(&machine, now).unwrap();
    }
    assert!(admitted(&machine, 70).is_none());
    assert!(admitted(&machine, 109).is_some());
}

#[test]
fn late_results_of_an_old_generation_are_ignored() {
    let machine = machine();
    let old = [(); 10].map(|()| admitted(&machine, 0).unwrap());
    for ticket in &old[..5] {
        record(&machine, *ticket, Outcome::Failure, 0);
    }
    let probe = admitted(&machine, 30).unwrap();
    for (ticket, outcome) in
        old[5..].iter().zip([Outcome::Success, Outcome::Failure].iter().cycle())
    {
        assert_eq!(record(&machine, *ticket, *outcome, 31), Recorded::Late);
    }
    assert_eq!(machine.state(), State::HalfOpen);
    assert_eq!(record(&machine, probe, Outcome::Success, 31), Recorded::Counted(None));
}

#[test]
fn an_operator_has_the_last_word() {
    let machine = machine();
    let before = admitted(&machine, 0).unwrap();
    machine.force(State::ForcedOpen);
    assert_eq!(machine.admit(secs(1_000_000)), Err(Refused { retry_after: None }));

    machine.force(State::Disabled);
    for _ in 0..100 {
        let ticket = admitted(&machine, 0).unwrap();
        record(&machine, ticket, Outcome::Failure, 0);
    }
    assert_eq!(machine.state(), State::Disabled);

    machine.force(State::Closed);
    assert_eq!(record(&machine, before, Outcome::Failure, 0), Recorded::Late);
    assert!(machine.is_pristine());
}

#[test]
fn spans_round_up_and_saturate() {
    assert_eq!(millis(Duration::from_nanos(1)), 1);
    assert_eq!(millis(Duration::from_millis(7)), 7);
    assert_eq!(millis(Duration::MAX), Word::PAYLOAD);

    let machine = Machine::new(Policy::consecutive(1).open_for(Duration::MAX));
    let ticket = admitted(&machine, 5).unwrap();
    record(&machine, ticket, Outcome::Failure, 5);
    assert!(admitted(&machine, 10 * 365 * 24 * 3600).is_none());
}

#[test]
fn a_generation_may_come_round() {
    let machine = machine();
    machine.word.store(Word::new(State::Closed, Word::GENERATION, 4).0, Relaxed);
    let ticket = admitted(&machine, 0).unwrap();
    record(&machine, ticket, Outcome::Failure, 0);
    assert_eq!((machine.state(), machine.word().generation()), (State::Open, 0));
}

#[test]
fn threads_never_take_more_than_the_places_there_are() {
    let machine = Arc::new(tripped_at(0));
    let taken = Arc::new(AtomicU64::new(0));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (machine, taken) = (machine.clone(), taken.clone());
            thread::spawn(move || {
                for _ in 0..20_000 {
                    let Some(probe) = admitted(&machine, 30) else { continue };
                    assert!(taken.fetch_add(1, AcqRel) < 3);
                    taken.fetch_sub(1, AcqRel);
                    record(&machine, probe, Outcome::Ignored, 30);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let all_back = (0..10).filter_map(|_| admitted(&machine, 30)).count();
    assert_eq!(all_back, 3);
}

/// What a caller may do next.
#[derive(Clone, Debug)]
enum Step {
    Admit,
    Record { index: usize, outcome: Outcome },
    Wait { secs: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let outcome =
        prop_oneof![Just(Outcome::Success), Just(Outcome::Failure), Just(Outcome::Ignored)];
    prop_oneof![
        4 => Just(Step::Admit),
        4 => (any::<usize>(), outcome).prop_map(|(index, outcome)| Step::Record { index, outcome }),
        1 => (0..50_u64).prop_map(|secs| Step::Wait { secs }),
    ]
}

proptest! {
    #[test]
    fn under_any_schedule_probes_are_bounded_and_no_state_is_for_ever(steps in prop::collection::vec(step(), 1..200)) {
        let machine = machine();
        let (mut now, mut under_way) = (0, Vec::new());
        for step in steps {
            match step {
                Step::Admit => {
                    let promised = machine.would_admit(secs(now));
                    let ticket = admitted(&machine, now);
                    prop_assert_eq!(promised, ticket.is_some());
                    under_way.extend(ticket);
                }
                Step::Record { index, outcome } if !under_way.is_empty() => {
                    let ticket = under_way.swap_remove(index % under_way.len());
                    record(&machine, ticket, outcome, now);
                }
                Step::Record { .. } => {}
                Step::Wait { secs } => now += secs,
            }
            if machine.state() == State::HalfOpen {
                let generation = machine.word().generation();
                let probes = under_way.iter().filter(|ticket| ticket.generation == generation).count();
                let taken = HalfOpen::unpack(machine.word().payload()).taken;
                prop_assert_eq!(usize::from(taken), probes);
                prop_assert!(probes <= 3);
            }
        }
        // Whatever happened and whatever still hangs: with time, calls that succeed close it.
        for _ in 0..3 {
            now += 100;
            let ticket = admitted(&machine, now);
            prop_assert!(ticket.is_some());
            record(&machine, ticket.unwrap(), Outcome::Success, now);
        }
        prop_assert_eq!(machine.state(), State::Closed);
    }
}

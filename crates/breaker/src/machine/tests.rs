use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Relaxed},
        },
    },
    thread,
    time::Duration,
};

use proptest::prelude::*;

use crate::{
    Outcome, Policy, Ratio, State, Window,
    machine::{
        Machine, Recorded, Refused, Ticket, Transition, Trip, World,
        calls::Totals,
        word::{Generation, HalfOpen, Word, millis},
    },
};

const OPEN_FOR: Duration = Duration::from_secs(30);
const LEASE: Duration = Duration::from_secs(40);

/// A moment, in which everything drawn is `chance`.
#[derive(Clone, Copy)]
struct At {
    millis: u64,
    chance: u64,
}

impl World for At {
    fn nanos(&self) -> u64 {
        self.millis * 1_000_000
    }

    fn chance(&self) -> u64 {
        self.chance
    }
}

fn secs(secs: u64) -> At {
    At { millis: secs * 1_000, chance: 0 }
}

/// 5 failures, 30 s, 3 successes, at most 3 probes.
fn machine() -> Machine {
    Machine::new(Policy::consecutive(5).open_for(OPEN_FOR).probe_lease(LEASE))
}

fn admitted(machine: &Machine, now: u64) -> Option<Ticket> {
    machine.admit(&secs(now)).ok().map(|(ticket, _)| ticket)
}

/// What opened the circuit, if that is what happened.
fn trip(recorded: Recorded) -> Option<Trip> {
    match recorded {
        Recorded::Counted(Some(Transition { to: State::Open, trip, .. })) => trip,
        _ => None,
    }
}

fn record(machine: &Machine, ticket: Ticket, outcome: Outcome, now: u64) -> Recorded {
    machine.record(ticket, outcome, false, &secs(now))
}

/// Makes the calls of `story` at `now`: success, failure, slow success, ignored. Tells whether it is open then.
fn play(machine: &Machine, story: &str, now: u64) -> bool {
    for call in story.chars() {
        let ticket = admitted(machine, now).unwrap();
        let (outcome, slow) = match call {
            'F' => (Outcome::Failure, false),
            'S' => (Outcome::Success, false),
            'L' => (Outcome::Success, true),
            _ => (Outcome::Ignored, false),
        };
        machine.record(ticket, outcome, slow, &secs(now));
    }
    machine.state() == State::Open
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
    assert!(!play(&machine, "FFFFSFFIFF", 0));
    let ticket = admitted(&machine, 0).unwrap();
    assert_eq!(trip(record(&machine, ticket, Outcome::Failure, 0)), Some(Trip::InARow(5)));
}

#[test]
fn failures_of_one_moment_do_not_trip_where_they_have_to_last() {
    let machine = Machine::new(Policy::consecutive(5).consecutive_for(Duration::from_secs(2)));
    assert!(!play(&machine, "FFFFFFFF", 10) && !play(&machine, "FFF", 11));
    // The row begins anew with the first failure after a success.
    assert!(!play(&machine, "SF", 11) && !play(&machine, "FFFF", 12));
    let ticket = admitted(&machine, 13).unwrap();
    assert_eq!(trip(record(&machine, ticket, Outcome::Failure, 13)), Some(Trip::InARow(6)));
    let few = Machine::new(Policy::consecutive(5).consecutive_for(Duration::from_secs(2)));
    assert!(!play(&few, "FFF", 0) && !play(&few, "F", 9) && play(&few, "F", 9));
}

#[test]
fn an_open_circuit_says_when_to_come_back() {
    let machine = tripped_at(100);
    let refused = machine.admit(&secs(112)).unwrap_err();
    assert_eq!(refused.retry_after, Some(Duration::from_secs(18)));
    assert_eq!(machine.certain_refusal(&secs(112)), Some(refused));
    assert_eq!(machine.certain_refusal(&secs(130)), None);
}

#[test]
fn after_the_open_time_at_most_three_probes_pass() {
    let machine = tripped_at(0);
    assert!(admitted(&machine, 29).is_none());
    assert!(!machine.would_admit(&secs(29)) && machine.would_admit(&secs(30)));
    let passed = (0..10).filter_map(|_| admitted(&machine, 30)).count();
    assert_eq!(passed, 3);
    assert_eq!(machine.state(), State::HalfOpen);
    assert!(!machine.would_admit(&secs(69)), "all places are taken");
    assert!(machine.would_admit(&secs(70)), "their lease is over");
}

#[test]
fn three_successful_probes_close_it() {
    let machine = tripped_at(0);
    for expected in [State::HalfOpen, State::HalfOpen, State::Closed] {
        let probe = admitted(&machine, 30).unwrap();
        record(&machine, probe, Outcome::Success, 30);
        assert_eq!(machine.state(), expected);
    }
    assert!(machine.is_pristine(&secs(0)));
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

/// As under a machine that needs 40 s for each call, and always succeeds.
#[test]
fn calls_that_take_longer_than_the_lease_close_it_all_the_same() {
    let machine = Machine::new(Policy::consecutive(1).probe_lease(Duration::from_secs(30)));
    play(&machine, "F", 0);
    let mut running = VecDeque::new();
    let closed = (30..600).find(|now| {
        running.extend(admitted(&machine, *now).map(|ticket| (now + 40, ticket)));
        while running.front().is_some_and(|(end, _)| end <= now) {
            let (_, ticket) = running.pop_front().unwrap();
            record(&machine, ticket, Outcome::Success, *now);
        }
        machine.state() == State::Closed
    });
    assert!(closed.is_some(), "the lease grows until the calls fit in");
}

#[test]
fn each_lost_lease_doubles_the_next_up_to_a_thousand_times() {
    let machine =
        Machine::new(Policy::consecutive(1).max_probes(1).probe_lease(Duration::from_secs(1)));
    play(&machine, "F", 0);
    let mut now = 30;
    assert!(admitted(&machine, now).is_some());
    for doubling in (0..11).chain([10, 10]) {
        let end = now + (1 << doubling);
        assert!(admitted(&machine, end - 1).is_none(), "{doubling}");
        assert!(machine.certain_refusal(&secs(end - 1)).is_some(), "nobody waits behind it");
        assert!(machine.certain_refusal(&secs(end)).is_none());
        assert!(admitted(&machine, end).is_some());
        now = end;
    }
}

#[test]
fn a_lease_of_nothing_is_a_tenth_of_a_second() {
    let machine = Machine::new(Policy::consecutive(1).probe_lease(Duration::ZERO));
    play(&machine, "F", 0);
    let held = (0..1_000).filter(|_| admitted(&machine, 30).is_some()).count();
    assert_eq!(held, 3);
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
    assert_eq!(machine.admit(&secs(1_000_000)), Err(Refused { retry_after: None }));

    machine.force(State::ForcedClosed);
    assert!(!play(&machine, &"F".repeat(100), 0));
    assert_eq!(
        (machine.state(), machine.successes_and_failures()),
        (State::ForcedClosed, (0, 100))
    );

    machine.force(State::Disabled);
    let ticket = admitted(&machine, 0).unwrap();
    assert_eq!(record(&machine, ticket, Outcome::Failure, 0), Recorded::Unmeasured);
    assert_eq!((machine.state(), machine.successes_and_failures()), (State::Disabled, (0, 100)));

    machine.force(State::Closed);
    assert_eq!(record(&machine, before, Outcome::Failure, 0), Recorded::Late);
    assert!(machine.is_pristine(&secs(0)));
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
    machine.word.0.store(Word::new(State::Closed, Generation::of(u32::MAX), 4).0, Relaxed);
    let ticket = admitted(&machine, 0).unwrap();
    record(&machine, ticket, Outcome::Failure, 0);
    assert_eq!((machine.state(), machine.word().generation()), (State::Open, Generation::of(0)));
    assert!(Generation::of(0).is_after(ticket.generation));
    assert!(!ticket.generation.is_after(Generation::of(0)));
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

fn ratio(percent: u32) -> Policy {
    Policy::failure_ratio(Ratio::percent(percent))
}

/// A successful probe per call, until it is closed.
fn recover(machine: &Machine, now: u64) {
    while machine.state() != State::Closed {
        play(machine, "S", now);
    }
}

#[test]
fn half_of_the_calls_trip_it_once_there_are_twenty() {
    let machine = Machine::new(ratio(50));
    assert!(!play(&machine, "FFFFFFFFFSSSSSSSSSS", 0), "19 calls are too few");
    let ticket = admitted(&machine, 0).unwrap();
    let totals = Totals { calls: 20, failed: 10, slow: 0 };
    let recorded = record(&machine, ticket, Outcome::Failure, 0);
    assert_eq!(trip(recorded), Some(Trip::Failed(totals)));
}

#[test]
fn a_good_call_never_trips_it() {
    let machine = Machine::new(ratio(50));
    assert!(!play(&machine, "FFFFFFFFFFFFFFFFFFF", 0), "19 failures");
    assert!(!play(&machine, "S", 0), "19 of 20, but this one was good");
    assert!(play(&machine, "F", 0));
}

/// tower-resilience counted from the beginning: after 100 000 successes it took as many failures.
#[test]
fn years_of_success_do_not_delay_the_trip() {
    for policy in [ratio(50).window(Window::calls(100)), ratio(50)] {
        let machine = Machine::new(policy);
        play(&machine, &"S".repeat(100_000), 0);
        let failures = (1..).find(|_| play(&machine, "F", 100)).unwrap();
        assert!(failures <= 50, "{failures}");
    }
}

/// tower-resilience waited for the whole window, whatever the minimum.
#[test]
fn the_window_need_not_be_full() {
    let machine = Machine::new(ratio(50).window(Window::calls(100).min_calls(10)));
    assert!(!play(&machine, "SSSSSFFFF", 0));
    assert!(play(&machine, "F", 0));
}

#[test]
fn a_minimum_beyond_the_window_is_the_whole_window() {
    let machine = Machine::new(ratio(100).window(Window::calls(5).min_calls(20)));
    assert!(!play(&machine, "FFFF", 0));
    assert!(play(&machine, "F", 0));
}

#[test]
fn calls_beyond_the_window_are_forgotten() {
    let machine = Machine::new(ratio(50).window(Window::calls(10).min_calls(10)));
    for _ in 0..100 {
        assert!(!play(&machine, "FFFFSSSSSS", 0), "4 of 10, wherever one looks");
    }
    assert!(!play(&machine, "FFFF", 0));
    assert!(play(&machine, "F", 0), "the last ten: SSSSSFFFFF");
}

#[test]
fn failures_of_long_ago_are_forgotten() {
    let machine = Machine::new(ratio(50));
    for now in 0..10 {
        assert!(!play(&machine, "F", now), "too few");
    }
    assert!(!play(&machine, "SSSSSSSSSS", 10), "at 0 s one left");
    assert_eq!(machine.totals(&secs(10)), Totals { calls: 19, failed: 9, slow: 0 });
    assert_eq!(machine.totals(&secs(14)), Totals { calls: 15, failed: 5, slow: 0 });
    assert_eq!(machine.totals(&secs(20)), Totals::default());
    assert!(!play(&machine, "F", 20));
    assert!(machine.is_pristine(&secs(60)));
}

#[test]
fn slow_calls_trip_it_although_they_succeed() {
    let policy = Policy::consecutive(5).or_slow_ratio(Ratio::percent(80), Duration::from_secs(2));
    let machine = Machine::new(policy);
    assert!(!play(&machine, "SSSSLLLLLLLLLLLLLLL", 0));
    let ticket = admitted(&machine, 0).unwrap();
    let recorded = machine.record(ticket, Outcome::Success, true, &secs(0));
    let totals = Totals { calls: 20, failed: 0, slow: 16 };
    assert_eq!(trip(recorded), Some(Trip::Slow(totals)));
}

#[test]
fn where_only_slowness_matters_failures_do_not_trip_it() {
    let policy = Policy::slow_ratio(Ratio::percent(80), Duration::from_secs(2));
    assert!(!play(&Machine::new(policy), &"F".repeat(100), 0));
    assert!(play(&Machine::new(policy), &"L".repeat(20), 0));
}

#[test]
fn a_slow_probe_has_failed_where_slowness_matters() {
    let policy = Policy::consecutive(1).or_slow_ratio(Ratio::ALL, Duration::from_secs(2));
    let machine = Machine::new(policy);
    assert!(play(&machine, "F", 0));
    assert!(play(&machine, "L", 30), "open again");
}

#[test]
fn conditions_are_joined_by_or() {
    let half = Ratio::percent(50);
    for policy in [ratio(50).or_consecutive(3), Policy::consecutive(3).or_failure_ratio(half)] {
        assert!(play(&Machine::new(policy), "SSSSSSSSSSSSFFF", 0), "3 in a row, 3 of 15");
        let in_turn = "FS".repeat(9) + "SF";
        assert!(play(&Machine::new(policy), &in_turn, 0), "never 3 in a row, 10 of 20");
    }
}

#[test]
fn a_new_generation_begins_with_an_empty_window() {
    for window in [Window::calls(100), Window::time(Duration::from_secs(100))] {
        let machine = Machine::new(ratio(50).window(window));
        assert!(play(&machine, &"F".repeat(20), 0));
        recover(&machine, 6);
        assert_eq!(machine.totals(&secs(6)), Totals::default());
        assert!(!play(&machine, &"F".repeat(19), 6));
        assert!(play(&machine, "F", 6));
    }
}

/// resilience4j and tower-resilience judged the probes by the window of time, and were stuck when it had moved on.
#[test]
fn probes_far_apart_in_time_close_it_all_the_same() {
    let machine = Machine::new(ratio(50));
    assert!(play(&machine, &"F".repeat(20), 0));
    for now in [100, 200, 300] {
        assert!(!play(&machine, "S", now));
    }
    assert_eq!(machine.state(), State::Closed);
}

fn open_span(machine: &Machine, now: u64) -> u64 {
    machine.admit(&secs(now)).unwrap_err().retry_after.unwrap().as_secs()
}

#[test]
fn each_further_trip_doubles_the_open_time_up_to_the_cap() {
    let policy = ratio(100).window(Window::calls(1));
    let machine = Machine::new(policy);
    let mut now = 0;
    play(&machine, "F", now);
    for expected in [5, 10, 20, 40, 60, 60, 60] {
        assert_eq!(open_span(&machine, now), expected);
        now += expected;
        play(&machine, "F", now);
    }
    now += 60;
    recover(&machine, now);
    play(&machine, "F", now + 59);
    assert_eq!(open_span(&machine, now + 59), 60, "it was well for a moment only");
    now += 59 + 60;
    recover(&machine, now);
    play(&machine, "F", now + 60);
    assert_eq!(open_span(&machine, now + 60), 5, "it was well for as long as it may be open");
}

#[test]
fn a_reset_forgets_that_the_open_time_had_grown() {
    let machine = Machine::new(ratio(100).window(Window::calls(1)));
    play(&machine, "F", 0);
    play(&machine, "F", 5);
    assert_eq!(open_span(&machine, 5), 10);
    machine.force(State::Closed);
    play(&machine, "F", 5);
    assert_eq!(open_span(&machine, 5), 5);
}

#[test]
fn chance_makes_the_open_time_longer_by_up_to_a_fifth() {
    for (chance, expected) in [(0, 5_000), (u64::MAX / 2, 5_499), (u64::MAX, 5_999)] {
        let machine = Machine::new(ratio(100).window(Window::calls(1)));
        let at = At { millis: 0, chance };
        let (ticket, _) = machine.admit(&at).unwrap();
        machine.record(ticket, Outcome::Failure, false, &at);
        let refused = machine.admit(&at).unwrap_err();
        assert_eq!(refused.retry_after, Some(Duration::from_millis(expected)));
    }
}

#[test]
fn after_closing_a_growing_share_passes() {
    let machine = Machine::new(Policy::consecutive(1).ramp(Duration::from_secs(100)));
    play(&machine, "F", 0);
    recover(&machine, 30);
    let passing = |now: u64| {
        let draws = (0..100)
            .map(|draw| At { millis: now * 1_000, chance: (2 * draw + 1) * (u64::MAX / 200) });
        draws.filter(|at| machine.admit(at).is_ok()).count()
    };
    assert_eq!([30, 40, 80, 129].map(passing), [10, 10, 50, 99]);
    assert_eq!(passing(130), 100);
    assert_eq!(machine.word().payload(), 0, "the usual call is quick again");
}

#[test]
fn a_ramping_circuit_trips_as_any_closed_one() {
    let machine = Machine::new(Policy::consecutive(2).ramp(Duration::from_secs(100)));
    play(&machine, "FF", 0);
    recover(&machine, 30);
    assert!(!play(&machine, "FSF", 30));
    assert!(play(&machine, "F", 30));
}

#[test]
fn probes_are_counted_too() {
    let machine = tripped_at(0);
    play(&machine, "SS", 30);
    play(&machine, "F", 30);
    assert_eq!(machine.successes_and_failures(), (2, 6));
}

#[test]
fn what_a_circuit_remembers_is_seen() {
    let at = secs(100);
    let slow = Policy::consecutive(5).or_slow_ratio(Ratio::ALL, Duration::from_secs(1));
    for (policy, story) in [(Policy::consecutive(5), "F"), (ratio(50), "F"), (slow, "L")] {
        let machine = Machine::new(policy);
        play(&machine, "S", 100);
        assert!(machine.is_pristine(&at), "{policy:?}");
        play(&machine, story, 100);
        assert!(!machine.is_pristine(&at), "{policy:?}");
    }
    let grown = Machine::new(ratio(100).window(Window::calls(1)));
    play(&grown, "F", 0);
    recover(&grown, 6);
    assert!(!grown.is_pristine(&secs(6)), "the next open time is longer");
    assert!(grown.is_pristine(&secs(66)));
}

#[test]
fn news_without_a_call_open_it_and_take_no_place() {
    let machine = tripped_at(0);
    assert_eq!(machine.listening(), None, "it is open anyway");
    admitted(&machine, 30).unwrap();
    let news = machine.listening().unwrap();
    assert_eq!(trip(record(&machine, news, Outcome::Failure, 30)), Some(Trip::Probe));
}

#[test]
fn after_a_forced_opening_nothing_is_admitted() {
    let machine = machine();
    machine.force(State::ForcedOpen);
    assert!(!machine.would_admit(&secs(1_000_000)));
}

#[test]
fn refusals_while_ramping_do_not_all_name_the_same_moment() {
    let machine = Machine::new(Policy::consecutive(1).ramp(Duration::from_secs(100)));
    play(&machine, "F", 0);
    recover(&machine, 30);
    let wait = |chance| {
        let at = At { millis: 40_000, chance };
        machine.admit(&at).unwrap_err().retry_after.unwrap()
    };
    assert!(wait(u64::MAX / 2) < wait(u64::MAX));
    assert!(wait(u64::MAX) <= Duration::from_secs(90));
}

/// A clock that counts from zero again, as after the suspension of a machine.
#[test]
fn a_clock_that_is_set_back_holds_nothing_up() {
    let later = 1_000_000;
    let machine = tripped_at(later);
    assert!(admitted(&machine, 0).is_some(), "not open for another million seconds");
    for _ in 0..2 {
        admitted(&machine, 0).unwrap();
    }
    assert!(admitted(&machine, 39).is_none(), "the lease runs from now on");
    assert!(admitted(&machine, 40).is_some());

    let window = Machine::new(ratio(60));
    for now in later..later + 16 {
        play(&window, "FS", now);
    }
    assert!((0..120).any(|third| play(&window, "F", third / 3)), "its window sees again");

    let ramp = Machine::new(Policy::consecutive(1).ramp(Duration::from_secs(10)));
    play(&ramp, "F", later);
    recover(&ramp, later + 30);
    let unlucky = At { millis: 0, chance: u64::MAX };
    assert!(ramp.admit(&unlucky).is_ok());
}

#[test]
fn two_million_trips_later_the_windows_still_work() {
    for window in [Window::calls(3).min_calls(3), Window::time(Duration::from_secs(3)).min_calls(3)]
    {
        let machine =
            Machine::new(ratio(100).window(window).successes_to_close(1).open_growth(1, OPEN_FOR));
        let mut now = 0;
        // Each turn is three generations, so this comes round, at an offset.
        for _ in 0..800_000 {
            assert!(play(&machine, "FFF", now), "{now}");
            now += 6;
            play(&machine, "S", now);
            assert_eq!(machine.state(), State::Closed);
        }
    }
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
                    let promised = machine.would_admit(&secs(now));
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

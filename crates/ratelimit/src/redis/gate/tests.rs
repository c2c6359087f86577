use super::*;
use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

fn gate() -> Gate {
    Gate::new(3, 0, 100, 1_000)
}

fn chance() -> StdRng {
    StdRng::seed_from_u64(7)
}

fn ask(gate: &Gate, now: u64) -> u16 {
    match gate.admit(now, 50) {
        Admit::Ask(generation) => generation,
        other => panic!("{other:?}"),
    }
}

#[test]
fn failures_in_a_row_stop_the_asking_and_an_answer_between_them_does_not() {
    let (gate, mut chance) = (gate(), chance());
    for _ in 0..10 {
        assert!(!gate.failed(0, 0, None, &mut chance));
        assert!(!gate.failed(0, 0, None, &mut chance));
        gate.answered(0, 0);
    }
    assert!(!gate.failed(0, 0, None, &mut chance));
    assert!(!gate.failed(0, 0, None, &mut chance));
    assert!(gate.failed(0, 0, None, &mut chance));
    assert_eq!(gate.admit(0, 50), Admit::Skip);
}

#[test]
fn after_a_pause_one_tries_and_all_others_go_on_without() {
    let (gate, mut chance) = (gate(), chance());
    gate.unreachable(0, &mut chance);
    let pause = gate.away_for(0);
    assert!((50..=100).contains(&pause), "{pause}");
    assert_eq!(gate.admit(pause - 1, 50), Admit::Skip);
    assert_eq!(gate.admit(pause, 50), Admit::Try(1));
    for _ in 0..100 {
        assert_eq!(gate.admit(pause, 50), Admit::Skip);
    }
    // Whoever tried was never heard of again.
    assert_eq!(gate.admit(pause + 49, 50), Admit::Skip);
    assert_eq!(gate.admit(pause + 50, 50), Admit::Try(1));
}

#[test]
fn pauses_double_up_to_the_longest_each_a_random_part() {
    let (gate, mut chance) = (gate(), chance());
    let mut now = 0;
    for longest in [100, 200, 400, 800, 1_000, 1_000, 1_000] {
        gate.unreachable(now, &mut chance);
        let pause = gate.away_for(now);
        assert!((longest / 2..=longest).contains(&pause), "{pause} of {longest}");
        now += pause;
        assert!(matches!(gate.admit(now, 50), Admit::Try(_)));
    }
}

#[test]
fn processes_that_lost_a_server_at_once_do_not_come_back_at_once() {
    let pauses: std::collections::BTreeSet<u64> = (0..50)
        .map(|seed| {
            let gate = Gate::new(3, 0, 10_000, 10_000);
            gate.unreachable(0, &mut StdRng::seed_from_u64(seed));
            gate.away_for(0)
        })
        .collect();
    assert!(pauses.len() > 45, "{pauses:?}");
}

#[test]
fn spans_without_end_do_not_overflow() {
    let (gate, mut chance) = (Gate::new(1, 0, u64::MAX, u64::MAX), chance());
    for _ in 0..20 {
        gate.unreachable(1 << 39, &mut chance);
        assert_eq!(gate.admit(1 << 39, u64::MAX), Admit::Skip);
    }
    let gate = Gate::new(1, 0, 0, 0);
    gate.unreachable(0, &mut chance);
    assert!(matches!(gate.admit(1, u64::MAX), Admit::Try(_)));
    assert_eq!(gate.admit(1, u64::MAX), Admit::Skip);
}

#[test]
fn a_server_that_is_back_for_a_moment_only_is_asked_less_and_less() {
    let (gate, mut chance) = (gate(), chance());
    let (mut now, mut last) = (0, 0);
    for _ in 0..4 {
        gate.unreachable(now, &mut chance);
        let pause = gate.away_for(now);
        assert!(pause >= last, "{pause} after {last}");
        last = pause.max(last);
        now += pause;
        gate.reached(now);
        gate.answered(now, ask(&gate, now));
    }
    // It answers for as long as the last pause, so the next one is short again.
    now += 1_000;
    gate.answered(now, ask(&gate, now));
    gate.unreachable(now, &mut chance);
    assert!(gate.away_for(now) <= 100);
}

#[test]
fn a_late_failure_of_an_older_generation_changes_nothing() {
    let (gate, mut chance) = (gate(), chance());
    let old = ask(&gate, 0);
    gate.unreachable(0, &mut chance);
    gate.reached(200);
    for _ in 0..10 {
        assert!(!gate.failed(200, old, None, &mut chance));
    }
    let new = ask(&gate, 200);
    assert_ne!(old, new);
    // Nor does a late answer undo what failed since.
    assert!(!gate.failed(200, new, None, &mut chance));
    assert!(!gate.failed(200, new, None, &mut chance));
    gate.answered(200, old);
    assert!(gate.failed(200, new, None, &mut chance));
}

proptest! {
    #[test]
    fn the_word_holds_what_is_put_into_it(
        away: bool,
        generation in 0_u16..0x800,
        failures: u8,
        pauses in 0_u8..16,
        time in 0_u64..1 << 40,
    ) {
        let word = Word { away, generation, failures, pauses, time };
        prop_assert_eq!(Word::unpack(word.pack()), word);
    }
}

#[test]
fn calls_that_fail_all_at_once_are_one_stall_and_no_reason_to_leave_the_server_alone() {
    let (gate, mut chance) = (Gate::new(5, 40, 100, 1_000), chance());
    gate.answered(1_000, 0);
    for _ in 0..300 {
        assert!(!gate.failed(1_020, 0, Some(1_000), &mut chance));
    }
    gate.answered(1_021, 0);
    // Another one, long after.
    for _ in 0..5 {
        assert!(!gate.failed(5_020, 0, Some(5_000), &mut chance));
    }
    assert!(!gate.failed(5_039, 0, Some(5_019), &mut chance));
    assert!(gate.failed(5_040, 0, Some(5_020), &mut chance), "by now it is more than a stall");
}

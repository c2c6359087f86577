use super::{
    super::sample::{Outcome, Tally},
    *,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const MINUTE: Duration = Duration::from_secs(60);

fn sample(served: u64, failed: u64, millis: u64) -> Sample {
    let tally = Tally::default();
    for (outcome, count) in [(Outcome::Served, served), (Outcome::Failed, failed)] {
        (0..count).for_each(|_| tally.record(outcome, Duration::from_millis(millis)));
    }
    tally.read()
}

fn course() -> Course {
    Course::new(Rollout::new().steps([1, 10, 100]).hold(MINUTE).calls(50), Duration::ZERO)
}

#[test]
fn a_good_variant_gets_more_step_by_step_and_all_at_last() {
    let mut course = course();
    let (good, others) = (sample(50, 0, 10), sample(1_000, 0, 10));
    let mut percents = vec![course.percent()];
    for minute in 1..=3 {
        let almost = MINUTE * minute - Duration::from_millis(1);
        assert!(!course.look(almost, &good, &others), "a step lasts its time");
        assert!(course.look(MINUTE * minute, &good, &others));
        percents.push(course.percent());
    }
    assert_eq!(percents, [1, 10, 100, 100]);
    assert_eq!(course.state(), RolloutState::Done);
    assert!(!course.look(MINUTE * 9, &sample(0, 99, 10), &others), "done is done");
}

#[test]
fn a_variant_that_nobody_calls_stays_where_it_is() {
    let mut course = course();
    assert!(!course.look(MINUTE * 60, &sample(49, 0, 10), &sample(1_000, 0, 10)));
    assert_eq!(course.percent(), 1);
}

#[test]
fn more_errors_than_the_others_have_end_it_at_once() {
    let others = sample(990, 10, 10);
    for (served, failed, ends) in
        [(0, 19, false), (15, 5, true), (980, 20, false), (900, 100, true), (19, 1, false)]
    {
        let mut course = course();
        let changed = course.look(Duration::from_secs(1), &sample(served, failed, 10), &others);
        assert_eq!(changed, ends, "{failed} of {}", served + failed);
        if ends {
            assert!(matches!(
                course.state(),
                RolloutState::Aborted(RolloutAbort::Errors { others, .. }) if others == 0.01
            ));
            assert_eq!(course.percent(), 0);
        }
    }
}

#[test]
fn errors_that_the_others_have_as_well_are_not_its_fault() {
    let mut course = course();
    assert!(course.look(MINUTE, &sample(70, 30, 10), &sample(700, 300, 10)));
    assert_eq!(course.state(), RolloutState::Running);
}

#[test]
fn a_variant_that_is_slower_is_ended_and_one_that_is_a_little_slower_is_not() {
    let others = sample(1_000, 0, 10);
    for (millis, times, ends) in
        [(10, 1.5, false), (13, 1.5, false), (20, 1.5, true), (20, 3.0, false)]
    {
        let plan = Rollout::new().slower(Some(times)).hold(MINUTE);
        let mut course = Course::new(plan, Duration::ZERO);
        course.look(Duration::from_secs(1), &sample(100, 0, millis), &others);
        let aborted = matches!(course.state(), RolloutState::Aborted(RolloutAbort::Latency { .. }));
        assert_eq!(aborted, ends, "{millis} ms");
    }
    let mut course = Course::new(Rollout::new().slower(None), Duration::ZERO);
    assert!(!course.look(MINUTE, &sample(99, 0, 10_000), &others));
}

#[test]
fn a_plan_that_makes_no_sense_is_told() {
    for bad in [
        Rollout::new().steps([]),
        Rollout::new().steps([0, 1]),
        Rollout::new().steps([5, 5]),
        Rollout::new().steps([50, 101]),
        Rollout::new().slower(Some(0.5)),
        Rollout::new().slower(Some(f64::INFINITY)),
    ] {
        assert!(bad.mistake().is_some(), "{bad:?}");
    }
    assert_eq!(Rollout::new().mistake(), None);
}

#[test]
fn of_a_thousand_variants_like_the_others_at_most_five_are_ended() {
    let is_ended = |seed: u64| {
        let mut random = StdRng::seed_from_u64(seed);
        let mut draw = |calls: u64| {
            let tally = Tally::default();
            for _ in 0..calls {
                let failed = random.random_bool(0.05);
                let outcome = if failed { Outcome::Failed } else { Outcome::Served };
                tally.record(outcome, Duration::from_micros(random.random_range(1_000..20_000)));
            }
            tally.read()
        };
        let (own, others) = (draw(500), draw(5_000));
        let mut course = Course::new(Rollout::new(), Duration::ZERO);
        course.look(Duration::ZERO, &own, &others);
        course.state() != RolloutState::Running
    };
    let ended: Vec<_> = (0..1_000).filter(|seed| is_ended(*seed)).collect();
    assert!(ended.len() <= 5, "{ended:?}");
}

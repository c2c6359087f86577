use super::*;
use gusset_call::Ratio;
use proptest::prelude::*;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

fn records(count: usize) -> Vec<Record> {
    (0..count).map(|_| Record::new()).collect()
}

/// Ends a call, and ejects who has to go.
fn end(ejector: &Ejector, records: &[Record], index: usize, failed: bool, now: u64) -> bool {
    ejector.note(&records[index], failed, || now)
        && ejector.decide(&records.iter().collect::<Vec<_>>(), now)
}

fn fail_times(ejector: &Ejector, records: &[Record], index: usize, times: u32, now: u64) -> bool {
    (0..times).any(|_| end(ejector, records, index, true, now))
}

#[test]
fn the_fifth_failure_in_a_row_ejects_and_a_success_begins_the_count_anew() {
    let (ejector, records) = (Ejector::new(Ejection::default()), records(2));
    assert!(!fail_times(&ejector, &records, 0, 4, SECOND));
    end(&ejector, &records, 0, false, SECOND);
    assert!(!fail_times(&ejector, &records, 0, 4, SECOND));
    assert!(end(&ejector, &records, 0, true, SECOND));
    let until = records[0].ejected_until();
    assert!((31 * SECOND..=34 * SECOND).contains(&until), "{until}");
    assert_eq!(ejector.counts(), (1, 0));
}

#[test]
fn an_ejection_ends_by_itself_and_the_count_begins_anew() {
    let (ejector, records) = (Ejector::new(Ejection::default()), records(2));
    assert!(fail_times(&ejector, &records, 0, 5, SECOND));
    let until = records[0].ejected_until();
    assert!(!records[0].come_back(until - 1));
    assert!(records[0].come_back(until));
    assert!(!records[0].come_back(until), "once");
    assert!(!fail_times(&ejector, &records, 0, 4, until));
}

#[test]
fn it_grows_up_to_the_longest_and_each_base_without_one_forgives_one() {
    let (ejector, records) = (Ejector::new(Ejection::default()), records(2));
    let (mut now, mut spans) = (SECOND, Vec::new());
    for _ in 0..12 {
        assert!(fail_times(&ejector, &records, 0, 5, now));
        let until = records[0].ejected_until();
        spans.push((until - now) as f64 / SECOND as f64);
        now = until;
        records[0].come_back(now);
    }
    for (span, times) in spans.iter().zip(1..) {
        let due = (30.0 * f64::from(times)).min(300.0);
        assert!((due..=due * 1.1).contains(span), "{spans:?}");
    }
    now += 20 * 30 * SECOND;
    assert!(fail_times(&ejector, &records, 0, 5, now));
    assert!(records[0].ejected_until() - now <= 33 * SECOND);
}

#[test]
fn one_who_may_not_go_for_the_share_is_counted_and_stays() {
    let (ejector, records) = (Ejector::new(Ejection::default()), records(3));
    assert!(fail_times(&ejector, &records, 0, 5, SECOND));
    assert!(!fail_times(&ejector, &records, 1, 50, SECOND), "two of three are more than half");
    assert_eq!(ejector.counts(), (1, 10));
}

#[test]
fn a_success_rate_far_below_the_mean_ejects_and_one_that_all_share_does_not() {
    let policy = Ejection::default().consecutive(u32::MAX).success_rate(SuccessRate::default());
    let run = |rates: [usize; 6]| {
        let (ejector, records) = (Ejector::new(policy.clone()), records(6));
        for call in 0..320 {
            for (index, rate) in rates.iter().enumerate() {
                let now = if call > 300 { 11 * SECOND } else { SECOND };
                end(&ejector, &records, index, call % 100 >= *rate, now);
            }
        }
        let out = |record: &Record| record.ejected_until() != 0;
        records.iter().map(out).collect::<Vec<_>>()
    };
    assert_eq!(run([99, 98, 60, 99, 97, 99]), [false, false, true, false, false, false]);
    assert_eq!(run([50; 6]), [false; 6]);
}

#[test]
fn with_few_endpoints_or_few_calls_rates_say_nothing() {
    let rate = SuccessRate::default();
    assert!(rate.outliers(&[(0, 1.0), (1, 1.0), (2, 1.0), (3, 0.0)]).is_empty());
    let records = records(6);
    for record in &records {
        record.calls.store(99 << 32, Relaxed);
    }
    assert!(rates(&rate, &records.iter().collect::<Vec<_>>()).is_empty());
}

proptest! {
    #[test]
    fn never_more_than_the_share_are_out_and_one_is_always_left(
        count in 1..12_usize,
        share in 0..=1_000_000_u32,
        calls in prop::collection::vec((0..12_usize, prop::bool::weighted(0.9), 0..SECOND), 0..400),
    ) {
        let ejector = Ejector::new(Ejection::default().consecutive(2).share(Ratio::per_million(share)));
        let (records, mut now) = (records(count), 1);
        for (index, failed, later) in calls {
            now += later;
            for record in &records {
                record.come_back(now);
            }
            end(&ejector, &records, index % count, failed, now);
            let out = records.iter().filter(|record| record.ejected_until() != 0).count();
            prop_assert!(out < count && out as u64 * 1_000_000 <= count as u64 * u64::from(share));
        }
    }

    #[test]
    fn no_policy_overflows(base: u64, longest: u64, now: u64, times in 1..50_u32) {
        let policy = Ejection::default()
            .base(Duration::from_nanos(base))
            .longest(Duration::from_nanos(longest))
            .consecutive(0);
        let (ejector, records) = (Ejector::new(policy), records(2));
        for _ in 0..times {
            end(&ejector, &records, 0, true, now);
            records[0].come_back(u64::MAX);
        }
    }
}

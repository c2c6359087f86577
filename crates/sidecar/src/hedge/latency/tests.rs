use super::*;
use proptest::prelude::*;

const MILLI: u64 = 1_000_000;

fn of(percent: u32, spans: impl IntoIterator<Item = u64>) -> Option<u64> {
    let latencies = Latencies::new(Ratio::percent(percent), 1);
    spans.into_iter().for_each(|nanos| latencies.record(0, nanos));
    // Later, for a quantile stands for a while.
    latencies.quantile(REFRESH).map(|span| u64::try_from(span.as_nanos()).unwrap())
}

#[test]
fn every_time_is_counted_below_the_edge_of_its_bucket() {
    let edges = (0..BUCKETS).map(upper);
    for (place, edge) in edges.enumerate() {
        assert_eq!((bucket(edge - 1), bucket(edge)), (place, (place + 1).min(BUCKETS - 1)));
    }
    assert_eq!(bucket(u64::MAX), BUCKETS - 1);
}

#[test]
fn nothing_is_said_before_there_are_enough() {
    let latencies = Latencies::new(Ratio::percent(95), 100);
    (0..99).for_each(|_| latencies.record(0, MILLI));
    assert_eq!(latencies.quantile(0), None);
    latencies.record(0, MILLI);
    assert!(latencies.quantile(0).is_some());
}

#[test]
fn what_is_long_past_counts_no_more() {
    let latencies = Latencies::new(Ratio::percent(50), 1);
    let slow = |at| latencies.quantile(at).is_some_and(|span| span.as_secs() == 1);
    (0..1_000).for_each(|_| latencies.record(0, 1_000 * MILLI));
    (0..100).for_each(|_| latencies.record(GENERATION, MILLI));
    assert!(slow(GENERATION + REFRESH), "of 1,100 calls most are slow");
    (0..100).for_each(|_| latencies.record(2 * GENERATION, MILLI));
    assert!(!slow(2 * GENERATION + REFRESH));
    assert_eq!(latencies.quantile(5 * GENERATION), None, "after a pause nothing is known");
    latencies.record(u64::MAX, MILLI);
    assert!(latencies.quantile(u64::MAX).is_some());
}

#[test]
fn threads_that_meet_a_new_generation_lose_little() {
    let latencies = Latencies::new(Ratio::percent(50), 1);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1_000).for_each(|n| latencies.record(n * GENERATION / 500, MILLI)));
        }
    });
    let total: u32 = latencies.counts.iter().flatten().map(|count| count.load(Relaxed)).sum();
    assert!(total > 0 && total <= 4_000, "{total}");
}

proptest! {
    #[test]
    fn the_quantile_is_met_and_no_more_than_an_eighth_too_long(
        percent in 1u32..100,
        mut spans in proptest::collection::vec(0u64..10_000_000_000, 1..500),
    ) {
        let told = of(percent, spans.iter().copied()).unwrap();
        spans.sort_unstable();
        let rank = (spans.len() * percent as usize / 100).min(spans.len() - 1);
        let exact = spans[rank];
        prop_assert!(told > exact, "{told} of {exact}");
        prop_assert!(told <= exact + exact / 8 + 2_000, "{told} of {exact}");
    }
}

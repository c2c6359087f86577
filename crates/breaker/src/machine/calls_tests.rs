use std::{collections::VecDeque, time::Duration};

use proptest::prelude::*;

use crate::{
    Policy, Ratio, Window,
    machine::{
        calls::{Call, Calls, Totals},
        word::Generation,
    },
};

const GENERATION: Generation = Generation::of(7);

fn calls(window: Window) -> Calls {
    Calls::new(&Policy::failure_ratio(Ratio::percent(50)).window(window))
}

fn totals_of<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Totals {
    let mut totals = Totals::default();
    for call in calls {
        totals.calls += 1;
        totals.failed += u64::from(call.failed);
        totals.slow += u64::from(call.slow);
    }
    totals
}

fn call() -> impl Strategy<Value = Call> {
    (any::<bool>(), any::<bool>()).prop_map(|(failed, slow)| Call { failed, slow })
}

#[test]
fn what_an_old_generation_brings_late_changes_nothing() {
    let bad = Call { failed: true, slow: true };
    for window in [Window::calls(10), Window::time(Duration::from_secs(10))] {
        let calls = calls(window);
        let (old, new) = (Generation::of(4), Generation::of(7));
        calls.count(old, 0, bad, || 0);
        calls.count(new, 1, bad, || 0);
        for number in 2..100 {
            calls.count(old, number, bad, || 0);
        }
        assert_eq!(calls.totals(new, || 0), Totals { calls: 1, failed: 1, slow: 1 });
        for number in 100..120 {
            calls.count(new, number, Call { failed: false, slow: false }, || 0);
        }
        let forgotten = matches!(calls, Calls::Last(_));
        let left = if forgotten { (10, 0) } else { (21, 1) };
        let totals = calls.totals(new, || 0);
        assert_eq!((totals.calls, totals.failed), left);
    }
}

#[test]
fn sizes_out_of_range_count_as_the_nearest() {
    assert_eq!(Window::calls(0), Window::calls(1));
    assert_eq!(Window::calls(u32::MAX), Window::calls(16_000));
    let second = Window::time(Duration::from_secs(1));
    assert_eq!(second.buckets(0), second.buckets(2));
    assert_eq!(second.buckets(u32::MAX), second.buckets(1_000));
    // No width is zero.
    calls(Window::time(Duration::ZERO)).count(
        GENERATION,
        0,
        Call { failed: true, slow: false },
        || 1,
    );
}

#[test]
fn threads_leave_exactly_the_last_calls_in_a_ring() {
    let ring = calls(Window::calls(64));
    let number = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50_000 {
                    let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let call = Call { failed: number % 3 == 0, slow: number % 5 == 0 };
                    ring.count(GENERATION, number, call, || 0);
                }
            });
        }
    });
    // A thread that was stopped for a whole lap may have put an older call in place of a newer one; so a lap in order ...
    let last =
        (200_000..200_064).map(|number| Call { failed: number % 3 == 0, slow: number % 5 == 0 });
    let last: Vec<_> = last.collect();
    for (number, call) in (200_000..).zip(&last) {
        ring.count(GENERATION, number, *call, || 0);
    }
    // ... leaves nothing of them, and the sums are right if none was lost on the way.
    assert_eq!(ring.totals(GENERATION, || 0), totals_of(&last));
}

proptest! {
    #[test]
    fn a_ring_holds_exactly_the_last_calls(size in 1..50_u32, story in prop::collection::vec(call(), 0..300)) {
        let ring = calls(Window::calls(size));
        let mut last = VecDeque::new();
        for (number, call) in (0..).zip(story) {
            last.push_back(call);
            if last.len() > size as usize {
                last.pop_front();
            }
            let judged = ring.count(GENERATION, number, call, || 0);
            let expected = totals_of(&last);
            prop_assert_eq!(judged, (call.failed || call.slow).then_some(expected));
            prop_assert_eq!(ring.totals(GENERATION, || 0), expected);
        }
    }

    /// The bucket that is being filled, and the ones before it.
    #[test]
    fn buckets_hold_exactly_the_calls_of_their_time(
        buckets in 2..20_u64,
        story in prop::collection::vec((0..3_000_u64, call()), 0..300),
    ) {
        let second = 1_000_000_000;
        let window = Window::time(Duration::from_secs(buckets)).buckets(buckets as u32);
        let recent = calls(window);
        let (mut now, mut all) = (0, Vec::new());
        for (number, (millis, call)) in (0..).zip(story) {
            now += millis * 1_000_000;
            all.push((now / second, call));
            recent.count(GENERATION, number, call, || now);
            let seen = all.iter().filter(|(at, _)| at + buckets > now / second).map(|(_, call)| call);
            prop_assert_eq!(recent.totals(GENERATION, || now), totals_of(seen));
        }
    }
}

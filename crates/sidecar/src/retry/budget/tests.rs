use std::{collections::VecDeque, thread};

use super::{
    window::{MAX_COUNT, UNTIMED, pack, slot, sum},
    *,
};
use crate::{metrics::lines::line, sync::Ordering::SeqCst};
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap()
}

fn window(percent: u32, reserve: u32) -> Window {
    Window::new(Ratio::percent(percent), reserve, 10 * SECOND)
}

fn granted(window: &Window, tries: usize, now: Duration) -> usize {
    (0..tries).filter(|_| window.withdraw(nanos(now))).count()
}

#[test]
fn the_share_is_exact() {
    for percent in [1, 20, 33, 60, 100] {
        let window = window(percent, 0);
        (0..100).for_each(|_| window.deposit(|| 0));
        assert_eq!(granted(&window, 1_000, Duration::ZERO), percent as usize);
    }
}

#[test]
fn the_reserve_is_there_without_traffic_and_comes_back() {
    let window = window(20, 10);
    assert_eq!(granted(&window, 1_000, Duration::ZERO), 100);
    assert_eq!(granted(&window, 1_000, 9 * SECOND), 0);
    assert_eq!(granted(&window, 1_000, 12 * SECOND), 100);
}

#[test]
fn deposits_expire_with_the_window() {
    let window = window(50, 0);
    (0..100).for_each(|_| window.deposit(|| 0));
    assert_eq!(granted(&window, 10, 9 * SECOND), 10);
    assert_eq!(granted(&window, 10, 10 * SECOND), 0);
}

/// Untimed ones are a small part of the step they follow, and of those of one second lost at most.
#[test]
fn a_thread_looks_at_the_clock_for_few_of_many_deposits_and_loses_few() {
    let window = window(100, 0);
    let mut looks = 0;
    for second in 0..10 {
        for _ in 0..10_000 {
            window.deposit(|| {
                looks += 1;
                nanos(second * SECOND)
            });
        }
    }
    assert!((1_500..3_500).contains(&looks), "{looks}");
    let later = window.withdraw(nanos(9 * SECOND));
    assert!(later && sum(&window.deposits[line()].get().unwrap().slots, 10, 10) == 100_000);
    // An hour of silence: what counts as made before it is lost, and nothing else.
    let hour = 3_600 * SECOND;
    (0..100).for_each(|_| window.deposit(|| nanos(hour)));
    let left = granted(&window, 1_000, hour);
    assert!((100 - UNTIMED as usize..=100).contains(&left), "{left}");
}

#[test]
fn refused_retries_do_not_use_the_budget_up() {
    let window = window(0, 1);
    assert_eq!(granted(&window, 1_000, Duration::ZERO), 10);
    assert_eq!(granted(&window, 100_000, 5 * SECOND), 0);
    assert_eq!(granted(&window, 1_000, 11 * SECOND), 10);
}

#[test]
fn a_long_idle_time_costs_nothing() {
    let window = window(20, 10);
    window.deposit(|| 0);
    // A loop over the windows that passed would take ages here.
    let later = Duration::from_secs(3_000_000_000);
    window.deposit(|| nanos(later));
    assert_eq!(granted(&window, 1_000, later), 100);
}

#[test]
fn a_step_that_can_count_no_further_refuses() {
    let window = Window::new(Ratio::NONE, u32::MAX, 10 * SECOND);
    slot(&window.withdrawals, 1).0.store(pack(1, MAX_COUNT - 1), SeqCst);
    assert_eq!(granted(&window, 5, Duration::ZERO), 1);
    assert_eq!(granted(&window, 5, SECOND), 5);
}

#[test]
fn a_window_too_short_to_cut_is_made_longer() {
    let window = Window::new(Ratio::ALL, 0, Duration::ZERO);
    window.deposit(|| 0);
    assert_eq!(granted(&window, 5, Duration::ZERO), 1);
}

#[test]
fn threads_together_never_overdraw() {
    for _ in 0..50 {
        let window = window(20, 1);
        (0..1_000).for_each(|_| window.deposit(|| 0));
        let total: usize = thread::scope(|scope| {
            let window = &window;
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(move || granted(window, 300, Duration::ZERO))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert!(total <= 210, "{total}");
        // Those that met were refused for nothing; alone, one gets what is left.
        assert_eq!(total + granted(&window, 300, Duration::ZERO), 210);
    }
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Deposits(u32),
    Withdraw,
}

proptest! {
    #[test]
    fn under_any_schedule_no_window_has_more_retries_than_are_paid_for(
        percent in 0u32..=100,
        reserve in 0u32..5,
        schedule in proptest::collection::vec(
            (0u64..2_000, prop_oneof![(1..100u32).prop_map(Event::Deposits), Just(Event::Withdraw)]),
            1..800,
        ),
    ) {
        let window = window(percent, reserve);
        let (mut deposits, mut retries) = (VecDeque::new(), VecDeque::new());
        let mut now = Duration::ZERO;
        for (millis, event) in schedule {
            now += Duration::from_millis(millis);
            match event {
                Event::Deposits(count) => {
                    for _ in 0..count {
                        window.deposit(|| nanos(now));
                        deposits.push_back(now);
                    }
                }
                Event::Withdraw if window.withdraw(nanos(now)) => retries.push_back(now),
                Event::Withdraw => {}
            }
            for times in [&mut deposits, &mut retries] {
                while times.front().is_some_and(|time| *time + 10 * SECOND <= now) {
                    times.pop_front();
                }
            }
            let paid = deposits.len() as u64 * u64::from(percent) / 100 + u64::from(reserve) * 10;
            if matches!(event, Event::Withdraw) && retries.back() == Some(&now) {
                prop_assert!(retries.len() as u64 <= paid, "{} of {paid}", retries.len());
            }
        }
    }
}

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A server that stands still for ten seconds, every request of that time with it.
#[tokio::test(start_paused = true)]
async fn a_server_that_stands_still_is_seen_by_all_that_were_due_meanwhile() {
    let began = Instant::now();
    let load = Load::spawn(Rate::per_second(100), 10_000, move || async move {
        let (from, to) = (began + SECOND * 10, began + SECOND * 20);
        if Instant::now() >= from {
            sleep_until(to).await;
        }
        "any"
    });
    tokio::time::sleep(SECOND * 40).await;
    let report = load.stop().await;
    let any = report.latency["any"];
    assert!((4_000..=4_001).contains(&any.count), "{report:?}");
    assert_eq!(report.unsent, 0);
    // A quarter of all was due in those ten seconds, and waited from nothing to all of it. Sent one after the other there would have been one of them.
    assert!((9_800.0..=10_010.0).contains(&any.max_ms), "{any:?}");
    assert!((5_500.0..=6_500.0).contains(&any.p90_ms), "{any:?}");
    assert!(any.p50_ms < 5.0, "{any:?}");
}

/// The thread of the generator is held up, as on a machine that has no time for it.
#[tokio::test(start_paused = true)]
async fn a_latency_counts_from_the_time_at_which_the_request_was_to_be_sent() {
    let load = Load::spawn(Rate::per_second(10), 100, || async { "any" });
    tokio::task::yield_now().await;
    // No task runs within this.
    tokio::time::advance(SECOND).await;
    let report = load.stop().await;
    assert!((900.0..1_050.0).contains(&report.latency["any"].max_ms), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn what_has_no_place_is_counted_and_not_sent() {
    let load = Load::spawn(Rate::per_second(100), 5, || async {
        tokio::time::sleep(SECOND).await;
        "slow"
    });
    tokio::time::sleep(SECOND * 10).await;
    let report = load.stop().await;
    // Five places, each taken for a second.
    let slow = report.latency["slow"].count;
    assert!((45..=55).contains(&slow), "{report:?}");
    assert_eq!(report.due, slow + report.unsent);
    assert!((990..=1_010).contains(&report.due), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_changed_while_it_runs() {
    let rate = Rate::per_second(10);
    let load = Load::spawn(rate.clone(), 100, || async { "any" });
    tokio::time::sleep(SECOND * 10).await;
    let at_ten = load.report().due;
    rate.set(1_000);
    tokio::time::sleep(SECOND * 10).await;
    let at_thousand = load.report().due - at_ten;
    rate.set(0);
    tokio::time::sleep(SECOND).await;
    let before = load.report().due;
    tokio::time::sleep(SECOND * 100).await;
    assert_eq!(load.report().due, before, "a pause is one");
    assert!((99..=102).contains(&at_ten), "{at_ten}");
    assert!((9_980..=10_010).contains(&at_thousand), "{at_thousand}");
    rate.set(u32::MAX);
    assert_eq!(rate.get(), Rate::MOST);
    load.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_panics_is_one_less_and_gives_its_place_back() {
    let mut number = 0;
    let load = Load::spawn(Rate::per_second(10), 1, move || {
        number += 1;
        let odd = number % 2 == 1;
        async move {
            assert!(!odd, "on purpose");
            "even"
        }
    });
    tokio::time::sleep(SECOND * 10).await;
    let report = load.stop().await;
    assert!((49..=51).contains(&report.latency["even"].count), "{report:?}");
    assert_eq!(report.unsent, 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_it_ends_it_and_what_is_under_way() {
    let alive = Arc::new(());
    let weak = Arc::downgrade(&alive);
    let load = Load::spawn(Rate::per_second(10), 10, move || {
        let alive = alive.clone();
        async move {
            std::future::pending::<()>().await;
            drop(alive);
            "never"
        }
    });
    tokio::time::sleep(SECOND).await;
    drop(load);
    while weak.strong_count() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

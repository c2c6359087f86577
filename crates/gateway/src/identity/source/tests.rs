use super::*;
use std::sync::atomic::AtomicU32;

const PACE: Pace = Pace {
    refresh: Duration::from_secs(300),
    apart: Duration::from_secs(10),
    stale: Duration::from_secs(3600),
};

/// A source whose loads count themselves, take a second, and succeed as long as it is told.
fn counted() -> (Arc<Source<u32>>, Arc<AtomicU32>, Arc<AtomicU32>) {
    let (loads, failing) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (count, fails) = (loads.clone(), failing.clone());
    let source = Source::new("test".into(), None, PACE, move || {
        let number = count.fetch_add(1, Relaxed) + 1;
        let fails = fails.load(Relaxed) != 0;
        async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if fails { Err("away".into()) } else { Ok(number) }
        }
    });
    (source, loads, failing)
}

#[tokio::test(start_paused = true)]
async fn a_hundred_that_wait_wait_for_one_load() {
    let (source, loads, _) = counted();
    let waits: Vec<_> = (0..100).map(|_| source.refreshed().unwrap()).collect();
    for wait in waits {
        wait.await;
    }
    assert_eq!((loads.load(Relaxed), source.current().value), (1, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn whoever_leaves_while_it_loads_does_not_end_it() {
    let (source, loads, _) = counted();
    let first = source.refreshed().unwrap();
    let second = source.refreshed().unwrap();
    assert!(timeout(Duration::from_millis(10), first).await.is_err());
    second.await;
    assert_eq!((loads.load(Relaxed), source.current().value), (1, Some(1)));
}

#[tokio::test(start_paused = true)]
async fn loads_that_are_asked_for_are_apart() {
    let (source, loads, _) = counted();
    source.refreshed().unwrap().await;
    for _ in 0..90 {
        if let Some(wait) = source.refreshed() {
            wait.await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let loads = loads.load(Relaxed);
    assert!((8..=10).contains(&loads), "{loads} in 90 s");
}

#[tokio::test(start_paused = true)]
async fn the_old_value_is_used_while_nothing_can_be_loaded_and_not_for_ever() {
    let (source, loads, failing) = counted();
    source.refreshed().unwrap().await;
    failing.store(1, Relaxed);
    for _ in 0..3590 {
        assert_eq!(source.current().value, Some(1));
        assert!(!source.is_stale());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let tries = loads.load(Relaxed);
    assert!((40..=130).contains(&tries), "{tries} in an hour");
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(source.is_stale());

    failing.store(0, Relaxed);
    tokio::time::sleep(LONGEST_WAIT).await;
    source.current();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!source.is_stale(), "it recovers");
    assert_eq!(source.current().generation, 2);
}

#[tokio::test(start_paused = true)]
async fn an_equal_value_is_no_change() {
    let source = Source::new("test".into(), Some(7), PACE, || async { Ok(7) });
    tokio::time::sleep(PACE.refresh).await;
    source.refreshed().unwrap().await;
    assert_eq!(source.current().generation, 0);
}

#[test]
fn a_load_whose_runtime_ended_locks_nobody_out() {
    let source = Source::new("test".into(), None, PACE, || async { Ok(7) });
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let one = runtime();
    one.block_on(async { drop(source.refreshed().unwrap()) });
    drop(one);
    runtime().block_on(async { source.refreshed().unwrap().await });
    assert_eq!(source.current().value, Some(7));
}

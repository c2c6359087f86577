//! Aggregates are the sum of their events, whoever changes them at the same time and whatever fails.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use gusset_saga::{
    Aggregate, AggregateError, Aggregates, BoxError, ChangeError, EventLog, EventLogError,
    EventLogFuture, Json, MemoryStore, NewEvents, Recorded, Snapshot, StreamId, StreamPage,
    StreamSummary,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Counter {
    sum: i64,
    steps: Vec<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Moved {
    by: i64,
}

impl Aggregate for Counter {
    const KIND: &'static str = "counter";
    const FORMAT: u32 = 3;
    type Event = Moved;

    fn apply(&mut self, event: &Moved) {
        self.sum += event.by;
        self.steps.push(event.by);
    }

    /// Format 1 was a bare number, format 2 counted in tens.
    fn upcast(format: u32, event: Value) -> Result<Value, BoxError> {
        let by = if format == 1 { event.as_i64() } else { event["tens"].as_i64().map(|n| n * 10) };
        Ok(json!({ "by": by.ok_or("no number")? }))
    }
}

fn counters() -> (MemoryStore, Aggregates<Counter>) {
    let store = MemoryStore::new();
    (store.clone(), Aggregates::new(store))
}

fn by(numbers: &[i64]) -> Vec<Moved> {
    numbers.iter().map(|by| Moved { by: *by }).collect()
}

async fn written(log: &MemoryStore, expected: u64, format: u32, event: Value) {
    let stream = StreamId::new("counter", "a").unwrap();
    let (key, note) = (format!("{expected}").into(), "old".into());
    let events = Arc::new([Json::encode(&event).unwrap()]);
    log.extend(&NewEvents { stream, expected, key, note, format, events }).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_appended_at_another_version_is_refused_with_both_named() {
    let (_, counters) = counters();
    assert_eq!(counters.load("a").await.unwrap().version, 0);
    assert_eq!(counters.append("a", 0, &by(&[1, 2]), "eva").await.unwrap(), 2);
    assert_eq!(counters.append("a", 2, &[], "eva").await.unwrap(), 2);
    let refused = counters.append("a", 1, &by(&[3]), "tom").await.unwrap_err();
    assert_eq!(refused.to_string(), "counter/a is at version 2, not at 1");
    let conflict = EventLogError::Conflict {
        stream: StreamId::new("counter", "a").unwrap(),
        expected: 1,
        found: 2,
    };
    assert_eq!(format!("{refused:?}"), format!("Log({conflict:?})"));
    let loaded = counters.load("a").await.unwrap();
    assert_eq!((loaded.state.sum, loaded.version), (3, 2));
    let bad = counters.append("no name", 0, &by(&[3]), "tom").await.unwrap_err();
    assert!(matches!(bad, AggregateError::Name(_)), "{bad:?}");
}

#[tokio::test(start_paused = true)]
async fn changes_at_the_same_time_do_not_overlook_each_other() {
    let (_, counters) = counters();
    let counters = counters.snapshot_every(7);
    let changers = (0..16).map(|_| async {
        for _ in 0..5 {
            // Each needs to have seen all the others.
            let next = |counter: &Counter| Ok::<_, ()>(by(&[counter.steps.len() as i64]));
            let mut tries = 0;
            while counters.change("a", "one of many", next).await.is_err() {
                tries += 1;
                assert!(tries < 10);
            }
            tokio::task::yield_now().await;
        }
    });
    join_all(changers).await;
    let loaded = counters.load("a").await.unwrap();
    assert_eq!(loaded.state.steps, (0..80).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_refuses_changes_nothing_and_one_without_events_neither() {
    let (_, counters) = counters();
    let refused = counters.change("a", "x", |_| Err::<Vec<Moved>, _>("no")).await;
    assert!(matches!(refused, Err(ChangeError::Refused("no"))));
    let same = counters.change("a", "x", |_| Ok::<_, ()>(vec![])).await.unwrap();
    assert_eq!((same.version, counters.list(None, 9).await.unwrap().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn events_of_older_formats_are_read_in_today_s_form() {
    let (store, counters) = counters();
    written(&store, 0, 1, json!(7)).await;
    written(&store, 1, 2, json!({ "tens": 2 })).await;
    written(&store, 2, 3, json!({ "by": 5 })).await;
    assert_eq!(counters.load("a").await.unwrap().state.steps, [7, 20, 5]);
    let history = counters.history("a", 1, 9).await.unwrap();
    assert_eq!((history[0].version, history[0].format, history[0].event.by), (2, 2, 20));
    written(&store, 3, 2, json!({ "dozens": 2 })).await;
    let unreadable = counters.load("a").await.unwrap_err();
    assert_eq!(unreadable.to_string(), "event 4 of counter/a cannot be read: no number");
}

#[tokio::test(start_paused = true)]
async fn an_event_of_a_newer_format_is_refused_and_nothing_is_written_over_it() {
    let (store, counters) = counters();
    written(&store, 0, 4, json!({ "by": 5 })).await;
    let newer = counters.load("a").await.unwrap_err();
    let text = "event 1 of counter/a is of format 4, this release reads up to 3";
    assert_eq!(newer.to_string(), text);
    let newer = counters.change("a", "x", |_| Ok::<_, ()>(by(&[1]))).await.unwrap_err();
    assert_eq!(newer.to_string(), text);
    assert_eq!(counters.history("a", 0, 9).await.unwrap_err().to_string(), text);
}

/// A counter of the release between: it reads what the next one writes, and writes what the last one reads.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Between(Counter);

impl Aggregate for Between {
    const KIND: &'static str = Counter::KIND;
    const FORMAT: u32 = Counter::FORMAT;
    const WRITTEN: u32 = 2;
    type Event = Moved;

    fn apply(&mut self, event: &Moved) {
        self.0.apply(event);
    }

    fn upcast(format: u32, event: Value) -> Result<Value, BoxError> {
        Counter::upcast(format, event)
    }

    fn downcast(event: Value) -> Result<Value, BoxError> {
        let by = event["by"].as_i64().filter(|by| by % 10 == 0);
        Ok(json!({ "tens": by.ok_or("it takes tens only")? / 10 }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_between_two_formats_reads_both_and_writes_the_older_one() {
    let (store, counters) = counters();
    let between = Aggregates::<Between>::new(store.clone());
    counters.append("a", 0, &by(&[1]), "new").await.unwrap();
    assert_eq!(between.append("a", 1, &by(&[20, 30]), "between").await.unwrap(), 3);
    assert_eq!(between.load("a").await.unwrap().state.0.steps, [1, 20, 30]);
    assert_eq!(counters.load("a").await.unwrap().state.steps, [1, 20, 30]);
    let stream = StreamId::new("counter", "a").unwrap();
    let formats = store.read(&stream, 0, 9).await.unwrap();
    let formats: Vec<_> = formats.iter().map(|one| (one.format, one.event.get())).collect();
    assert_eq!(formats[1..], [(2, r#"{"tens":2}"#), (2, r#"{"tens":3}"#)]);
    // What the older form cannot say is refused, and nothing of it is written.
    let refused = between.append("a", 3, &by(&[10, 7]), "between").await.unwrap_err();
    assert!(refused.to_string().ends_with("it takes tens only"), "{refused}");
    assert_eq!(counters.load("a").await.unwrap().version, 3);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_shortens_the_way_and_one_of_another_format_is_not_used() {
    let (store, counters) = counters();
    let counters = counters.snapshot_every(10);
    for _ in 0..25 {
        counters.change("a", "x", |_| Ok::<_, ()>(by(&[1]))).await.unwrap();
    }
    let stream = StreamId::new("counter", "a").unwrap();
    let snapshot = store.snapshot(&stream).await.unwrap().unwrap();
    assert_eq!((snapshot.version, snapshot.format), (20, 3));
    // Told apart from what the events say, so that it shows which way was gone.
    let marked = |format| Snapshot {
        version: 20,
        format,
        state: Json::encode(&json!({ "sum": 1_000, "steps": [] })).unwrap(),
    };
    store.keep(&stream, &marked(3)).await.unwrap();
    assert_eq!(counters.load("a").await.unwrap().state.sum, 1_005);
    for format in [2, 4] {
        store.keep(&stream, &marked(format)).await.unwrap();
        assert_eq!(counters.load("a").await.unwrap().state.sum, 25);
    }
    let broken = Snapshot { state: Json::encode("?").unwrap(), ..marked(3) };
    store.keep(&stream, &broken).await.unwrap();
    assert_eq!(counters.load("a").await.unwrap().state.sum, 25);
}

/// Each second write is kept, and the answer lost.
#[derive(Clone)]
struct Deaf(MemoryStore, Arc<AtomicU32>);

impl EventLog for Deaf {
    fn extend<'a>(&'a self, new: &'a NewEvents) -> EventLogFuture<'a, u64> {
        async move {
            let kept = self.0.extend(new).await;
            if self.1.fetch_add(1, Relaxed) % 2 == 0 {
                return Err(EventLogError::failed("the answer was lost"));
            }
            kept
        }
        .boxed()
    }

    fn read<'a>(
        &'a self,
        stream: &'a StreamId,
        after: u64,
        limit: usize,
    ) -> EventLogFuture<'a, Vec<Recorded>> {
        self.0.read(stream, after, limit)
    }

    fn keep<'a>(&'a self, stream: &'a StreamId, snapshot: &'a Snapshot) -> EventLogFuture<'a, ()> {
        self.0.keep(stream, snapshot)
    }

    fn snapshot<'a>(&'a self, stream: &'a StreamId) -> EventLogFuture<'a, Option<Snapshot>> {
        self.0.snapshot(stream)
    }

    fn streams<'a>(&'a self, page: &'a StreamPage) -> EventLogFuture<'a, Vec<StreamSummary>> {
        self.0.streams(page)
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_kept_without_an_answer_is_not_kept_twice() {
    let counters = Aggregates::<Counter>::new(Deaf(MemoryStore::new(), Arc::default()));
    for n in 0..20 {
        counters.change("a", "x", |_| Ok::<_, ()>(by(&[n, n]))).await.unwrap();
    }
    let loaded = counters.load("a").await.unwrap();
    assert_eq!((loaded.state.sum, loaded.version), (380, 40));
}

#[tokio::test(start_paused = true)]
async fn the_audit_says_who_and_when_and_pages() {
    let (_, counters) = counters();
    for who in ["eva", "tom", "eva"] {
        counters.change("a", who, |_| Ok::<_, ()>(by(&[1]))).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let all = counters.history("a", 0, 9).await.unwrap();
    let who: Vec<_> = all.iter().map(|change| &*change.note).collect();
    assert_eq!(who, ["eva", "tom", "eva"]);
    assert_eq!(all[2].at - all[0].at, 120_000);
    assert_eq!(counters.history("a", 1, 1).await.unwrap(), all[1..2]);
    let list = counters.list(None, 9).await.unwrap();
    assert_eq!((list[0].stream.id(), list[0].version), ("a", 3));
    assert_eq!(counters.list(Some("a"), 9).await.unwrap(), []);
}

proptest! {
    #[test]
    fn an_aggregate_is_the_sum_of_its_events_with_and_without_snapshots(
        changes in prop::collection::vec(prop::collection::vec(-9_i64..9, 1..5), 0..40),
        every in 0_u64..12,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (store, counters) = counters();
            let counters = counters.snapshot_every(every);
            for change in &changes {
                counters.change("a", "x", |_| Ok::<_, ()>(by(change))).await.unwrap();
            }
            let steps = changes.concat();
            let loaded = counters.load("a").await.unwrap();
            assert_eq!((&loaded.state.steps, loaded.version), (&steps, steps.len() as u64));
            assert_eq!(loaded.state.sum, steps.iter().sum::<i64>());
            let snapshot = store.snapshot(&StreamId::new("counter", "a").unwrap()).await.unwrap();
            let crossed = every > 0 && steps.len() as u64 >= every;
            assert_eq!(snapshot.is_some(), crossed);
        });
    }
}

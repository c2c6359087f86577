//! What every [`EventLog`] must do, as tests for any of them.
//!
//! ```
//! use std::sync::Arc;
//!
//! use futures_util::{FutureExt, future::ready};
//! use gusset_saga::{EventLog, EventLogFuture, MemoryStore, testing::conformance::events};
//!
//! /// One log, of which each call opens another handle.
//! struct Bed(MemoryStore);
//!
//! impl events::Bed for Bed {
//!     fn open_log(&self) -> EventLogFuture<'_, Arc<dyn EventLog>> {
//!         ready(Ok(Arc::new(self.0.clone()) as Arc<dyn EventLog>)).boxed()
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! events::run(async || Bed(MemoryStore::new())).await;
//! # });
//! ```
#![allow(clippy::expect_used, reason = "a test kit: what is not as expected fails the case")]

use std::sync::Arc;

use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, join_all},
};

use super::kit::json;
use crate::{
    EventLog, EventLogError, EventLogFuture, NewEvents, Recorded, Snapshot, StreamId, StreamPage,
};

/// One log: where its data is, and how a process gets at it.
pub trait Bed: Send + Sync {
    /// Another handle on the data, with connections of its own, as another node or a later process would have it.
    ///
    /// # Errors
    ///
    /// Any error fails the case.
    fn open_log(&self) -> EventLogFuture<'_, Arc<dyn EventLog>>;
}

type Case = (&'static str, for<'a> fn(&'a dyn Bed) -> LocalBoxFuture<'a, ()>);
type Answer = Result<(), EventLogError>;

macro_rules! all {
    ($($name:ident)*) => {
        const ALL: &[Case] = &[$((
            stringify!($name),
            |bed| async move { $name(bed).await.expect("the log answers as it must") }.boxed_local(),
        )),*];
    };
}

all! {
    events_come_back_in_order_after_the_log_was_opened_anew
    a_version_that_is_not_the_expected_one_is_a_conflict_that_names_both
    of_many_writers_at_one_version_one_wins
    what_is_repeated_under_its_key_is_kept_once
    events_are_read_in_pages
    the_latest_snapshot_stays
    streams_are_listed_by_kind_and_paged
    text_of_events_comes_back_as_it_was
}

/// Runs all cases, each on a log of its own that `fresh` makes. Says on standard error which one is under way, so that a panic has a name.
///
/// # Panics
///
/// When the log does not do what it must.
#[expect(clippy::print_stderr, reason = "a test kit tells which case it runs")]
pub async fn run<B: Bed>(mut fresh: impl AsyncFnMut() -> B) {
    for (name, case) in ALL {
        eprintln!("event log case: {name}");
        case(&fresh().await).await;
    }
}

async fn open(bed: &dyn Bed) -> Arc<dyn EventLog> {
    bed.open_log().await.expect("the log opens")
}

fn stream(kind: &str, id: &str) -> StreamId {
    StreamId::new(kind, id).expect("names of tests are valid")
}

/// `count` events behind `expected`, of account `a`.
fn new(expected: u64, key: &str, count: u64) -> NewEvents {
    let events = (1..=count).map(|n| json((key, n))).collect();
    let (key, note) = (key.into(), format!("by {key}").into());
    NewEvents { stream: stream("account", "a"), expected, key, note, format: 3, events }
}

async fn texts(log: &dyn EventLog) -> Vec<String> {
    let all = log.read(&stream("account", "a"), 0, 1_000).await.expect("it is read");
    let versions: Vec<_> = all.iter().map(|one| one.version).collect();
    assert_eq!(versions, (1..=all.len() as u64).collect::<Vec<_>>(), "without gaps");
    all.iter().map(|one| one.event.get().to_owned()).collect()
}

async fn events_come_back_in_order_after_the_log_was_opened_anew(bed: &dyn Bed) -> Answer {
    let log = open(bed).await;
    assert_eq!(log.read(&stream("account", "a"), 0, 9).await?, []);
    assert_eq!(log.extend(&new(0, "x", 2)).await?, 2);
    assert_eq!(log.extend(&new(2, "y", 1)).await?, 3);
    drop(log);
    let log = open(bed).await;
    assert_eq!(texts(&*log).await, [r#"["x",1]"#, r#"["x",2]"#, r#"["y",1]"#]);
    let all = log.read(&stream("account", "a"), 0, 9).await?;
    let Recorded { note, format, at, .. } = &all[2];
    assert_eq!((&**note, *format), ("by y", 3));
    assert!(all[0].at == all[1].at && all[1].at <= *at && *at > 1_500_000_000_000, "{all:?}");
    assert_eq!(log.read(&stream("account", "b"), 0, 9).await?, [], "another stream");
    Ok(())
}

async fn a_version_that_is_not_the_expected_one_is_a_conflict_that_names_both(
    bed: &dyn Bed,
) -> Answer {
    let log = open(bed).await;
    for (wrong, is) in [(1, 0), (0, 2), (1, 2), (3, 2)] {
        if is == 2 && texts(&*log).await.is_empty() {
            log.extend(&new(0, "x", 2)).await?;
        }
        let refused = log.extend(&new(wrong, "late", 3)).await.expect_err("it is refused");
        assert!(matches!(refused, EventLogError::Conflict { .. }), "{refused:?}");
        assert_eq!(refused.to_string(), format!("account/a is at version {is}, not at {wrong}"));
    }
    assert_eq!(texts(&*log).await.len(), 2, "all of them or none");
    Ok(())
}

async fn of_many_writers_at_one_version_one_wins(bed: &dyn Bed) -> Answer {
    let (one, two) = (open(bed).await, open(bed).await);
    let mut at = 0;
    for round in 0..10 {
        let news: Vec<_> = (0..6).map(|n| new(at, &format!("{round}-{n}"), n % 3 + 1)).collect();
        let logs = [&one, &two].into_iter().cycle();
        let writers = news.iter().zip(logs).map(|(new, log)| log.extend(new));
        let won: Vec<_> = join_all(writers).await.into_iter().filter_map(Result::ok).collect();
        assert_eq!(won.len(), 1, "at {at}");
        at = won[0];
        assert_eq!(texts(&*one).await.len() as u64, at);
    }
    Ok(())
}

async fn what_is_repeated_under_its_key_is_kept_once(bed: &dyn Bed) -> Answer {
    let (log, other) = (open(bed).await, open(bed).await);
    for (log, count) in [(&log, 2), (&other, 2)] {
        assert_eq!(log.extend(&new(0, "x", 2)).await?, count);
    }
    assert_eq!(log.extend(&new(2, "y", 1)).await?, 3);
    assert_eq!(other.extend(&new(0, "x", 2)).await?, 2, "even later");
    let elsewhere = log.extend(&new(0, "z", 2)).await;
    assert!(matches!(elsewhere, Err(EventLogError::Conflict { .. })), "{elsewhere:?}");
    assert_eq!(texts(&*log).await.len(), 3);
    Ok(())
}

async fn events_are_read_in_pages(bed: &dyn Bed) -> Answer {
    let log = open(bed).await;
    log.extend(&new(0, "x", 25)).await?;
    let mut read = Vec::new();
    loop {
        let page = log.read(&stream("account", "a"), read.len() as u64, 10).await?;
        assert!(page.len() <= 10);
        if page.is_empty() {
            break;
        }
        read.extend(page);
    }
    assert_eq!(read, log.read(&stream("account", "a"), 0, 1_000).await?);
    assert_eq!(log.read(&stream("account", "a"), u64::MAX, 10).await?, []);
    Ok(())
}

async fn the_latest_snapshot_stays(bed: &dyn Bed) -> Answer {
    let (log, of) = (open(bed).await, stream("account", "a"));
    log.extend(&new(0, "x", 9)).await?;
    assert_eq!(log.snapshot(&of).await?, None);
    let at = |version, state: &str| Snapshot { version, format: 2, state: json(state) };
    for (kept, left) in [
        (at(5, "five"), at(5, "five")),
        (at(4, "four"), at(5, "five")),
        (at(9, "\0nine"), at(9, "\0nine")),
        (at(9, "again"), at(9, "again")),
    ] {
        log.keep(&of, &kept).await?;
        assert_eq!(open(bed).await.snapshot(&of).await?, Some(left));
    }
    assert_eq!(log.snapshot(&stream("account", "b")).await?, None);
    Ok(())
}

async fn streams_are_listed_by_kind_and_paged(bed: &dyn Bed) -> Answer {
    let log = open(bed).await;
    let names = ["a", "a/b", "b", "~"];
    for (kind, id) in ["account", "accoun", "account-2", "accounts"]
        .into_iter()
        .flat_map(|k| names.map(|n| (k, n)))
    {
        log.extend(&NewEvents { stream: stream(kind, id), ..new(0, "x", 2) }).await?;
    }
    let mut page = StreamPage { kind: "account".into(), after: None, limit: 3 };
    let first = log.streams(&page).await?;
    page.after = first.last().map(|last| last.stream.clone());
    let second = log.streams(&page).await?;
    let ids = |page: &[crate::StreamSummary]| {
        page.iter().map(|one| one.stream.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&first), ["account/a", "account/a/b", "account/b"]);
    assert_eq!(ids(&second), ["account/~"]);
    assert_eq!(first[0].version, 2);
    assert!(first[0].changed_at > 1_500_000_000_000);
    Ok(())
}

async fn text_of_events_comes_back_as_it_was(bed: &dyn Bed) -> Answer {
    let log = open(bed).await;
    let texts =
        ["", "\0", "ä\u{1f980}\u{202e}", "'; DROP TABLE event; --", "\\u0000 \\0 \"\n\r\t%_"];
    for (version, text) in (0..).zip(texts) {
        let events = Arc::new([json(text)]);
        log.extend(&NewEvents { note: text.into(), events, ..new(version, text, 1) }).await?;
    }
    let all = log.read(&stream("account", "a"), 0, 9).await?;
    let back: Vec<_> =
        all.iter().map(|one| (&*one.note, one.event.decode::<String>().ok())).collect();
    assert_eq!(back, texts.map(|text| (text, Some(text.to_owned()))));
    Ok(())
}

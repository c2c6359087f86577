//! What a journal keeps, and who may write.

use std::sync::Arc;

use futures_util::future::join_all;

use super::super::{
    Bed,
    kit::{
        Answer, LONG, begin, claim, commit, due, end, id, json, listed, message, messages, open,
        record, relay, release,
    },
};
use crate::{
    Claim, Commit, Event, Hold, Json, Mail, Query, Record, Release, State, StoreError, Unreadable,
};

pub(super) async fn a_journal_begins_once_and_is_read_back_after_the_store_was_opened_anew(
    bed: &dyn Bed,
) -> Answer {
    let store = open(bed).await;
    assert_eq!(store.load(&id("a")).await?, None);
    store.create(&begin("a", LONG)).await?;
    let again = store.create(&begin("a", LONG)).await;
    assert!(matches!(again, Err(StoreError::Exists(saga)) if saga == id("a")));
    store.append(&commit("a", 1, 1)).await?;
    let before = store.load(&id("a")).await?;
    drop(store);

    let store = open(bed).await;
    let journal = store.load(&id("a")).await?;
    assert_eq!(journal, before);
    let journal = journal.expect("it is there");
    assert_eq!((journal.epoch, journal.node.as_deref()), (1, Some("one")));
    let written = vec![begin("a", LONG).records[0].clone(), record(1, 1)];
    assert_eq!(journal.records, Ok(written));
    let again = store.create(&begin("a", LONG)).await;
    assert!(matches!(again, Err(StoreError::Exists(_))));
    Ok(())
}

pub(super) async fn an_append_needs_the_end_of_the_journal(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    store.create(&begin("a", LONG)).await?;
    let early = store.append(&commit("a", 1, 2)).await;
    assert!(matches!(early, Err(StoreError::Conflict { next: 1, .. })), "{early:?}");
    store.append(&commit("a", 1, 1)).await?;
    let again = store.append(&commit("a", 1, 1)).await;
    assert!(matches!(again, Err(StoreError::Conflict { next: 2, .. })), "{again:?}");
    let nowhere = store.append(&commit("b", 1, 1)).await;
    assert!(matches!(nowhere, Err(StoreError::NoSuchSaga(_))), "{nowhere:?}");
    let both = store.append(&commit("a", 7, 7)).await;
    assert!(matches!(both, Err(StoreError::Fenced { epoch: 7, .. })), "the epoch comes first");
    Ok(())
}

pub(super) async fn an_append_has_all_its_records_or_none(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    store.create(&begin("a", LONG)).await?;
    let batch = |from: u64| Commit {
        records: (from..from + 5).map(|sequence| record(1, sequence)).collect(),
        outbox: Arc::new([message("a", from, 0)]),
        ..commit("a", 1, from)
    };
    store.append(&batch(1)).await?;
    // Its last four records would fit.
    assert!(store.append(&batch(5)).await.is_err());
    let journal = store.load(&id("a")).await?.expect("it is there");
    assert_eq!(journal.records.map(|records| records.len()), Ok(6));
    assert_eq!(messages(store.outbox(&relay("one", LONG, 9)).await?), [message("a", 1, 0)]);
    Ok(())
}

pub(super) async fn of_two_writers_at_one_place_one_wins(bed: &dyn Bed) -> Answer {
    let (one, two) = (open(bed).await, open(bed).await);
    one.create(&begin("a", LONG)).await?;
    for sequence in 1..=20 {
        let commit = commit("a", 1, sequence);
        let writers = [&one, &two, &one, &two].map(|store| store.append(&commit));
        let won = join_all(writers).await.into_iter().filter(Result::is_ok).count();
        assert_eq!(won, 1, "of four writers at {sequence}");
    }
    let journal = two.load(&id("a")).await?.expect("it is there");
    assert_eq!(journal.records.map(|records| records.len()), Ok(21));
    Ok(())
}

pub(super) async fn an_older_epoch_can_neither_append_nor_renew_nor_release(
    bed: &dyn Bed,
) -> Answer {
    let (one, two) = (open(bed).await, open(bed).await);
    one.create(&begin("a", LONG)).await?;
    one.release(&release("a", 1, Some(0))).await?;
    assert_eq!(claim(&*two, due()).await, [("a".to_owned(), 2)]);

    let late = one.append(&commit("a", 1, 1)).await;
    assert!(matches!(late, Err(StoreError::Fenced { epoch: 1, .. })), "{late:?}");
    assert_eq!(one.renew(&[(id("a"), 1)], LONG).await?.lost, [id("a")]);
    one.release(&release("a", 1, Some(0))).await?;
    assert_eq!(claim(&*two, due()).await, [], "an old release frees nothing");

    two.append(&end("a", 2, 1)).await?;
    let late = one.append(&commit("a", 1, 2)).await;
    assert!(matches!(late, Err(StoreError::Fenced { .. })), "after the end too: {late:?}");
    Ok(())
}

pub(super) async fn a_journal_of_a_newer_format_is_told_as_such_and_blocks_no_other(
    bed: &dyn Bed,
) -> Answer {
    let store = open(bed).await;
    store.create(&begin("new", LONG)).await?;
    store.create(&begin("old", LONG)).await?;
    let newer = Record { format: Record::FORMAT + 1, ..record(1, 1) };
    store.append(&Commit { records: Arc::new([newer]), ..commit("new", 1, 1) }).await?;
    for saga in ["new", "old"] {
        store.release(&release(saga, 1, Some(0))).await?;
    }
    let all = Claim { node: "two".into(), lease: LONG, wanted: due() };
    let mut journals = store.claim(&all).await?;
    journals.sort_by(|one, two| one.saga.cmp(&two.saga));
    assert_eq!(journals.len(), 2);
    assert_eq!(journals[0].records, Err(Unreadable::Newer(Record::FORMAT + 1)));
    assert!(journals[1].records.is_ok());

    let blocked = Release { blocked: true, ..release("new", 2, Some(0)) };
    store.release(&blocked).await?;
    assert_eq!(listed(&*store, &Query::in_state(State::Blocked)).await, ["new"]);
    assert!(store.count().await?.contains(&(State::Blocked, 1)));
    Ok(())
}

pub(super) async fn text_comes_back_as_it_was(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    let texts = ["", "\0", "ä\u{1f980}\u{202e}", "'; DROP TABLE sagas; --", "\\u0000 \"\n\r\t%_"];
    let long = "x".repeat(Json::MAX - 2);
    let names = ["a'b", "a\"b", "%", "_", "a\\b", "$1"];
    for (saga, text) in names.into_iter().zip(texts.into_iter().chain([&*long])) {
        store.create(&begin(saga, LONG)).await?;
        let done = Event::Done { step: 0, output: json(text) };
        let records = Arc::new([Record::new(1, 1, u64::from(u32::MAX), done)]);
        let (note, due) = (Some(json(text)), Some(i64::MAX as u64));
        let hold = Hold::Park { due, note: note.clone() };
        store.append(&Commit { records: records.clone(), hold, ..commit(saga, 1, 1) }).await?;
        store.send(&Mail { saga: id(saga), key: "key".into(), body: json(text) }).await?;
        let journal = store.load(&id(saga)).await?.expect("it is there");
        let written = journal.records.expect("it can be read").pop();
        assert!(written.as_ref() == records.first(), "{saga}: another record");
        assert!(journal.note == note && journal.mail[0].body == json(text), "{saga}");
    }
    assert_eq!(listed(&*store, &Query::all().after(id("$1")).limit(1)).await, ["%"]);
    Ok(())
}

#![allow(clippy::expect_used, reason = "a test kit: what is not as expected fails the case")]

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use tokio::time::sleep;

use super::{
    Bed, Case,
    kit::{
        Answer, LONG, SHORT, begin, begin_as, claim, claim_for, commit, due, end, id, json, listed,
        mail, message, messages, open, park, record, relay, relayed, release, until,
    },
};
use crate::{
    Claim, Commit, Event, Hold, Json, Mail, MessageId, Query, Record, Relay, Relayed, Release,
    Retention, State, StoreError, Unreadable, Wanted,
};

macro_rules! all {
    ($($name:ident)*) => {
        pub(super) const ALL: &[Case] = &[$(Case {
            name: stringify!($name),
            run: |bed| async move { $name(bed).await.expect("the store answers as it must") }.boxed_local(),
        }),*];
    };
}

all! {
    a_journal_begins_once_and_is_read_back_after_the_store_was_opened_anew
    an_append_needs_the_end_of_the_journal
    an_append_has_all_its_records_or_none
    of_two_writers_at_one_place_one_wins
    an_older_epoch_can_neither_append_nor_renew_nor_release
    what_somebody_holds_nobody_claims_until_the_lease_lapses
    an_append_prolongs_the_lease
    a_lapsed_lease_that_nobody_claimed_is_still_good
    a_released_saga_is_claimed_at_once_and_its_note_is_handed_on
    a_parked_saga_is_due_at_its_time_and_not_before
    a_parked_saga_without_a_time_is_claimed_by_name_only
    what_has_ended_is_neither_claimed_nor_written
    the_one_that_is_due_for_longest_comes_first_and_never_more_than_wanted
    an_unknown_definition_is_left_to_who_knows_it_until_it_is_an_orphan
    sixteen_claimers_at_once_never_get_the_same_saga
    holders_that_fall_silent_are_counted_until_there_is_progress
    mail_comes_once_in_order_and_wakes_who_waits
    mail_that_arrives_before_the_park_is_not_slept_over
    mail_is_bounded_and_refused_after_the_end
    a_journal_of_a_newer_format_is_told_as_such_and_blocks_no_other
    lists_are_by_id_state_and_definition_and_paged
    the_oldest_finished_sagas_are_purged_by_number_and_age
    messages_are_relayed_in_order_and_those_of_one_saga_by_one_node_at_a_time
    a_relay_that_falls_silent_is_followed_by_another_and_keeps_nothing
    messages_that_failed_pause_without_holding_those_of_others
    a_message_outlives_its_saga
    text_comes_back_as_it_was
}

async fn a_journal_begins_once_and_is_read_back_after_the_store_was_opened_anew(
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

async fn an_append_needs_the_end_of_the_journal(bed: &dyn Bed) -> Answer {
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

async fn an_append_has_all_its_records_or_none(bed: &dyn Bed) -> Answer {
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

async fn of_two_writers_at_one_place_one_wins(bed: &dyn Bed) -> Answer {
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

async fn an_older_epoch_can_neither_append_nor_renew_nor_release(bed: &dyn Bed) -> Answer {
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

async fn what_somebody_holds_nobody_claims_until_the_lease_lapses(bed: &dyn Bed) -> Answer {
    let (one, two) = (open(bed).await, open(bed).await);
    one.create(&begin("held", LONG)).await?;
    one.create(&begin("lapsing", SHORT)).await?;
    assert_eq!(claim(&*two, Wanted::One(id("held"))).await, []);
    until("the lease lapses", async || !claim(&*two, due()).await.is_empty()).await;
    let journal = two.load(&id("lapsing")).await?.expect("it is there");
    assert_eq!((journal.epoch, journal.node.as_deref()), (2, Some("two")));
    assert_eq!(claim(&*two, Wanted::One(id("held"))).await, [], "the other still is held");
    Ok(())
}

async fn an_append_prolongs_the_lease(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    store.create(&begin("a", SHORT)).await?;
    store.create(&begin("b", SHORT)).await?;
    store.create(&begin("c", SHORT)).await?;
    store.append(&commit("a", 1, 1)).await?;
    let renewed = store.renew(&[(id("b"), 1), (id("nowhere"), 1)], LONG).await?;
    assert_eq!((renewed.lost, renewed.mail), (vec![id("nowhere")], vec![]));
    until("the lease of c lapses", async || {
        let claimed = claim(&*store, due()).await;
        assert!(claimed.iter().all(|(saga, _)| saga == "c"), "{claimed:?}");
        !claimed.is_empty()
    })
    .await;
    Ok(())
}

async fn a_lapsed_lease_that_nobody_claimed_is_still_good(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    store.create(&begin("a", Duration::ZERO)).await?;
    store.create(&begin("b", Duration::ZERO)).await?;
    sleep(Duration::from_millis(20)).await;
    store.append(&commit("a", 1, 1)).await?;
    assert_eq!(store.renew(&[(id("b"), 1)], LONG).await?.lost, []);
    assert_eq!(claim(&*store, due()).await, []);
    Ok(())
}

async fn a_released_saga_is_claimed_at_once_and_its_note_is_handed_on(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    store.create(&begin("a", LONG)).await?;
    let note = Some(json("two attempts so far"));
    store.release(&Release { note: note.clone(), ..release("a", 1, Some(0)) }).await?;
    let journal = store.load(&id("a")).await?.expect("it is there");
    assert_eq!((journal.note, journal.node, journal.crashes), (note.clone(), None, 0));
    let wanted = Claim { node: "two".into(), lease: LONG, wanted: due() };
    let journal = store.claim(&wanted).await?.pop().expect("it is free");
    assert_eq!((journal.note, journal.epoch, journal.crashes), (note, 2, 0));
    store.release(&release("a", 2, Some(0))).await?;
    assert_eq!(store.load(&id("a")).await?.expect("it is there").note, None, "replaced");
    Ok(())
}

async fn a_parked_saga_is_due_at_its_time_and_not_before(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    let now = store.now().await?;
    store.create(&begin("soon", LONG)).await?;
    store.create(&begin("late", LONG)).await?;
    store.append(&park("soon", 1, Some(now + 300))).await?;
    store.append(&park("late", 1, Some(now + 3_600_000))).await?;
    until("it is due", async || {
        let claimed = claim(&*store, due()).await;
        let now_is = store.now().await.expect("the clock is read");
        assert!(claimed.is_empty() || now_is >= now + 300, "early by {}", now + 300 - now_is);
        assert!(claimed.iter().all(|(saga, _)| saga == "soon"));
        !claimed.is_empty()
    })
    .await;
    let journal = store.load(&id("soon")).await?.expect("it is there");
    assert_eq!(journal.crashes, 0, "to be due is no crash");
    assert_eq!(claim(&*store, Wanted::One(id("late"))).await.len(), 1, "by name at any time");
    Ok(())
}

async fn a_parked_saga_without_a_time_is_claimed_by_name_only(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    store.create(&begin("a", LONG)).await?;
    store.append(&Commit { state: State::Stuck, ..park("a", 1, None) }).await?;
    sleep(SHORT).await;
    let anything = |orphaned| Wanted::Due { known: vec![], orphaned, except: vec![], limit: 9 };
    assert_eq!(claim(&*store, due()).await, []);
    assert_eq!(claim(&*store, anything(Duration::ZERO)).await, []);
    assert_eq!(store.renew(&[(id("a"), 1)], LONG).await?.lost, [id("a")], "it was given up");
    assert_eq!(claim(&*store, Wanted::One(id("a"))).await, [("a".to_owned(), 2)]);
    Ok(())
}

async fn what_has_ended_is_neither_claimed_nor_written(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    for (saga, state) in [("a", State::Completed), ("b", State::Compensated), ("c", State::Closed)]
    {
        store.create(&begin(saga, Duration::ZERO)).await?;
        store.append(&Commit { state, ..commit(saga, 1, 1) }).await?;
        assert_eq!(claim(&*store, Wanted::One(id(saga))).await, []);
        let late = store.append(&commit(saga, 1, 2)).await;
        assert!(matches!(late, Err(StoreError::Conflict { next: 2, .. })), "{late:?}");
        assert_eq!(store.renew(&[(id(saga), 1)], LONG).await?.lost, [id(saga)]);
        store.release(&release(saga, 1, Some(0))).await?;
    }
    sleep(Duration::from_millis(20)).await;
    assert_eq!(claim(&*store, due()).await, []);
    Ok(())
}

async fn the_one_that_is_due_for_longest_comes_first_and_never_more_than_wanted(
    bed: &dyn Bed,
) -> Answer {
    let store = open(bed).await;
    for saga in ["d", "b", "e", "a", "c"] {
        store.create(&begin(saga, LONG)).await?;
        store.release(&release(saga, 1, Some(1))).await?;
    }
    // "b" has been due for longest, then "d".
    for (saga, due) in [("a", 5_000), ("b", 1_000), ("c", 4_000), ("d", 2_000), ("e", 3_000)] {
        assert_eq!(claim(&*store, Wanted::One(id(saga))).await.len(), 1);
        store.release(&release(saga, 2, Some(due))).await?;
    }
    let some = |except: &[&str], limit| {
        let (known, except) = (vec![("test".into(), 1)], except.iter().map(|saga| id(saga)));
        Wanted::Due { known, orphaned: LONG, except: except.collect(), limit }
    };
    let names = |claimed: Vec<(String, u64)>| -> Vec<String> {
        claimed.into_iter().map(|(saga, _)| saga).collect()
    };
    assert_eq!(claim(&*store, some(&[], 0)).await, []);
    assert_eq!(names(claim(&*store, some(&["b"], 2)).await), ["d", "e"]);
    assert_eq!(names(claim(&*store, some(&["c", "nowhere"], 9)).await), ["b", "a"]);
    assert_eq!(names(claim(&*store, some(&[], 9)).await), ["c"]);
    Ok(())
}

async fn an_unknown_definition_is_left_to_who_knows_it_until_it_is_an_orphan(
    bed: &dyn Bed,
) -> Answer {
    let store = open(bed).await;
    store.create(&begin_as("a", ("test", 1), LONG)).await?;
    store.create(&begin_as("b", ("test", 2), LONG)).await?;
    store.create(&begin_as("c", ("other", 1), LONG)).await?;
    let now = store.now().await?;
    for (saga, since) in [("a", 10), ("b", 10), ("c", 60_000)] {
        store.release(&release(saga, 1, Some(now - since))).await?;
    }
    let known = vec![("test".into(), 1), ("third".into(), 3)];
    let orphaned = Duration::from_secs(30);
    let wanted = Wanted::Due { known, orphaned, except: vec![], limit: 9 };
    let mut claimed = claim(&*store, wanted).await;
    claimed.sort();
    assert_eq!(claimed, [("a".to_owned(), 2), ("c".to_owned(), 2)]);
    Ok(())
}

async fn sixteen_claimers_at_once_never_get_the_same_saga(bed: &dyn Bed) -> Answer {
    let stores = [open(bed).await, open(bed).await];
    for n in 0..64 {
        let saga = format!("s-{n:02}");
        stores[0].create(&begin(&saga, LONG)).await?;
        stores[0].release(&release(&saga, 1, Some(0))).await?;
    }
    let mut all = Vec::new();
    // A claim may pass over what another one is taking in this moment, so it is asked again.
    until("all are claimed", async || {
        let claimers = (0..16_usize).map(|n| {
            let (known, except) = (vec![("test".into(), 1)], vec![]);
            let wanted = Wanted::Due { known, orphaned: LONG, except, limit: 5 };
            claim(&*stores[n % 2], wanted)
        });
        let claimed: Vec<_> = join_all(claimers).await;
        assert!(claimed.iter().all(|few| few.len() <= 5), "more than wanted");
        all.extend(claimed.into_iter().flatten());
        all.len() >= 64
    })
    .await;
    all.sort();
    let each_once: Vec<_> = (0..64).map(|n| (format!("s-{n:02}"), 2)).collect();
    assert_eq!(all, each_once);
    Ok(())
}

async fn holders_that_fall_silent_are_counted_until_there_is_progress(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    store.create(&begin("a", SHORT)).await?;
    for crashes in 1..=3 {
        until("the lease lapses", async || !claim_for(&*store, due(), SHORT).await.is_empty())
            .await;
        assert_eq!(store.load(&id("a")).await?.expect("it is there").crashes, crashes);
    }
    store.append(&commit("a", 4, 1)).await?;
    assert_eq!(store.load(&id("a")).await?.expect("it is there").crashes, 0);
    Ok(())
}

async fn mail_comes_once_in_order_and_wakes_who_waits(bed: &dyn Bed) -> Answer {
    let (store, other) = (open(bed).await, open(bed).await);
    let nowhere = store.send(&mail("a", "x")).await;
    assert!(matches!(nowhere, Err(StoreError::NoSuchSaga(_))));
    store.create(&begin("a", LONG)).await?;
    assert!(other.send(&mail("a", "x")).await?);
    assert!(!store.send(&mail("a", "x")).await?, "the same again");
    assert!(store.send(&mail("a", "y")).await?);
    let keys = |from| {
        let store = store.clone();
        async move {
            let found = store.mail(&id("a"), from).await?.into_iter();
            let found = found.map(|post| format!("{} {}", post.number, post.key));
            Answer::Ok(found.collect::<Vec<_>>())
        }
    };
    assert_eq!(keys(0).await?, ["0 x", "1 y"]);
    assert_eq!(keys(1).await?, ["1 y"]);
    assert_eq!(claim(&*store, due()).await, [], "mail breaks no lease");
    assert_eq!(store.renew(&[(id("a"), 1)], LONG).await?.mail, [id("a")]);

    store.append(&Commit { mail_taken: 2, ..commit("a", 1, 1) }).await?;
    assert_eq!(store.renew(&[(id("a"), 1)], LONG).await?.mail, []);
    assert_eq!(store.load(&id("a")).await?.expect("it is there").mail, []);
    assert!(!store.send(&mail("a", "y")).await?, "taken, but not forgotten");

    store.append(&Commit { mail_taken: 2, ..park("a", 2, None) }).await?;
    assert_eq!(claim(&*store, due()).await, []);
    assert!(other.send(&mail("a", "z")).await?);
    let claim = Claim { node: "two".into(), lease: LONG, wanted: due() };
    let journal = store.claim(&claim).await?.pop().expect("it is awake");
    assert_eq!((journal.mail_taken, journal.crashes, journal.mail.len()), (2, 0, 1));
    assert_eq!((journal.mail[0].number, &journal.mail[0].body), (2, &json("z")));
    Ok(())
}

async fn mail_that_arrives_before_the_park_is_not_slept_over(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    for saga in ["parked", "released"] {
        store.create(&begin(saga, LONG)).await?;
        store.send(&mail(saga, "x")).await?;
    }
    let far = Some(store.now().await? + 3_600_000);
    store.append(&park("parked", 1, None)).await?;
    store.release(&release("released", 1, far)).await?;
    let mut claimed = claim(&*store, due()).await;
    claimed.sort();
    assert_eq!(claimed, [("parked".to_owned(), 2), ("released".to_owned(), 2)]);
    Ok(())
}

async fn mail_is_bounded_and_refused_after_the_end(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    store.create(&begin("a", LONG)).await?;
    for n in 0..Mail::MOST {
        assert!(store.send(&mail("a", &format!("key-{n}"))).await?);
    }
    let more = store.send(&mail("a", "more")).await;
    assert!(matches!(more, Err(StoreError::Full(_))), "{more:?}");
    assert!(!store.send(&mail("a", "key-7")).await?, "a second one needs no room");
    store.append(&end("a", 1, 1)).await?;
    let late = store.send(&mail("a", "late")).await;
    assert!(matches!(late, Err(StoreError::Ended(_))), "{late:?}");
    Ok(())
}

async fn a_journal_of_a_newer_format_is_told_as_such_and_blocks_no_other(bed: &dyn Bed) -> Answer {
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

async fn lists_are_by_id_state_and_definition_and_paged(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    for n in (0..6).rev() {
        let saga = format!("s-{n}");
        store.create(&begin_as(&saga, (["even", "odd"][n % 2], 1), LONG)).await?;
        if n < 3 {
            store.append(&end(&saga, 1, 1)).await?;
        }
    }
    let all = Query::all;
    assert_eq!(listed(&*store, &all().limit(2)).await, ["s-0", "s-1"]);
    assert_eq!(listed(&*store, &all().limit(3).after(id("s-1"))).await, ["s-2", "s-3", "s-4"]);
    assert_eq!(listed(&*store, &all().after(id("s-5"))).await, Vec::<String>::new());
    let running = Query::in_state(State::Running);
    assert_eq!(listed(&*store, &running).await, ["s-3", "s-4", "s-5"]);
    assert_eq!(listed(&*store, &running.of("odd")).await, ["s-3", "s-5"]);
    assert_eq!(listed(&*store, &all().of("even").limit(2)).await, ["s-0", "s-2"]);

    let mut counts = store.count().await?;
    counts.retain(|(_, count)| *count > 0);
    counts.sort_unstable();
    assert_eq!(counts, [(State::Running, 3), (State::Completed, 3)]);

    let now = store.now().await?;
    let found = store.query(&all()).await?;
    let (done, open) = (&found[0], &found[5]);
    assert_eq!((&*done.definition, done.version, done.records, done.epoch), ("even", 1, 2, 1));
    assert_eq!((&done.node, done.due, done.state), (&None, None, State::Completed));
    assert_eq!(open.node.as_deref(), Some("one"));
    assert!(open.due.is_some_and(|due| due > now), "{open:?}");
    assert!(done.created_at <= done.changed_at && done.changed_at <= now, "{done:?}");
    assert!(now - done.created_at < 60_000, "by the store's clock, and not the record's");
    Ok(())
}

async fn the_oldest_finished_sagas_are_purged_by_number_and_age(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    for saga in ["c", "a", "d", "b"] {
        store.create(&begin(saga, LONG)).await?;
        store.append(&end(saga, 1, 1)).await?;
        sleep(Duration::from_millis(20)).await;
    }
    store.create(&begin("running", Duration::ZERO)).await?;
    store.create(&begin("stuck", LONG)).await?;
    store.append(&Commit { state: State::Stuck, ..park("stuck", 1, None) }).await?;
    assert_eq!(store.purge(&Retention::newest(100).younger_than(LONG)).await?, 0);
    assert_eq!(store.purge(&Retention::newest(2)).await?, 2);
    assert_eq!(listed(&*store, &Query::all()).await, ["b", "d", "running", "stuck"]);
    assert_eq!(store.load(&id("c")).await?, None);
    store.create(&begin("c", LONG)).await?;
    let journal = store.load(&id("c")).await?.expect("begun anew");
    assert_eq!((journal.epoch, journal.records.map(|records| records.len())), (1, Ok(1)));
    sleep(Duration::from_millis(20)).await;
    let young = Duration::from_millis(1);
    assert_eq!(store.purge(&Retention::newest(100).younger_than(young)).await?, 2);
    assert_eq!(listed(&*store, &Query::all()).await, ["c", "running", "stuck"]);
    Ok(())
}

fn emitting(saga: &str, sequence: u64, indexes: std::ops::Range<u32>) -> Commit {
    Commit {
        outbox: indexes.map(|index| message(saga, sequence, index)).collect(),
        ..commit(saga, 1, sequence)
    }
}

async fn messages_are_relayed_in_order_and_those_of_one_saga_by_one_node_at_a_time(
    bed: &dyn Bed,
) -> Answer {
    let (store, other) = (open(bed).await, open(bed).await);
    store.create(&begin("a", LONG)).await?;
    store.create(&begin("b", LONG)).await?;
    // The later saga commits first, and a tenth message sorts behind the ninth.
    for commit in [emitting("b", 1, 0..2), emitting("a", 1, 0..12), emitting("b", 2, 0..1)] {
        store.append(&commit).await?;
    }
    assert_eq!(store.pending().await?.messages, 15);
    let of_a: Vec<_> = (0..12).map(|index| message("a", 1, index)).collect();
    let of_b = [message("b", 1, 0), message("b", 1, 1), message("b", 2, 0)];

    let first = Relay { sagas: 1, ..relay("one", LONG, 10) };
    assert_eq!(messages(store.outbox(&first).await?), of_a[..10], "in order, and no more of one");
    let behind = Relay { after: Some(id("b")), ..relay("two", LONG, 10) };
    assert_eq!(messages(other.outbox(&behind).await?), []);
    assert_eq!(messages(other.outbox(&relay("two", SHORT, 10)).await?), of_b, "what nobody has");
    for (store, node) in [(&store, "one"), (&other, "two"), (&store, "three")] {
        let again = messages(store.outbox(&relay(node, LONG, 10)).await?);
        assert!(again.is_empty() || again == of_b, "{node} has what another one has");
    }

    let nowhere = Relayed { sent: vec![MessageId::new(id("x"), 9, 9)], ..relayed("x", "one", &[]) };
    store.relayed(&[nowhere, relayed("a", "one", &of_a[..10])]).await?;
    assert_eq!(messages(other.outbox(&relay("two", LONG, 10)).await?), of_a[10..], "the rest");
    other.relayed(&[relayed("a", "two", &of_a[10..])]).await?;
    assert_eq!(store.pending().await?.messages, 3);
    Ok(())
}

async fn a_relay_that_falls_silent_is_followed_by_another_and_keeps_nothing(
    bed: &dyn Bed,
) -> Answer {
    let (store, other) = (open(bed).await, open(bed).await);
    store.create(&begin("a", LONG)).await?;
    store.append(&emitting("a", 1, 0..2)).await?;
    let both = messages(store.outbox(&relay("one", SHORT, 9)).await?);
    assert_eq!(both.len(), 2);
    until("its lease lapses", async || {
        let found = other.outbox(&relay("two", LONG, 9)).await.expect("it is answered");
        assert!(found.is_empty() || messages(found.clone()) == both);
        !found.is_empty()
    })
    .await;
    // It comes back: what it sent is sent, but neither may it free what it lost, nor have it pause.
    store.relayed(&[relayed("a", "one", &both[..1])]).await?;
    let failed = Relayed { pause: Some((Duration::ZERO, 7)), ..relayed("a", "one", &[]) };
    store.relayed(&[failed]).await?;
    assert_eq!(store.outbox(&relay("three", LONG, 9)).await?, []);
    other.relayed(&[relayed("a", "two", &[])]).await?;
    let left = store.outbox(&relay("three", LONG, 9)).await?;
    assert_eq!((left[0].failures, messages(left)), (0, both[1..].to_vec()));
    Ok(())
}

async fn messages_that_failed_pause_without_holding_those_of_others(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    for saga in ["a", "b"] {
        store.create(&begin(saga, LONG)).await?;
        store.append(&emitting(saga, 1, 0..1)).await?;
    }
    assert_eq!(store.outbox(&relay("one", LONG, 9)).await?.len(), 2);
    let failed = Relayed { pause: Some((SHORT, 3)), ..relayed("a", "one", &[]) };
    store.relayed(&[failed, relayed("b", "one", &[message("b", 1, 0)])]).await?;
    let pending = store.pending().await?;
    assert_eq!((pending.messages, pending.failing), (1, 1));
    store.append(&emitting("a", 2, 0..1)).await?;
    store.append(&emitting("b", 2, 0..1)).await?;
    let other = messages(store.outbox(&relay("two", LONG, 9)).await?);
    assert!(other.contains(&message("b", 2, 0)));
    until("the pause is over", async || {
        let found = store.outbox(&relay("two", LONG, 9)).await.expect("it is answered");
        for bundle in &found {
            assert_eq!((bundle.saga.as_str(), bundle.failures), ("a", 3));
        }
        !found.is_empty()
    })
    .await;
    let oldest = store.pending().await?.oldest.expect("two wait");
    assert!(oldest >= SHORT, "older than the pause: {oldest:?}");
    Ok(())
}

async fn a_message_outlives_its_saga(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    store.create(&begin("a", LONG)).await?;
    let last = Commit { outbox: Arc::new([message("a", 1, 0)]), ..end("a", 1, 1) };
    store.append(&last).await?;
    assert_eq!(store.purge(&Retention::newest(0)).await?, 1);
    assert_eq!(messages(store.outbox(&relay("one", LONG, 9)).await?), [message("a", 1, 0)]);
    Ok(())
}

async fn text_comes_back_as_it_was(bed: &dyn Bed) -> Answer {
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

//! Who holds a saga, and who gets it next.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::super::{
    Bed,
    kit::{
        Answer, LONG, SHORT, begin, begin_as, claim, claim_for, commit, due, id, json, open, park,
        release, until,
    },
};
use crate::{Claim, Commit, Release, State, StoreError, Wanted};

pub(super) async fn what_somebody_holds_nobody_claims_until_the_lease_lapses(
    bed: &dyn Bed,
) -> Answer {
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

pub(super) async fn an_append_prolongs_the_lease(bed: &dyn Bed) -> Answer {
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

pub(super) async fn a_lapsed_lease_that_nobody_claimed_is_still_good(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    store.create(&begin("a", Duration::ZERO)).await?;
    store.create(&begin("b", Duration::ZERO)).await?;
    sleep(Duration::from_millis(20)).await;
    store.append(&commit("a", 1, 1)).await?;
    assert_eq!(store.renew(&[(id("b"), 1)], LONG).await?.lost, []);
    assert_eq!(claim(&*store, due()).await, []);
    Ok(())
}

pub(super) async fn a_released_saga_is_claimed_at_once_and_its_note_is_handed_on(
    bed: &dyn Bed,
) -> Answer {
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

pub(super) async fn a_parked_saga_is_due_at_its_time_and_not_before(bed: &dyn Bed) -> Answer {
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

pub(super) async fn a_parked_saga_without_a_time_is_claimed_by_name_only(bed: &dyn Bed) -> Answer {
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

pub(super) async fn what_has_ended_is_neither_claimed_nor_written(bed: &dyn Bed) -> Answer {
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

pub(super) async fn the_one_that_is_due_for_longest_comes_first_and_never_more_than_wanted(
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

pub(super) async fn an_unknown_definition_is_left_to_who_knows_it_until_it_is_an_orphan(
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

pub(super) async fn sixteen_claimers_at_once_never_get_the_same_saga(bed: &dyn Bed) -> Answer {
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

pub(super) async fn holders_that_fall_silent_are_counted_until_there_is_progress(
    bed: &dyn Bed,
) -> Answer {
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

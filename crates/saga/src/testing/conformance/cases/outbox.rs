//! Messages that wait to be relayed.

use std::{slice, sync::Arc, time::Duration};

use tokio::time::sleep;

use super::super::{
    Bed,
    kit::{
        Answer, LONG, SHORT, begin, commit, end, id, listed, message, messages, open, relay,
        relayed, until,
    },
};
use crate::{Commit, MessageId, Outgoing, Query, Relay, Relayed, Retention, StoreError};

fn emitting(saga: &str, sequence: u64, indexes: std::ops::Range<u32>) -> Commit {
    Commit {
        outbox: indexes.map(|index| message(saga, sequence, index)).collect(),
        ..commit(saga, 1, sequence)
    }
}

pub(super) async fn messages_are_relayed_in_order_and_those_of_one_saga_by_one_node_at_a_time(
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

pub(super) async fn a_relay_that_falls_silent_is_followed_by_another_and_keeps_nothing(
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

pub(super) async fn messages_that_failed_pause_without_holding_those_of_others(
    bed: &dyn Bed,
) -> Answer {
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

pub(super) async fn a_saga_stays_until_its_messages_are_relayed(bed: &dyn Bed) -> Answer {
    let store = open(bed).await;
    for (saga, messages) in [("a", 0..2), ("b", 0..0), ("c", 0..0)] {
        store.create(&begin(saga, LONG)).await?;
        let outbox = messages.map(|index| message(saga, 1, index)).collect();
        store.append(&Commit { outbox, ..end(saga, 1, 1) }).await?;
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(store.purge(&Retention::newest(1)).await?, 1, "b");
    assert_eq!(listed(&*store, &Query::all()).await, ["a", "c"]);
    let none = Retention::newest(0).younger_than(Duration::ZERO);
    assert_eq!(store.purge(&none).await?, 1, "c");
    let exists = store.create(&begin("a", LONG)).await;
    assert!(matches!(exists, Err(StoreError::Exists(_))), "{exists:?}");

    let waiting = messages(store.outbox(&relay("one", LONG, 9)).await?);
    assert_eq!(waiting, [message("a", 1, 0), message("a", 1, 1)]);
    store.relayed(&[relayed("a", "one", &waiting[..1])]).await?;
    assert_eq!(store.purge(&none).await?, 0, "the second one waits");
    store.relayed(&[relayed("a", "one", &waiting[1..])]).await?;
    assert_eq!(store.purge(&none).await?, 1);
    assert_eq!(listed(&*store, &Query::all()).await, [""; 0]);
    Ok(())
}

pub(super) async fn what_a_late_relay_says_of_an_earlier_life_does_not_touch_the_later_one(
    bed: &dyn Bed,
) -> Answer {
    let (store, late) = (open(bed).await, open(bed).await);
    let mut lives = [7, 8].map(|life| {
        let Outgoing { id, message } = message("a", 1, 0);
        Outgoing { id: id.of_life(life), message }
    });
    lives[1].message.topic = "other".into();
    for life in &lives {
        store.create(&begin("a", LONG)).await?;
        store.append(&Commit { outbox: Arc::new([life.clone()]), ..end("a", 1, 1) }).await?;
        let waiting = messages(store.outbox(&relay("one", LONG, 9)).await?);
        assert_eq!(waiting, slice::from_ref(life));
        if *life == lives[0] {
            store.relayed(&[relayed("a", "one", &waiting)]).await?;
            assert_eq!(store.purge(&Retention::newest(0)).await?, 1);
        }
    }
    late.relayed(&[relayed("a", "frozen", &lives[..1])]).await?;
    assert_eq!(store.pending().await?.messages, 1);
    store.relayed(&[relayed("a", "one", &lives[1..])]).await?;
    assert_eq!(store.pending().await?.messages, 0);
    Ok(())
}

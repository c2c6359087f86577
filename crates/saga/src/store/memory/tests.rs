use super::*;
use crate::{Event, Hold, Json, Message, MessageId, Outgoing, Record};

const LEASE: Duration = Duration::from_secs(30);

fn begin(n: u32) -> Begin {
    let record = Record::new(0, 1, 0, Event::Unblocked);
    Begin {
        saga: format!("saga-{n:04}").parse().unwrap(),
        definition: "test".into(),
        version: 1,
        node: "one".into(),
        lease: LEASE,
        records: Arc::new([record]),
    }
}

fn end(n: u32, messages: u32) -> Commit {
    let saga = begin(n).saga;
    let message = Message::new("x".into(), Json::encode(&1).unwrap());
    let outbox = (0..messages).map(|index| Outgoing {
        id: MessageId::new(saga.clone(), 1, index),
        message: message.clone(),
    });
    Commit {
        saga: saga.clone(),
        epoch: 1,
        records: Arc::new([Record::new(1, 1, 0, Event::Unblocked)]),
        state: State::Completed,
        hold: Hold::Keep(LEASE),
        mail_taken: 0,
        outbox: outbox.collect(),
    }
}

#[tokio::test(start_paused = true)]
async fn finished_sagas_make_room_and_unfinished_ones_are_refused() {
    let store = MemoryStore::with_limits(3, 10);
    for n in 0..100 {
        store.create(&begin(n)).await.unwrap();
        store.append(&end(n, 0)).await.unwrap();
    }
    assert_eq!(store.purged(), 90);
    assert!(store.load(&begin(89).saga).await.unwrap().is_none());
    assert!(store.load(&begin(90).saga).await.unwrap().is_some());

    for n in 200..203 {
        store.create(&begin(n)).await.unwrap();
    }
    let full = store.create(&begin(203)).await.unwrap_err();
    assert!(gusset_call::refusal_in(&full).is_some(), "answered as 503");
    store.append(&end(200, 0)).await.unwrap();
    store.create(&begin(203)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn messages_that_nobody_relays_end_in_a_refusal_without_an_effect() {
    let store = MemoryStore::with_limits(10, 10);
    let most = MemoryStore::MESSAGES as u32;
    for n in 0..3 {
        store.create(&begin(n)).await.unwrap();
    }
    store.append(&end(0, most - 1)).await.unwrap();
    let full = store.append(&end(1, 2)).await;
    assert!(matches!(full, Err(StoreError::Full(_))), "{full:?}");
    assert_eq!(store.count().await.unwrap(), [(State::Running, 2), (State::Completed, 1)]);
    store.append(&end(2, 1)).await.unwrap();
    let sent = vec![MessageId::new(begin(0).saga, 1, 7)];
    let relayed = Relayed { saga: begin(0).saga, node: "x".into(), sent, pause: None };
    store.relayed(&[relayed]).await.unwrap();
    store.append(&end(1, 1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn those_with_messages_stay_beside_the_others_and_are_the_first_to_go_after() {
    let store = MemoryStore::with_limits(10, 2);
    for n in 0..5 {
        store.create(&begin(n)).await.unwrap();
        store.append(&end(n, u32::from(n < 2))).await.unwrap();
    }
    let there = async |n| store.load(&begin(n).saga).await.unwrap().is_some();
    assert!(there(0).await && there(1).await && there(3).await && there(4).await);
    assert_eq!((store.purged(), there(2).await), (1, false));
    let sent = vec![MessageId::new(begin(1).saga, 1, 0)];
    let relayed = Relayed { saga: begin(1).saga, node: "x".into(), sent, pause: None };
    store.relayed(&[relayed]).await.unwrap();
    assert_eq!(store.purge(&Retention::newest(2)).await.unwrap(), 1);
    assert!(there(0).await && !there(1).await && there(3).await && there(4).await);
}

//! Nodes that share the outbox of one PostgreSQL.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use gusset_saga::{
    BoxError, MessageId, Orchestrator, OutboxRelay, Outgoing, PostgresStore, RelayOptions, Saga,
    SagaId, StepError, Store,
};
use tokio::time::{Instant, sleep};

use crate::harness::{Server, times};

/// Two messages in each of two steps, of so many sagas.
async fn talk(store: PostgresStore, name: &str, sagas: usize) {
    let mut saga = Saga::define("talks", 1);
    for step in ["a", "b"] {
        saga.step(step)
            .run(|cx, (): ()| async move {
                cx.emit("first", &1).map_err(StepError::rejected)?;
                cx.emit("second", &2).map_err(StepError::rejected)
            })
            .no_undo();
    }
    let talks = saga.finish(()).unwrap();
    let orchestrator = Orchestrator::new(store);
    let all = (0..sagas).map(|n| {
        let id: SagaId = format!("{name}-{n}").parse().unwrap();
        orchestrator.run_as(&talks, id, ())
    });
    for finished in join_all(all).await {
        finished.unwrap();
    }
}

#[derive(Clone, Default)]
struct Broker(Arc<Mutex<Vec<MessageId>>>);

impl Broker {
    fn relay(&self, store: PostgresStore, lease: Duration) -> OutboxRelay {
        let sent = self.0.clone();
        let target = move |message: Outgoing| {
            let sent = sent.clone();
            async move {
                sleep(Duration::from_millis(1)).await;
                sent.lock().unwrap().push(message.id);
                Ok::<_, BoxError>(())
            }
        };
        let options = RelayOptions::default().lease(lease).look_every(Duration::from_millis(50));
        OutboxRelay::spawn(Arc::new(store), target, options)
    }

    /// How often each came, if the first of each came after those before it.
    fn in_order(&self) -> HashMap<MessageId, usize> {
        let (mut times, mut last) = (HashMap::new(), HashMap::new());
        for id in &*self.0.lock().unwrap() {
            let came = times.entry(id.clone()).and_modify(|came| *came += 1).or_insert(1);
            if *came == 1 {
                let before = last.insert(id.saga.clone(), id.clone());
                assert!(before.is_none_or(|before| before < *id), "{id} came late");
            }
        }
        times
    }
}

async fn until_empty(store: &PostgresStore) {
    let patience = Instant::now() + Duration::from_secs(120);
    while store.pending().await.unwrap().messages > 0 {
        assert!(Instant::now() < patience, "{:?}", store.pending().await);
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn four_nodes_share_one_outbox_and_send_nothing_twice() {
    let server = Server::start();
    let store = server.store().await;
    let sagas = times(1_000, 10_000);
    let broker = Broker::default();
    let mut relays = Vec::new();
    for _ in 0..4 {
        relays.push(broker.relay(server.store().await, Duration::from_secs(30)));
    }
    talk(store.clone(), "s", sagas).await;
    until_empty(&store).await;
    let sent = broker.in_order();
    assert_eq!(sent.len(), sagas * 4);
    assert!(sent.values().all(|came| *came == 1));
    let shares: Vec<_> = relays.iter().map(|relay| relay.stats().relayed).collect();
    assert!(shares.iter().all(|share| *share > sagas as u64 / 20), "{shares:?}");
    assert_eq!(server.psql("SELECT count(*) FROM gusset.relaying"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_that_fall_silent_had_taken_is_sent_by_the_others() {
    let server = Server::start();
    let store = server.store().await;
    let broker = Broker::default();
    talk(store.clone(), "s", 300).await;
    for _ in 0..10 {
        let dies = broker.relay(server.store().await, Duration::from_secs(1));
        sleep(Duration::from_millis(30)).await;
        drop(dies);
    }
    let _lives = broker.relay(server.store().await, Duration::from_secs(1));
    until_empty(&store).await;
    assert_eq!(broker.in_order().len(), 300 * 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_format_1_are_added_to_while_their_nodes_go_on() {
    let server = Server::start();
    let old = server.store().await;
    talk(old.clone(), "old", 3).await;
    server.psql(
        "DROP TABLE gusset.relaying, gusset.streams, gusset.events, gusset.snapshots; ALTER TABLE gusset.outbox DROP COLUMN at, DROP COLUMN life; UPDATE gusset.format SET version = 1;
         CREATE TABLE gusset.relay (one boolean PRIMARY KEY DEFAULT true, node text, until int8 NOT NULL DEFAULT 0)",
    );
    let new = join_all((0..4).map(|_| server.store())).await.pop().unwrap();
    assert_eq!(server.psql("SELECT version, compatible FROM gusset.format"), "2|1");
    talk(old, "older", 3).await;
    // As a node of format 1 says it.
    server.psql(
        "INSERT INTO gusset.outbox (saga, sequence, place, message) VALUES ('oldest', 1, 0, '{\"topic\":\"x\",\"body\":1}')",
    );
    let pending = new.pending().await.unwrap();
    assert_eq!(pending.messages, 25);
    assert!(pending.oldest.unwrap() < Duration::from_secs(60), "as old as the update");
    let broker = Broker::default();
    let _relay = broker.relay(new.clone(), Duration::from_secs(30));
    until_empty(&new).await;
    let sent = broker.in_order();
    assert_eq!(sent.len(), 25);
    let of_no_life: Vec<_> = sent.keys().filter(|id| id.life == 0).collect();
    assert_eq!(of_no_life.len(), 13, "what was there, and what a node of format 1 adds");
}

//! Foreign code runs under no lock of the broker: it may ask the broker for its numbers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on shall fail")]

mod common;

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use bytes::Bytes;
use common::{listen, millis, secs, settle, stats};
use gusset_broker::{
    Broker, Filter, Limits, MemoryEngine, Message, MessageId, OrderBy, Pattern, Policy, Retention,
    Start, WhenExpired, WhenFull, WhenUnheard,
};

/// Ends well within ten seconds on a thread of its own, with a runtime.
fn ends<F: Future<Output = ()>>(story: impl FnOnce() -> F + Send + 'static) {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(story());
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(10)).unwrap();
}

/// A payload whose owner asks the broker for its numbers when it goes.
struct Nosy(Broker);

impl AsRef<[u8]> for Nosy {
    fn as_ref(&self) -> &[u8] {
        b"7"
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        let _ = self.0.stats();
    }
}

/// Panics when it goes.
struct Bomb(&'static [u8]);

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        self.0
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("boom");
    }
}

fn nosy(broker: &Broker) -> Bytes {
    Bytes::from_owner(Nosy(broker.clone()))
}

fn keyed(broker: &Arc<OnceLock<Broker>>) -> OrderBy {
    let broker = broker.clone();
    OrderBy::key("nosy", move |_| {
        let _ = broker.get().map(Broker::stats);
        Some(Cow::Borrowed("k"))
    })
}

#[test]
fn a_payload_dropped_for_a_message_with_an_id_may_ask_the_broker() {
    ends(|| async {
        let broker = Broker::new();
        let policy = Policy::new().capacity(1).when_full(WhenFull::DropOldest);
        broker.declare("g", "a", policy).await.unwrap();
        for name in ["1", "2"] {
            let message = Message::new("a", nosy(&broker)).unwrap().with_id(MessageId::named(name));
            broker.publish_message(message).await.unwrap();
        }
        assert_eq!(stats(&broker, "g").dropped, 1);
    });
}

#[test]
fn a_key_of_a_message_with_an_id_may_ask_the_broker() {
    ends(|| async {
        let broker = Broker::new();
        let cell = Arc::new(OnceLock::from(broker.clone()));
        let group = broker.subscribe("a").group("g").ordered_by(keyed(&cell));
        group.declare().await.unwrap();
        let message = Message::new("a", "7").unwrap().with_id(MessageId::named("1"));
        broker.publish_message(message).await.unwrap();
    });
}

#[test]
fn a_key_of_a_dead_letter_may_ask_the_broker() {
    ends(|| async {
        let broker = Broker::new();
        let cell = Arc::new(OnceLock::from(broker.clone()));
        let mut pull =
            broker.subscribe("a").group("g").ordered_by(keyed(&cell)).pull_raw().await.unwrap();
        broker.publish("a", &7).await.unwrap();
        pull.next().await.unwrap().term("bad").await.unwrap();
        broker.dead_letters().redrive_all(&Filter::all()).await.unwrap();
    });
}

#[test]
fn a_retained_payload_that_is_too_old_may_ask_the_broker() {
    ends(|| async {
        let retention = Retention::new(Pattern::new(">").unwrap()).age(Duration::ZERO);
        let engine = MemoryEngine::new(Limits::new(), Some(retention), WhenUnheard::Drop);
        let broker = Broker::on(engine);
        let message = Message::new("a", nosy(&broker)).unwrap();
        broker.publish_message(message).await.unwrap();
        tokio::time::sleep(millis(5)).await;
        broker.subscribe("a").group("g").starting(Start::First).declare().await.unwrap();
    });
}

/// Unheard letters go back by publishing.
#[test]
fn a_payload_dropped_by_a_redrive_may_ask_the_broker() {
    ends(|| async {
        let engine = MemoryEngine::new(Limits::new(), None, WhenUnheard::Bury);
        let broker = Broker::on(engine);
        for _ in 0..2 {
            let message = Message::new("a", nosy(&broker)).unwrap();
            broker.publish_message(message).await.unwrap();
        }
        let policy = Policy::new().capacity(1).when_full(WhenFull::DropOldest);
        broker.declare("g", "a", policy).await.unwrap();
        broker.dead_letters().redrive_all(&Filter::all()).await.unwrap();
        assert_eq!(stats(&broker, "g").dropped, 0, "redriving never drops another message");
    });
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_panics_when_dropped_ends_neither_a_worker_nor_a_publisher() {
    let broker =
        Broker::on(MemoryEngine::new(Limits::new().dead_letters(1), None, WhenUnheard::Drop));
    let bomb = || Message::new("a", Bytes::from_owner(Bomb(b"7"))).unwrap();
    let policy = Policy::new().capacity(2).when_full(WhenFull::DropOldest);
    broker.declare("g", "a", policy.when_expired(WhenExpired::Drop)).await.unwrap();
    // Expires before anybody takes it, and is dropped for room.
    for _ in 0..4 {
        broker.publish_message(bomb().with_ttl(millis(1))).await.unwrap();
    }
    secs(1).await;
    let (_guard, seen) = listen(&broker, "a", "g").await;
    settle().await;
    assert_eq!((stats(&broker, "g").dropped, stats(&broker, "g").expired), (2, 2));
    // Undecodable, so each makes room for the next among the dead letters.
    for _ in 0..3 {
        broker
            .publish_message(Message::new("a", Bytes::from_owner(Bomb(b"no number"))).unwrap())
            .await
            .unwrap();
        settle().await;
    }
    assert_eq!(broker.stats().dead_letters_dropped, 2);
    broker.publish("a", &9).await.unwrap();
    settle().await;
    assert_eq!(seen.all(), [9]);
    broker.dead_letters().purge(&Filter::all()).await.unwrap();
}

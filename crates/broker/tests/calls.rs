//! Who is called for a message takes it, or another is called in its stead.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use bytes::Bytes;
use common::{Log, listen, millis, secs, settle};
use gusset_broker::{Broker, Delivery, Message};
use gusset_call::BoxError;
use tokio::time::timeout;
use tower::service_fn;

#[tokio::test(start_paused = true)]
async fn a_pull_that_is_given_up_swallows_no_call() {
    let broker = Broker::new();
    let mut pull = broker.subscribe("a").group("g").pull::<u32>().await.unwrap();
    assert!(timeout(millis(1), pull.next()).await.is_err());
    let (_guard, seen) = listen(&broker, "a", "g").await;
    settle().await;
    broker.publish("a", &7).await.unwrap();
    secs(60).await;
    assert_eq!(seen.all(), [7]);
}

#[tokio::test(start_paused = true)]
async fn a_pull_that_is_given_up_when_it_was_called_calls_another() {
    let broker = Broker::new();
    let mut pull = broker.subscribe("a").group("g").pull::<u32>().await.unwrap();
    let (_guard, seen) = {
        let mut next = tokio_test::task::spawn(pull.next());
        assert!(next.poll().is_pending());
        let other = listen(&broker, "a", "g").await;
        settle().await;
        broker.publish("a", &7).await.unwrap();
        assert!(next.is_woken());
        other
    };
    secs(60).await;
    assert_eq!(seen.all(), [7]);
}

/// Which of two branches of a select is seen first is left to chance, hence the rounds.
#[tokio::test(start_paused = true)]
async fn a_worker_that_is_told_to_go_on_swallows_no_call() {
    for round in 0..40 {
        let (broker, seen) = (Broker::new(), Log::default());
        let noted = seen.clone();
        let slow = service_fn(move |delivery: Delivery<u32>| {
            noted.note(*delivery.body());
            async {
                secs(10).await;
                Ok::<_, BoxError>(())
            }
        });
        let group = || broker.subscribe("a").group("g").concurrency(1);
        let _called = group().handle(slow.clone()).await.unwrap();
        settle().await;
        let told = group().handle(slow).await.unwrap();
        settle().await;
        told.resume();
        broker.publish("a", &1).await.unwrap();
        settle().await;
        broker.publish("a", &2).await.unwrap();
        settle().await;
        assert_eq!(seen.all(), [1, 2], "round {round}");
    }
}

struct Bomb;

impl AsRef<[u8]> for Bomb {
    fn as_ref(&self) -> &[u8] {
        b"7"
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a payload that does not like to go");
    }
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_panics_when_it_goes_ends_no_worker() {
    let (broker, seen) = (Broker::new(), Log::default());
    let noted = seen.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note(*delivery.body());
        async { Ok::<_, BoxError>(()) }
    });
    let one = broker.subscribe("a").group("g").concurrency(1);
    let _guard = one.handle(handler).await.unwrap();
    for _ in 0..2 {
        let bomb = Message::new("a", Bytes::from_owner(Bomb)).unwrap();
        broker.publish_message(bomb).await.unwrap();
    }
    broker.publish("a", &8).await.unwrap();
    settle().await;
    broker.publish("a", &9).await.unwrap();
    settle().await;
    assert_eq!(seen.all(), [7, 7, 8, 9]);
}

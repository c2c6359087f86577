use std::time::{Duration, SystemTime};

use gusset_broker::{Broker, Delivery, Error, Start, Subscription};
use gusset_call::BoxError;
use tower::service_fn;

use crate::harness::{Log, Server, connect, dead, fail, hasty, listen, until};

async fn begin(broker: &Broker, group: &str, start: Start) -> (Subscription, Log<u32>) {
    let log = Log::default();
    let noted = log.clone();
    let subscription = broker
        .subscribe("order.*")
        .group(group)
        .starting(start)
        .handle(service_fn(move |delivery: Delivery<u32>| {
            noted.note(*delivery.body());
            async { Ok::<_, BoxError>(()) }
        }))
        .await
        .unwrap();
    (subscription, log)
}

#[expect(clippy::disallowed_methods, reason = "servers note times of the wall clock")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_begins_with_the_first_with_a_number_or_with_a_time() {
    let server = Server::start();
    let options = || server.options().retain(Duration::from_secs(3_600));
    let broker = connect(options()).await;
    assert!(broker.capabilities().replay);
    let (_stock, stock) = listen(&broker, "order.*", "stock").await;
    let mut sequences = Vec::new();
    for n in 0..5 {
        sequences.push(broker.publish("order.created", &n).await.unwrap().sequence.unwrap());
    }
    stock.has(5).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let noon = wall_clock();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for n in 5..8 {
        broker.publish("order.created", &n).await.unwrap();
    }
    stock.has(8).await;
    // One that does not know that the past is kept.
    let other = server.broker().await;
    assert!(other.capabilities().replay, "it is as whoever made the stream wanted it");
    let sorted = |log: &Log<u32>| {
        let mut all = log.all();
        all.sort_unstable();
        all
    };
    for (group, start, first) in [
        ("first", Start::First, 0),
        ("numbered", Start::Sequence(sequences[3]), 3),
        ("timed", Start::Time(noon), 5),
        ("new", Start::New, 8),
    ] {
        let (subscription, log) = begin(&other, group, start).await;
        log.has(8 - first).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(sorted(&log), (u32::try_from(first).unwrap()..8).collect::<Vec<_>>(), "{group}");
        subscription.close().await;
        // A group that is there goes on where it is.
        let (_subscription, log) = begin(&other, group, Start::First).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(log.len(), 0, "{group}");
    }
    assert_eq!(stock.len(), 8, "who was there hears nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_keeps_nothing_settled_says_what_to_do() {
    let server = Server::start();
    let broker = server.broker().await;
    assert!(!broker.capabilities().replay);
    assert_eq!(broker.publish("order.created", &1).await.unwrap().sequence, None);
    let refused = broker.subscribe(">").group("g").starting(Start::First).declare().await;
    assert!(matches!(refused, Err(Error::Unsupported { engine: "nats", .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_redriven_is_not_seen_by_groups_that_begin_with_the_past() {
    let server = Server::start();
    let broker = connect(server.options().retain(Duration::from_secs(3_600))).await;
    let (bad, _) = fail(&broker, "bad", hasty().max_attempts(1)).await;
    broker.publish("order.created", &1).await.unwrap();
    let letter = dead(&broker, 1).await.remove(0);
    bad.close().await;
    broker.dead_letters().redrive(letter.id).await.unwrap();
    let operator = server.operator().await;
    until("it is there twice", async || operator.messages("gusset").await == 2).await;
    let (_subscription, log) = begin(&broker, "late", Start::First).await;
    broker.publish("order.created", &2).await.unwrap();
    log.has(2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut all = log.all();
    all.sort_unstable();
    assert_eq!(all, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_began_with_a_number_is_made_again_when_it_is_gone() {
    let server = Server::start();
    let broker = connect(server.options().retain(Duration::from_secs(3_600))).await;
    broker.publish("order.created", &1).await.unwrap();
    broker.publish("order.created", &2).await.unwrap();
    let (_subscription, log) = begin(&broker, "g", Start::Sequence(2)).await;
    log.has(1).await;
    let operator = server.operator().await;
    operator.api("STREAM.DELETE.gusset", serde_json::json!({})).await;
    broker.publish("order.created", &3).await.unwrap();
    log.has(2).await;
    assert_eq!(log.all(), [2, 3]);
}

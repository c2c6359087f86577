//! What a quick worker has set aside for itself, and what becomes of it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::time::Duration;

use common::{Log, millis, settle, stats};
use gusset_broker::{Broker, Delivery, Policy};
use gusset_call::{BoxError, Deadline};
use tokio::time::sleep;
use tokio_test::{assert_pending, task};
use tower::service_fn;

const MANY: u32 = 100;

/// A group in which so many messages wait already, so that workers find them together.
async fn crowded() -> Broker {
    let broker = Broker::new();
    broker.declare("g", ">", Policy::new()).await.unwrap();
    for n in 0..MANY {
        broker.publish("tick", &n).await.unwrap();
    }
    broker
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_waits_holds_nothing_that_another_could_take() {
    let broker = crowded().await;
    let log = Log::default();
    let noted = log.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let (n, noted) = (*delivery.body(), noted.clone());
        async move {
            // In the midst of what was set aside with it.
            if n == 40 {
                std::future::pending::<()>().await;
            }
            noted.note((n, delivery.attempt().number()));
            Ok::<_, BoxError>(())
        }
    });
    let _guard = broker.subscribe(">").group("g").concurrency(2).handle(handler).await.unwrap();
    settle().await;
    let mut seen = log.all();
    seen.sort_unstable();
    let others: Vec<_> = (0..MANY).filter(|n| *n != 40).map(|n| (n, 1)).collect();
    assert_eq!(seen, others, "each once, and charged once");
    let stats = stats(&broker, "g");
    assert_eq!((stats.in_flight, stats.acked, stats.redelivered), (1, 99, 0));
    assert_eq!((stats.delivered, stats.returned), (100, 0), "nobody saw what went back");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_waits_now_and_then_sees_the_order_of_coming() {
    let broker = crowded().await;
    let log = Log::default();
    let noted = log.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note(*delivery.body());
        async move {
            if delivery.body() % 9 == 5 {
                sleep(millis(1)).await;
            }
            Ok::<_, BoxError>(())
        }
    });
    let _guard = broker.subscribe(">").group("g").concurrency(1).handle(handler).await.unwrap();
    sleep(millis(100)).await;
    assert_eq!(log.all(), (0..MANY).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_is_done_has_left_the_group_before_a_handler_waits() {
    let broker = crowded().await;
    let handler = service_fn(|delivery: Delivery<u32>| async move {
        if *delivery.body() == 40 {
            std::future::pending::<()>().await;
        }
        Ok::<_, BoxError>(())
    });
    let _guard = broker.subscribe(">").group("g").concurrency(1).handle(handler).await.unwrap();
    settle().await;
    let stats = stats(&broker, "g");
    assert_eq!((stats.acked, stats.in_flight, stats.ready), (40, 1, 59));
}

#[tokio::test(start_paused = true)]
async fn what_was_set_aside_is_not_delivered_after_the_broker_is_closed() {
    let broker = crowded().await;
    let log = Log::default();
    let (noted, inner) = (log.clone(), broker.clone());
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note(*delivery.body());
        if *delivery.body() == 20 {
            let soon = Deadline::after(Duration::from_secs(1));
            assert_pending!(task::spawn(inner.close(soon)).poll());
        }
        async { Ok::<_, BoxError>(()) }
    });
    let _guard = broker.subscribe(">").group("g").concurrency(1).handle(handler).await.unwrap();
    settle().await;
    assert_eq!(log.len(), 21);
    let stats = stats(&broker, "g");
    assert_eq!((stats.acked, stats.in_flight, stats.ready), (21, 0, 79));
}

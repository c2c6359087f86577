//! Subscriptions and brokers that pause and end.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::time::Duration;

use common::{Log, listen, millis, secs, settle, stats};
use gusset_broker::{Broker, Delivery, Error, Policy, Subscription, WhenFull};
use gusset_call::{BoxError, Deadline};
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, assert_ready, task};
use tower::service_fn;

/// Handles each message in `span`; notes attempt and whether that was the end.
async fn work(broker: &Broker, span: Duration) -> (Subscription, Log<(u32, &'static str)>) {
    let log = Log::default();
    let noted = log.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let noted = noted.clone();
        async move {
            noted.note((delivery.attempt().number(), "begun"));
            sleep(span).await;
            noted.note((delivery.attempt().number(), "done"));
            Ok::<_, BoxError>(())
        }
    });
    (broker.subscribe(">").group("g").handle(handler).await.unwrap(), log)
}

#[tokio::test(start_paused = true)]
async fn dropping_a_subscription_mid_message_gives_it_back_uncharged() {
    let broker = Broker::new();
    broker.declare("g", ">", Policy::new().max_attempts(1)).await.unwrap();
    let (guard, log) = work(&broker, Duration::from_secs(10)).await;
    broker.publish("tick", &1).await.unwrap();
    broker.publish("tick", &2).await.unwrap();
    settle().await;
    drop(guard);
    secs(20).await;
    assert_eq!(log.all(), [(1, "begun"), (1, "begun")], "cut short");
    let stats_before = stats(&broker, "g");
    assert_eq!((stats_before.ready, stats_before.in_flight, stats_before.returned), (2, 0, 2));

    let (_guard, log) = work(&broker, millis(1)).await;
    settle().await;
    assert_eq!(log.all()[0], (1, "begun"), "even where one attempt is all there is");
    secs(1).await;
    assert_eq!((stats(&broker, "g").acked, stats(&broker, "g").dead), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_dropped_member_held_goes_to_another_at_once() {
    let broker = Broker::new();
    let (guard, cut) = work(&broker, Duration::from_secs(10)).await;
    broker.publish("tick", &1).await.unwrap();
    settle().await;
    let (_other, seen) = listen(&broker, ">", "g").await;
    drop(guard);
    settle().await;
    assert_eq!((cut.len(), seen.all()), (1, vec![1]));
}

#[tokio::test(start_paused = true)]
async fn closing_a_subscription_finishes_what_is_under_way_and_takes_no_more() {
    let broker = Broker::new();
    broker.declare("g", ">", Policy::new()).await.unwrap();
    let (guard, log) = work(&broker, Duration::from_secs(10)).await;
    for n in 0..20 {
        broker.publish("tick", &n).await.unwrap();
    }
    settle().await;
    let began = Instant::now();
    guard.close().await;
    assert_eq!(began.elapsed().as_secs(), 9);
    assert_eq!(log.all().iter().filter(|(_, what)| *what == "done").count(), 16);
    assert_eq!((stats(&broker, "g").ready, stats(&broker, "g").subscriptions), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn a_paused_subscription_takes_nothing_until_it_is_resumed() {
    let broker = Broker::new();
    let (guard, seen) = listen(&broker, ">", "g").await;
    guard.pause();
    for n in 0..3 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(1).await;
    assert_eq!(seen.len(), 0);
    guard.resume();
    settle().await;
    assert_eq!(seen.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn while_one_member_pauses_the_others_get_everything() {
    let broker = Broker::new();
    let (one, idle) = listen(&broker, ">", "g").await;
    let (_two, busy) = listen(&broker, ">", "g").await;
    settle().await;
    for n in 0..100 {
        // Published and paused in one go: who was called may be the one who pauses.
        broker.publish("tick", &n).await.unwrap();
        one.pause();
        settle().await;
        assert_eq!(idle.len() + busy.len(), n as usize + 1);
        one.resume();
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_ends_when_called_passes_the_call_on() {
    for round in 0..50 {
        let broker = Broker::new();
        broker.declare("g", ">", Policy::new()).await.unwrap();
        let (one, _) = listen(&broker, ">", "g").await;
        let (_two, _) = listen(&broker, ">", "g").await;
        settle().await;
        broker.publish("tick", &round).await.unwrap();
        if round % 2 == 0 {
            drop(one)
        } else {
            one.close().await
        }
        settle().await;
        assert_eq!(stats(&broker, "g").acked, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_closes_leaves_new_messages_to_others_while_it_finishes() {
    for _ in 0..50 {
        let broker = Broker::new();
        let (one, log) = work(&broker, Duration::from_secs(10)).await;
        broker.publish("tick", &1).await.unwrap();
        settle().await;
        let (_two, seen) = listen(&broker, ">", "g").await;
        settle().await;
        broker.publish("tick", &2).await.unwrap();
        let mut closing = task::spawn(one.close());
        assert_pending!(closing.poll());
        settle().await;
        assert_eq!((log.len(), seen.all()), (1, vec![2]));
        closing.await;
        assert_eq!(log.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_closes_finishes_what_is_under_way_and_tells_what_is_left() {
    let broker = Broker::new();
    broker.declare("idle", ">", Policy::new()).await.unwrap();
    let (_guard, log) = work(&broker, Duration::from_secs(10)).await;
    for n in 0..20 {
        broker.publish("tick", &n).await.unwrap();
    }
    settle().await;
    let began = Instant::now();
    let left = broker.close(Deadline::after(Duration::from_secs(60))).await;
    assert_eq!(began.elapsed().as_secs(), 9, "it waits no longer than it must");
    assert_eq!(log.all().iter().filter(|(_, what)| *what == "done").count(), 16);
    assert_eq!((left.cut_short, left.messages(), left.is_empty()), (0, 24, false));
    assert_eq!(left.groups, [("idle".into(), 20), ("g".into(), 4)]);

    assert!(matches!(broker.publish("tick", &1).await, Err(Error::Closed)));
    assert!(matches!(broker.declare("new", ">", Policy::new()).await, Err(Error::Closed)));
    assert_eq!(broker.close(Deadline::after(Duration::ZERO)).await.messages(), 24, "as before");
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_a_closing_broker_cuts_short_what_is_not_done() {
    let broker = Broker::new();
    let (_guard, log) = work(&broker, Duration::from_secs(10)).await;
    broker.publish("tick", &1).await.unwrap();
    settle().await;
    let left = broker.close(Deadline::after(Duration::from_secs(2))).await;
    assert_eq!((left.cut_short, left.groups), (1, vec![("g".into(), 1)]));
    secs(20).await;
    assert_eq!(log.all(), [(1, "begun")]);
    assert_eq!((stats(&broker, "g").ready, stats(&broker, "g").in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn closing_wakes_publishers_that_wait_for_room() {
    let broker = Broker::new();
    let policy = Policy::new().capacity(1).when_full(WhenFull::Wait(Duration::from_secs(60)));
    broker.declare("g", ">", policy).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    let mut waiting = task::spawn(broker.publish("tick", &2));
    assert_pending!(waiting.poll());
    assert!(broker.close(Deadline::after(Duration::ZERO)).await.cut_short == 0);
    assert!(waiting.is_woken());
    assert!(matches!(assert_ready!(waiting.poll()), Err(Error::Closed)));
}

#[tokio::test(start_paused = true)]
async fn removing_a_full_group_lets_publishers_go_on_without_it() {
    let broker = Broker::new();
    let policy = Policy::new().capacity(1).when_full(WhenFull::Wait(Duration::from_secs(60)));
    broker.declare("full", ">", policy).await.unwrap();
    broker.declare("free", ">", Policy::new()).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    let mut waiting = task::spawn(broker.publish("tick", &2));
    assert_pending!(waiting.poll());
    broker.remove("full").await.unwrap();
    assert!(waiting.is_woken());
    assert_eq!(assert_ready!(waiting.poll()).unwrap().groups, 1);
}

#[tokio::test(start_paused = true)]
async fn while_a_broker_closes_handlers_at_work_may_still_publish() {
    let broker = Broker::new();
    let handler = {
        let broker = broker.clone();
        service_fn(move |_: Delivery<u32>| {
            let broker = broker.clone();
            async move {
                secs(1).await;
                broker.publish("follow.up", &2).await.map(drop)
            }
        })
    };
    let _guard = broker.subscribe("order").handle(handler).await.unwrap();
    broker.declare("next", "follow.*", Policy::new()).await.unwrap();
    broker.publish("order", &1).await.unwrap();
    settle().await;
    let left = broker.close(Deadline::after(Duration::from_secs(5))).await;
    assert_eq!(left.groups, [("next".into(), 1)], "taken, and reported as left");
}

#[tokio::test(start_paused = true)]
async fn there_are_at_most_so_many_groups() {
    let broker = Broker::with_limits(gusset_broker::Limits::new().groups(2));
    let (_one, _) = listen(&broker, ">", "one").await;
    let (two, _) = listen(&broker, ">", "two").await;
    let third = broker.declare("three", ">", Policy::new()).await;
    assert!(matches!(third, Err(Error::TooManyGroups(2))));
    drop(two);
    broker.declare("three", ">", Policy::new()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_goes_with_an_undeclared_group_is_counted() {
    let broker = Broker::new();
    let handler = service_fn(|_: Delivery<u32>| async {
        sleep(Duration::from_secs(10)).await;
        Ok::<_, BoxError>(())
    });
    let one_at_a_time =
        broker.subscribe(">").group("g").concurrency(1).handle(handler).await.unwrap();
    for n in 0..3 {
        broker.publish("tick", &n).await.unwrap();
    }
    settle().await;
    drop(one_at_a_time);
    secs(1).await;
    let stats = broker.stats();
    assert_eq!((stats.groups.len(), stats.discarded), (0, 3));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_publishes_into_its_own_full_group_is_done_while_the_broker_closes() {
    let broker = Broker::new();
    let own = broker.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let own = own.clone();
        async move {
            secs(1).await;
            own.publish("a", &(*delivery.body() + 100)).await.map(drop)
        }
    });
    let policy = Policy::new().capacity(4).max_attempts(1);
    let group = broker.subscribe("a").group("g").policy(policy).concurrency(2);
    let _guard = group.handle(handler).await.unwrap();
    for n in 0..4_u32 {
        broker.publish("a", &n).await.unwrap();
    }
    settle().await;
    let left = broker.close(Deadline::after(millis(5_000))).await;
    let group = stats(&broker, "g");
    assert_eq!((left.cut_short, left.messages()), (0, 4));
    assert_eq!((group.acked, group.dead, group.ready), (2, 0, 4));
}

//! Full groups, and those who publish into them.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::time::Duration;

use common::{Log, listen, millis, secs, settle, stats};
use gusset_broker::{
    Broker, Delivery, Error, Message, Policy, Subscription, WhenExpired, WhenFull,
};
use gusset_call::{BoxError, Context, Deadline, refusal_in};
use tokio::time::{Instant, sleep, timeout};
use tokio_test::{assert_pending, assert_ready_ok, task};
use tower::{Service, ServiceExt, service_fn};

const WAIT: WhenFull = WhenFull::Wait(Duration::from_secs(5));

/// A group without listeners, with room for two.
async fn full_at_two(broker: &Broker, group: &str, when_full: WhenFull) {
    broker.declare(group, ">", Policy::new().capacity(2).when_full(when_full)).await.unwrap();
}

async fn fill(broker: &Broker) {
    for n in 0..2 {
        broker.publish("tick", &n).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_publish_waits_for_room_and_gets_it() {
    let broker = Broker::new();
    full_at_two(&broker, "g", WAIT).await;
    fill(&broker).await;
    let mut third = task::spawn(broker.publish("tick", &2));
    assert_pending!(third.poll());
    assert_eq!(stats(&broker, "g").waiting, 1);
    let (_guard, seen) = listen(&broker, ">", "g").await;
    settle().await;
    assert!(third.is_woken());
    assert_eq!(assert_ready_ok!(third.poll()).groups, 1);
    settle().await;
    assert_eq!(seen.all(), [0, 1, 2]);
    assert_eq!(stats(&broker, "g").waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_publish_waits_no_longer_than_the_group_says() {
    let broker = Broker::new();
    full_at_two(&broker, "g", WAIT).await;
    fill(&broker).await;
    let began = Instant::now();
    let error = broker.publish("tick", &2).await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::from_secs(5));
    assert_eq!(refusal_in(&error).unwrap().to_string(), "group g is overloaded");
    let stats = stats(&broker, "g");
    assert_eq!((stats.ready, stats.waiting, stats.refused), (2, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_publish_waits_no_longer_than_its_caller() {
    let broker = Broker::new();
    full_at_two(&broker, "g", WAIT).await;
    fill(&broker).await;
    let began = Instant::now();
    let cx = Context::default().with_deadline(Deadline::after(Duration::from_secs(1)));
    let error = cx.scope(broker.publish("tick", &2)).await.unwrap_err();
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    assert_eq!(refusal_in(&error).unwrap().status(), 504);
}

#[tokio::test(start_paused = true)]
async fn a_full_group_may_reject_at_once() {
    let broker = Broker::new();
    full_at_two(&broker, "g", WhenFull::Reject).await;
    fill(&broker).await;
    let began = Instant::now();
    let error = broker.publish("tick", &2).await.unwrap_err();
    assert_eq!((began.elapsed(), refusal_in(&error).unwrap().status()), (Duration::ZERO, 503));
    assert_eq!(stats(&broker, "g").refused, 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_group_may_drop_its_oldest_and_count_them() {
    let broker = Broker::new();
    full_at_two(&broker, "g", WhenFull::DropOldest).await;
    for n in 0..10 {
        broker.publish("tick", &n).await.unwrap();
    }
    assert_eq!((stats(&broker, "g").dropped, stats(&broker, "g").ready), (8, 2));
    let (guard, seen) = listen(&broker, ">", "g").await;
    settle().await;
    assert_eq!(seen.all(), [8, 9]);

    guard.close().await;
    let hang = service_fn(|_: Delivery<u32>| std::future::pending::<Result<(), BoxError>>());
    let _guard = broker.subscribe(">").group("g").handle(hang).await.unwrap();
    fill(&broker).await;
    settle().await;
    let error = broker.publish("tick", &2).await.unwrap_err();
    assert!(matches!(error, Error::Full(_)), "what is being handled cannot be dropped");
}

#[tokio::test(start_paused = true)]
async fn a_group_is_bounded_in_bytes_too() {
    let broker = Broker::new();
    let policy = Policy::new().max_bytes(1_000).when_full(WhenFull::Reject);
    broker.declare("g", ">", policy).await.unwrap();
    let message = |size: usize| Message::new("tick", vec![0; size]).unwrap();
    broker.publish_message(message(600)).await.unwrap();
    let error = broker.publish_message(message(600)).await.unwrap_err();
    assert!(matches!(error, Error::Full(_)));
    let error = broker.publish_message(message(2_000)).await.unwrap_err();
    assert_eq!(error.to_string(), "message of 2004 bytes exceeds the 1000 bytes of group g");
}

#[tokio::test(start_paused = true)]
async fn a_message_too_large_is_refused_before_anybody_waits() {
    let broker = Broker::new();
    broker.declare("g", ">", Policy::new().max_bytes(1_000).when_full(WAIT)).await.unwrap();
    let began = Instant::now();
    let error = broker.publish_message(Message::new("a", vec![0; 1_000]).unwrap()).await;
    assert!(matches!(error, Err(Error::TooLarge { size: 1_001, limit: 1_000, .. })));
    assert!(began.elapsed().is_zero());
}

#[tokio::test(start_paused = true)]
async fn a_message_enters_all_its_groups_or_none() {
    for when_full in [WhenFull::Reject, WhenFull::Wait(millis(10))] {
        let broker = Broker::new();
        broker.declare("first", ">", Policy::new()).await.unwrap();
        broker
            .declare("dropping", ">", Policy::new().capacity(3).when_full(WhenFull::DropOldest))
            .await
            .unwrap();
        full_at_two(&broker, "full", when_full).await;
        broker.declare("last", ">", Policy::new()).await.unwrap();
        fill(&broker).await;
        for n in 2..10 {
            broker.publish("tick", &n).await.unwrap_err();
        }
        for group in ["first", "dropping", "full", "last"] {
            let stats = stats(&broker, group);
            assert_eq!((stats.published, stats.dropped), (2, 0), "{group}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_waits_for_one_group_takes_no_room_in_another() {
    let broker = Broker::new();
    full_at_two(&broker, "full", WAIT).await;
    fill(&broker).await;
    broker
        .declare("free", "*", Policy::new().capacity(1).when_full(WhenFull::Reject))
        .await
        .unwrap();
    broker.remove("full").await.unwrap();
    broker.declare("full", "both", Policy::new().capacity(1).when_full(WAIT)).await.unwrap();
    let mut waits = task::spawn(broker.publish("both", &0));
    assert_ready_ok!(waits.poll());
    broker.remove("free").await.unwrap();
    broker
        .declare("free", "*", Policy::new().capacity(1).when_full(WhenFull::Reject))
        .await
        .unwrap();
    let mut waits = task::spawn(broker.publish("both", &1));
    assert_pending!(waits.poll());
    broker.publish("single", &2).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_publish_is_in_no_group_and_holds_up_nobody() {
    let broker = Broker::new();
    full_at_two(&broker, "g", WAIT).await;
    broker.declare("other", ">", Policy::new()).await.unwrap();
    fill(&broker).await;
    let [mut a, mut b, mut c] = [2, 3, 4].map(|n| task::spawn(broker.publish("tick", &n)));
    for publish in [&mut a, &mut b, &mut c] {
        assert_pending!(publish.poll());
    }
    drop(task::spawn(broker.publish("tick", &9)));
    drop(b);
    let (guard, seen) = listen(&broker, ">", "g").await;
    // Room for both, and `a`, whose turn it is, has been woken: then it is dropped.
    settle().await;
    assert!(a.is_woken());
    drop(a);
    assert!(c.is_woken(), "the turn was passed on");
    assert_ready_ok!(c.poll());
    settle().await;
    assert_eq!(seen.all(), [0, 1, 4]);
    assert_eq!(stats(&broker, "other").published, 3);
    guard.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_large_message_is_not_overtaken_by_small_ones() {
    let broker = Broker::new();
    let policy = Policy::new().max_bytes(1_000).when_full(WAIT);
    let slow = service_fn(|_: Delivery| async {
        sleep(millis(10)).await;
        Ok::<_, BoxError>(())
    });
    let subscription = broker.subscribe(">").group("g").policy(policy).concurrency(1);
    let _guard = subscription.handle_raw(slow).await.unwrap();
    let message = |size: usize| Message::new("t", vec![0; size]).unwrap();
    for _ in 0..10 {
        broker.publish_message(message(99)).await.unwrap();
    }
    let large = {
        let broker = broker.clone();
        tokio::spawn(async move { broker.publish_message(message(900)).await })
    };
    tokio::task::yield_now().await;
    assert_eq!(stats(&broker, "g").waiting, 1);
    // Ever new ones come, each of which would fit as soon as one is done.
    let small = {
        let broker = broker.clone();
        tokio::spawn(async move {
            for _ in 0..1_000 {
                sleep(millis(1)).await;
                let publish = broker.publish_message(message(99));
                let _ = timeout(millis(20), publish).await;
            }
        })
    };
    let began = Instant::now();
    timeout(Duration::from_secs(1), large).await.unwrap().unwrap().unwrap();
    assert!(began.elapsed() <= millis(110), "{:?}", began.elapsed());
    small.abort();
}

/// Handles `from` by publishing `times` as often to `to`.
async fn forward(
    broker: &Broker,
    (from, to): (&'static str, &'static str),
    times: u32,
    policy: Policy,
) -> (Subscription, Log<Result<usize, String>>) {
    let log = Log::default();
    let (inner, noted) = (broker.clone(), log.clone());
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let (broker, noted) = (inner.clone(), noted.clone());
        async move {
            // All handlers are here before one goes on.
            sleep(millis(1)).await;
            let generation = *delivery.body();
            for _ in 0..times.min(generation) {
                let published = broker.publish(to, &(generation - 1)).await;
                noted.note(published.as_ref().map(|r| r.groups).map_err(ToString::to_string));
                published?;
            }
            Ok::<_, Error>(())
        }
    });
    let subscription = broker.subscribe(from).group(from).policy(policy).concurrency(4);
    (subscription.handle(handler).await.unwrap(), log)
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_publish_into_its_own_full_group() {
    let broker = Broker::new();
    let policy = Policy::new().capacity(4).when_full(WhenFull::Wait(Duration::from_secs(3_600)));
    let (_guard, log) = forward(&broker, ("a", "a"), 1, policy).await;
    let began = Instant::now();
    let publishers: Vec<_> = (0..20)
        .map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move { broker.publish("a", &10).await.unwrap() })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    secs(2).await;
    let stats = stats(&broker, "a");
    assert_eq!((stats.acked, stats.dead, stats.redelivered), (20 * 11, 0, 0));
    assert!(log.all().iter().all(Result::is_ok));
    assert!(began.elapsed() < Duration::from_secs(4), "nobody waited for the hour");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_multiplies_in_its_own_full_group_is_refused_not_stuck() {
    let broker = Broker::new();
    let policy = Policy::new().capacity(4).when_full(WhenFull::Wait(Duration::from_secs(3_600)));
    let (_guard, log) = forward(&broker, ("a", "a"), 3, policy).await;
    for _ in 0..4 {
        broker.publish("a", &5).await.unwrap();
    }
    let mut most = 0;
    for _ in 0..2_000 {
        settle().await;
        let stats = stats(&broker, "a");
        most = most.max(stats.ready + stats.in_flight + stats.delayed);
    }
    assert!(log.all().contains(&Err("not published".into())));
    assert!(most <= 4 + 4, "{most}");
    let stats = stats(&broker, "a");
    assert_eq!((stats.in_flight, stats.ready, stats.delayed), (0, 0, 0), "it came to an end");
}

#[tokio::test(start_paused = true)]
async fn handlers_of_two_full_groups_do_not_wait_for_each_other() {
    let broker = Broker::new();
    let policy = Policy::new().capacity(4).when_full(WhenFull::Wait(Duration::from_secs(3_600)));
    let (_one, ping) = forward(&broker, ("ping", "pong"), 1, policy).await;
    let (_two, pong) = forward(&broker, ("pong", "ping"), 1, policy).await;
    for _ in 0..4 {
        broker.publish("ping", &100).await.unwrap();
        broker.publish("pong", &100).await.unwrap();
    }
    secs(20).await;
    assert!(ping.all().iter().chain(&pong.all()).all(Result::is_ok));
    let done = stats(&broker, "ping").acked + stats(&broker, "pong").acked;
    assert_eq!(done, 8 * 101);
}

#[tokio::test(start_paused = true)]
async fn a_handler_waits_for_a_slower_group_that_does_not_wait_for_it() {
    let broker = Broker::new();
    let policy = Policy::new().capacity(4).when_full(WhenFull::Wait(Duration::from_secs(20)));
    let (_fast, log) = forward(&broker, ("fast", "slow"), 1, policy).await;
    let slow = service_fn(|_: Delivery<u32>| async {
        secs(1).await;
        Ok::<_, BoxError>(())
    });
    let slow =
        broker.subscribe("slow").group("slow").policy(policy).concurrency(1).handle(slow).await;
    let _slow = slow.unwrap();
    for _ in 0..20 {
        broker.publish("fast", &1).await.unwrap();
        assert!(stats(&broker, "slow").ready <= 4);
    }
    secs(30).await;
    assert!(log.all().iter().all(Result::is_ok));
    assert_eq!((stats(&broker, "slow").acked, stats(&broker, "fast").redelivered), (20, 0));
}

#[tokio::test(start_paused = true)]
async fn publishers_that_wait_enter_in_the_order_of_their_coming() {
    let broker = Broker::new();
    full_at_two(&broker, "g", WAIT).await;
    fill(&broker).await;
    let mut waiting: Vec<_> = (2..9).map(|n| task::spawn(broker.publish("tick", &n))).collect();
    for publish in &mut waiting {
        assert_pending!(publish.poll());
    }
    let waiting: Vec<_> = waiting.into_iter().rev().map(|publish| tokio::spawn(publish)).collect();
    let (_guard, seen) = listen(&broker, ">", "g").await;
    for publish in waiting {
        publish.await.unwrap().unwrap();
    }
    settle().await;
    assert_eq!(seen.all(), (0..9).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_ever_at_a_group_that_is_full_again_and_again() {
    const EACH: u32 = 3_000;
    let broker = Broker::new();
    let hour = WhenFull::Wait(Duration::from_secs(3_600));
    for capacity in [1, 2, 33] {
        let group = format!("g-{capacity}");
        let policy = Policy::new().capacity(capacity).when_full(hour);
        let subject: &'static str = ["a", "b", "c"][capacity % 3];
        let log = Log::default();
        let noted = log.clone();
        let handler = service_fn(move |delivery: Delivery<u32>| {
            noted.note(*delivery.body());
            async { Ok::<_, BoxError>(()) }
        });
        let subscribe = broker.subscribe(subject).group(group.clone()).policy(policy);
        let _guard = subscribe.concurrency(2).handle(handler).await.unwrap();
        let publishers = (0..4).map(|_| {
            let broker = broker.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    broker.publish(subject, &n).await.unwrap();
                }
            })
        });
        // One that slept on would sleep for the hour.
        for publisher in publishers.collect::<Vec<_>>() {
            timeout(Duration::from_secs(60), publisher).await.unwrap().unwrap();
        }
        let done = async {
            while stats(&broker, &group).acked < u64::from(4 * EACH) {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(60), done).await.unwrap();
        assert_eq!(log.len(), 4 * EACH as usize);
    }
}

#[tokio::test(start_paused = true)]
async fn who_finds_room_for_all_who_wait_and_for_itself_does_not_wait() {
    let broker = Broker::new();
    full_at_two(&broker, "g", WAIT).await;
    let mut pull = broker.subscribe(">").group("g").pull::<u32>().await.unwrap();
    fill(&broker).await;
    let mut third = task::spawn(broker.publish("tick", &2));
    assert_pending!(third.poll());
    for _ in 0..2 {
        pull.next().await.unwrap().ack().await.unwrap();
    }
    let mut fourth = task::spawn(broker.publish("tick", &3));
    assert_ready_ok!(fourth.poll());
    let mut fifth = task::spawn(broker.publish("tick", &4));
    assert_pending!(fifth.poll(), "the last place is the third's");
    assert!(third.is_woken());
    assert_ready_ok!(third.poll());
    assert_pending!(fifth.poll());
    assert_eq!((stats(&broker, "g").ready, stats(&broker, "g").waiting), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_publisher_service_lets_handlers_have_their_turn() {
    let broker = Broker::new();
    full_at_two(&broker, "g", WhenFull::DropOldest).await;
    let (_guard, seen) = listen(&broker, ">", "g").await;
    let mut publisher = broker.publisher();
    for n in 0..1_000_u32 {
        let message = Message::json("tick", &n).unwrap();
        publisher.ready().await.unwrap().call(message).await.unwrap();
    }
    assert!(seen.len() > 0);
}

#[tokio::test(start_paused = true)]
async fn expired_messages_of_a_full_group_without_listeners_make_room() {
    for when_full in [WAIT, WhenFull::Reject] {
        let broker = Broker::new();
        let policy = Policy::new().capacity(2).when_full(when_full);
        broker.declare("dropping", "a", policy.when_expired(WhenExpired::Drop)).await.unwrap();
        broker.declare("burying", "a", policy).await.unwrap();
        for _ in 0..2 {
            let message = Message::json("a", &8).unwrap().with_ttl(millis(10));
            broker.publish_message(message).await.unwrap();
        }
        secs(1).await;
        let began = Instant::now();
        assert_eq!(broker.publish("a", &9).await.unwrap().groups, 2);
        assert_eq!(began.elapsed(), Duration::ZERO);
        let (dropping, burying) = (stats(&broker, "dropping"), stats(&broker, "burying"));
        assert_eq!((dropping.expired, dropping.ready, dropping.delivered), (2, 1, 0));
        assert_eq!((burying.dead, burying.ready, burying.delivered), (2, 1, 0));
    }
}

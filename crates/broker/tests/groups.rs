//! Groups, copies and competition, as publishers and handlers see them.
#![allow(clippy::panic, reason = "what handlers do in these stories")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{self, Poll},
    time::Duration,
};

use bytes::Bytes;
use common::{Log, listen, millis, secs, settle, stats};
use gusset_broker::{Broker, Delivery, Error, Message, Policy};
use gusset_call::{Attempt, BoxError, Context, TraceContext};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep},
};
use tower::{ServiceBuilder, service_fn};

#[tokio::test(start_paused = true)]
async fn every_group_gets_every_message_once_and_its_members_compete() {
    let broker = Broker::new();
    let (_a, inventory_a) = listen(&broker, "order.*", "inventory").await;
    let (_b, inventory_b) = listen(&broker, "order.*", "inventory").await;
    let (_c, mail) = listen(&broker, "order.*", "mail").await;
    let (_d, other) = listen(&broker, "user.*", "other").await;
    for n in 0..100 {
        assert_eq!(broker.publish("order.created", &n).await.unwrap().groups, 2);
        settle().await;
    }
    let mut inventory = inventory_a.all();
    inventory.extend(inventory_b.all());
    inventory.sort_unstable();
    let all: Vec<_> = (0..100).collect();
    assert_eq!((inventory, mail.all(), other.len()), (all.clone(), all, 0));
    assert!(inventory_a.len() > 0 && inventory_b.len() > 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_group_each_subscription_gets_its_own_copy_of_one_payload() {
    let broker = Broker::new();
    let payloads = Log::<Bytes>::default();
    let subscribe = async || {
        let payloads = payloads.clone();
        let handler = service_fn(move |delivery: Delivery<Bytes>| {
            payloads.note(delivery.into_body());
            async { Ok::<_, BoxError>(()) }
        });
        broker.subscribe("image").handle_raw(handler).await.unwrap()
    };
    let (one, two) = (subscribe().await, subscribe().await);
    assert_ne!(one.group(), two.group());
    let message = Message::new("image", vec![7; 1_000]).unwrap();
    let at = message.payload().as_ptr();
    assert_eq!(broker.publish_message(message).await.unwrap().groups, 2);
    settle().await;
    let seen = payloads.all();
    assert!(seen.len() == 2 && seen.iter().all(|payload| payload.as_ptr() == at), "not copied");

    drop(one);
    settle().await;
    assert_eq!(broker.publish("image", "x").await.unwrap().groups, 1);
    assert_eq!(broker.stats().groups.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_nobody_wants_is_counted() {
    let broker = Broker::new();
    let (_guard, _) = listen(&broker, "order.*", "inventory").await;
    assert_eq!(broker.publish("user.created", &1).await.unwrap().groups, 0);
    assert_eq!(broker.stats().unroutable, 1);
}

#[tokio::test(start_paused = true)]
async fn a_declared_group_keeps_its_backlog_while_nobody_listens() {
    let broker = Broker::new();
    broker.declare("inventory", "order.*", Policy::new()).await.unwrap();
    for n in 0..3 {
        broker.publish("order.created", &n).await.unwrap();
    }
    let (guard, seen) = listen(&broker, "order.*", "inventory").await;
    settle().await;
    assert_eq!(seen.all(), [0, 1, 2]);

    guard.close().await;
    broker.publish("order.created", &3).await.unwrap();
    assert_eq!(stats(&broker, "inventory").ready, 1);
    let (guard, seen) = listen(&broker, "order.*", "inventory").await;
    settle().await;
    assert_eq!(seen.all(), [3]);

    guard.pause();
    broker.publish("order.created", &4).await.unwrap();
    assert_eq!(
        broker.remove("inventory").await.unwrap(),
        0,
        "in use: stays until its last member goes"
    );
    assert_eq!(stats(&broker, "inventory").ready, 1);
    drop(guard);
    assert!(broker.stats().groups.is_empty());
    assert!(matches!(broker.remove("inventory").await, Err(Error::NoSuchGroup(_))));
}

#[tokio::test(start_paused = true)]
async fn a_group_that_is_removed_says_how_much_went_with_it() {
    let broker = Broker::new();
    broker.declare("inventory", ">", Policy::new()).await.unwrap();
    broker.publish("a", &1).await.unwrap();
    broker.publish("b", &1).await.unwrap();
    assert_eq!(broker.remove("inventory").await.unwrap(), 2);
    assert_eq!(broker.publish("a", &1).await.unwrap().groups, 0);
}

#[tokio::test(start_paused = true)]
async fn a_group_has_one_pattern_and_one_policy() {
    let broker = Broker::new();
    let (_guard, _) = listen(&broker, "order.*", "inventory").await;
    let other = broker.declare("inventory", "order.>", Policy::new()).await.unwrap_err();
    assert_eq!(other.to_string(), "group inventory exists with another pattern");
    let other =
        broker.declare("inventory", "order.*", Policy::new().capacity(7)).await.unwrap_err();
    assert_eq!(other.to_string(), "group inventory exists with another policy");
    for name in ["", "_mine", "two words", &"x".repeat(129)] {
        assert!(matches!(broker.declare(name, ">", Policy::new()).await, Err(Error::GroupName(_))));
    }
    let never = service_fn(|_: Delivery<u32>| async { Ok::<_, BoxError>(()) });
    assert!(matches!(broker.subscribe("a..b").handle(never).await, Err(Error::Subject(_))));
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let never = service_fn(|_: Delivery<u32>| async { Ok::<_, BoxError>(()) });
    let broker = Broker::new();
    let mut subscribing = tokio_test::task::spawn(broker.subscribe("a").handle(never));
    let refused = tokio_test::assert_ready!(subscribing.poll());
    assert!(matches!(refused, Err(Error::NoRuntime)));
}

#[tokio::test(start_paused = true)]
async fn a_slow_group_does_not_delay_a_quick_one() {
    let broker = Broker::new();
    let slow = service_fn(|_: Delivery<u32>| async {
        secs(20).await;
        Ok::<_, BoxError>(())
    });
    let _slow = broker.subscribe(">").group("slow").handle(slow).await.unwrap();
    let (_quick, seen) = listen(&broker, ">", "quick").await;
    for n in 0..500 {
        broker.publish("tick", &n).await.unwrap();
    }
    settle().await;
    assert_eq!(seen.len(), 500);
    let slow = stats(&broker, "slow");
    assert_eq!((slow.in_flight, slow.ready), (16, 484));
}

#[tokio::test(start_paused = true)]
async fn one_subscription_handles_at_most_so_many_at_once() {
    let broker = Broker::new();
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let handler = {
        let (running, most) = (running.clone(), most.clone());
        service_fn(move |_: Delivery<u32>| {
            let (running, most) = (running.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
                sleep(millis(10)).await;
                running.fetch_sub(1, SeqCst);
                Ok::<_, BoxError>(())
            }
        })
    };
    let _guard = broker.subscribe(">").concurrency(3).handle(handler).await.unwrap();
    let began = Instant::now();
    for n in 0..30 {
        broker.publish("tick", &n).await.unwrap();
    }
    while broker.stats().groups[0].acked < 30 {
        settle().await;
    }
    assert_eq!(most.load(SeqCst), 3);
    assert!(began.elapsed() <= millis(130), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn with_one_at_a_time_the_order_is_kept() {
    let broker = Broker::new();
    let seen = Log::default();
    let noted = seen.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let noted = noted.clone();
        async move {
            sleep(millis(u64::from(7 - delivery.body() % 7))).await;
            noted.note(delivery.into_body());
            Ok::<_, BoxError>(())
        }
    });
    let _guard = broker.subscribe(">").concurrency(1).handle(handler).await.unwrap();
    for n in 0..50 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(1).await;
    assert_eq!(seen.all(), (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn the_handler_works_within_the_publisher_s_trace_and_knows_its_attempt() {
    let broker = Broker::new();
    let seen = Log::default();
    let noted = seen.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        // Read in `call` itself as well as in its future.
        let sync = Context::current();
        let noted = noted.clone();
        async move {
            assert_eq!(Context::current(), sync);
            noted.note((sync, delivery.attempt(), delivery.is_last_attempt()));
            if delivery.is_last_attempt() { Ok(()) } else { Err("once more") }
        }
    });
    let policy = Policy::new().max_attempts(2).attempt_timeout(Duration::from_secs(9));
    let _guard = broker.subscribe(">").policy(policy).handle(handler).await.unwrap();
    let publisher = TraceContext::new_root();
    let publish = broker.publish("tick", &1);
    Context::default().with_trace(publisher).scope(publish).await.unwrap();
    secs(1).await;

    let [(first, one, false), (second, two, true)] = seen.all()[..] else { panic!() };
    assert_eq!((one, two), (Attempt::FIRST, Attempt::FIRST.next()));
    // Whoever records a span of the handling makes it a child; a span that nobody records would tear the trace.
    assert_eq!([first, second].map(|cx| cx.trace()), [Some(publisher); 2]);
    assert!(first.deadline().unwrap().instant() <= Instant::now() + Duration::from_secs(9));
}

#[tokio::test(start_paused = true)]
async fn layers_compose_and_an_idle_worker_holds_no_place_in_a_shared_limit() {
    let broker = Broker::new();
    // One place for both subscriptions: idle workers that kept being ready would starve the other.
    let seen = Log::default();
    let shared = {
        let noted = seen.clone();
        ServiceBuilder::new().concurrency_limit(1).service(service_fn(
            move |delivery: Delivery<u32>| {
                noted.note(delivery.subject().to_string());
                async move {
                    sleep(millis(5)).await;
                    Ok::<_, BoxError>(())
                }
            },
        ))
    };
    let _one = broker.subscribe("one").handle(shared.clone()).await.unwrap();
    let _two = broker.subscribe("two").handle(shared).await.unwrap();
    settle().await;
    for n in 0..5 {
        broker.publish("one", &n).await.unwrap();
        broker.publish("two", &n).await.unwrap();
    }
    sleep(millis(100)).await;
    assert_eq!(seen.len(), 10);
}

/// Ready as long as it is open; notes nothing, wakes nobody.
#[derive(Clone)]
struct Gate {
    open: Arc<AtomicU32>,
}

impl tower::Service<Delivery<u32>> for Gate {
    type Response = ();
    type Error = BoxError;
    type Future = std::future::Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.open.load(SeqCst) == 1 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, _: Delivery<u32>) -> Self::Future {
        std::future::ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_not_ready_leaves_messages_to_the_others() {
    let broker = Broker::new();
    let open = Arc::new(AtomicU32::new(1));
    let _stuck =
        broker.subscribe(">").group("g").handle(Gate { open: open.clone() }).await.unwrap();
    settle().await;
    let (_quick, seen) = listen(&broker, ">", "g").await;
    settle().await;
    // All idle, and those that will not be ready are first to be called.
    open.store(0, SeqCst);
    for n in 0..100 {
        broker.publish("tick", &n).await.unwrap();
        settle().await;
        assert_eq!(seen.len(), n as usize + 1, "left to who is ready, at once");
    }
    assert_eq!(stats(&broker, "g").delivered, 100);
}

/// Ready once it is warm.
#[derive(Clone)]
struct Warming {
    warm: Arc<AtomicU32>,
    asked: Log<Instant>,
}

impl tower::Service<Delivery<u32>> for Warming {
    type Response = ();
    type Error = &'static str;
    type Future = std::future::Ready<Result<(), &'static str>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), &'static str>> {
        self.asked.note(Instant::now());
        match self.warm.load(SeqCst) {
            0 => Poll::Ready(Err("warming up")),
            1 => panic!("too hot"),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, _: Delivery<u32>) -> Self::Future {
        std::future::ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_readiness_fails_is_asked_again_and_costs_no_attempt() {
    let broker = Broker::new();
    let (warm, asked) = (Arc::new(AtomicU32::new(0)), Log::default());
    let warming = Warming { warm: warm.clone(), asked: asked.clone() };
    let _guard = broker.subscribe(">").group("g").concurrency(1).handle(warming).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    sleep(millis(4_500)).await;
    warm.store(1, SeqCst);
    secs(5).await;
    let cold = stats(&broker, "g");
    assert_eq!((cold.ready, cold.delivered, cold.dead), (1, 0, 0));
    assert_eq!(asked.len(), 10, "once a second");
    warm.store(2, SeqCst);
    secs(1).await;
    assert_eq!(stats(&broker, "g").acked, 1);
}

#[tokio::test]
async fn handlers_that_never_wait_leave_room_for_other_tasks() {
    let broker = Broker::new();
    let again = {
        let broker = broker.clone();
        service_fn(move |delivery: Delivery<u32>| {
            let broker = broker.clone();
            async move {
                broker.publish("again", delivery.body()).await?;
                Ok::<_, Error>(())
            }
        })
    };
    let guard = broker.subscribe("again").handle(again).await.unwrap();
    broker.publish("again", &1).await.unwrap();
    // On this one thread, the handlers would go on for ever.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(broker.stats().groups[0].acked > 100);
    drop(guard);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn on_several_threads_nothing_is_lost_and_nobody_sleeps_through() {
    const EACH: u32 = 5_000;
    let broker = Broker::new();
    let policy = Policy::new().capacity(50).backoff(Duration::from_micros(500), millis(2));
    let (seen, done) = (Log::default(), Arc::new(Semaphore::new(0)));
    let subscribe = async || {
        let (noted, done) = (seen.clone(), done.clone());
        let handler = service_fn(move |delivery: Delivery<u32>| {
            let (noted, done) = (noted.clone(), done.clone());
            async move {
                if delivery.body() % 97 == 0 && !delivery.is_last_attempt() {
                    return Err("hiccup");
                }
                if delivery.body() % 11 == 0 {
                    tokio::task::yield_now().await;
                }
                noted.note(*delivery.body());
                done.add_permits(1);
                Ok(())
            }
        });
        broker
            .subscribe(">")
            .group("g")
            .policy(policy)
            .concurrency(3)
            .handle(handler)
            .await
            .unwrap()
    };
    broker.declare("g", ">", policy).await.unwrap();
    let guards = [subscribe().await, subscribe().await];
    let publishers: Vec<_> = (0..4)
        .map(|publisher| {
            let broker = broker.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    broker.publish("tick", &(publisher * EACH + n)).await.unwrap();
                }
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let all_done = done.acquire_many(4 * EACH);
    let _done = tokio::time::timeout(Duration::from_secs(60), all_done).await.unwrap().unwrap();
    for guard in guards {
        guard.close().await;
    }
    let mut all = seen.all();
    all.sort_unstable();
    assert_eq!(all, (0..4 * EACH).collect::<Vec<_>>());
    let stats = stats(&broker, "g");
    assert_eq!((stats.ready, stats.in_flight, stats.delayed, stats.bytes), (0, 0, 0, 0));
}

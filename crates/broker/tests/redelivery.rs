//! What happens to messages whose handlers fail.
#![allow(clippy::panic, reason = "what handlers do in these stories")]

mod common;

use std::{
    task::{self, Poll},
    time::Duration,
};

use common::{Log, fail, listen, millis, secs, settle, stats};
use gusset_broker::{
    Broker, Delivery, FailureKind, Filter, Headers, Message, Policy, Reason, Reply, WhenFull,
};
use gusset_call::{BoxError, Open};
use tokio::time::{Instant, sleep};
use tower::service_fn;

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_and_each_waits_within_its_jitter() {
    let broker = Broker::new();
    let (base, max) = (millis(100), millis(350));
    let policy = Policy::new().max_attempts(5).backoff(base, max);
    let (_guard, log) = fail(&broker, "g", policy).await;
    for n in 0..200 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(5).await;

    let log = log.all();
    assert_eq!(log.len(), 200 * 5);
    let mut longest = [Duration::ZERO; 4];
    for n in 0..200 {
        let tries: Vec<_> = log.iter().filter(|(value, ..)| *value == n).collect();
        for (place, pair) in tries.windows(2).enumerate() {
            assert_eq!((pair[0].1, pair[1].1), (place as u32 + 1, place as u32 + 2));
            // Timers tick in milliseconds.
            let waited = pair[1].2 - pair[0].2;
            let ceiling = (base * 2u32.pow(place as u32)).min(max) + millis(1);
            assert!(waited <= ceiling, "{waited:?} after attempt {}", place + 1);
            longest[place] = longest[place].max(waited);
        }
    }
    for (place, expected) in [90, 180, 315, 315].into_iter().enumerate() {
        assert!(longest[place] >= millis(expected), "the whole span is used: {longest:?}");
    }
    assert_eq!((stats(&broker, "g").dead, broker.stats().dead_letters), (200, 200));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_failing_messages_hold_up_no_good_one() {
    let broker = Broker::new();
    let policy =
        Policy::new().capacity(20_000).backoff(Duration::from_secs(60), Duration::from_secs(60));
    let good = Log::default();
    let noted = good.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let noted = noted.clone();
        async move {
            if delivery.subject().as_str() == "bad" {
                return Err("bad");
            }
            noted.note(delivery.into_body());
            Ok(())
        }
    });
    let _guard = broker.subscribe(">").group("g").policy(policy).handle(handler).await.unwrap();
    for n in 0..10_000 {
        broker.publish("bad", &n).await.unwrap();
        if n % 100 == 0 {
            broker.publish("good", &n).await.unwrap();
        }
    }
    settle().await;
    assert_eq!(good.len(), 100, "at once, while the others wait");
    assert!(stats(&broker, "g").delayed > 9_900);
    secs(200).await;
    let stats = stats(&broker, "g");
    assert_eq!((stats.acked, stats.dead, stats.delayed), (100, 10_000, 0));
    assert_eq!(stats.delivered, 30_100);
    assert_eq!(stats.redelivered, 20_000);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_is_redelivered_on_time_while_the_one_who_failed_it_is_busy() {
    let broker = Broker::new();
    let log = Log::default();
    let noted = log.clone();
    let began = Instant::now();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let noted = noted.clone();
        async move {
            noted.note((*delivery.body(), began.elapsed()));
            match (delivery.body(), delivery.attempt().is_retry()) {
                (0, false) => return Ok(Reply::RetryAfter(millis(100))),
                (1, _) => secs(20).await,
                _ => {}
            }
            Ok::<_, BoxError>(Reply::Ack)
        }
    });
    let _guard = broker.subscribe(">").concurrency(2).handle(handler).await.unwrap();
    broker.publish("a", &0).await.unwrap();
    settle().await;
    broker.publish("a", &1).await.unwrap();
    sleep(millis(200)).await;
    let times: Vec<_> = log.all().iter().filter(|(n, _)| *n == 0).map(|(_, at)| *at).collect();
    assert!(times.len() == 2 && times[1] <= millis(102), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn messages_that_come_due_together_are_handled_together() {
    let broker = Broker::new();
    let log = Log::default();
    let noted = log.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let noted = noted.clone();
        async move {
            if !delivery.attempt().is_retry() {
                return Ok(Reply::RetryAfter(millis(100)));
            }
            noted.note(delivery.into_body());
            secs(10).await;
            Ok::<_, BoxError>(Reply::Ack)
        }
    });
    let _guard = broker.subscribe(">").handle(handler).await.unwrap();
    for n in 0..10 {
        broker.publish("tick", &n).await.unwrap();
    }
    sleep(millis(110)).await;
    assert_eq!(log.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_attempt_wherever_it_happens() {
    let broker = Broker::new();
    let handler = service_fn(|delivery: Delivery<u32>| {
        assert_ne!(*delivery.body(), 1, "in call");
        async move {
            settle().await;
            assert_ne!(*delivery.body(), 2, "in the future");
            if *delivery.body() == 3 {
                std::panic::panic_any(17);
            }
            Ok::<_, BoxError>(())
        }
    });
    let _guard = broker.subscribe(">").group("g").concurrency(1).handle(handler).await.unwrap();
    for n in 0..=4 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(5).await;
    let stats = stats(&broker, "g");
    assert_eq!((stats.acked, stats.dead, stats.delivered), (2, 3, 11), "the worker lives on");
    let letters = broker.dead_letters().list(&Filter::all(), None, 10).await.unwrap();
    let mut texts: Vec<_> =
        letters.iter().map(|letter| letter.last_failure.clone().unwrap().error).collect();
    texts.sort();
    assert_eq!(texts[2], "panic without a message");
    assert!(texts[0].contains("in call") && texts[1].contains("in the future"), "{texts:?}");
    assert!(letters.iter().all(|l| l.last_failure.as_ref().unwrap().kind == FailureKind::Panic));
}

/// Panics in its first call, and knows how often this clone was called.
#[derive(Clone, Default)]
struct Fragile {
    calls: u32,
    log: Log<u32>,
}

impl tower::Service<Delivery<u32>> for Fragile {
    type Response = ();
    type Error = BoxError;
    type Future = std::future::Ready<Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Delivery<u32>) -> Self::Future {
        self.calls += 1;
        self.log.note(self.calls);
        assert!(self.log.len() > 1, "cracked");
        std::future::ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_panicked_is_not_used_again() {
    let broker = Broker::new();
    let (fragile, policy) = (Fragile::default(), Policy::new().max_attempts(1));
    let log = fragile.log.clone();
    let _guard = broker.subscribe(">").policy(policy).concurrency(1).handle(fragile).await.unwrap();
    for n in 0..3 {
        broker.publish("tick", &n).await.unwrap();
    }
    settle().await;
    assert_eq!(log.all(), [1, 1, 2]);
}

/// Panics when it is dropped.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_while_dropping_ends_no_worker() {
    let broker = Broker::new();
    let handler = service_fn(|delivery: Delivery<u32>| async move {
        let _grenade = (*delivery.body() == 1).then(|| Grenade);
        if *delivery.body() == 2 {
            std::panic::panic_any(Grenade);
        }
        std::future::pending::<()>().await;
        Ok::<_, BoxError>(())
    });
    let policy = Policy::new().max_attempts(1).attempt_timeout(millis(10));
    let _guard = broker
        .subscribe(">")
        .group("g")
        .policy(policy)
        .concurrency(1)
        .handle(handler)
        .await
        .unwrap();
    for n in [1, 2, 1, 2, 0] {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(1).await;
    assert_eq!(stats(&broker, "g").dead, 5);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_is_dropped_and_tried_again() {
    let broker = Broker::new();
    let dropped = Log::default();
    let noted = dropped.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let guard = Noting(noted.clone(), delivery.attempt().number());
        async move {
            let _guard = guard;
            std::future::pending::<Result<(), BoxError>>().await
        }
    });
    let policy = Policy::new().attempt_timeout(Duration::from_secs(2));
    let _guard = broker.subscribe(">").group("g").policy(policy).handle(handler).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    sleep(millis(1_990)).await;
    assert_eq!(dropped.len(), 0);
    secs(10).await;
    assert_eq!(dropped.all(), [1, 2, 3]);
    let letter = &broker.dead_letters().list(&Filter::all(), None, 1).await.unwrap()[0];
    let last = letter.last_failure.as_ref().unwrap();
    assert_eq!((last.kind, &*last.error), (FailureKind::Timeout, "no reply within 2s"));
}

struct Noting(Log<u32>, u32);

impl Drop for Noting {
    fn drop(&mut self) {
        self.0.note(self.1);
    }
}

#[tokio::test(start_paused = true)]
async fn the_handler_s_answer_decides() {
    let broker = Broker::new();
    let log = Log::default();
    let noted = log.clone();
    let began = Instant::now();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note((*delivery.body(), began.elapsed().as_secs()));
        let reply = match delivery.body() {
            0 => Reply::Ack,
            1 => Reply::RetryAfter(Duration::from_secs(3)),
            2 => Reply::reject("no such customer"),
            _ => Reply::RetryAfter(Duration::MAX),
        };
        async move { Ok::<_, BoxError>(reply) }
    });
    let _guard = broker.subscribe(">").group("g").handle(handler).await.unwrap();
    for n in 0..4 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(20).await;
    assert_eq!(log.all(), [(0, 0), (1, 0), (2, 0), (3, 0), (1, 3), (1, 6)]);
    assert_eq!(stats(&broker, "g").delayed, 1, "the one that is to come back never");
    let letters = broker.dead_letters().list(&Filter::all(), None, 10).await.unwrap();
    assert_eq!(letters[0].reason, Reason::Rejected("no such customer".into()));
    assert_eq!((letters[0].attempts, &letters[0].last_failure), (1, &None));
    let last = letters[1].last_failure.as_ref().unwrap();
    assert_eq!((&letters[1].reason, last.kind), (&Reason::Exhausted, FailureKind::Retry));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_in_the_error_postpones_the_next_attempt() {
    let broker = Broker::new();
    let log = Log::default();
    let noted = log.clone();
    let handler = service_fn(move |_: Delivery<u32>| {
        noted.note(Instant::now());
        async { Err::<(), _>(Open::new("smtp").with_retry_after(Duration::from_secs(30))) }
    });
    let _guard = broker.subscribe(">").handle(handler).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    secs(100).await;
    let [first, second, third] = log.all()[..] else { panic!() };
    assert!((second - first).as_secs() == 30 && (third - second).as_secs() == 30);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_decoded_is_dead_at_once() {
    let broker = Broker::new();
    let (_guard, seen) = listen(&broker, ">", "g").await;
    broker.publish_message(Message::new("tick", "{no number").unwrap()).await.unwrap();
    broker.publish("tick", &7).await.unwrap();
    settle().await;
    assert_eq!(seen.all(), [7]);
    let letter = &broker.dead_letters().list(&Filter::all(), None, 1).await.unwrap()[0];
    assert!(matches!(&letter.reason, Reason::Undecodable(why) if why.contains("line 1")));
    assert_eq!((letter.attempts, &**letter.message.payload()), (1, &b"{no number"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_failing_group_leaves_the_other_groups_copy_alone() {
    let broker = Broker::new();
    let (_bad, _) = fail(&broker, "bad", Policy::new().when_full(WhenFull::Reject)).await;
    let (_good, seen) = listen(&broker, ">", "good").await;
    broker.publish("tick", &1).await.unwrap();
    secs(5).await;
    assert_eq!(seen.all(), [1]);
    assert_eq!((stats(&broker, "bad").dead, stats(&broker, "good").dead), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_finds_no_room_holds_its_worker_no_longer_than_an_attempt() {
    let broker = Broker::new();
    let full = Policy::new().capacity(1).when_full(WhenFull::Wait(Duration::from_secs(3_600)));
    broker.declare("answers", "inbox", full).await.unwrap();
    broker.publish("inbox", &0).await.unwrap();
    let policy = Policy::new().attempt_timeout(Duration::from_secs(1));
    let handler = service_fn(|_: Delivery<u32>| async { Reply::answer(&1) });
    let group = broker.subscribe("ask").group("g").policy(policy).concurrency(1);
    let _guard = group.handle(handler).await.unwrap();
    let question = Message::json("ask", &7).unwrap().with_header(Headers::REPLY_TO, "inbox");
    broker.publish_message(question).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let letters = broker.dead_letters().list(&Filter::all(), None, 10).await.unwrap();
    assert_eq!(letters[0].last_failure.as_ref().unwrap().kind, FailureKind::Timeout);
}

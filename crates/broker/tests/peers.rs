//! What went wrong elsewhere, and what holds here. Each test names who reported it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::time::Duration;

use common::{Log, fail, listen, millis, secs, settle, stats};
use gusset_broker::{
    Broker, Delivery, Error, Filter, Limits, Message, OrderBy, Policy, Reason, WhenFull,
};
use gusset_call::{BoxError, Deadline};
use tokio::time::{Instant, sleep, timeout};
use tower::service_fn;

const HOUR: Duration = Duration::from_secs(3_600);

/// Handlers that never end.
async fn stuck(broker: &Broker, group: &str, policy: Policy) -> gusset_broker::Subscription {
    let hang = service_fn(|_: Delivery<u32>| std::future::pending::<Result<(), BoxError>>());
    broker.subscribe(">").group(group).policy(policy).handle(hang).await.unwrap()
}

/// ThreeDotsLabs/watermill #247, #382, #275: one blocked subscriber stopped the others, since a lock was held until it answered.
#[tokio::test(start_paused = true)]
async fn a_blocked_subscriber_stops_no_other() {
    let broker = Broker::new();
    let _stuck = stuck(&broker, "stuck", Policy::new().attempt_timeout(HOUR)).await;
    let (_guard, seen) = listen(&broker, ">", "quick").await;
    for n in 0..500 {
        broker.publish("tick", &n).await.unwrap();
    }
    settle().await;
    assert_eq!(seen.len(), 500);
}

/// watermill #560: the order of a topic in memory was not kept.
#[tokio::test(start_paused = true)]
async fn one_worker_sees_messages_in_the_order_of_publishing() {
    let broker = Broker::new();
    let log = Log::default();
    let noted = log.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note(*delivery.body());
        async { Ok::<_, BoxError>(()) }
    });
    let _guard = broker.subscribe(">").concurrency(1).handle(handler).await.unwrap();
    for n in 0..500 {
        broker.publish("tick", &n).await.unwrap();
    }
    settle().await;
    assert_eq!(log.all(), (0..500).collect::<Vec<_>>());
}

/// watermill #296, kernel-memory PR 648, rabbitmq-server #1746: what was refused came back at once, "at a crazy speed".
/// hmchangw/newchat #346: bare naks used up all deliveries in milliseconds.
#[tokio::test(start_paused = true)]
async fn a_failing_message_comes_back_with_growing_pauses() {
    let broker = Broker::new();
    let policy = Policy::new().max_attempts(6).backoff(millis(100), HOUR);
    let (_guard, log) = fail(&broker, "g", policy).await;
    for n in 0..50 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(60).await;
    let (first, last) = (log.all()[0].2, log.all()[299].2);
    assert!(last - first > Duration::from_secs(1), "{:?}", last - first);
    assert_eq!(log.len(), 300);
}

/// watermill #298, dotnetcore/CAP #935, nats.rs #1276: what waited grew without a limit, or had one in messages only.
#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded_in_number_and_in_bytes() {
    let broker = Broker::new();
    let policy = Policy::new().when_full(WhenFull::Reject).capacity(100).max_bytes(50_000);
    broker.declare("g", ">", policy).await.unwrap();
    for size in [1, 1_000] {
        let mut taken = 0;
        while broker.publish_message(Message::new("t", vec![0; size]).unwrap()).await.is_ok() {
            taken += 1;
        }
        assert!(taken <= 100);
    }
    assert!(stats(&broker, "g").bytes <= 50_000 && stats(&broker, "g").ready <= 100);
}

/// watermill #271: the retry slept in the handler, so what came next waited. wolverine #3148: the head of the line held up all.
#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_its_next_attempt_occupies_no_worker() {
    let broker = Broker::new();
    let log = Log::default();
    let noted = log.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note(*delivery.body());
        let bad = *delivery.body() == 0;
        async move { if bad { Err("bad") } else { Ok(()) } }
    });
    let policy = Policy::new().backoff(HOUR, HOUR);
    let subscribe = broker.subscribe(">").policy(policy).concurrency(1);
    let _guard = subscribe.handle(handler).await.unwrap();
    for n in 0..10 {
        broker.publish("tick", &n).await.unwrap();
    }
    settle().await;
    assert_eq!(log.all(), (0..10).collect::<Vec<_>>());
}

/// tokio #2425, postage-rs #21, ractor #225: a slow receiver of a broadcast lost messages.
#[tokio::test(start_paused = true)]
async fn a_slow_receiver_loses_nothing() {
    let broker = Broker::new();
    let log = Log::default();
    let noted = log.clone();
    let slow = service_fn(move |delivery: Delivery<u32>| {
        let noted = noted.clone();
        async move {
            sleep(millis(10)).await;
            noted.note(*delivery.body());
            Ok::<_, BoxError>(())
        }
    });
    let policy = Policy::new().capacity(16).when_full(WhenFull::Wait(HOUR));
    let subscribe = broker.subscribe(">").policy(policy).concurrency(1);
    let _slow = subscribe.handle(slow).await.unwrap();
    let (_quick, seen) = listen(&broker, ">", "quick").await;
    for n in 0..1_000 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(1).await;
    assert_eq!((log.len(), seen.len()), (1_000, 1_000));
}

/// nats-io/jetstream #425, nats-server #5049: of a message given up there was a pointer, and neither its payload nor its error. apalis #182: the
/// last error was not noted. quarkus #20537: headers were lost.
#[tokio::test(start_paused = true)]
async fn a_dead_letter_has_payload_headers_and_errors() {
    let broker = Broker::new();
    let (_guard, _) = fail(&broker, "g", Policy::new()).await;
    let message = Message::json("tick", &7).unwrap().with_header("k", "v");
    broker.publish_message(message.clone()).await.unwrap();
    secs(10).await;
    let letter = &broker.dead_letters().list(&Filter::all(), None, 9).await.unwrap()[0];
    assert_eq!(letter.message.payload(), message.payload());
    assert_eq!(letter.message.headers().get("k"), Some("v"));
    let (first, last) =
        (letter.first_failure.as_ref().unwrap(), letter.last_failure.as_ref().unwrap());
    assert_eq!((&*first.error, first.attempt, last.attempt), ("out of order", 1, 3));
    assert!(first.at <= last.at && last.at <= letter.died_at);
}

/// pulsar #9582: a refused message broke the order of its key. localstack #12600: a key in flight blocked its whole group.
#[tokio::test(start_paused = true)]
async fn a_failing_key_keeps_its_order_and_blocks_no_other() {
    let broker = Broker::new();
    let log = Log::default();
    let noted = log.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let key = delivery.headers().get("key").unwrap_or_default().to_owned();
        let fails = key == "bad" && delivery.attempt().number() == 1;
        noted.note((key, *delivery.body(), fails));
        async move { if fails { Err("bad") } else { Ok(()) } }
    });
    let policy = Policy::new().backoff(HOUR, HOUR);
    let subscribe = broker.subscribe(">").policy(policy).ordered_by(OrderBy::header("key"));
    let _guard = subscribe.handle(handler).await.unwrap();
    for n in 0..5 {
        for key in ["bad", "good"] {
            let message = Message::json("tick", &n).unwrap().with_header("key", key);
            broker.publish_message(message).await.unwrap();
        }
    }
    settle().await;
    assert_eq!(log.all().iter().filter(|(key, ..)| key == "good").count(), 5);
    secs(20 * 3_600).await;
    let bad: Vec<_> = log
        .all()
        .into_iter()
        .filter(|(key, _, fails)| key == "bad" && !fails)
        .map(|(_, n, _)| n)
        .collect();
    assert_eq!(bad, [0, 1, 2, 3, 4]);
}

/// pulsar #6451, taskiq-aio-pika #35, symfony #49545: a process that was killed by a message did not count the attempt, and came back
/// to it for ever. Here whoever takes a message and never answers has used up an attempt.
#[tokio::test(start_paused = true)]
async fn an_attempt_is_counted_when_it_begins() {
    let broker = Broker::new();
    broker.declare("g", ">", Policy::new().max_attempts(3)).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    let mut pull = broker.subscribe(">").group("g").pull::<u32>().await.unwrap();
    for _ in 0..3 {
        std::mem::forget(pull.next().await.unwrap());
    }
    assert!(timeout(HOUR, pull.next()).await.is_err(), "nobody sees it a fourth time");
    assert_eq!(broker.stats().dead_letters, 1);
}

/// rabbitmq-website PR 2207, google-cloud-rust #266: what was fetched ahead and never handed over was charged, or lost until a deadline.
#[tokio::test(start_paused = true)]
async fn what_waits_behind_a_poisonous_message_is_not_charged() {
    let broker = Broker::new();
    let (_guard, log) = fail(&broker, "g", Policy::new().max_attempts(1)).await;
    for n in 0..20 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(1).await;
    assert!(log.all().iter().all(|(_, attempt, _)| *attempt == 1));
    let letters = broker.dead_letters().list(&Filter::all(), None, 99).await.unwrap();
    assert!(letters.len() == 20 && letters.iter().all(|letter| letter.attempts == 1));
}

/// cashapp/misk PR 3892: a deployment cut handlers short, and each time charged the message.
#[tokio::test(start_paused = true)]
async fn a_shutdown_charges_no_message() {
    let broker = Broker::new();
    broker.declare("g", ">", Policy::new().max_attempts(1)).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    for _ in 0..5 {
        let guard = stuck(&broker, "g", Policy::new().max_attempts(1)).await;
        settle().await;
        drop(guard);
    }
    let (_guard, seen) = listen(&broker, ">", "g").await;
    settle().await;
    assert_eq!((seen.all(), stats(&broker, "g").returned), (vec![1], 5));
}

/// Rock #6912: a stuck consumer let all later messages expire, silently.
#[tokio::test(start_paused = true)]
async fn what_expires_behind_a_stuck_consumer_is_a_dead_letter() {
    let broker = Broker::new();
    let policy = Policy::new().attempt_timeout(Duration::from_secs(60)).max_attempts(1);
    let hang = service_fn(|delivery: Delivery<u32>| async move {
        if *delivery.body() == 0 {
            std::future::pending::<()>().await;
        }
        Ok::<_, BoxError>(())
    });
    let subscribe = broker.subscribe(">").group("g").policy(policy).concurrency(1);
    let _guard = subscribe.handle(hang).await.unwrap();
    for n in 0..5 {
        let message = Message::json("tick", &n).unwrap().with_ttl(Duration::from_secs(30));
        broker.publish_message(message).await.unwrap();
    }
    secs(61).await;
    let letters = broker.dead_letters().list(&Filter::all(), None, 9).await.unwrap();
    assert_eq!(letters.iter().filter(|letter| letter.reason == Reason::Expired).count(), 4);
}

/// celery #5935, #6229, #3270, spring-cloud-aws #196: a message came back while its handler was still at work.
#[tokio::test(start_paused = true)]
async fn no_message_is_with_two_handlers_at_once() {
    let broker = Broker::new();
    let running = Log::default();
    let noted = running.clone();
    let slow = service_fn(move |delivery: Delivery<u32>| {
        let (noted, attempt) = (noted.clone(), delivery.attempt().number());
        async move {
            noted.note((attempt, "begun"));
            let _ended = End(noted.clone(), attempt);
            sleep(Duration::from_secs(if attempt == 1 { 50 } else { 1 })).await;
            Ok::<_, BoxError>(())
        }
    });
    struct End(Log<(u32, &'static str)>, u32);
    impl Drop for End {
        fn drop(&mut self) {
            self.0.note((self.1, "ended"));
        }
    }
    let _guard = broker.subscribe(">").handle(slow).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    secs(60).await;
    assert_eq!(running.all(), [(1, "begun"), (1, "ended"), (2, "begun"), (2, "ended")]);
}

/// symfony #37391, symfony-docs #20304: letters that were retried failed again for ever, or were thrown away.
/// kafka-ui #1920, danube #169: there was no way back at all.
#[tokio::test(start_paused = true)]
async fn a_redriven_letter_that_dies_again_is_a_letter_again_and_not_redriven_for_ever() {
    let broker = Broker::with_limits(Limits::new().redrives(3));
    let (_guard, log) = fail(&broker, "g", Policy::new().max_attempts(1)).await;
    broker.publish("tick", &1).await.unwrap();
    for _ in 0..10 {
        secs(1).await;
        let _ = broker.dead_letters().redrive_all(&Filter::all()).await.unwrap();
    }
    assert_eq!((log.len(), broker.stats().dead_letters), (4, 1));
}

/// A redrive of all at once brought down what had just recovered; SQS has a rate for that.
#[tokio::test(start_paused = true)]
async fn a_redrive_keeps_to_its_rate_and_a_dry_run_changes_nothing() {
    let broker = Broker::new();
    let (guard, _) = fail(&broker, "g", Policy::new().max_attempts(1)).await;
    broker.declare("g", ">", Policy::new().max_attempts(1)).await.unwrap();
    for n in 0..30 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(1).await;
    guard.close().await;
    let all = broker.dead_letters().redrive_all(&Filter::all());
    assert_eq!(all.clone().dry_run().await.unwrap().redriven, 30);
    assert_eq!(broker.stats().dead_letters, 30);
    let began = Instant::now();
    let rate = std::num::NonZeroU32::new(10).unwrap();
    assert_eq!(all.per_second(rate).await.unwrap().redriven, 30);
    assert_eq!(began.elapsed().as_millis() / 100, 29);
}

/// apalis #503, #510: a message was tried without end. symfony #52642: after the last attempt it was thrown away.
#[tokio::test(start_paused = true)]
async fn the_attempts_end_and_the_message_is_kept() {
    let broker = Broker::new();
    let (_guard, log) = fail(&broker, "g", Policy::new()).await;
    broker.publish("tick", &1).await.unwrap();
    secs(24 * 3_600).await;
    assert_eq!((log.len(), broker.stats().dead_letters), (3, 1));
}

/// faktory #300: a panic left the job busy for ever. apalis #30: any error ended the worker.
#[tokio::test(start_paused = true)]
async fn a_panic_leaves_nothing_busy_and_ends_no_worker() {
    let broker = Broker::new();
    let handler = service_fn(|delivery: Delivery<u32>| async move {
        assert!(*delivery.body() != 0, "zero");
        Ok::<_, BoxError>(())
    });
    let subscribe = broker.subscribe(">").group("g").concurrency(1);
    let _guard = subscribe.handle(handler).await.unwrap();
    for n in 0..5 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(10).await;
    let stats = stats(&broker, "g");
    assert_eq!((stats.in_flight, stats.acked, stats.dead), (0, 4, 1));
}

/// omniqueue PR 182: a delayed message was taken and never delivered. PR 118: a time limit ran from the making, not from the delivery.
#[tokio::test(start_paused = true)]
async fn a_delayed_message_comes_and_its_time_limit_runs_from_its_delivery() {
    let broker = Broker::new();
    let policy = Policy::new().attempt_timeout(Duration::from_secs(10));
    let mut pull = broker.subscribe(">").group("g").policy(policy).pull::<u32>().await.unwrap();
    let later = Message::json("tick", &1).unwrap().with_delay(Duration::from_secs(60));
    broker.publish_message(later).await.unwrap();
    let pulled = timeout(Duration::from_secs(61), pull.next()).await.unwrap().unwrap();
    secs(9).await;
    pulled.ack().await.unwrap();
}

/// iggy #2928: messages were acknowledged before they were handled.
#[tokio::test(start_paused = true)]
async fn a_message_is_acknowledged_after_its_handler_and_not_before() {
    let broker = Broker::new();
    let slow = service_fn(|_: Delivery<u32>| async {
        secs(5).await;
        Ok::<_, BoxError>(())
    });
    let _guard = broker.subscribe(">").group("g").handle(slow).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    secs(4).await;
    assert_eq!((stats(&broker, "g").acked, stats(&broker, "g").in_flight), (0, 1));
    secs(2).await;
    assert_eq!(stats(&broker, "g").acked, 1);
}

/// tailscale #18012: a bounded queue, and a handler that published into it: nobody could go on.
#[tokio::test(start_paused = true)]
async fn a_handler_that_publishes_into_its_own_full_group_goes_on() {
    let broker = Broker::new();
    let inner = broker.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let broker = inner.clone();
        async move {
            if *delivery.body() > 0 {
                broker.publish("tick", &(delivery.body() - 1)).await?;
            }
            Ok::<_, Error>(())
        }
    });
    let policy = Policy::new().capacity(2).when_full(WhenFull::Wait(HOUR));
    let _guard = broker.subscribe(">").group("g").policy(policy).handle(handler).await.unwrap();
    let all = async {
        for _ in 0..20 {
            broker.publish("tick", &20).await.unwrap();
        }
        while stats(&broker, "g").acked < 20 * 21 {
            sleep(millis(10)).await;
        }
    };
    timeout(Duration::from_secs(60), all).await.unwrap();
}

/// iroh #2415, zesterer/flume #104: a send that was cancelled lost its message, or was not cancelled at all.
#[tokio::test(start_paused = true)]
async fn a_cancelled_publish_is_as_if_it_had_never_been() {
    let broker = Broker::new();
    let policy = Policy::new().capacity(1).when_full(WhenFull::Wait(HOUR));
    broker.declare("g", ">", policy).await.unwrap();
    broker.publish("tick", &0).await.unwrap();
    for n in 1..10 {
        assert!(timeout(millis(10), broker.publish("tick", &n)).await.is_err());
    }
    assert_eq!(stats(&broker, "g").waiting, 0);
    let (_guard, seen) = listen(&broker, ">", "g").await;
    broker.publish("tick", &10).await.unwrap();
    settle().await;
    assert_eq!(seen.all(), [0, 10]);
}

/// MassTransit #1478: what was to be published was not, when the process ended.
#[tokio::test(start_paused = true)]
async fn closing_finishes_what_is_at_work_and_tells_what_is_left() {
    let broker = Broker::new();
    let slow = service_fn(|_: Delivery<u32>| async {
        secs(1).await;
        Ok::<_, BoxError>(())
    });
    let subscribe = broker.subscribe(">").group("g").concurrency(2);
    let _guard = subscribe.handle(slow).await.unwrap();
    for n in 0..5 {
        broker.publish("tick", &n).await.unwrap();
    }
    settle().await;
    let left = broker.close(Deadline::after(Duration::from_secs(5))).await;
    assert_eq!((left.cut_short, left.messages(), stats(&broker, "g").acked), (0, 3, 2));
}

/// async-nats 0.51: what was published right after a subscription was made could be missed.
#[tokio::test(start_paused = true)]
async fn what_is_published_right_after_subscribing_is_not_missed() {
    let broker = Broker::new();
    for round in 0..100 {
        let (_guard, seen) = listen(&broker, ">", &format!("g{round}")).await;
        broker.publish("tick", &round).await.unwrap();
        settle().await;
        assert_eq!(seen.all(), [round]);
    }
}

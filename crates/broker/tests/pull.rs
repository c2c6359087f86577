//! Messages that are taken by hand.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::time::Duration;

use common::{millis, secs, settle, stats};
use gusset_broker::{Broker, Error, Filter, Message, OrderBy, Policy, Pull, Reason};
use gusset_call::Deadline;
use tokio::time::{Instant, timeout};

async fn pull(broker: &Broker, policy: Policy) -> Pull<u32> {
    broker.subscribe(">").group("g").policy(policy).pull().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_is_done() {
    let broker = Broker::new();
    let mut pull = pull(&broker, Policy::new()).await;
    for n in 0..3 {
        broker.publish("tick", &n).await.unwrap();
    }
    for n in 0..3 {
        let pulled = pull.next().await.unwrap();
        assert_eq!((*pulled.body(), pulled.attempt().number(), pulled.group()), (n, 1, "g"));
        pulled.ack().await.unwrap();
    }
    assert!(timeout(secs_of(60), pull.next()).await.is_err(), "nothing more");
    assert_eq!((stats(&broker, "g").acked, stats(&broker, "g").in_flight), (3, 0));
}

const fn secs_of(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test(start_paused = true)]
async fn a_nak_waits_as_long_as_it_says_and_a_bare_one_for_the_backoff() {
    let broker = Broker::new();
    let policy = Policy::new().backoff(secs_of(2), secs_of(2)).max_attempts(9);
    let mut pull = pull(&broker, policy).await;
    broker.publish("tick", &1).await.unwrap();
    let began = Instant::now();
    pull.next().await.unwrap().nak(Some(secs_of(7))).await.unwrap();
    let again = pull.next().await.unwrap();
    assert_eq!((began.elapsed().as_secs(), again.attempt().number()), (7, 2));
    // Not all attempts in a millisecond.
    let began = Instant::now();
    let mut pulled = again;
    for _ in 0..6 {
        pulled.nak(None).await.unwrap();
        pulled = pull.next().await.unwrap();
    }
    assert!(began.elapsed() > millis(1_000) && began.elapsed() < secs_of(12));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_dropped_without_an_answer_is_a_failed_attempt() {
    let broker = Broker::new();
    let mut pull = pull(&broker, Policy::new().max_attempts(2)).await;
    broker.publish("tick", &1).await.unwrap();
    drop(pull.next().await.unwrap());
    assert_eq!(stats(&broker, "g").delayed, 1);
    let last = pull.next().await.unwrap();
    assert!(last.is_last_attempt());
    drop(last);
    let letter = &broker.dead_letters().list(&Filter::all(), None, 9).await.unwrap()[0];
    assert_eq!((letter.attempts, &letter.reason), (2, &Reason::Exhausted));
    assert_eq!(letter.last_failure.as_ref().unwrap().error, "dropped without an answer");
}

#[tokio::test(start_paused = true)]
async fn a_terminated_message_is_dead_with_the_reason() {
    let broker = Broker::new();
    let mut pull = pull(&broker, Policy::new()).await;
    broker.publish("tick", &1).await.unwrap();
    pull.next().await.unwrap().term("of no use").await.unwrap();
    let letter = &broker.dead_letters().list(&Filter::all(), None, 9).await.unwrap()[0];
    assert_eq!((letter.attempts, &letter.reason), (1, &Reason::Rejected("of no use".into())));
}

#[tokio::test(start_paused = true)]
async fn who_answers_too_late_is_told_and_the_message_went_on() {
    let broker = Broker::new();
    let mut pull = pull(&broker, Policy::new().attempt_timeout(secs_of(10))).await;
    broker.publish("tick", &1).await.unwrap();
    let slow = pull.next().await.unwrap();
    let again = pull.next().await.unwrap();
    assert_eq!((again.attempt().number(), stats(&broker, "g").overdue), (2, 1));
    assert!(matches!(slow.in_progress().await, Err(Error::LeaseLost)));
    assert!(matches!(slow.ack().await, Err(Error::LeaseLost)));
    assert_eq!(stats(&broker, "g").in_flight, 1);
    again.ack().await.unwrap();
    assert_eq!((stats(&broker, "g").acked, stats(&broker, "g").in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn work_in_progress_is_left_alone_however_long_it_takes() {
    let broker = Broker::new();
    let mut pull = pull(&broker, Policy::new().attempt_timeout(secs_of(10))).await;
    broker.publish("tick", &1).await.unwrap();
    let slow = pull.next().await.unwrap();
    for _ in 0..20 {
        secs(9).await;
        slow.in_progress().await.unwrap();
    }
    slow.ack().await.unwrap();
    assert_eq!((stats(&broker, "g").acked, stats(&broker, "g").overdue), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_never_answered_in_time_is_dead_in_the_end_and_seen_by_nobody() {
    let broker = Broker::new();
    let policy = Policy::new().attempt_timeout(secs_of(10)).max_attempts(2);
    let mut pull = pull(&broker, policy).await;
    broker.publish("tick", &1).await.unwrap();
    let (_one, _two) = (pull.next().await.unwrap(), pull.next().await.unwrap());
    assert!(timeout(secs_of(60), pull.next()).await.is_err());
    let letter = &broker.dead_letters().list(&Filter::all(), None, 9).await.unwrap()[0];
    assert_eq!((letter.attempts, &letter.reason), (2, &Reason::Exhausted), "as were handed over");
    assert_eq!(letter.last_failure.as_ref().unwrap().error, "no answer within 10s");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_decoded_is_dead_and_the_next_comes() {
    let broker = Broker::new();
    let mut pull = pull(&broker, Policy::new()).await;
    broker.publish_message(Message::new("tick", "{").unwrap()).await.unwrap();
    broker.publish("tick", &2).await.unwrap();
    assert_eq!(*pull.next().await.unwrap().body(), 2);
    assert_eq!(stats(&broker, "g").dead, 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wait_takes_nothing_and_swallows_no_call() {
    let broker = Broker::new();
    let (mut one, mut two) =
        (pull(&broker, Policy::new()).await, pull(&broker, Policy::new()).await);
    let mut first = tokio_test::task::spawn(one.next());
    let mut second = tokio_test::task::spawn(two.next());
    assert!(first.poll().is_pending() && second.poll().is_pending());
    broker.publish("tick", &1).await.unwrap();
    assert!(first.is_woken() && !second.is_woken());
    drop(first);
    drop(one);
    assert!(second.is_woken(), "the call was passed on");
    assert!(second.poll().is_ready());
}

#[tokio::test(start_paused = true)]
async fn the_stream_ends_with_the_broker() {
    let broker = Broker::new();
    let mut pull = pull(&broker, Policy::new()).await;
    let ending = tokio::spawn(async move { pull.next().await.is_none() });
    settle().await;
    broker.close(Deadline::after(secs_of(1))).await;
    assert!(timeout(secs_of(1), ending).await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn who_sleeps_is_woken_when_the_message_before_in_its_lane_is_acknowledged() {
    let broker = Broker::new();
    let group = || broker.subscribe(">").group("g").ordered_by(OrderBy::header("key"));
    let (mut first, mut second) =
        (group().pull::<u32>().await.unwrap(), group().pull::<u32>().await.unwrap());
    for n in 0..2 {
        let message = Message::json("tick", &n).unwrap().with_header("key", "same");
        broker.publish_message(message).await.unwrap();
    }
    let pulled = first.next().await.unwrap();
    let sleeper = tokio::spawn(async move { *second.next().await.unwrap().body() });
    settle().await;
    pulled.ack().await.unwrap();
    assert_eq!(timeout(millis(1), sleeper).await.unwrap().unwrap(), 1);
}

//! Services that react to events with events.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::time::Duration;

use common::{Log, listen, millis, secs, settle, stats};
use gusset_broker::{
    Broker, Delivery, Error, Filter, Headers, Message, MessageId, Policy, ReactLayer, Reaction,
    Reply, Subscription, TraceLayer, WhenFull,
};
use gusset_call::BoxError;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn};

fn json(subject: &str, n: u32) -> Message {
    Message::json(subject, &n).unwrap()
}

/// Reacts to `from`.
async fn react<F>(broker: &Broker, from: &str, group: &str, answer: F) -> Subscription
where
    F: Fn(Delivery<u32>) -> Result<Reaction, BoxError> + Clone + Send + 'static,
{
    let handler = service_fn(move |delivery: Delivery<u32>| std::future::ready(answer(delivery)));
    let handler = ReactLayer::new(broker).layer(handler);
    broker.subscribe(from.to_owned()).group(group.to_owned()).handle(handler).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_follows_is_published_before_the_cause_is_acknowledged() {
    let broker = Broker::new();
    let _guard = react(&broker, "order", "pay", |d| Ok(json("paid", *d.body()).into())).await;
    let full = Policy::new().capacity(1).when_full(WhenFull::Wait(Duration::from_secs(20)));
    broker.declare("mail", "paid", full).await.unwrap();
    broker.publish("paid", &0).await.unwrap();
    broker.publish("order", &1).await.unwrap();
    secs(5).await;
    let at_work = stats(&broker, "pay");
    assert_eq!((at_work.acked, at_work.in_flight), (0, 1), "no room for what follows yet");
    let (_mails, seen) = listen(&broker, "paid", "mail").await;
    settle().await;
    assert_eq!((stats(&broker, "pay").acked, seen.all()), (1, vec![0, 1]));
}

#[tokio::test(start_paused = true)]
async fn what_was_published_before_a_failure_is_not_published_again() {
    let broker = Broker::new();
    let (_paid, paid) = listen(&broker, "paid", "mail").await;
    let tight = Policy::new().capacity(1).when_full(WhenFull::Reject);
    broker.declare("stock", "reserve", tight).await.unwrap();
    broker.publish("reserve", &0).await.unwrap();
    let attempts = Log::default();
    let noted = attempts.clone();
    let _guard = react(&broker, "order", "shop", move |delivery| {
        noted.note(delivery.attempt().number());
        let n = *delivery.body();
        // Two of one subject are two messages.
        Ok(vec![json("paid", n), json("paid", n + 1), json("reserve", n)].into())
    })
    .await;
    broker.publish("order", &1).await.unwrap();
    settle().await;
    assert_eq!((paid.all(), stats(&broker, "shop").acked), (vec![1, 2], 0));
    let (_stock, reserved) = listen(&broker, "reserve", "stock").await;
    secs(2).await;
    assert!(attempts.len() >= 2);
    assert_eq!((paid.all(), reserved.all()), (vec![1, 2], vec![0, 1]));
    assert_eq!((stats(&broker, "shop").acked, stats(&broker, "shop").dead), (1, 0));
    assert_eq!(broker.stats().duplicates as usize, 2 * (attempts.len() - 1));
}

#[tokio::test(start_paused = true)]
async fn causes_are_told_along_the_way_and_each_group_reacts_for_itself() {
    let broker = Broker::new();
    let spans = Log::default();
    let noted = spans.clone();
    let trace = TraceLayer::new(&broker, move |span| noted.note(span));
    let pay = service_fn(|d: Delivery<u32>| async move { Message::json("paid", d.body()) });
    let pay = trace.layer(ReactLayer::new(&broker).layer(pay));
    let _pay = broker.subscribe("order").group("pay").handle(pay).await.unwrap();
    let _also = react(&broker, "order", "also", |d| Ok(json("paid", *d.body()).into())).await;
    let _send = react(&broker, "paid", "send", |d| Ok(Some(json("sent", *d.body())).into())).await;
    let mut sent = broker.subscribe("sent").group("end").pull::<u32>().await.unwrap();
    let mut paid = broker.subscribe("paid").group("see").pull::<u32>().await.unwrap();
    let order = broker.publish("order", &7).await.unwrap().id.to_string();
    let mut causes = Vec::new();
    for _ in 0..2 {
        let (paid, sent) = (paid.next().await.unwrap(), sent.next().await.unwrap());
        for message in [paid.message(), sent.message()] {
            assert_eq!(message.headers().get(Headers::CORRELATION_ID), Some(&*order));
        }
        assert_eq!(paid.headers().get(Headers::CAUSATION_ID), Some(&*order));
        assert_eq!(sent.headers().get(Headers::CAUSATION_ID), Some(&*paid.id().to_string()));
        causes.push(paid.message().clone());
    }
    assert_ne!(causes[0].id(), causes[1].id(), "two groups published one each");
    let pay = spans.all()[0].clone();
    assert!(
        causes.iter().any(|paid| paid.trace() == Some(pay.trace)),
        "published within the handling"
    );
}

#[tokio::test(start_paused = true)]
async fn the_answer_decides_what_is_published() {
    let broker = Broker::new();
    let (_seen, seen) = listen(&broker, "follow", "seen").await;
    let own = MessageId::named("of the publisher");
    let _guard = react(&broker, "order", "g", move |delivery| {
        let follow = json("follow", *delivery.body());
        Ok(match (*delivery.body(), delivery.attempt().number()) {
            (0, _) => Reaction::from(Reply::reject("no use")).then(follow),
            (1, 1) => Reaction::from(Reply::RetryAfter(millis(5))).then(follow),
            (1, _) => ().into(),
            (_, _) => follow.with_id(own).into(),
        })
    })
    .await;
    for n in 0..4 {
        broker.publish("order", &n).await.unwrap();
    }
    secs(1).await;
    assert_eq!(seen.all(), [0, 2], "its own id is kept, and a repetition known by it");
    let letters = broker.dead_letters().list(&Filter::all(), None, 9).await.unwrap();
    assert_eq!((letters.len(), stats(&broker, "g").acked), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_reaction_into_its_own_full_group_does_not_wait_for_itself() {
    let broker = Broker::new();
    let handler = service_fn(|delivery: Delivery<u32>| async move {
        sleep(millis(1)).await;
        let next = delivery.body().checked_sub(1).map(|n| json("step", n));
        Ok::<Reaction, Error>(next.into())
    });
    let policy = Policy::new().capacity(2).when_full(WhenFull::Wait(Duration::from_secs(3_600)));
    let subscribe = broker.subscribe("step").group("g").policy(policy).concurrency(2);
    let handler = ReactLayer::new(&broker).layer(handler);
    let _guard = subscribe.handle(handler).await.unwrap();
    for _ in 0..2 {
        broker.publish("step", &20).await.unwrap();
    }
    secs(2).await;
    let stats = stats(&broker, "g");
    assert_eq!((stats.acked, stats.redelivered, stats.dead), (42, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_while_publishing_publishes_no_second_copy() {
    let broker = Broker::new();
    let (_paid, paid) = listen(&broker, "paid", "mail").await;
    let full = Policy::new().capacity(1).when_full(WhenFull::Wait(Duration::from_secs(3_600)));
    broker.declare("stock", "reserve", full).await.unwrap();
    broker.publish("reserve", &0).await.unwrap();
    let handler = service_fn(|d: Delivery<u32>| async move {
        Ok::<_, BoxError>(vec![json("paid", *d.body()), json("reserve", *d.body())])
    });
    let policy = Policy::new().max_attempts(9).attempt_timeout(millis(200));
    let subscribe = broker.subscribe("order").group("shop").policy(policy);
    let _guard = subscribe.handle(ReactLayer::new(&broker).layer(handler)).await.unwrap();
    broker.publish("order", &1).await.unwrap();
    sleep(millis(500)).await;
    let (_stock, reserved) = listen(&broker, "reserve", "stock").await;
    secs(5).await;
    assert!(stats(&broker, "shop").redelivered > 0);
    assert_eq!((paid.all(), reserved.all()), (vec![1], vec![0, 1]));
    assert_eq!(stats(&broker, "shop").acked, 1);
}

/// What a relay hands over: it knows nothing of brokers.
struct OutboxRow {
    key: String,
    subject: String,
    headers: Vec<(String, String)>,
    payload: Vec<u8>,
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_sends_a_message_again_publishes_it_once() {
    let broker = Broker::new();
    let (_guard, seen) = listen(&broker, "paid", "mail").await;
    let mut relay = broker.publisher().map_request(|row: OutboxRow| {
        let message = Message::new(row.subject, row.payload).unwrap();
        let message =
            row.headers.into_iter().fold(message, |m, (name, value)| m.with_header(name, value));
        message.with_id(MessageId::named(&row.key))
    });
    for sequence in [1, 2, 2, 1, 3] {
        let row = OutboxRow {
            key: format!("saga 7 {sequence}"),
            subject: "paid".into(),
            headers: vec![("content-type".into(), "application/json".into())],
            payload: sequence.to_string().into(),
        };
        relay.ready().await.unwrap().call(row).await.unwrap();
    }
    settle().await;
    assert_eq!((seen.all(), broker.stats().duplicates), (vec![1, 2, 3], 2));
}

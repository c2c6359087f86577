//! What is retained, and what comes again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::borrow::Cow;

use common::{Log, millis, secs};
use futures_util::FutureExt;
use gusset_broker::{
    Broker, Delivery, Error, Limits, MemoryEngine, Message, MessageId, OrderBy, Pattern, Policy,
    Reply, Retention, Start, WhenExpired, WhenUnheard,
};
use gusset_call::BoxError;
use tokio::time::Instant;
use tower::service_fn;

fn retaining() -> Broker {
    let retention = Retention::new(Pattern::new(">").unwrap());
    Broker::on(MemoryEngine::new(Limits::new(), Some(retention), WhenUnheard::Drop))
}

#[tokio::test(start_paused = true)]
async fn what_is_retained_keeps_its_delay_and_its_end() {
    let broker = retaining();
    let message = |n: u32| Message::json("a", &n).unwrap();
    broker.publish_message(message(1).with_delay(millis(10_000))).await.unwrap();
    broker.publish_message(message(2).with_ttl(millis(1_000))).await.unwrap();
    broker.publish_message(message(3)).await.unwrap();
    secs(5).await;
    let seen = Log::default();
    let noted = seen.clone();
    let began = Instant::now();
    let _guard = broker
        .subscribe("a")
        .group("g")
        .starting(Start::First)
        .policy(Policy::new().when_expired(WhenExpired::Drop))
        .handle(service_fn(move |d: Delivery<u32>| {
            noted.note((*d.body(), began.elapsed().as_secs()));
            async { Ok::<_, BoxError>(()) }
        }))
        .await
        .unwrap();
    secs(20).await;
    assert_eq!(seen.all(), [(3, 0), (1, 5)]);
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_known_id_is_not_said_to_have_nobody_to_answer() {
    let broker = Broker::new();
    let _guard = broker
        .subscribe("a")
        .handle(service_fn(|d: Delivery<u32>| async move { Reply::answer(d.body()) }))
        .await
        .unwrap();
    let ask = || Message::json("a", &7).unwrap().with_id(MessageId::named("x"));
    let first = broker.request_message(ask(), millis(1_000)).await;
    assert!(first.is_ok());
    let second = broker.request_message(ask(), millis(1_000)).await;
    assert!(!matches!(second, Err(Error::NoResponders(_))), "{second:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_past_may_ask_the_broker_and_what_comes_meanwhile_comes_after() {
    let broker = retaining();
    broker.publish("a", &1).await.unwrap();
    let own = broker.clone();
    let order = OrderBy::key("nosy", move |message| {
        if message.payload() == "1" {
            // Another publisher, while the past is on its way.
            assert!(own.publish("a", &2).now_or_never().unwrap().is_ok());
            assert_eq!(own.stats().groups[0].ready, 0, "not before the past");
        }
        Some(Cow::Borrowed("k"))
    });
    let group = broker.subscribe("a").group("g").ordered_by(order).starting(Start::First);
    let mut pull = group.pull::<u32>().await.unwrap();
    for expected in [1, 2] {
        let pulled = pull.next().await.unwrap();
        assert_eq!(*pulled.body(), expected);
        pulled.ack().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_of_the_past_that_panics_leaves_no_group_behind() {
    let broker = retaining();
    broker.publish("a", &1).await.unwrap();
    let order = OrderBy::key("angry", |_| panic!("no key"));
    let group = broker.subscribe("a").group("g").ordered_by(order).starting(Start::First);
    let declared = std::panic::AssertUnwindSafe(group.declare()).catch_unwind().await;
    assert!(declared.is_err());
    assert!(broker.stats().groups.is_empty());
    assert_eq!(broker.publish("a", &2).await.unwrap().groups, 0);
}

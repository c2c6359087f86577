//! What is retained, and what comes again.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use common::{Log, millis, secs};
use gusset_broker::{
    Broker, Delivery, Error, Limits, MemoryEngine, Message, MessageId, Pattern, Policy, Reply,
    Retention, Start, WhenExpired, WhenUnheard,
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

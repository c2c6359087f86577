use std::{collections::HashMap, time::Duration};

use gusset_broker::{Broker, Delivery, Error, Message, OrderBy, Priority, Reply, Subscription};
use gusset_call::BoxError;
use tower::service_fn;

use crate::harness::{Log, Server, connect, hasty, until};

/// What was begun, with its attempt, and what was done. Every third number of a key fails at first, every seventh always.
async fn member(broker: &Broker, begun: &Log<(u32, u32)>, done: &Log<u32>) -> Subscription {
    let (begun, done) = (begun.clone(), done.clone());
    broker
        .subscribe("order.*")
        .group("g")
        .policy(hasty().max_attempts(2))
        .ordered_by(OrderBy::header("customer"))
        .handle(service_fn(move |delivery: Delivery<u32>| {
            let (begun, done) = (begun.clone(), done.clone());
            async move {
                let (n, attempt) = (*delivery.body(), delivery.attempt().number());
                begun.note((n, attempt));
                tokio::time::sleep(Duration::from_millis(2)).await;
                if n % 7 == 6 || n % 3 == 2 && attempt == 1 {
                    return Err(BoxError::from("no"));
                }
                done.note(n);
                Ok(Reply::Ack)
            }
        }))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_keeps_its_order_across_processes_failures_and_the_end_of_a_process() {
    let server = Server::start();
    // Longer than a busy machine keeps a process from telling that it is still at it.
    let quick = || server.options().ack_wait(Duration::from_secs(5));
    let (one, two) = (connect(quick()).await, connect(quick()).await);
    let (begun, done) = (Log::default(), Log::default());
    let first = member(&one, &begun, &done).await;
    let _second = member(&two, &begun, &done).await;
    let customers = ["ada", "bob", "eve"];
    for n in 0..60_u32 {
        let customer = customers[n as usize % 3];
        let message = Message::json("order.created", &n).unwrap();
        two.publish_message(message.with_header("customer", customer)).await.unwrap();
    }
    begun.has(20).await;
    // In the middle of whatever it is at.
    drop(first);
    let operator = server.operator().await;
    until("all are settled", async || operator.messages("gusset").await == 0).await;
    let mut last = HashMap::new();
    for (n, attempt) in begun.all() {
        let before = last.insert(n % 3, (n, attempt));
        assert!(
            before.is_none_or(|before| before <= (n, attempt)),
            "{before:?}, then {n} {attempt}"
        );
    }
    let mut all = done.all();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..60).filter(|n| n % 7 != 6).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_members_of_a_group_agree_on_its_order() {
    let server = Server::start();
    let broker = server.broker().await;
    let declare =
        |order: &str| broker.subscribe(">").group("g").ordered_by(OrderBy::header(order)).declare();
    declare("customer").await.unwrap();
    declare("customer").await.unwrap();
    let other = declare("invoice").await;
    assert!(matches!(other, Err(Error::GroupDiffers { what: "order", .. })), "{other:?}");
    broker.subscribe(">").group("g").declare().await.unwrap();
    broker.subscribe(">").group("plain").declare().await.unwrap();
    let late =
        broker.subscribe(">").group("plain").ordered_by(OrderBy::header("x")).declare().await;
    assert!(matches!(late, Err(Error::GroupDiffers { what: "order", .. })), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_cannot_do_is_refused_with_what_to_do_instead() {
    let server = Server::start();
    let broker = server.broker().await;
    let urgent = Message::json("a", &1).unwrap().with_priority(Priority::High);
    let refused = broker.publish_message(urgent).await.unwrap_err().to_string();
    assert!(refused.contains("a group of its own"), "{refused}");
    let past = broker.subscribe(">").group("g").starting(gusset_broker::Start::First);
    let refused = past.declare().await.unwrap_err().to_string();
    assert!(refused.contains("NatsOptions::retain"), "{refused}");
}

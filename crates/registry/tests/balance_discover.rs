//! Our instances in tower's hands.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{convert::Infallible, sync::Arc};

use futures_core::Stream;
use gusset_registry::{Discovered, Health, Instance, Publisher};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{
    Service, ServiceExt,
    balance::p2c,
    discover::Change,
    load::{CompleteOnResponse, PendingRequests},
    service_fn,
};

fn at(id: &str, port: u16) -> Arc<Instance> {
    Arc::new(Instance::new("s", "h", port).with_id(id).with_health(Health::Healthy))
}

/// What a change says: `+a1` or `-a`.
fn text(change: Change<Arc<str>, u16>) -> String {
    match change {
        Change::Insert(id, port) => format!("+{id}{port}"),
        Change::Remove(id) => format!("-{id}"),
    }
}

#[test]
fn what_changed_is_told_once_and_what_nobody_asked_for_becomes_one() {
    let publisher = Publisher::new("s");
    let mut discovered =
        task::spawn(Discovered::new(publisher.watch(), |instance: &Instance| instance.port));
    assert_pending!(discovered.poll_next());
    publisher.publish(vec![at("a", 1), at("b", 1)]);
    assert!(discovered.is_woken());
    let mut told = Vec::new();
    for instances in [vec![at("a", 1), at("b", 1)], vec![at("a", 2), at("c", 1)]] {
        publisher.publish(vec![at("x", 1)]);
        publisher.publish(instances);
        while let std::task::Poll::Ready(Some(Ok(change))) = discovered.poll_next() {
            told.push(text(change));
        }
        // Nobody polls without being woken.
        assert!(!discovered.is_woken());
    }
    assert_eq!(told, ["+a1", "+b1", "-a", "-b", "+a2", "+c1"]);
}

#[tokio::test]
async fn the_next_change_is_waited_for() {
    let publisher = Publisher::new("s");
    let mut discovered = Discovered::new(publisher.watch(), |instance: &Instance| instance.port);
    let mut next = task::spawn(discovered.next_change());
    assert_pending!(next.poll());
    publisher.publish(vec![at("a", 7)]);
    assert!(next.is_woken());
    assert_eq!(text(assert_ready!(next.poll())), "+a7");
}

#[tokio::test]
async fn towers_balance_calls_our_instances() {
    let publisher = Publisher::new("s");
    publisher.publish(vec![at("a", 1), at("b", 2)]);
    let make = |instance: &Instance| {
        let port = instance.port;
        let service = service_fn(move |(): ()| std::future::ready(Ok::<_, Infallible>(port)));
        PendingRequests::new(service, CompleteOnResponse::default())
    };
    let mut balance = p2c::Balance::new(Discovered::new(publisher.watch(), make));
    let mut ports = std::collections::BTreeSet::new();
    for _ in 0..100 {
        ports.insert(balance.ready().await.unwrap().call(()).await.unwrap());
    }
    assert_eq!(ports, [1, 2].into());
    publisher.publish(vec![at("b", 2)]);
    for _ in 0..100 {
        assert_eq!(balance.ready().await.unwrap().call(()).await.unwrap(), 2);
    }
}

#[test]
fn it_is_a_stream_that_can_be_sent() {
    fn sent<T: Stream + Send>() {}
    sent::<Discovered<fn(&Instance) -> u16>>();
}

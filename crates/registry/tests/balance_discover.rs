//! Our instances in tower's hands, and its services in ours.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use gusset_registry::{
    Balance, Candidates, Discovered, Fleet, Follower, Health, Instance, Publisher,
    WeightedRoundRobin,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
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
        while let Poll::Ready(Some(Ok(change))) = discovered.poll_next() {
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
    let mut ports = BTreeSet::new();
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

// The other way round.

/// Answers with its text, as long as one of it is there.
#[derive(Clone, Debug)]
struct Text(Arc<str>);

impl Service<()> for Text {
    type Response = Arc<str>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Arc<str>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(Ok(self.0.clone()))
    }
}

type Told = io::Result<Change<u32, Text>>;

/// Says what it is sent.
struct Says(mpsc::UnboundedReceiver<Told>);

impl Stream for Says {
    type Item = Told;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Told>> {
        self.0.poll_recv(cx)
    }
}

fn instance(key: &u32) -> Instance {
    let zone = if key % 2 == 0 { "even" } else { "odd" };
    Instance::new("s", "h", 1).with_id(key.to_string()).with_zone(zone)
}

type Following = Balance<gusset_registry::Followed<Text>>;

fn following() -> (mpsc::UnboundedSender<Told>, Following, Follower) {
    let (says, discover) = mpsc::unbounded_channel();
    let (balance, follower) = Balance::spawn_follower(Says(discover), instance);
    (says, balance, follower)
}

fn insert(key: u32, text: &str) -> Told {
    Ok(Change::Insert(key, Text(text.into())))
}

/// How often who answered.
async fn answers<S>(balance: &S, calls: usize) -> BTreeMap<String, usize>
where
    S: Service<(), Response = Arc<str>> + Clone,
    S::Error: std::fmt::Debug,
{
    let mut answers = BTreeMap::new();
    for _ in 0..calls {
        let text = balance.clone().oneshot(()).await.unwrap();
        *answers.entry(text.to_string()).or_default() += 1;
    }
    answers
}

fn expected(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(text, count)| ((*text).to_owned(), *count)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_balance_follows_what_a_discover_inserts_replaces_and_removes() {
    let (says, balance, _follower) = following();
    says.send(insert(1, "one")).unwrap();
    says.send(insert(2, "two")).unwrap();
    assert_eq!(answers(&balance, 10).await, expected(&[("one", 5), ("two", 5)]));
    says.send(insert(2, "another two")).unwrap();
    says.send(insert(3, "three")).unwrap();
    says.send(Ok(Change::Remove(1))).unwrap();
    says.send(Ok(Change::Remove(7))).unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(answers(&balance, 10).await, expected(&[("another two", 5), ("three", 5)]));
    let even = balance.among(Fleet::new().zone("even")).pick(WeightedRoundRobin::new());
    assert_eq!(answers(&even, 3).await, expected(&[("another two", 3)]), "what keys are counts");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_left_is_dropped_after_a_call_or_by_the_connector() {
    let (says, balance, _follower) = following();
    let text: Arc<str> = "one".into();
    says.send(Ok(Change::Insert(1, Text(text.clone())))).unwrap();
    says.send(insert(2, "two")).unwrap();
    answers(&balance, 2).await;
    says.send(Ok(Change::Remove(1))).unwrap();
    sleep(Duration::from_secs(5)).await;
    assert!(
        Arc::strong_count(&text) > 1,
        "nobody has looked yet, and it may be chosen by who does"
    );
    answers(&balance, 1).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(Arc::strong_count(&text), 1);

    let connector = balance.spawn_connector::<()>();
    says.send(Ok(Change::Insert(1, Text(text.clone())))).unwrap();
    sleep(Duration::from_secs(1)).await;
    says.send(Ok(Change::Remove(1))).unwrap();
    sleep(Duration::from_secs(12)).await;
    assert_eq!(Arc::strong_count(&text), 1);
    drop(connector);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_call_is_lost_while_services_come_and_go() {
    let (says, balance, _follower) = following();
    says.send(insert(0, "stays")).unwrap();
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let balance = balance.clone();
            tokio::spawn(async move { answers(&balance, 3_000).await })
        })
        .collect();
    for round in 0..3_000_u32 {
        says.send(insert(1 + round % 3, "comes")).unwrap();
        says.send(Ok(Change::Remove(1 + (round + 1) % 3))).unwrap();
        if round % 4 == 0 {
            tokio::task::yield_now().await;
        }
    }
    for caller in callers {
        assert_eq!(caller.await.unwrap().values().sum::<usize>(), 3_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_leaves_while_it_is_being_chosen_is_there_for_that_call() {
    let (says, balance, _follower) = following();
    says.send(insert(1, "one")).unwrap();
    let others = balance.clone();
    while others.endpoints().is_empty() {
        tokio::task::yield_now().await;
    }
    let leaves = move |_: &(), _: &Candidates<'_>| {
        says.send(Ok(Change::Remove(1))).unwrap();
        while !others.endpoints().is_empty() {
            std::thread::yield_now();
        }
        // Time to forget it, were it to be forgotten.
        (0..2_000).for_each(|_| std::thread::yield_now());
        Some(0)
    };
    assert_eq!(&*balance.pick(leaves).oneshot(()).await.unwrap(), "one");
}

#[tokio::test(start_paused = true)]
async fn an_error_of_discovery_changes_nobody_and_it_is_asked_again_after_a_rest() {
    let (says, balance, _follower) = following();
    says.send(insert(1, "one")).unwrap();
    assert_eq!(answers(&balance, 1).await, expected(&[("one", 1)]));
    let begin = Instant::now();
    for _ in 0..3 {
        says.send(Err(io::ErrorKind::ConnectionRefused.into())).unwrap();
    }
    says.send(insert(2, "two")).unwrap();
    while answers(&balance, 2).await.len() < 2 {
        sleep(Duration::from_millis(10)).await;
    }
    let took = begin.elapsed().as_millis();
    assert!((700..740).contains(&took), "100, 200 and 400 ms, not {took}");
}

#[tokio::test(start_paused = true)]
async fn when_discovery_ends_or_its_guard_is_dropped_the_last_set_stays() {
    for end in [true, false] {
        let (says, balance, follower) = following();
        says.send(insert(1, "one")).unwrap();
        assert_eq!(answers(&balance, 1).await, expected(&[("one", 1)]));
        let _follower = if end {
            drop(says);
            Some(follower)
        } else {
            drop(follower);
            None
        };
        sleep(Duration::from_secs(60)).await;
        assert_eq!(answers(&balance, 3).await, expected(&[("one", 3)]));
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
    }
}

//! Who takes part: zones, subsets, newcomers, the ejected, and those that are not connected yet.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use gusset_call::{NoInstance, Tried};
use gusset_registry::{
    Balance, Ejection, Fleet, Health, Instance, MakeEndpoint, Protocol, Publisher, Ratio,
    SuccessRate, Watch, WeightedRoundRobin,
};
use tokio::time::{Instant, advance, sleep};
use tower::{Service, ServiceExt};

/// Answers with the id, or fails; is ready, or not, or its readiness fails.
#[derive(Clone, Default)]
struct Backend(Arc<State>);

#[derive(Default)]
struct State {
    failing: Mutex<String>,
    unready: Mutex<String>,
    broken: Mutex<String>,
    asked: Mutex<Vec<Instant>>,
    alive: AtomicUsize,
}

impl MakeEndpoint for Backend {
    type Service = One;

    fn make(&self, instance: &Instance) -> One {
        self.0.alive.fetch_add(1, SeqCst);
        One { id: instance.id.clone(), fleet: self.clone(), _alive: Arc::new(Alive(self.clone())) }
    }
}

struct Alive(Backend);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.0.alive.fetch_sub(1, SeqCst);
    }
}

#[derive(Clone)]
struct One {
    id: Arc<str>,
    fleet: Backend,
    _alive: Arc<Alive>,
}

impl One {
    fn is_in(&self, ids: &Mutex<String>) -> bool {
        ids.lock().unwrap().contains(&*self.id)
    }
}

impl Service<()> for One {
    type Response = Arc<str>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Arc<str>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = &*self.fleet.0;
        if self.is_in(&state.broken) {
            state.asked.lock().unwrap().push(Instant::now());
            return Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        if self.is_in(&state.unready) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let failing = self.is_in(&self.fleet.0.failing);
        std::future::ready(if failing {
            Err(io::ErrorKind::Other.into())
        } else {
            Ok(self.id.clone())
        })
    }
}

fn instance(id: char) -> Instance {
    Instance::new("s", "h", 1).with_id(id.to_string()).with_health(Health::Healthy)
}

fn healthy(ids: &str) -> Vec<Arc<Instance>> {
    ids.chars().map(|id| Arc::new(instance(id))).collect()
}

fn published(ids: &str) -> (Publisher, Backend, Balance<Backend>) {
    let (publisher, fleet) = (Publisher::new("s"), Backend::default());
    publisher.publish(healthy(ids));
    let balance = Balance::new(publisher.watch(), fleet.clone());
    (publisher, fleet, balance)
}

async fn counts<S>(service: &S, calls: usize) -> BTreeMap<String, usize>
where
    S: Service<(), Response = Arc<str>> + Clone,
{
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        if let Ok(id) = service.clone().oneshot(()).await {
            *counts.entry(id.to_string()).or_default() += 1;
        }
    }
    counts
}

fn expected(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect()
}

// A list.

#[tokio::test]
async fn a_fixed_list_of_addresses_needs_no_registry() {
    let places = ["127.0.0.1:1", "[::1]:2"].map(|place| place.parse::<SocketAddr>().unwrap());
    let balance = Balance::fixed(places, Backend::default());
    assert_eq!(counts(&balance, 10).await, expected(&[("127.0.0.1:1", 5), ("[::1]:2", 5)]));
}

#[tokio::test]
async fn an_empty_list_refuses() {
    let balance = Balance::fixed::<Instance>([], Backend::default()).wait(Duration::ZERO);
    assert!(balance.oneshot(()).await.unwrap_err().is::<NoInstance>());
}

// Zones, subsets, newcomers.

/// Every request carries this list.
#[derive(Clone)]
struct Carries(Tried);

impl<Req, Res> Protocol<Req, Res> for Carries {
    fn tried(&self, _: &Req) -> Option<Tried> {
        Some(self.0.clone())
    }

    fn is_failure(&self, _: &Res) -> bool {
        false
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_tried_at_all_of_the_zone_goes_to_another_zone() {
    let zoned = |id, zone: &str| instance(id).with_zone(zone);
    let watch = Watch::fixed("s", [zoned('a', "here"), zoned('b', "here"), zoned('c', "there")]);
    let balance = Balance::new(watch, Backend::default()).among(Fleet::new().zone("here"));
    assert_eq!(counts(&balance, 10).await, expected(&[("a", 5), ("b", 5)]));
    let once = balance.clone().protocol(Carries(Tried::new()));
    assert_eq!(counts(&once, 3).await, expected(&[("a", 1), ("b", 1), ("c", 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_canary_is_a_balancer_of_its_own_over_the_same_watch() {
    let canary = instance('c').with_tag("canary").with_version("2");
    let watch = Watch::fixed("s", [instance('a'), instance('b'), canary]);
    let is_canary = |instance: &Instance| instance.tags.contains("canary");
    let all = Balance::new(watch, Backend::default());
    let canary = all.clone().among(Fleet::new().only(is_canary));
    let stable = all.among(Fleet::new().only(move |instance| !is_canary(instance)));
    assert_eq!(counts(&canary, 4).await, expected(&[("c", 4)]));
    assert_eq!(counts(&stable, 4).await, expected(&[("a", 2), ("b", 2)]));
}

#[tokio::test(start_paused = true)]
async fn a_client_of_a_large_fleet_has_only_its_subset() {
    let (_publisher, fleet, balance) = published("abcdefghijklmnop");
    let size = NonZeroUsize::new(3).unwrap();
    let balance = balance.among(Fleet::new().subset(size, "client-7"));
    assert_eq!(counts(&balance, 30).await.len(), 3);
    assert_eq!(fleet.0.alive.load(SeqCst), 3, "and connections to no others");
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_is_warmed_up_from_a_tenth_by_time_alone() {
    let (publisher, _, balance) = published("ab");
    let balance = balance.among(Fleet::new().slow_start(Duration::from_secs(100)));
    assert_eq!(counts(&balance, 20).await, expected(&[("a", 10), ("b", 10)]), "no newcomers");
    publisher.publish(healthy("abc"));
    for (secs, part) in [(0, 0.1 / 2.1), (49, 0.45 / 2.45), (50, 0.95 / 2.95), (2, 1.0 / 3.0)] {
        advance(Duration::from_secs(secs)).await;
        let got = counts(&balance, 2_950).await["c"] as f64 / 2_950.0;
        assert!((got - part).abs() < 0.01, "{got} instead of {part} after {secs} s more");
    }
}

#[tokio::test(start_paused = true)]
async fn panic_uses_the_unhealthy_and_never_the_draining() {
    let (publisher, _, balance) = published("a");
    let balance = balance.among(Fleet::new().panic_below(Ratio::percent(50)));
    let with = |id, health| Arc::new(instance(id).with_health(health));
    let mut all = healthy("a");
    all.extend([with('b', Health::Unhealthy), with('c', Health::Unhealthy)]);
    all.extend([with('d', Health::Draining), with('e', Health::Unknown)]);
    publisher.publish(all);
    assert_eq!(counts(&balance, 9).await, expected(&[("a", 3), ("b", 3), ("c", 3)]));
    assert!(balance.stats().panicking);
    publisher.publish(vec![with('d', Health::Draining)]);
    assert!(balance.oneshot(()).await.unwrap_err().is::<NoInstance>());
}

// Ejection.

#[tokio::test(start_paused = true)]
async fn one_that_fails_is_ejected_for_a_while_and_its_state_can_be_seen() {
    let (_publisher, fleet, balance) = published("abc");
    let balance = balance.eject(Ejection::default());
    *fleet.0.failing.lock().unwrap() = "a".into();
    let answered = counts(&balance, 315).await.into_values().sum::<usize>();
    assert_eq!(answered, 310, "five failed");
    let endpoints = balance.endpoints();
    let ids: Vec<_> = endpoints.iter().map(|e| (&*e.instance.id, e.ejected.is_some())).collect();
    assert_eq!(ids, [("a", true), ("b", false), ("c", false)]);
    assert_eq!(balance.stats().ejections, 1);

    fleet.0.failing.lock().unwrap().clear();
    advance(Duration::from_secs(29)).await;
    assert_eq!(counts(&balance, 300).await.get("a"), None);
    advance(Duration::from_secs(5)).await;
    assert_eq!(counts(&balance, 300).await["a"], 100);
    assert_eq!(balance.endpoints()[0].ejected, None);
}

#[tokio::test(start_paused = true)]
async fn one_that_comes_back_from_ejection_is_warmed_up() {
    let (_publisher, fleet, balance) = published("ab");
    let balance = balance
        .eject(Ejection::default())
        .among(Fleet::new().slow_start(Duration::from_secs(100)))
        .pick(WeightedRoundRobin::new());
    *fleet.0.failing.lock().unwrap() = "a".into();
    counts(&balance, 20).await;
    fleet.0.failing.lock().unwrap().clear();
    advance(Duration::from_secs(34)).await;
    assert_eq!(counts(&balance, 110).await["a"], 10);
    advance(Duration::from_secs(101)).await;
    assert_eq!(counts(&balance, 110).await["a"], 55);
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_one_is_left_and_answers_with_its_own_error() {
    let (_publisher, fleet, balance) = published("abcd");
    let balance = balance.eject(Ejection::default().share(Ratio::ALL));
    *fleet.0.failing.lock().unwrap() = "abcd".into();
    counts(&balance, 200).await;
    assert_eq!(balance.endpoints().iter().filter(|e| e.ejected.is_some()).count(), 3);
    assert!(balance.clone().oneshot(()).await.unwrap_err().is::<io::Error>());
    assert!(balance.stats().ejections_refused > 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_instances_ends_no_ejection() {
    let (publisher, fleet, balance) = published("abc");
    let balance = balance.eject(Ejection::default());
    *fleet.0.failing.lock().unwrap() = "a".into();
    counts(&balance, 15).await;
    publisher.publish(healthy("abcd"));
    publisher.publish(healthy("abd"));
    assert_eq!(counts(&balance, 10).await, expected(&[("b", 5), ("d", 5)]));
}

/// `rounds` of one call at each of `ids`, of which `flaky` fails every other one.
async fn rounds(
    balance: &Balance<Backend>,
    fleet: &Backend,
    ids: &str,
    flaky: &str,
    rounds: usize,
) -> BTreeMap<String, usize> {
    let mut sum = BTreeMap::new();
    for round in 0..rounds {
        let failing = if round % 2 == 0 { flaky } else { "" };
        *fleet.0.failing.lock().unwrap() = failing.into();
        for (id, count) in counts(balance, ids.len()).await {
            *sum.entry(id).or_default() += count;
        }
    }
    fleet.0.failing.lock().unwrap().clear();
    sum
}

#[tokio::test(start_paused = true)]
async fn one_whose_success_rate_is_far_below_the_others_is_ejected_though_it_never_fails_twice() {
    let (_publisher, fleet, balance) = published("abcdef");
    let rate = SuccessRate::default().interval(Duration::from_secs(10));
    let balance = balance.eject(Ejection::default().success_rate(rate));
    let answered = rounds(&balance, &fleet, "abcdef", "a", 120).await;
    assert_eq!(answered["a"], 60);
    assert_eq!(balance.stats().ejections, 0, "rates are not compared yet");
    advance(Duration::from_secs(10)).await;
    rounds(&balance, &fleet, "abcdef", "a", 40).await;
    assert_eq!(balance.stats().ejections, 1);
    let five = [("b", 12), ("c", 12), ("d", 12), ("e", 12), ("f", 12)];
    assert_eq!(counts(&balance, 60).await, expected(&five));
    advance(Duration::from_secs(33)).await;
    assert_eq!(counts(&balance, 60).await["a"], 10, "it comes back by time alone");
}

#[tokio::test(start_paused = true)]
async fn a_low_success_rate_that_all_have_or_that_few_calls_tell_of_ejects_nobody() {
    for (ids, flaky, each) in [("abcdef", "abcdef", 120), ("abcdef", "a", 80), ("abcd", "a", 120)] {
        let (_publisher, fleet, balance) = published(ids);
        let balance = balance.eject(Ejection::default().success_rate(SuccessRate::default()));
        rounds(&balance, &fleet, ids, flaky, each).await;
        advance(Duration::from_secs(10)).await;
        rounds(&balance, &fleet, ids, flaky, 16).await;
        assert_eq!(balance.stats().ejections, 0, "{ids}, {flaky}, {each}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_more_are_ejected_than_panic_allows_all_take_calls_until_they_are_back() {
    let (_publisher, fleet, balance) = published("abc");
    let balance = balance
        .eject(Ejection::default().share(Ratio::percent(70)))
        .among(Fleet::new().panic_below(Ratio::percent(50)));
    *fleet.0.failing.lock().unwrap() = "ab".into();
    counts(&balance, 60).await;
    assert_eq!(balance.stats().ejections, 2);
    assert!(balance.stats().panicking, "one of three is available");
    fleet.0.failing.lock().unwrap().clear();
    assert_eq!(counts(&balance, 9).await, expected(&[("a", 3), ("b", 3), ("c", 3)]));
    let out = balance.endpoints().iter().filter(|endpoint| endpoint.ejected.is_some()).count();
    assert_eq!(out, 2, "and it can be seen that they are");
    advance(Duration::from_secs(34)).await;
    assert_eq!(counts(&balance, 9).await, expected(&[("a", 3), ("b", 3), ("c", 3)]));
    assert!(!balance.stats().panicking);
}

#[tokio::test(start_paused = true)]
async fn panic_takes_the_ejected_and_never_the_draining() {
    let (publisher, fleet, balance) = published("ab");
    let balance =
        balance.eject(Ejection::default()).among(Fleet::new().panic_below(Ratio::percent(90)));
    *fleet.0.failing.lock().unwrap() = "a".into();
    counts(&balance, 20).await;
    fleet.0.failing.lock().unwrap().clear();
    let mut instances = healthy("ab");
    instances.push(Arc::new(instance('d').with_health(Health::Draining)));
    publisher.publish(instances);
    assert_eq!(counts(&balance, 10).await, expected(&[("a", 5), ("b", 5)]));
    let mut draining = healthy("b");
    draining.push(Arc::new(instance('a').with_health(Health::Draining)));
    publisher.publish(draining);
    assert_eq!(counts(&balance, 10).await, expected(&[("b", 10)]));
}

#[tokio::test(start_paused = true)]
async fn the_connector_sees_an_ejection_and_its_end_without_a_call() {
    let (_publisher, fleet, balance) = published("ab");
    let balance = balance.eject(Ejection::default());
    let _connector = balance.spawn_connector();
    *fleet.0.failing.lock().unwrap() = "a".into();
    counts(&balance, 10).await;
    sleep(Duration::from_millis(1)).await;
    assert_eq!(balance.stats().ejections, 1);
    sleep(Duration::from_secs(34)).await;
    assert_eq!(balance.endpoints()[0].ejected, None);
}

// Connections.

#[tokio::test(start_paused = true)]
async fn the_connector_connects_without_traffic_and_calls_go_to_others_meanwhile() {
    let (publisher, fleet, balance) = published("ab");
    *fleet.0.unready.lock().unwrap() = "b".into();
    let _connector = balance.spawn_connector();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(fleet.0.alive.load(SeqCst), 2, "no call was made");
    let ready: Vec<_> = balance.endpoints().iter().map(|endpoint| endpoint.ready).collect();
    assert_eq!(ready, [true, false]);
    assert_eq!(counts(&balance, 10).await, expected(&[("a", 10)]));

    publisher.publish(healthy("ac"));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(counts(&balance, 10).await, expected(&[("a", 5), ("c", 5)]));
    publisher.publish(healthy("c"));
    // The attempt at b is over after its 10 s at the latest.
    sleep(Duration::from_secs(11)).await;
    assert_eq!(fleet.0.alive.load(SeqCst), 1, "nobody called, and what was removed is gone");
}

#[tokio::test(start_paused = true)]
async fn the_connector_brings_a_broken_endpoint_back_with_growing_rests_and_no_traffic() {
    let (_publisher, fleet, balance) = published("a");
    *fleet.0.broken.lock().unwrap() = "a".into();
    let _connector = balance.spawn_connector();
    sleep(Duration::from_secs(120)).await;
    let asked = std::mem::take(&mut *fleet.0.asked.lock().unwrap());
    // 10 s at most: about 120 / 7.5, and eight to get there.
    assert!((18..36).contains(&asked.len()), "{}", asked.len());
    let longest = asked.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest <= Duration::from_millis(10_010), "{longest:?}");

    fleet.0.broken.lock().unwrap().clear();
    sleep(Duration::from_secs(10)).await;
    assert!(balance.endpoints()[0].ready);
    assert_eq!(counts(&balance, 1).await, expected(&[("a", 1)]));
}

#[tokio::test(start_paused = true)]
async fn without_a_connector_calls_wait_for_the_rest_of_the_only_endpoint_and_hammer_nobody() {
    let (_publisher, fleet, balance) = published("a");
    *fleet.0.broken.lock().unwrap() = "a".into();
    let begin = Instant::now();
    for _ in 0..2_000 {
        if begin.elapsed() > Duration::from_secs(60) {
            break;
        }
        balance.clone().oneshot(()).await.unwrap_err();
    }
    assert!(begin.elapsed() > Duration::from_secs(60));
    assert!(fleet.0.asked.lock().unwrap().len() < 30);
    fleet.0.broken.lock().unwrap().clear();
    let long = balance.wait(Duration::from_secs(20));
    assert_eq!(counts(&long, 1).await, expected(&[("a", 1)]));
}

#[tokio::test(start_paused = true)]
async fn a_resting_endpoint_gets_no_calls_while_there_are_others() {
    let (_publisher, fleet, balance) = published("ab");
    *fleet.0.broken.lock().unwrap() = "b".into();
    let answered = counts(&balance, 100).await.into_values().sum::<usize>();
    assert_eq!(answered, 98, "the first failure is forgiven at once, the second is not");
    fleet.0.broken.lock().unwrap().clear();
    advance(Duration::from_millis(100)).await;
    assert_eq!(counts(&balance, 10).await, expected(&[("a", 5), ("b", 5)]));
}

#[tokio::test(start_paused = true)]
async fn the_connector_ends_with_its_guard_and_with_the_last_balancer() {
    let (publisher, fleet, balance) = published("a");
    drop(balance.spawn_connector());
    publisher.publish(healthy("ab"));
    sleep(Duration::from_secs(1)).await;
    assert_eq!(fleet.0.alive.load(SeqCst), 0);

    let _connector = balance.spawn_connector();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(fleet.0.alive.load(SeqCst), 2);
    drop(balance);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(fleet.0.alive.load(SeqCst), 0);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
}

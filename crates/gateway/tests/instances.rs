//! A gateway before several instances: none is missed when one fails.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, routing::any};
use bytes::Bytes;
use common::*;
use gusset_breaker::Policy;
use gusset_gateway::{Gateway, Picker, Route, Transport, Upstream, UpstreamPolicy};
use gusset_registry::{
    Fleet, Health, Instance, InstanceKey, LeastLoaded, MemoryRegistry, Registration, Registry,
    RoundRobin,
};
use gusset_sidecar::{HedgePolicy, Ratio, RetryPolicy};
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tower::ServiceExt;

/// An instance that answers with its name, or fails as long as it is told to.
async fn named(name: &'static str, broken: Arc<AtomicBool>) -> Running {
    let handler = async move || match broken.load(SeqCst) {
        true => (StatusCode::SERVICE_UNAVAILABLE, "broken"),
        false => (StatusCode::OK, name),
    };
    upstream(Router::new().route("/{*all}", any(handler))).await
}

async fn two() -> (Running, Running, MemoryRegistry) {
    let (one, other) = (named("one", Arc::default()).await, named("other", Arc::default()).await);
    let registry = registry("shop", &[one.address, other.address]).await;
    (one, other, registry)
}

async fn asked(gateway: &Gateway, times: usize) -> BTreeMap<(u16, String), usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..times {
        let answer = ask(gateway, to("/a")).await;
        let status = answer.status().as_u16();
        *answers.entry((status, text(answer).await)).or_default() += 1;
    }
    answers
}

fn ok(name: &str) -> (u16, String) {
    (200, name.to_owned())
}

#[tokio::test]
async fn requests_are_spread_over_the_instances_whatever_the_route() {
    let (_one, _other, registry) = two().await;
    let gateway = Gateway::builder(registry)
        .route(Route::new("/a").to("shop"))
        .route(Route::new("/b").to("shop"))
        .build()
        .unwrap();
    let answers = asked(&gateway, 100).await;
    assert_eq!(answers.values().sum::<usize>(), 100);
    // Both idle: by chance. That one gets fewer than 10 of 100 happens once in 10^17 runs.
    assert!(answers[&ok("one")] >= 10 && answers[&ok("other")] >= 10, "{answers:?}");
    assert_eq!(gateway.breakers().len(), 2, "both routes share the circuits of both instances");
}

#[tokio::test]
async fn an_instance_that_leaves_the_registry_gets_no_more_requests() {
    let (one, _other, registry) = two().await;
    let gateway =
        Gateway::builder(registry.clone()).route(Route::new("/a").to("shop")).build().unwrap();
    asked(&gateway, 10).await;
    registry.drain(InstanceKey::new("shop", &one.address.to_string())).await.unwrap();
    assert_eq!(asked(&gateway, 10).await, BTreeMap::from([(ok("other"), 10)]));
}

/// More instances than an upstream keeps circuits for, at which nobody listens; none is asked twice before all were.
async fn too_many() -> (usize, Gateway) {
    const MANY: u16 = 1_100;
    let port = nowhere().await.port();
    let address =
        |n: u16| SocketAddr::from(([127, 1, n.to_be_bytes()[0], n.to_be_bytes()[1]], port));
    let all = Upstream::fixed((0..MANY).map(address));
    let policy = UpstreamPolicy::new().pick(Picker::from(RoundRobin));
    let gateway = Gateway::builder(MemoryRegistry::default())
        .upstream(all.clone(), policy)
        .route(Route::new("/a").to(all).retry(RetryPolicy::default().retries(0)))
        .build()
        .unwrap();
    (MANY.into(), gateway)
}

async fn statuses(gateway: &Gateway, times: usize) -> BTreeMap<u16, usize> {
    let mut statuses = BTreeMap::new();
    for _ in 0..times {
        *statuses.entry(ask(gateway, to("/a")).await.status().as_u16()).or_default() += 1;
    }
    statuses
}

#[tokio::test]
async fn of_more_instances_than_circuits_are_kept_for_each_shows_and_obeys_its_own() {
    let (many, gateway) = too_many().await;
    assert_eq!(statuses(&gateway, many).await, BTreeMap::from([(502, many)]));
    for _ in 0..2 {
        let breakers = gateway.breakers();
        assert!(breakers.iter().all(|one| one.circuit.stats().failures == 1), "{breakers:?}");
    }
    gateway.breakers().iter().for_each(|one| one.circuit.force_open());
    assert_eq!(statuses(&gateway, many).await, BTreeMap::from([(503, many)]));
}

#[tokio::test]
async fn of_more_instances_than_circuits_are_kept_for_one_that_was_never_called_obeys_an_order() {
    let (many, gateway) = too_many().await;
    let breakers = gateway.breakers();
    let (first, last) = (&breakers[0], &breakers[many - 1]);
    for one in [first, last] {
        one.circuit.force_open();
    }
    let open = |gateway: &Gateway| {
        let all = gateway.breakers().into_iter();
        all.filter(|one| !one.circuit.is_eligible()).map(|one| one.instance.id.clone()).collect()
    };
    let ordered: Vec<_> = open(&gateway);
    assert_eq!(ordered, [first.instance.id.clone(), last.instance.id.clone()]);
    assert_eq!(statuses(&gateway, many - 2).await, BTreeMap::from([(502, many - 2)]));
    assert_eq!(open(&gateway), ordered, "they were passed over");
    last.circuit.reset();
    assert_eq!(open(&gateway), ordered[..1]);
}

#[tokio::test]
async fn a_killed_instance_costs_no_request() {
    let (one, _other, registry) = two().await;
    let gateway = Gateway::builder(registry).route(Route::new("/a").to("shop")).build().unwrap();
    asked(&gateway, 20).await;
    drop(one);
    // Connections that were idle when the instance died fail as well as those that are made anew.
    let answers = asked(&gateway, 100).await;
    assert_eq!(answers, BTreeMap::from([(ok("other"), 100)]));
    let failures: u64 = gateway.breakers().iter().map(|b| b.circuit.stats().failures).sum();
    assert!((1..=5).contains(&failures), "after a few tries it is left alone: {failures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_is_killed_under_load_costs_no_get() {
    let (one, _other, registry) = two().await;
    let gateway = Gateway::builder(registry).route(Route::new("/a").to("shop")).build().unwrap();
    let done = Arc::new(AtomicU32::new(0));
    let loads: Vec<_> = (0..16)
        .map(|_| {
            let (gateway, done) = (gateway.clone(), done.clone());
            tokio::spawn(async move {
                for _ in 0..200 {
                    let answer = ask(&gateway, to("/a")).await;
                    assert_eq!(answer.status(), 200);
                    text(answer).await;
                    done.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    while done.load(SeqCst) < 1_000 {
        tokio::task::yield_now().await;
    }
    drop(one);
    for load in loads {
        load.await.unwrap();
    }
}

#[tokio::test]
async fn a_post_that_never_reached_an_instance_goes_to_another() {
    let other = named("other", Arc::default()).await;
    let registry = registry("shop", &[nowhere().await, other.address]).await;
    let gateway = Gateway::builder(registry).route(Route::new("/a").to("shop")).build().unwrap();
    for _ in 0..10 {
        let post = Request::post("http://gateway/a").body(Full::<Bytes>::from("pay")).unwrap();
        let answer = gateway.clone().oneshot(post).await.unwrap();
        assert_eq!(text(answer).await, "other");
    }
}

#[tokio::test]
async fn an_open_circuit_is_passed_over_without_a_retry() {
    let broken = Arc::new(AtomicBool::new(true));
    let (one, other) = (named("one", broken.clone()).await, named("other", Arc::default()).await);
    let registry = registry("shop", &[one.address, other.address]).await;
    let gateway = Gateway::builder(registry).route(Route::new("/a").to("shop")).build().unwrap();
    let breakers = gateway.breakers();
    let of_one = breakers.iter().find(|b| b.instance.port == one.address.port()).unwrap();
    of_one.circuit.force_open();
    assert_eq!(asked(&gateway, 50).await, BTreeMap::from([(ok("other"), 50)]));
    let stats = of_one.circuit.stats();
    assert_eq!((stats.failures, stats.refused), (0, 0), "nobody asked it");

    broken.store(false, SeqCst);
    of_one.circuit.reset();
    assert!(asked(&gateway, 100).await[&ok("one")] >= 10);
}

/// Answers what `answer` says, and counts how often it was asked.
async fn counting(
    answer: impl Fn(u32) -> StatusCode + Clone + Send + Sync + 'static,
) -> (Running, Arc<AtomicU32>) {
    let asked = Arc::new(AtomicU32::new(0));
    let seen = asked.clone();
    let handler = async move || answer(seen.fetch_add(1, SeqCst));
    (upstream(Router::new().route("/{*all}", any(handler))).await, asked)
}

#[tokio::test]
async fn an_instance_that_fails_is_asked_less_long_before_its_circuit_opens() {
    let (bad, asked_bad) = counting(|_| StatusCode::SERVICE_UNAVAILABLE).await;
    let (good, _) = counting(|_| StatusCode::OK).await;
    let registry = registry("shop", &[bad.address, good.address]).await;
    let gateway = Gateway::builder(registry).route(Route::new("/a").to("shop")).build().unwrap();
    let answers = asked(&gateway, 200).await;
    assert_eq!(answers[&(200, String::new())], 200);
    let asked = asked_bad.load(SeqCst);
    assert!(asked <= 4, "round robin would have asked it until its circuit opened: {asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_instance_gets_fewer_requests_than_a_quick_one() {
    let slow = Router::new().route(
        "/{*all}",
        any(async || {
            // Much longer than a busy machine takes for the other one.
            tokio::time::sleep(Duration::from_millis(500)).await;
            "slow"
        }),
    );
    let (slow, quick) = (upstream(slow).await, named("quick", Arc::default()).await);
    let registry = registry("shop", &[slow.address, quick.address]).await;
    let gateway = Gateway::builder(registry).route(Route::new("/a").to("shop")).build().unwrap();
    let clients = (0..16).map(|_| {
        let gateway = gateway.clone();
        tokio::spawn(async move { asked(&gateway, 20).await })
    });
    let mut sums: BTreeMap<_, usize> = BTreeMap::new();
    for client in clients.collect::<Vec<_>>() {
        for (answer, count) in client.await.unwrap() {
            *sums.entry(answer).or_default() += count;
        }
    }
    // Half of the requests, were it not for the load.
    assert!(sums[&ok("slow")] < 100 && sums[&ok("quick")] > 220, "{sums:?}");
}

#[tokio::test]
async fn by_latency_a_slow_instance_is_left_alone_although_nobody_waits() {
    let slow = Router::new().route(
        "/{*all}",
        any(async || {
            // Much longer than a busy machine takes for the other one.
            tokio::time::sleep(Duration::from_secs(2)).await;
            "slow"
        }),
    );
    let (slow, quick) = (upstream(slow).await, named("quick", Arc::default()).await);
    let registry = registry("shop", &[slow.address, quick.address]).await;
    let gateway = Gateway::builder(registry)
        .route(Route::new("/a").to("shop"))
        .pick(LeastLoaded::peak_ewma(Duration::from_secs(10)))
        .build()
        .unwrap();
    let answers = asked(&gateway, 60).await;
    assert!(answers.get(&ok("slow")).is_none_or(|slow| *slow <= 5), "{answers:?}");
}

#[tokio::test]
async fn a_slow_request_is_made_a_second_time_and_the_first_answer_is_taken() {
    let stuck = Arc::new(AtomicBool::new(false));
    let asked = Arc::new(AtomicU32::new(0));
    let service = async |stuck: Arc<AtomicBool>, asked: Arc<AtomicU32>| {
        let handler = async move || {
            asked.fetch_add(1, SeqCst);
            // Whoever is asked first after that never answers.
            if stuck.swap(false, SeqCst) {
                std::future::pending::<()>().await;
            }
            "ok"
        };
        upstream(Router::new().route("/{*all}", any(handler))).await
    };
    let one = service(stuck.clone(), asked.clone()).await;
    let other = service(stuck.clone(), asked.clone()).await;
    let patient = Duration::from_secs(60);
    let policy = HedgePolicy::default().bearable(Ratio::percent(100));
    let route = Route::new("/a").to(Upstream::fixed([one.address, other.address]));
    let gateway = Gateway::builder(MemoryRegistry::default())
        .route(route.timeout(patient).hedge(policy))
        .build()
        .unwrap();
    asked_all(&gateway, 200).await;
    let before = asked.load(SeqCst);
    stuck.store(true, SeqCst);
    let began = std::time::Instant::now();
    asked_all(&gateway, 1).await;
    assert!(began.elapsed() < patient / 2, "nobody waited for the one that is stuck");
    assert!(asked.load(SeqCst) >= before + 2);
}

/// Each is answered.
async fn asked_all(gateway: &Gateway, times: usize) {
    assert_eq!(asked(gateway, times).await, BTreeMap::from([(ok("ok"), times)]));
}

#[tokio::test]
async fn instances_of_the_own_zone_take_all_requests_while_there_are_enough() {
    let (near, far) = (named("near", Arc::default()).await, named("far", Arc::default()).await);
    let registry = MemoryRegistry::default();
    for (instance, zone) in [(&near, "eu-1"), (&far, "eu-2")] {
        let port = instance.address.port();
        let instance = Instance::new("shop", "127.0.0.1", port).with_zone(zone);
        registry.register(instance.with_health(Health::Healthy)).await.unwrap();
    }
    let gateway = Gateway::builder(registry.clone())
        .route(Route::new("/a").to("shop"))
        .among(Fleet::new().zone("eu-1"))
        .build()
        .unwrap();
    assert_eq!(asked(&gateway, 20).await, BTreeMap::from([(ok("near"), 20)]));
    registry.drain(InstanceKey::new("shop", &near.address.to_string())).await.unwrap();
    assert_eq!(asked(&gateway, 20).await, BTreeMap::from([(ok("far"), 20)]));
}

#[tokio::test]
async fn a_newcomer_begins_with_a_small_part_of_its_share() {
    let old = named("old", Arc::default()).await;
    let registry = registry("shop", &[old.address]).await;
    let gateway =
        Gateway::builder(registry.clone()).route(Route::new("/a").to("shop")).build().unwrap();
    asked(&gateway, 1).await;
    let new = named("new", Arc::default()).await;
    let instance = Instance::new("shop", "127.0.0.1", new.address.port());
    registry.register(instance.with_health(Health::Healthy)).await.unwrap();
    let answers = asked(&gateway, 400).await;
    // 36 of them; half of them would be 200.
    let new = answers.get(&ok("new")).copied().unwrap_or_default();
    assert!((5..=110).contains(&new), "{answers:?}");
}

/// A server of axum, which closes its idle connections at once when it ends, as most servers do; registered.
struct Leaving {
    registration: Registration,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Leaving {
    async fn start(registry: &MemoryRegistry, id: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel::<()>();
        let handler = async |body: Bytes| {
            tokio::time::sleep(Duration::from_millis(5)).await;
            body
        };
        let router = Router::new().route("/{*all}", any(handler));
        let server = axum::serve(listener, router).with_graceful_shutdown(async {
            let _ = stopped.await;
        });
        let ended = tokio::spawn(async { server.await.unwrap() });
        let instance = Instance::new("shop", "127.0.0.1", port).with_id(format!("shop-{id}"));
        let registration = Registration::spawn(registry.clone(), instance);
        registration.registered().await.unwrap();
        Self { registration, stop, ended }
    }

    async fn leave(self) {
        self.registration.close_after(Duration::from_millis(100)).await.unwrap();
        self.stop.send(()).unwrap();
        self.ended.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_no_request_though_none_is_sent_twice() {
    let registry = MemoryRegistry::default();
    let mut instances = Vec::new();
    for id in 0..3 {
        instances.push(Leaving::start(&registry, id).await);
    }
    let once = RetryPolicy::default().retries(0);
    let route = Route::new("/a").to("shop").retry(once);
    let front = front(Gateway::builder(registry.clone()).route(route)).await;

    let (running, answered) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let loads: Vec<_> = (0..16)
        .map(|_| {
            let (url, running, answered) = (front.url("/a"), running.clone(), answered.clone());
            tokio::spawn(async move {
                let client = client();
                while running.load(SeqCst) {
                    let post = Request::post(&url).body(Full::<Bytes>::from("pay")).unwrap();
                    let answer = client.request(post).await.unwrap();
                    assert_eq!(answer.status(), 200);
                    assert_eq!(text(answer).await, "pay");
                    answered.fetch_add(1, SeqCst);
                }
            })
        })
        .collect();
    for round in 0..6 {
        let before = answered.load(SeqCst);
        while answered.load(SeqCst) < before + 200 {
            tokio::task::yield_now().await;
        }
        instances.remove(0).leave().await;
        instances.push(Leaving::start(&registry, round % 3).await);
    }
    running.store(false, SeqCst);
    for load in loads {
        load.await.unwrap();
    }
}

#[tokio::test]
async fn fixed_addresses_are_balanced_and_guarded_as_well() {
    let (one, other, registry) = two().await;
    let gateway = Gateway::builder(registry)
        .route(Route::new("/a").to(Upstream::fixed([one.address, other.address])))
        .build()
        .unwrap();
    let answers = asked(&gateway, 100).await;
    assert!(answers[&ok("one")] >= 10 && answers[&ok("other")] >= 10, "{answers:?}");
    drop(other);
    assert_eq!(asked(&gateway, 10).await, BTreeMap::from([(ok("one"), 10)]));
}

#[tokio::test]
async fn an_instance_that_registers_while_a_request_waits_takes_it() {
    let registry = MemoryRegistry::default();
    let gateway =
        Gateway::builder(registry.clone()).route(Route::new("/a").to("shop")).build().unwrap();
    let waiting = tokio::spawn(async move { ask(&gateway, to("/a")).await });
    tokio::task::yield_now().await;
    let one = named("one", Arc::default()).await;
    let instance = Instance::new("shop", "127.0.0.1", one.address.port());
    registry.register(instance.with_health(Health::Healthy)).await.unwrap();
    assert_eq!(text(waiting.await.unwrap()).await, "one");
}

#[tokio::test]
async fn an_upstream_that_closes_idle_connections_costs_no_get() {
    // Every connection is closed after its answer without a word.
    let (address, _requests) = canned("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let gateway = Gateway::builder(MemoryRegistry::default())
        .route(Route::new("/a").to(Upstream::fixed([address])))
        .build()
        .unwrap();
    assert_eq!(asked(&gateway, 100).await, BTreeMap::from([(ok("ok"), 100)]));
}

#[tokio::test]
async fn retries_are_bounded_by_a_budget_that_routes_to_one_upstream_share() {
    let calls = Arc::new(AtomicU32::new(0));
    let seen = calls.clone();
    let handler = async move || {
        seen.fetch_add(1, SeqCst);
        StatusCode::SERVICE_UNAVAILABLE
    };
    let service = upstream(Router::new().route("/{*all}", any(handler))).await;
    let shop = Upstream::fixed([service.address]);
    // All at once make as many connections at once, on a machine that may be slow.
    let patient = Duration::from_secs(60);
    let transport = Transport::http1().connect_timeout(patient);
    let gateway = Gateway::builder(MemoryRegistry::default())
        .upstream(shop.clone(), UpstreamPolicy::new().transport(transport))
        .route(Route::new("/a").to(shop.clone()).timeout(patient))
        .route(Route::new("/b").to(shop).timeout(patient))
        .breaker(Policy::consecutive(u32::MAX))
        .build()
        .unwrap();
    // The budget of the default policy: 20 % and 100 in any 10 s.
    let asks = (0..400).map(|n| {
        let gateway = gateway.clone();
        tokio::spawn(async move {
            ask(&gateway, to(if n % 2 == 0 { "/a" } else { "/b" })).await.status()
        })
    });
    for asked in asks.collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap(), 503);
    }
    let calls = calls.load(SeqCst);
    assert!((500..=400 + 80 + 100 + 20).contains(&calls), "{calls}");
}

//! A gateway before several instances: none is missed when one fails.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, routing::any};
use bytes::Bytes;
use common::*;
use gusset_breaker::{Policy, State};
use gusset_gateway::{Gateway, Route, Upstream};
use gusset_registry::{InstanceKey, MemoryRegistry, Registry};
use http::{Request, StatusCode};
use http_body_util::Full;
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
async fn requests_go_round_the_instances_whatever_the_route() {
    let (_one, _other, registry) = two().await;
    let gateway = Gateway::builder(registry)
        .route(Route::new("/a").to("shop"))
        .route(Route::new("/b").to("shop"))
        .build()
        .unwrap();
    assert_eq!(asked(&gateway, 100).await, BTreeMap::from([(ok("one"), 50), (ok("other"), 50)]));
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

#[tokio::test]
async fn a_killed_instance_costs_no_request() {
    let (one, _other, registry) = two().await;
    let gateway = Gateway::builder(registry).route(Route::new("/a").to("shop")).build().unwrap();
    asked(&gateway, 20).await;
    drop(one);
    // Connections that were idle when the instance died fail as well as those that are made anew.
    let answers = asked(&gateway, 100).await;
    assert_eq!(answers, BTreeMap::from([(ok("other"), 100)]));
    let open =
        gateway.breakers().iter().filter(|breaker| breaker.circuit.state() == State::Open).count();
    assert_eq!(open, 1, "after a few tries it is left alone");
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
    let policy = Policy::consecutive(3).open_for(Duration::from_secs(60)).successes_to_close(1);
    let gateway = Gateway::builder(registry)
        .route(Route::new("/a").to("shop"))
        .breaker(policy)
        .build()
        .unwrap();
    assert_eq!(asked(&gateway, 20).await, BTreeMap::from([(ok("other"), 20)]));
    let circuit = |gateway: &Gateway| {
        let breakers = gateway.breakers();
        let of_one = breakers.iter().find(|b| b.instance.port == one.address.port());
        of_one.unwrap().circuit.clone()
    };
    assert_eq!(circuit(&gateway).stats().failures, 3, "and no more");

    broken.store(false, SeqCst);
    circuit(&gateway).reset();
    assert_eq!(asked(&gateway, 20).await[&ok("one")], 10);
}

#[tokio::test]
async fn fixed_addresses_are_balanced_and_guarded_as_well() {
    let (one, other, registry) = two().await;
    let gateway = Gateway::builder(registry)
        .route(Route::new("/a").to(Upstream::fixed([one.address, other.address])))
        .build()
        .unwrap();
    assert_eq!(asked(&gateway, 10).await, BTreeMap::from([(ok("one"), 5), (ok("other"), 5)]));
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
    let instance = gusset_registry::Instance::new("shop", "127.0.0.1", one.address.port());
    registry.register(instance.with_health(gusset_registry::Health::Healthy)).await.unwrap();
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
    let gateway = Gateway::builder(MemoryRegistry::default())
        .route(Route::new("/a").to(Upstream::fixed([service.address])))
        .route(Route::new("/b").to(Upstream::fixed([service.address])))
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

//! The server within a process: [`Registry`] on one side, HTTP on the other.

use std::{sync::Arc, time::Duration};

use gusset_registry::{
    ConsulPolicy, ConsulTicker, Error, Health, Instance, InstanceKey, Policy, Registration,
    RegistrationState, Registry,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{conformance, server::Server};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn cart(id: &str) -> Instance {
    Instance::new("cart", "10.0.0.7", 80).with_id(id).with_health(Health::Healthy)
}

async fn health(server: &Server, id: &str) -> (Health, bool) {
    let snapshot = server.0.instances("cart").await.unwrap();
    let instance = snapshot.get(id).unwrap();
    (instance.health, instance.suspect)
}

#[tokio::test(start_paused = true)]
async fn it_conforms() {
    let (server, _ticker) = Server::start();
    conformance::holds(async || Arc::new(server.0.clone()) as conformance::Engine).await;
}

#[tokio::test(start_paused = true)]
async fn who_registers_here_is_found_over_http_and_the_other_way_round() {
    let (server, _ticker) = Server::start();
    let here =
        cart("a").with_zone("eu-1").with_version("2").with_tag("blue").with_metadata("b", "c");
    server.0.register(here).await.unwrap();
    let over_http = server.get("health/service/cart?passing&tag=blue").await.json();
    let service = &over_http[0]["Service"];
    assert_eq!((&service["ID"], &service["Address"]), (&"cart:a".into(), &"10.0.0.7".into()));
    assert_eq!(
        (&service["Meta"]["gusset-zone"], &service["Meta"]["b"]),
        (&"eu-1".into(), &"c".into())
    );

    let mut watch = server.0.watch("cart");
    server.register("cart", "http").await;
    let snapshot = watch.snapshot();
    assert_eq!(snapshot.get("http").unwrap().health, Health::Unknown);
    server.pass("http").await;
    let snapshot = timeout(seconds(1), watch.changed()).await.unwrap();
    assert_eq!(snapshot.healthy().count(), 2);
    server.put("agent/service/maintenance/http?enable=true", "").await.ok();
    assert_eq!(health(&server, "http").await.0, Health::Draining, "as soon as it is answered");
    server.put("agent/service/deregister/cart:a", "").await.ok();
    let error = server.0.heartbeat(InstanceKey::new("cart", "a")).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchInstance { .. }), "{error}");
    server.0.deregister(InstanceKey::new("cart", "http")).await.unwrap();
    assert!(server.get("catalog/service/cart").await.json().as_array().unwrap().is_empty());
    assert!(watch.snapshot().instances().is_empty());
}

#[tokio::test(start_paused = true)]
async fn two_nodes_may_each_have_an_instance_of_one_id() {
    let (server, _ticker) = Server::start();
    server.register("cart", "cart").await;
    for node in ["n1", "n2"] {
        let body = format!(
            r#"{{"Node": "{node}", "Address": "10.1.1.1", "Service": {{"Service": "cart", "Port": 1}}}}"#
        );
        server.put("catalog/register", body).await.ok();
    }
    let snapshot = server.0.instances("cart").await.unwrap();
    let ids: Vec<_> = snapshot.instances().iter().map(|instance| &*instance.id).collect();
    assert_eq!(ids, ["cart", "cart@n1", "cart@n2"]);
    assert_eq!(snapshot.get("cart@n1").unwrap().host, "10.1.1.1");
}

#[tokio::test(start_paused = true)]
async fn a_registration_beats_here_and_is_made_again_when_it_is_forgotten() {
    let (server, _ticker) = Server::start();
    let registration = Registration::spawn(server.0.clone(), cart("a"));
    registration.registered().await.unwrap();
    sleep(seconds(300)).await;
    assert_eq!(health(&server, "a").await, (Health::Healthy, false));
    server.put("agent/service/deregister/cart:a", "").await.ok();
    sleep(seconds(15)).await;
    assert_eq!(health(&server, "a").await, (Health::Healthy, false));
    assert!(matches!(registration.state(), RegistrationState::Registered));
    registration.close().await.unwrap();
    assert!(server.0.instances("cart").await.is_err());
}

/// Registers `n` that beat every 5 s of their TTL of 10 s, as long as their number is in `alive`.
async fn fleet(server: &Server, n: usize) {
    for id in 0..n {
        server.register("cart", &id.to_string()).await;
        server.pass(&id.to_string()).await;
    }
}

async fn beat(server: &Server, ids: std::ops::Range<usize>, times: usize) {
    for _ in 0..times {
        sleep(seconds(5)).await;
        for id in ids.clone() {
            server.pass(&id.to_string()).await;
        }
    }
}

fn suspects(answer: &serde_json::Value) -> usize {
    let entries = answer.as_array().unwrap().iter();
    entries.filter(|entry| entry["Checks"][0]["Suspect"] == true).count()
}

#[tokio::test(start_paused = true)]
async fn when_most_fall_silent_at_once_they_are_kept_as_suspect_until_they_are_back() {
    let (server, _ticker) = Server::start();
    fleet(&server, 10).await;
    beat(&server, 0..4, 4).await;
    let kept = server.get("health/service/cart?passing").await.json();
    assert_eq!((kept.as_array().unwrap().len(), suspects(&kept)), (10, 6));
    assert_eq!(health(&server, "9").await, (Health::Healthy, true));

    beat(&server, 0..10, 4).await;
    let back = server.get("health/service/cart?passing").await.json();
    assert_eq!((back.as_array().unwrap().len(), suspects(&back)), (10, 0));
    // Now it is one alone, and no reason to doubt.
    beat(&server, 0..9, 4).await;
    assert_eq!(server.passing("cart").await.len(), 9);
}

#[tokio::test(start_paused = true)]
async fn the_protection_ends_when_calm_and_after_its_bound() {
    let (server, _ticker) = Server::start();
    fleet(&server, 10).await;
    // Five of those six come back; one does not.
    beat(&server, 0..4, 4).await;
    beat(&server, 0..9, 5).await;
    assert_eq!(server.passing("cart").await.len(), 9, "a TTL after it was calm");

    let (server, _ticker) = Server::start();
    fleet(&server, 10).await;
    beat(&server, 0..2, 100).await;
    assert_eq!(server.passing("cart").await.len(), 10);
    beat(&server, 0..2, 25).await;
    assert_eq!(server.passing("cart").await, ["0", "1"], "10 minutes are the bound");
    // They do not count any more: the next silence is that of one of two.
    beat(&server, 0..1, 4).await;
    assert_eq!(server.passing("cart").await, ["0"]);
}

#[tokio::test(start_paused = true)]
async fn a_few_or_less_than_the_share_that_fall_silent_are_out() {
    for (all, alive) in [(8, 4), (20, 11)] {
        let (server, _ticker) = Server::start();
        fleet(&server, all).await;
        beat(&server, 0..alive, 4).await;
        assert_eq!(server.passing("cart").await.len(), alive, "of {all}");
    }
    let policy = ConsulPolicy::default().health(Policy::default().never_protect());
    let (server, _ticker) = Server::with(policy);
    fleet(&server, 20).await;
    beat(&server, 0..1, 4).await;
    assert_eq!(server.passing("cart").await, ["0"]);
}

/// Lets it fall silent, and counts the heartbeats until it passes again.
async fn flap(server: &Server) -> usize {
    sleep(seconds(11)).await;
    assert!(server.passing("cart").await.is_empty());
    for beats in 1..10 {
        server.pass("0").await;
        if server.passing("cart").await == ["0"] {
            return beats;
        }
        sleep(seconds(5)).await;
    }
    unreachable!("never believed");
}

#[tokio::test(start_paused = true)]
async fn what_falls_silent_again_and_again_needs_more_heartbeats() {
    let (server, _ticker): (_, ConsulTicker) = Server::start();
    fleet(&server, 1).await;
    for expected in [1, 2, 3, 3] {
        assert_eq!(flap(&server).await, expected);
    }
    // A failure that it tells of itself is believed at once, and so is its end.
    server.put("agent/check/fail/service:0", "").await.ok();
    server.pass("0").await;
    assert_eq!(server.passing("cart").await, ["0"]);
    beat(&server, 0..1, 180).await;
    assert_eq!(flap(&server).await, 1, "well for a quarter of an hour");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_heard_of_again_is_not_removed_before_it_is_believed() {
    let (server, _ticker) = Server::start();
    let body = r#"{"Name": "cart", "ID": "0", "Check": {"TTL": "30s", "Status": "passing", "DeregisterCriticalServiceAfter": "1m"}}"#;
    server.put("agent/service/register", body).await.ok();
    for _ in 0..3 {
        sleep(seconds(31)).await;
        for _ in 0..5 {
            server.pass("0").await;
            sleep(seconds(25)).await;
        }
    }
    assert_eq!(server.passing("cart").await, ["0"]);
    // Silent from 5 s on, and for a minute more.
    sleep(seconds(64)).await;
    assert_eq!(server.0.stats().instances, 1);
    sleep(seconds(2)).await;
    assert_eq!(server.0.stats().instances, 0);
}

#[tokio::test(start_paused = true)]
async fn many_changes_at_once_end_with_the_last_one_shown() {
    let (server, _ticker) = Server::start();
    let mut watch = server.0.watch("cart");
    let tasks: Vec<_> = (0..100)
        .map(|n| {
            let server = server.clone();
            tokio::spawn(async move {
                let id = (n % 10).to_string();
                server.0.register(cart(&id)).await.unwrap();
                if n >= 50 && n % 2 == 0 {
                    let _ = server.0.deregister(InstanceKey::new("cart", &id)).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let over_http = server.get("health/service/cart").await.json();
    assert_eq!(watch.snapshot().instances().len(), over_http.as_array().unwrap().len());
    let before = Instant::now();
    watch.changed().await;
    assert!(timeout(seconds(1), watch.changed()).await.is_err(), "one change for all");
    assert!(before.elapsed() < seconds(2));
}

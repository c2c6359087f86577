//! Whose an instance is.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gusset_registry::Error;
use serde_json::json;

use super::*;

#[tokio::test]
async fn what_one_process_registers_another_watches() {
    let servers = [Etcd::start()];
    let (one, other) = (registry_at(&servers), registry_at(&servers));
    let watch = other.watch("cart");
    one.register(instance("cart", "a").with_zone("z")).await.unwrap();
    shows(&watch, "a").await;
    assert_eq!(watch.snapshot().get("a").unwrap().zone.as_deref(), Some("z"));
    one.drain(InstanceKey::new("cart", "a")).await.unwrap();
    shows(&watch, "").await;
    assert_eq!(watch.snapshot().get("a").unwrap().health, Health::Draining);
    one.deregister(InstanceKey::new("cart", "a")).await.unwrap();
    eventually("gone", async || watch.snapshot().instances().is_empty()).await;
}

/// An operator takes an instance out, from elsewhere. Its own process has to know, or it would be back with the next lease.
#[tokio::test]
async fn a_drain_by_another_process_lasts_until_the_instance_registers_again() {
    let mut servers = [Etcd::start()];
    let (owner, other) = (registry_at(&servers), registry_at(&servers));
    let kept = Registration::spawn(owner.clone(), instance("cart", "a"));
    kept.registered().await.unwrap();
    other.drain(InstanceKey::new("cart", "a")).await.unwrap();
    let drained = Instant::now();
    // The owner looks each third of a TTL.
    eventually("it has looked", async || drained.elapsed() > ms(1_500)).await;
    servers[0].restart_empty();
    let health = async || {
        let snapshot = other.instances("cart").await.ok()?;
        snapshot.get("a").map(|instance| instance.health)
    };
    eventually("it is put again", async || owner.stats().leases == 2).await;
    eventually("as it was", async || health().await == Some(Health::Draining)).await;
    owner.register(kept.instance().clone()).await.unwrap();
    assert_eq!(health().await, Some(Health::Healthy));
}

#[tokio::test]
async fn keys_and_values_are_those_of_version_one() {
    let servers = [Etcd::start()];
    let registry = registry_with(&servers, policy().prefix("/shop"));
    registry.register(instance("eu/cart", "10.0.0.1:80")).await.unwrap();
    let key = STANDARD.encode("/shop/1/eu/cart/10.0.0.1:80");
    let answer = ask(&servers[0], "/v3/kv/range", &json!({ "key": key }));
    let value = answer["kvs"][0]["value"].as_str().unwrap();
    let value: serde_json::Value =
        serde_json::from_slice(&STANDARD.decode(value).unwrap()).unwrap();
    assert_eq!((&value["id"], &value["health"]), (&json!("10.0.0.1:80"), &json!("healthy")));
    assert!(value["owner"].is_string(), "{value}");
    assert_ne!(answer["kvs"][0]["lease"], json!(null));
}

#[tokio::test]
async fn registries_with_different_prefixes_do_not_see_each_other() {
    let servers = [Etcd::start()];
    let one = registry_with(&servers, policy().prefix("/a"));
    let other = registry_with(&servers, policy().prefix("/a/1"));
    one.register(instance("cart", "x")).await.unwrap();
    assert!(other.services().await.unwrap().is_empty());
    assert!(matches!(other.instances("cart").await, Err(Error::NoSuchService { .. })));
}

#[tokio::test]
async fn a_process_that_is_started_again_takes_over_and_the_old_one_does_not_fight() {
    let servers = [Etcd::start()];
    let old = registry_at(&servers);
    let kept = Registration::spawn(old.clone(), instance("cart", "a").with_version("old"));
    kept.registered().await.unwrap();
    let new = registry_at(&servers);
    new.register(instance("cart", "a").with_version("new")).await.unwrap();

    let is_kept_out = async || kept.state() == RegistrationState::Lost;
    eventually("the old one notices", is_kept_out).await;
    assert!(matches!(
        old.heartbeat(InstanceKey::new("cart", "a")).await,
        Err(Error::Superseded { .. })
    ));
    let version = |snapshot: &gusset_registry::Snapshot| snapshot.get("a").unwrap().version.clone();
    assert_eq!(version(&new.instances("cart").await.unwrap()).as_deref(), Some("new"));
    assert!(old.stats().superseded > 0);

    // When the place is free, it is back by itself.
    new.deregister(InstanceKey::new("cart", "a")).await.unwrap();
    eventually("it is back", async || kept.state() == RegistrationState::Registered).await;
    assert_eq!(version(&new.instances("cart").await.unwrap()).as_deref(), Some("old"));
}

#[tokio::test]
async fn what_somebody_deletes_by_hand_is_put_again_within_a_heartbeat() {
    let servers = [Etcd::start()];
    let (registry, other) = (registry_at(&servers), registry_at(&servers));
    let kept = Registration::spawn(registry.clone(), instance("cart", "a"));
    kept.registered().await.unwrap();
    let watch = other.watch("cart");
    shows(&watch, "a").await;
    other.deregister(InstanceKey::new("cart", "a")).await.unwrap();
    shows(&watch, "").await;
    let absent = shows(&watch, "a").await;
    assert!(absent < ms(3_000), "{absent:?}");
    assert_eq!(registry.stats().put_again, 1);
    assert_eq!(registry.stats().leases, 1);
}

#[tokio::test]
async fn the_instances_of_a_process_that_is_gone_are_gone_within_a_ttl() {
    let servers = [Etcd::start()];
    let (gone, other) = (registry_at(&servers), registry_at(&servers));
    gone.register(instance("cart", "a")).await.unwrap();
    let watch = other.watch("cart");
    shows(&watch, "a").await;
    drop(gone);
    let listed = shows(&watch, "").await;
    assert!(listed < ms(6_000), "{listed:?}");
}

#[tokio::test]
async fn closing_takes_all_instances_out_at_once() {
    let servers = [Etcd::start()];
    let (registry, other) = (registry_at(&servers), registry_at(&servers));
    for id in ["a", "b"] {
        registry.register(instance("cart", id)).await.unwrap();
    }
    registry.close().await.unwrap();
    assert!(matches!(other.instances("cart").await, Err(Error::NoSuchService { .. })));
    registry.register(instance("cart", "c")).await.unwrap();
    assert_eq!(other.instances("cart").await.unwrap().instances().len(), 1);
}

#[tokio::test]
async fn a_value_that_is_no_instance_is_passed_over_and_counted() {
    let servers = [Etcd::start()];
    let registry = registry_at(&servers);
    registry.register(instance("cart", "a")).await.unwrap();
    let put =
        json!({ "key": STANDARD.encode("/gusset/1//cart/x"), "value": STANDARD.encode("hello") });
    ask(&servers[0], "/v3/kv/put", &put);
    assert_eq!(registry.instances("cart").await.unwrap().instances().len(), 1);
    assert!(registry.stats().unreadable > 0);
}

#[tokio::test]
async fn the_services_of_one_namespace_are_asked_for_alone_and_remembered() {
    let mut servers = [Etcd::start()];
    let registry = registry_at(&servers);
    for service in ["cart", "eu/cart", "eu/till", "eu-west/cart", "e%u/x"] {
        registry.register(instance(service, "a")).await.unwrap();
    }
    let names = async |registry: &EtcdRegistry, namespace: &str| -> Vec<String> {
        let names = registry.services_in(namespace).await.unwrap();
        names.iter().map(|name| name.to_string()).collect()
    };
    let expected: [(&str, &[&str]); 5] = [
        ("", &["cart"]),
        ("eu", &["cart", "till"]),
        ("eu-west", &["cart"]),
        ("e%u", &["x"]),
        ("e", &[]),
    ];
    let other = registry_at(&servers);
    for (namespace, services) in expected {
        assert_eq!(names(&registry, namespace).await, services, "{namespace:?}");
    }
    assert_eq!(other.services().await.unwrap().len(), 5);
    servers[0].kill();
    eventually("etcd is away", async || registry.state().is_away()).await;
    for (namespace, services) in expected {
        assert_eq!(names(&registry, namespace).await, services, "{namespace:?}");
        assert_eq!(names(&other, namespace).await, services, "of what it knows of all");
    }
}

/// More keys than one answer has that are none of ours, between those that are.
#[tokio::test]
async fn keys_of_others_under_the_prefix_hold_nobody_up() {
    let servers = [Etcd::start()];
    let registry = registry_at(&servers);
    for service in ["a", "z"] {
        registry.register(instance(service, "1")).await.unwrap();
    }
    for chunk in 0..6 {
        let put = |n: u32| {
            let key = STANDARD.encode(format!("/gusset/1//m/too/deep/{n:04}"));
            json!({ "requestPut": { "key": key, "value": "" } })
        };
        let puts: Vec<_> = (chunk * 100..(chunk + 1) * 100).map(put).collect();
        ask(&servers[0], "/v3/kv/txn", &json!({ "success": puts }));
    }
    let services = registry.services().await.unwrap();
    assert_eq!(services.iter().map(|name| &**name).collect::<Vec<_>>(), ["a", "z"]);
}

/// etcd 9360 and 18069: hundreds of leases that expire at once paralysed it. However many instances a process has, they are on one.
#[tokio::test]
async fn a_thousand_instances_of_a_process_are_one_lease() {
    let servers = [Etcd::start()];
    let registry = registry_at(&servers);
    let all = (0..1_000).map(|n| {
        let registry = registry.clone();
        async move { registry.register(instance(&format!("s{}", n % 50), &n.to_string())).await }
    });
    for registered in futures_util::future::join_all(all).await {
        registered.unwrap();
    }
    assert_eq!(registry.stats().leases, 1);
    let leases = ask(&servers[0], "/v3/lease/leases", &json!({}));
    assert_eq!(leases["leases"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn a_listing_of_many_pages_is_whole_and_of_one_moment() {
    let servers = [Etcd::start()];
    let (registry, other) = (registry_at(&servers), registry_at(&servers));
    let all = (0..1_234).map(|n| {
        let registry = registry.clone();
        async move { registry.register(instance("cart", &format!("{n:04}"))).await.unwrap() }
    });
    futures_util::future::join_all(all).await;
    assert_eq!(other.instances("cart").await.unwrap().instances().len(), 1_234);
    assert_eq!(other.services().await.unwrap().len(), 1);
}

#[tokio::test]
async fn beyond_the_bound_instances_are_left_out_and_come_in_when_there_is_room() {
    let servers = [Etcd::start()];
    let registry = registry_at(&servers);
    for id in ["a", "b", "c"] {
        registry.register(instance("cart", id)).await.unwrap();
    }
    let bounded = policy().capacity(2.try_into().unwrap());
    let small = registry_with(&servers, bounded);
    let watch = small.watch("cart");
    shows(&watch, "a b").await;
    assert!(small.stats().left_out > 0);
    registry.deregister(InstanceKey::new("cart", "a")).await.unwrap();
    shows(&watch, "b c").await;

    for id in ["x", "y"] {
        small.register(instance("other", id)).await.unwrap();
    }
    let error = small.register(instance("other", "z")).await.unwrap_err();
    assert!(matches!(error, Error::Full { capacity: 2 }), "{error}");
    assert_eq!(small.stats().refused, 1);
}

//! What is the same for all engines, and what is so only here.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use gusset_registry::{
    ConsulPolicy, Error, Health, InstanceKey, Registration, RegistrationState, Registry,
    RemoteRegistry,
};

use super::{
    conformance, eventually, harness::Server, ids, instance, ms, policy, registry_at, shows,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms() {
    let server = Server::start().await;
    let connect = async || {
        let policy = policy().ttl(ms(2_000));
        Arc::new(RemoteRegistry::new(&server.address(), policy).unwrap()) as conformance::Engine
    };
    conformance::holds(connect).await;
}

#[tokio::test]
async fn every_field_comes_back_also_those_that_consul_has_no_name_for() {
    let server = Server::start().await;
    let registry = registry_at(&server.address());
    let mut said = instance("shop/said", "a b/\u{e4}%=")
        .with_metadata("a.b \u{e4}", "dots")
        .with_metadata("gusset-zone", "mine")
        .with_metadata("consul-x", "")
        .with_weight(70_000.try_into().unwrap())
        .with_tag("a, b")
        .with_incarnation(u64::MAX)
        .with_checks();
    registry.register(said.clone()).await.unwrap();
    let found = registry.instances("shop/said").await.unwrap();
    assert_eq!(*found.instances()[0], said);

    said = said.with_health(Health::Draining);
    registry.drain(said.key()).await.unwrap();
    assert_eq!(*registry.instances("shop/said").await.unwrap().instances()[0], said);
    assert_eq!(registry.services().await.unwrap(), ["shop/said".into()]);
    registry.deregister(said.key()).await.unwrap();
    assert!(matches!(registry.instances("shop/said").await, Err(Error::NoSuchService { .. })));
}

#[tokio::test]
async fn what_another_client_registered_is_found_drained_and_deregistered() {
    let server = Server::start().await;
    let registry = registry_at(&server.address());
    let body = r#"{"Name": "cart", "ID": "cart-1", "Port": 80, "Meta": {"team": "shop"}}"#;
    server.put("/v1/agent/service/register", body).await;
    let found = registry.discover("cart").await.unwrap();
    assert_eq!(found.instances()[0].metadata["team"], "shop");
    let key = InstanceKey::new("cart", "cart-1");
    registry.drain(key).await.unwrap();
    let error = registry.discover("cart").await.unwrap_err();
    assert!(matches!(error, Error::NoHealthyInstance { .. }), "{error}");
    registry.deregister(key).await.unwrap();
    assert!(registry.discover("cart").await.is_err());
}

#[tokio::test]
async fn an_instance_of_a_newer_layout_is_left_out_and_counted() {
    let server = Server::start().await;
    let registry = registry_at(&server.address());
    let body = r#"{"Name": "cart", "ID": "new", "Port": 80, "Meta": {"gusset": "2"}}"#;
    server.put("/v1/agent/service/register", body).await;
    registry.register(instance("cart", "a")).await.unwrap();
    assert_eq!(registry.instances("cart").await.unwrap().instances().len(), 1);
    assert_eq!(registry.stats().unreadable, 1);
}

#[tokio::test]
async fn a_wrong_token_is_a_refusal_that_says_so_and_ends_with_the_right_one() {
    let server = Server::with(ConsulPolicy::default().token("right")).await;
    let with = |token: &str| RemoteRegistry::new(&server.address(), policy().token(token)).unwrap();
    let registration = Registration::spawn(with("wrong"), instance("cart", "a"));
    assert!(registration.registered().await.unwrap_err().is_refusal());
    assert_eq!(registration.state(), RegistrationState::Lost);
    let error = registration.last_error().unwrap();
    let cause = std::error::Error::source(&*error).unwrap().to_string();
    assert!(cause.contains("403 Forbidden: ACL not found:"), "{cause}");
    assert!(!format!("{error:?}").contains("wrong"));
    with("right").register(instance("cart", "b")).await.unwrap();
}

#[tokio::test]
async fn a_younger_run_that_fell_silent_gives_its_place_back() {
    let server = Server::start().await;
    let policy = policy().ttl(ms(300));
    let registry = RemoteRegistry::new(&server.address(), policy).unwrap();
    let run = |n| instance("cart", "a").with_incarnation(n);
    registry.register(run(8)).await.unwrap();
    let error = registry.register(run(7)).await.unwrap_err();
    assert!(matches!(error, Error::Superseded { .. }), "{error}");
    eventually("the place is free", async || registry.register(run(7)).await.is_ok()).await;
}

#[tokio::test]
async fn a_dropped_watch_ends_its_question_and_a_new_one_asks_again() {
    let server = Server::start().await;
    let policy = policy().ttl(ms(60_000));
    let registry = RemoteRegistry::new(&server.address(), policy).unwrap();
    registry.register(instance("cart", "a")).await.unwrap();
    let watch = registry.watch("cart");
    shows(&watch, "a").await;
    eventually("it waits", async || server.consul.stats().watchers == 1).await;
    drop(watch);
    // Between two questions nobody waits either: only after longer than a question lasts is it sure that none will come.
    let silence = 2 * ms(1_000);
    eventually("given up", async || registry.age("cart").is_some_and(|age| age > silence)).await;
    assert_eq!(server.consul.stats().watchers, 0);
    registry.register(instance("cart", "b")).await.unwrap();
    shows(&registry.watch("cart"), "a b").await;
    let watch = registry.watch("cart");
    shows(&watch, "a b").await;
    drop(registry);
    eventually("ended", async || server.consul.stats().watchers == 0).await;
    assert_eq!(ids(&watch), "a b");
}

#[tokio::test]
async fn beyond_the_bound_instances_are_left_out_and_counted() {
    let server = Server::start().await;
    let small = policy().capacity(2.try_into().unwrap());
    let registry = RemoteRegistry::new(&server.address(), small).unwrap();
    for id in ["c", "a", "b"] {
        registry.register(instance("cart", id)).await.unwrap();
    }
    let watch = registry.watch("cart");
    shows(&watch, "a b").await;
    assert!(registry.stats().left_out > 0);
    registry.deregister(InstanceKey::new("cart", "a")).await.unwrap();
    shows(&watch, "b c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_watches_than_connections_take_turns_and_all_see_the_change() {
    let server = Server::start().await;
    let registry = registry_at(&server.address());
    let few = policy().watches(8.try_into().unwrap()).wait(ms(60_000));
    let watching = RemoteRegistry::new(&server.address(), few).unwrap();
    let mut watches: Vec<_> = (0..8).map(|n| watching.watch(&format!("s{n}"))).collect();
    eventually("all wait", async || server.consul.stats().watchers == 8).await;
    // They would hold their connections for a minute, were it not for these.
    watches.extend((8..32).map(|n| watching.watch(&format!("s{n}"))));
    // Nothing of what the first ones wait for changes, until the others have been told.
    for services in [8..32, 0..8] {
        for n in services.clone() {
            registry.register(instance(&format!("s{n}"), "a")).await.unwrap();
        }
        for n in services {
            shows(&watches[n], "a").await;
        }
    }
    let connections = server.connections.load(Relaxed);
    assert!(connections <= 8 + 16, "{connections}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_of_many_registrations_share_few_connections() {
    let server = Server::start().await;
    // A TTL so long that none lapses on a busy machine.
    let few = policy().ttl(ms(60_000)).connections(4.try_into().unwrap());
    let registry = RemoteRegistry::new(&server.address(), few).unwrap();
    let registrations: Vec<_> = (0..200)
        .map(|n| Registration::spawn(registry.clone(), instance("cart", &n.to_string())))
        .collect();
    for registration in &registrations {
        registration.registered().await.unwrap();
        assert_eq!(registration.state(), RegistrationState::Registered);
    }
    assert!(server.connections.load(Relaxed) <= 4);
    assert_eq!(registry.discover("cart").await.unwrap().healthy().count(), 200);
}

#[tokio::test]
async fn names_that_do_not_exist_are_not_remembered_whether_the_server_answers_or_not() {
    let mut server = Server::start().await;
    let registry = registry_at(&server.address());
    registry.register(instance("cart", "a")).await.unwrap();
    for n in 0..100 {
        let missing = registry.instances(&format!("no-{n}")).await.unwrap_err();
        assert!(matches!(missing, Error::NoSuchService { .. }), "{missing}");
    }
    registry.instances("cart").await.unwrap();
    let _watch = registry.watch("not-yet");
    assert_eq!(registry.stats().services, 2);
    server.kill().await;
    for n in 0..100 {
        assert!(registry.instances(&format!("no-{n}")).await.is_err());
    }
    assert!(registry.instances("cart").await.is_ok(), "the last known");
    assert_eq!(registry.stats().services, 2);
}

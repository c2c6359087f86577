//! What every engine of [`Registry`] promises. Each function takes a running engine and uses service names of its own,
//! so all can share one server. Time is that of tokio: paused for engines in this process, real for others.

use std::{sync::Arc, time::Duration};

use gusset_registry::{Error, Health, Instance, Registry, Watch};
use tokio::time::{sleep, timeout};

pub(crate) type Engine = Arc<dyn Registry>;

/// Runs all of them, one after the other.
pub(crate) async fn holds(engine: Engine) {
    registering_again_replaces(&engine).await;
    errors_tell_service_and_instance_apart(&engine).await;
    unknown_until_the_first_heartbeat(&engine).await;
    silence_ends_health_and_a_heartbeat_revives(&engine).await;
    a_forgotten_instance_is_told_to_register_again(&engine).await;
    draining_is_not_discovered_and_lasts_until_registered_again(&engine).await;
    snapshots_are_sorted_and_do_not_change_once_read(&engine).await;
    a_watch_sees_the_last_state(&engine).await;
    a_change_wakes_only_watchers_of_its_service(&engine).await;
    services_with_instances_are_listed(&engine).await;
    concurrent_registrations_keep_every_id_once(&engine).await;
}

fn instance(service: &str, id: &str) -> Instance {
    Instance::new(service, "10.0.0.1", 80).with_id(id).with_health(Health::Healthy)
}

async fn register(engine: &Engine, service: &str, ids: &[&str]) {
    for id in ids {
        engine.register(instance(service, id)).await.unwrap();
    }
}

async fn health(engine: &Engine, service: &str, id: &str) -> Option<Health> {
    let snapshot = engine.instances(service).await.ok()?;
    snapshot.get(id).map(|instance| instance.health)
}

/// Waits for the watch to show what is wanted; a remote engine may take some time to.
async fn shows(watch: &mut Watch, wanted: &[&str]) {
    let ids = |watch: &Watch| -> Vec<String> {
        watch.snapshot().instances().iter().map(|instance| instance.id.to_string()).collect()
    };
    let seen = async {
        while ids(watch) != wanted {
            watch.changed().await;
        }
    };
    timeout(Duration::from_secs(5), seen).await.unwrap_or_else(|_| panic!("never {wanted:?}"));
}

async fn registering_again_replaces(engine: &Engine) {
    register(engine, "replace", &["a", "b", "a"]).await;
    engine.register(instance("replace", "b").with_zone("z")).await.unwrap();
    let snapshot = engine.discover("replace").await.unwrap();
    assert_eq!(snapshot.instances().len(), 2);
    assert_eq!(snapshot.get("b").unwrap().zone.as_deref(), Some("z"));
}

async fn errors_tell_service_and_instance_apart(engine: &Engine) {
    let error = engine.discover("errors").await.unwrap_err();
    assert!(matches!(error, Error::NoSuchService { .. }), "{error}");
    let error = engine.deregister("errors", "a").await.unwrap_err();
    assert!(matches!(error, Error::NoSuchService { .. }), "{error}");

    engine.register(instance("errors", "a").with_health(Health::Unknown)).await.unwrap();
    let error = engine.discover("errors").await.unwrap_err();
    assert!(matches!(error, Error::NoHealthyInstance { .. }), "{error}");
    let error = engine.deregister("errors", "b").await.unwrap_err();
    assert!(matches!(error, Error::NoSuchInstance { .. }), "{error}");
    let error = engine.drain("errors", "b").await.unwrap_err();
    assert!(matches!(error, Error::NoSuchInstance { .. }), "{error}");

    engine.deregister("errors", "a").await.unwrap();
    let error = engine.instances("errors").await.unwrap_err();
    assert!(matches!(error, Error::NoSuchService { .. }), "{error}");
}

async fn unknown_until_the_first_heartbeat(engine: &Engine) {
    engine.register(instance("unknown", "a").with_health(Health::Unknown)).await.unwrap();
    assert_eq!(health(engine, "unknown", "a").await, Some(Health::Unknown));
    engine.heartbeat("unknown", "a").await.unwrap();
    assert_eq!(health(engine, "unknown", "a").await, Some(Health::Healthy));
    let snapshot = engine.instances("unknown").await.unwrap();
    assert!(snapshot.get("a").unwrap().last_seen.age().unwrap() < engine.ttl());
}

async fn silence_ends_health_and_a_heartbeat_revives(engine: &Engine) {
    register(engine, "silence", &["beats", "silent"]).await;
    for _ in 0..6 {
        sleep(engine.ttl() / 4).await;
        engine.heartbeat("silence", "beats").await.unwrap();
    }
    assert_eq!(health(engine, "silence", "beats").await, Some(Health::Healthy));
    assert_ne!(health(engine, "silence", "silent").await, Some(Health::Healthy));
    if engine.heartbeat("silence", "silent").await.is_ok() {
        assert_eq!(health(engine, "silence", "silent").await, Some(Health::Healthy));
    }
}

async fn a_forgotten_instance_is_told_to_register_again(engine: &Engine) {
    let error = engine.heartbeat("forgotten", "a").await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    register(engine, "forgotten", &["a", "b"]).await;
    engine.deregister("forgotten", "a").await.unwrap();
    let error = engine.heartbeat("forgotten", "a").await.unwrap_err();
    assert!(matches!(error, Error::NoSuchInstance { .. }), "{error}");
}

async fn draining_is_not_discovered_and_lasts_until_registered_again(engine: &Engine) {
    register(engine, "drain", &["a"]).await;
    engine.drain("drain", "a").await.unwrap();
    engine.heartbeat("drain", "a").await.unwrap();
    let error = engine.discover("drain").await.unwrap_err();
    assert!(matches!(error, Error::NoHealthyInstance { .. }), "{error}");
    assert_eq!(health(engine, "drain", "a").await, Some(Health::Draining));
    register(engine, "drain", &["a"]).await;
    assert_eq!(health(engine, "drain", "a").await, Some(Health::Healthy));
}

async fn snapshots_are_sorted_and_do_not_change_once_read(engine: &Engine) {
    register(engine, "sorted", &["c", "a", "b"]).await;
    let before = engine.instances("sorted").await.unwrap();
    engine.deregister("sorted", "b").await.unwrap();
    let after = engine.instances("sorted").await.unwrap();
    let ids = |instances: &[Arc<Instance>]| -> String {
        instances.iter().map(|instance| &*instance.id).collect()
    };
    assert_eq!((ids(before.instances()), ids(after.instances())), ("abc".into(), "ac".into()));
    assert!(after.version() > before.version());
}

async fn a_watch_sees_the_last_state(engine: &Engine) {
    let mut watch = engine.watch("watched");
    let mut late = engine.watch("watched");
    register(engine, "watched", &["a", "b"]).await;
    shows(&mut watch, &["a", "b"]).await;
    engine.deregister("watched", "a").await.unwrap();
    shows(&mut watch, &["b"]).await;
    shows(&mut late, &["b"]).await;
    shows(&mut engine.watch("watched"), &["b"]).await;
}

async fn a_change_wakes_only_watchers_of_its_service(engine: &Engine) {
    let mut other = engine.watch("other");
    let mut watch = engine.watch("changed");
    register(engine, "changed", &["a"]).await;
    shows(&mut watch, &["a"]).await;
    assert!(timeout(Duration::from_millis(50), other.changed()).await.is_err());
}

async fn services_with_instances_are_listed(engine: &Engine) {
    register(engine, "listed", &["a"]).await;
    register(engine, "left", &["a"]).await;
    engine.deregister("left", "a").await.unwrap();
    let _watched = engine.watch("watched-only");
    let services = engine.services().await.unwrap();
    assert!(services.is_sorted());
    let has = |name: &str| services.iter().any(|service| &**service == name);
    assert!(has("listed") && !has("left") && !has("watched-only"), "{services:?}");
}

async fn concurrent_registrations_keep_every_id_once(engine: &Engine) {
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let engine = engine.clone();
            tokio::spawn(async move {
                engine.register(instance("crowd", &format!("{:02}", n % 25))).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(engine.instances("crowd").await.unwrap().instances().len(), 25);
}

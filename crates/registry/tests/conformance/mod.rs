//! What every engine of [`Registry`] promises. Each function uses service names of its own, so that all can share one
//! registry. Time is that of tokio: paused for engines in this process, real for others.

use std::{sync::Arc, time::Duration};

use gusset_registry::{Error, Health, Instance, InstanceKey, Registry, Selector, Watch};
use tokio::time::{sleep, timeout};

pub(crate) type Engine = Arc<dyn Registry>;

/// Within which what one client did is to be seen by another, and by watchers.
const SOON: Duration = Duration::from_secs(5);

/// Runs all of them. `connect` makes one more client of the same registry each time that it is called; for an engine
/// within the process, one more clone. A registry of a TTL of 2 or 3 s keeps it short where time is real.
pub(crate) async fn holds(connect: impl AsyncFn() -> Engine) {
    let engine = connect().await;
    let other = connect().await;
    registering_again_replaces(&engine).await;
    all_that_an_instance_says_comes_back(&engine, &other).await;
    an_impossible_instance_is_refused_at_once(&engine).await;
    errors_tell_service_and_instance_apart(&engine).await;
    unknown_until_the_first_heartbeat(&engine).await;
    silence_ends_health_and_a_heartbeat_or_registration_revives(&engine).await;
    a_forgotten_instance_is_told_to_register_again(&engine).await;
    draining_is_not_discovered_and_lasts_until_registered_again(&engine).await;
    an_older_run_cannot_touch_the_younger(&engine, &other).await;
    snapshots_are_sorted_and_do_not_change_once_read(&engine).await;
    a_watch_sees_the_last_state(&engine, &other).await;
    a_watch_that_was_not_looked_at_skips_to_the_last_state(&engine, &other).await;
    a_change_wakes_only_watchers_of_its_service(&engine).await;
    heartbeats_alone_wake_nobody(&engine).await;
    services_with_instances_are_listed(&engine).await;
    namespaces_are_apart(&engine, &other).await;
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
    timeout(SOON, seen).await.unwrap_or_else(|_| panic!("never {wanted:?}"));
}

async fn registering_again_replaces(engine: &Engine) {
    register(engine, "replace", &["a", "b", "a"]).await;
    engine.register(instance("replace", "b").with_zone("z")).await.unwrap();
    let snapshot = engine.discover("replace").await.unwrap();
    assert_eq!(snapshot.instances().len(), 2);
    assert_eq!(snapshot.get("b").unwrap().zone.as_deref(), Some("z"));
}

async fn all_that_an_instance_says_comes_back(engine: &Engine, other: &Engine) {
    let said = Instance::new("said", "fe80::1", 8443)
        .with_id("a:1/\u{e4} %")
        .with_health(Health::Healthy)
        .with_metadata("canary", "yes = \"1\"")
        .with_version("1.2.3")
        .with_zone("eu-1")
        .with_weight(7.try_into().unwrap())
        .with_tag("blue")
        .with_tag("http/2")
        .with_incarnation(1 << 50);
    engine.register(said.clone()).await.unwrap();
    let mut watch = other.watch("said");
    shows(&mut watch, &[&said.id]).await;
    assert_eq!(*watch.snapshot().instances()[0], said);
    assert_eq!(*other.instances("said").await.unwrap().instances()[0], said);
    let canary = Selector::new().healthy().metadata("canary", "yes = \"1\"").tag("blue").near("x");
    assert_eq!(watch.snapshot().select(&canary).len(), 1);
}

async fn an_impossible_instance_is_refused_at_once(engine: &Engine) {
    for instance in [
        Instance::new("impossible", "a b", 80),
        Instance::new("impossible", "", 80),
        Instance::new("impossible", "h", 80).with_id(""),
        Instance::new("im/poss/ible", "h", 80),
    ] {
        let error = engine.register(instance).await.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    assert!(engine.instances("impossible").await.is_err());
}

async fn errors_tell_service_and_instance_apart(engine: &Engine) {
    let error = engine.discover("errors").await.unwrap_err();
    assert!(matches!(error, Error::NoSuchService { .. }), "{error}");
    let error = engine.deregister(InstanceKey::new("errors", "a")).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchService { .. }), "{error}");

    engine.register(instance("errors", "a").with_health(Health::Unknown)).await.unwrap();
    let error = engine.discover("errors").await.unwrap_err();
    assert!(matches!(error, Error::NoHealthyInstance { .. }), "{error}");
    let error = engine.deregister(InstanceKey::new("errors", "b")).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchInstance { .. }), "{error}");
    let error = engine.drain(InstanceKey::new("errors", "b")).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchInstance { .. }), "{error}");

    engine.deregister(InstanceKey::new("errors", "a")).await.unwrap();
    let error = engine.instances("errors").await.unwrap_err();
    assert!(matches!(error, Error::NoSuchService { .. }), "{error}");
}

async fn unknown_until_the_first_heartbeat(engine: &Engine) {
    engine.register(instance("unknown", "a").with_health(Health::Unknown)).await.unwrap();
    assert_eq!(health(engine, "unknown", "a").await, Some(Health::Unknown));
    engine.heartbeat(InstanceKey::new("unknown", "a")).await.unwrap();
    assert_eq!(health(engine, "unknown", "a").await, Some(Health::Healthy));
    let snapshot = engine.instances("unknown").await.unwrap();
    assert!(snapshot.get("a").unwrap().last_seen.age().unwrap() < engine.ttl());
}

async fn silence_ends_health_and_a_heartbeat_or_registration_revives(engine: &Engine) {
    register(engine, "silence", &["beats", "silent"]).await;
    // Half a TTL more than it may last.
    for _ in 0..8 {
        sleep(engine.ttl() / 4).await;
        engine.heartbeat(InstanceKey::new("silence", "beats")).await.unwrap();
    }
    assert_eq!(health(engine, "silence", "beats").await, Some(Health::Healthy));
    assert_ne!(health(engine, "silence", "silent").await, Some(Health::Healthy));
    match engine.heartbeat(InstanceKey::new("silence", "silent")).await {
        Ok(()) => {}
        Err(error) => {
            assert!(error.is_not_found(), "{error}");
            register(engine, "silence", &["silent"]).await;
        }
    }
    assert_eq!(health(engine, "silence", "silent").await, Some(Health::Healthy));
}

async fn a_forgotten_instance_is_told_to_register_again(engine: &Engine) {
    let error = engine.heartbeat(InstanceKey::new("forgotten", "a")).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    register(engine, "forgotten", &["a", "b"]).await;
    engine.deregister(InstanceKey::new("forgotten", "a")).await.unwrap();
    let error = engine.heartbeat(InstanceKey::new("forgotten", "a")).await.unwrap_err();
    assert!(matches!(error, Error::NoSuchInstance { .. }), "{error}");
}

async fn draining_is_not_discovered_and_lasts_until_registered_again(engine: &Engine) {
    register(engine, "drain", &["a"]).await;
    engine.drain(InstanceKey::new("drain", "a")).await.unwrap();
    engine.heartbeat(InstanceKey::new("drain", "a")).await.unwrap();
    let error = engine.discover("drain").await.unwrap_err();
    assert!(matches!(error, Error::NoHealthyInstance { .. }), "{error}");
    assert_eq!(health(engine, "drain", "a").await, Some(Health::Draining));
    register(engine, "drain", &["a"]).await;
    assert_eq!(health(engine, "drain", "a").await, Some(Health::Healthy));
}

async fn an_older_run_cannot_touch_the_younger(engine: &Engine, other: &Engine) {
    let run = |n: u64| instance("runs", "a").with_incarnation(n).with_version(n.to_string());
    let (old, young) = (run(7), run(8));
    engine.register(old.clone()).await.unwrap();
    other.register(young.clone()).await.unwrap();
    for late in [
        engine.register(old.clone()).await,
        engine.heartbeat(old.key()).await,
        engine.drain(old.key()).await,
        engine.deregister(old.key()).await,
    ] {
        let error = late.unwrap_err();
        assert!(matches!(error, Error::Superseded { .. }), "{error}");
    }
    let snapshot = engine.instances("runs").await.unwrap();
    assert_eq!(*snapshot.instances()[0], young);
    other.heartbeat(young.key()).await.unwrap();
    other.deregister(young.key()).await.unwrap();
    engine.register(old).await.unwrap();
}

async fn snapshots_are_sorted_and_do_not_change_once_read(engine: &Engine) {
    register(engine, "sorted", &["c", "a", "b"]).await;
    let before = engine.instances("sorted").await.unwrap();
    engine.deregister(InstanceKey::new("sorted", "b")).await.unwrap();
    let after = engine.instances("sorted").await.unwrap();
    let ids = |instances: &[Arc<Instance>]| -> String {
        instances.iter().map(|instance| &*instance.id).collect()
    };
    assert_eq!((ids(before.instances()), ids(after.instances())), ("abc".into(), "ac".into()));
    assert!(after.version() > before.version());
}

async fn a_watch_sees_the_last_state(engine: &Engine, other: &Engine) {
    let mut watch = engine.watch("watched");
    let mut late = other.watch("watched");
    register(engine, "watched", &["a", "b"]).await;
    shows(&mut watch, &["a", "b"]).await;
    engine.deregister(InstanceKey::new("watched", "a")).await.unwrap();
    shows(&mut watch, &["b"]).await;
    shows(&mut late, &["b"]).await;
    shows(&mut engine.watch("watched"), &["b"]).await;
    other.deregister(InstanceKey::new("watched", "b")).await.unwrap();
    shows(&mut late, &[]).await;
    shows(&mut watch, &[]).await;
}

async fn a_watch_that_was_not_looked_at_skips_to_the_last_state(engine: &Engine, other: &Engine) {
    let mut reference = other.watch("skips");
    let mut watch = other.watch("skips");
    for n in 0..20 {
        engine.register(instance("skips", "a").with_version(n.to_string())).await.unwrap();
    }
    register(engine, "skips", &["last"]).await;
    shows(&mut reference, &["a", "last"]).await;
    let snapshot = timeout(SOON, watch.changed()).await.unwrap();
    assert_eq!(snapshot.instances().len(), 2);
    assert_eq!(snapshot.get("a").unwrap().version.as_deref(), Some("19"));
    assert!(
        timeout(Duration::from_millis(50), watch.changed()).await.is_err(),
        "one change for all"
    );
}

async fn a_change_wakes_only_watchers_of_its_service(engine: &Engine) {
    let mut other = engine.watch("other");
    let mut watch = engine.watch("changed");
    register(engine, "changed", &["a"]).await;
    shows(&mut watch, &["a"]).await;
    assert!(timeout(Duration::from_millis(50), other.changed()).await.is_err());
}

async fn heartbeats_alone_wake_nobody(engine: &Engine) {
    register(engine, "beating", &["a"]).await;
    let mut watch = engine.watch("beating");
    shows(&mut watch, &["a"]).await;
    // What it shows may not have been returned yet.
    while timeout(Duration::from_millis(50), watch.changed()).await.is_ok() {}
    for _ in 0..5 {
        engine.heartbeat(InstanceKey::new("beating", "a")).await.unwrap();
    }
    let changed = timeout(Duration::from_millis(50), watch.changed()).await;
    assert!(changed.is_err(), "{changed:?}");
}

async fn services_with_instances_are_listed(engine: &Engine) {
    register(engine, "listed", &["a"]).await;
    register(engine, "left", &["a"]).await;
    engine.deregister(InstanceKey::new("left", "a")).await.unwrap();
    let _watched = engine.watch("watched-only");
    let services = engine.services().await.unwrap();
    assert!(services.is_sorted());
    let has = |name: &str| services.iter().any(|service| &**service == name);
    assert!(has("listed") && !has("left") && !has("watched-only"), "{services:?}");
}

async fn namespaces_are_apart(engine: &Engine, other: &Engine) {
    register(engine, "apart", &["a"]).await;
    engine.register(instance("apart", "b").in_namespace("staging")).await.unwrap();
    let mut default = other.watch("apart");
    shows(&mut default, &["a"]).await;
    shows(&mut other.watch("staging/apart"), &["b"]).await;
    let staging = other.services_in("staging").await.unwrap();
    assert_eq!(staging, ["apart".into()]);
    let services = other.services_in("").await.unwrap();
    assert!(services.iter().all(|service| !service.contains('/')), "{services:?}");

    engine.deregister(InstanceKey::new("staging/apart", "b")).await.unwrap();
    assert!(engine.services_in("staging").await.unwrap().is_empty());
    assert_eq!(health(engine, "apart", "a").await, Some(Health::Healthy));
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

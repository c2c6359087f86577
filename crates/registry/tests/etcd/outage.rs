//! etcd is killed, frozen, emptied, compacted, cut down to a part of its members; and what the processes that use it make of it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use gusset_registry::EtcdState;
use serde_json::json;

use super::*;

/// A heartbeat and the longest pause are 1.5 s; the rest is for a busy machine.
const SOON: Duration = Duration::from_secs(15);

/// Registrations of so many services, all known to the registry.
async fn registered(registry: &EtcdRegistry, services: usize) -> Vec<Registration> {
    let spawn = |n| Registration::spawn(registry.clone(), instance(&format!("s{n}"), "a"));
    let all: Vec<_> = (0..services).map(spawn).collect();
    for registration in &all {
        registration.registered().await.unwrap();
    }
    all
}

/// Waits until every service has its instance, as a process sees it that was not there before.
async fn all_back(servers: &[Etcd], registrations: &[Registration]) -> Duration {
    let fresh = registry_at(servers);
    let began = Instant::now();
    for registration in registrations {
        let service = &registration.instance().service;
        eventually(service, async || fresh.discover(service).await.is_ok()).await;
    }
    let back = began.elapsed();
    for registration in registrations {
        let is_registered = async || registration.state() == RegistrationState::Registered;
        eventually("the registration says so", is_registered).await;
    }
    back
}

async fn is_away(registry: &EtcdRegistry) {
    eventually("etcd is away", async || registry.state().is_away()).await;
}

async fn is_connected(registry: &EtcdRegistry) {
    eventually("etcd is there", async || !registry.state().is_away()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_services_survive_a_kill_and_a_restart() {
    let mut servers = [Etcd::start()];
    let registry = registry_at(&servers);
    let services = registered(&registry, 20).await;
    let other = registry_at(&servers);
    let watch = other.watch("s7");
    shows(&watch, "a").await;

    servers[0].kill();
    is_away(&registry).await;
    is_away(&other).await;
    // What was known is still served, and says how old it is.
    assert_eq!(ids(&watch), "a");
    assert_eq!(other.discover("s7").await.unwrap().instances().len(), 1);
    eventually("it is marked", async || watch.snapshot().is_suspect()).await;
    assert_eq!(ids(&watch), "a");
    assert!(watch.snapshot().get("a").unwrap().last_seen.age().unwrap() >= ms(900));
    assert!(other.age("s7").unwrap() >= ms(900));

    servers[0].restart();
    let back = all_back(&servers, &services).await;
    assert!(back < SOON, "{back:?}");
    eventually("it is no longer marked", async || !watch.snapshot().is_suspect()).await;
    assert_eq!(ids(&watch), "a");
    assert_eq!(registry.stats().leases, 1, "a lease outlives a restart");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_services_are_registered_again_where_etcd_comes_back_empty() {
    let mut servers = [Etcd::start()];
    let registry = registry_at(&servers);
    // Revisions begin anew with the directory, and may not be taken for old ones.
    for n in 0..50 {
        registry.register(instance("s3", "a").with_version(n.to_string())).await.unwrap();
    }
    let services = registered(&registry, 20).await;
    let other = registry_at(&servers);
    let watch = other.watch("s3");
    shows(&watch, "a").await;
    servers[0].restart_empty();
    let back = all_back(&servers, &services).await;
    assert!(back < SOON, "{back:?}");
    assert_eq!(registry.stats().leases, 2);

    registry.register(instance("s3", "b")).await.unwrap();
    shows(&watch, "a b").await;
    assert!(!watch.snapshot().is_suspect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_hangs_nobody_and_is_noticed() {
    let servers = [Etcd::start()];
    let quick = policy().call_within(ms(500));
    let registry = registry_with(&servers, quick.clone());
    let services = registered(&registry, 3).await;
    let other = registry_with(&servers, quick);
    let watch = other.watch("s0");
    shows(&watch, "a").await;

    servers[0].pause();
    let began = Instant::now();
    assert_eq!(other.discover("s0").await.unwrap().instances().len(), 1, "the last known");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    let began = Instant::now();
    assert!(other.register(instance("new", "a")).await.is_err());
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    is_away(&registry).await;
    is_away(&other).await;
    let EtcdState::Away { cause, since } = other.state() else { panic!("it is away") };
    assert!(!cause.is_empty());
    // For longer than the leases last.
    eventually("the time has passed", async || since.elapsed() > ms(4_000)).await;
    assert_eq!(ids(&watch), "a");

    servers[0].resume();
    is_connected(&registry).await;
    let back = all_back(&servers, &services).await;
    assert!(back < SOON, "{back:?}");
    // The lease may end only now, and then a commit and a grant have to fit into the limit of one call.
    let b_is_registered = async || registry.register(instance("s0", "b")).await.is_ok();
    eventually("b is registered", b_is_registered).await;
    shows(&watch, "a b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_missed_what_was_compacted_lists_again() {
    let servers = [Etcd::start()];
    let proxy = Proxy::before(servers[0].port());
    let behind = EtcdRegistry::spawn([proxy.address()], policy()).unwrap();
    let direct = registry_at(&servers);
    direct.register(instance("cart", "gone")).await.unwrap();
    let watch = behind.watch("cart");
    shows(&watch, "gone").await;

    proxy.cut();
    is_away(&behind).await;
    direct.register(instance("cart", "new")).await.unwrap();
    direct.deregister(InstanceKey::new("cart", "gone")).await.unwrap();
    let answer = ask(&servers[0], "/v3/kv/range", &json!({ "key": STANDARD.encode("a") }));
    let revision = &answer["header"]["revision"];
    ask(&servers[0], "/v3/kv/compaction", &json!({ "revision": revision, "physical": true }));
    assert_eq!(ids(&watch), "gone");

    proxy.mend();
    shows(&watch, "new").await;
}

/// Between the listing of a service and the watch of what follows, that may be compacted. Watches are begun until it has happened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_between_listing_and_watch_is_survived() {
    let server = Etcd::start();
    let registry = registry_at(std::slice::from_ref(&server));
    registry.register(instance("cart", "a")).await.unwrap();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let end = over.clone();
    let compacts = tokio::task::spawn_blocking(move || {
        let key = STANDARD.encode("other");
        while !end.load(std::sync::atomic::Ordering::Relaxed) {
            let put = ask(&server, "/v3/kv/put", &json!({ "key": key, "value": "" }));
            let revision = &put["header"]["revision"];
            let _ = server.post("/v3/kv/compaction", &json!({ "revision": revision }).to_string());
        }
        server
    });
    let mut watches = Vec::new();
    for n in 0..2_000 {
        let service = format!("s{n}");
        registry.register(instance(&service, "a")).await.unwrap();
        let watch = registry.watch(&service);
        shows(&watch, "a").await;
        watches.push(watch);
        if registry.stats().listings > watches.len() as u64 {
            break;
        }
    }
    assert!(registry.stats().listings > watches.len() as u64, "it never happened");
    let last = watches.len() - 1;
    registry.register(instance(&format!("s{last}"), "b")).await.unwrap();
    shows(&watches[last], "a b").await;
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    drop(compacts.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_expired_is_granted_anew_and_all_is_put_again() {
    let servers = [Etcd::start()];
    let proxy = Proxy::before(servers[0].port());
    let registry = EtcdRegistry::spawn([proxy.address()], policy()).unwrap();
    let services = registered(&registry, 20).await;
    let watch = registry_at(&servers).watch("s5");
    let direct = registry_at(&servers);
    let watched = direct.watch("s5");
    shows(&watched, "a").await;
    drop(watch);

    proxy.cut();
    shows(&watched, "").await;
    proxy.mend();
    let back = all_back(&servers, &services).await;
    assert!(back < SOON, "{back:?}");
    shows(&watched, "a").await;
    assert_eq!(registry.stats().leases, 2);
    assert_eq!(registry.stats().expired, 0, "nobody was silent, nobody could be heard");
}

/// Half of a network: what goes out arrives, nothing comes back, and nobody is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_died_silently_is_noticed() {
    let servers = [Etcd::start()];
    let proxy = Proxy::before(servers[0].port());
    let behind = EtcdRegistry::spawn([proxy.address()], policy().call_within(ms(500))).unwrap();
    let direct = registry_at(&servers);
    direct.register(instance("cart", "a")).await.unwrap();
    let watch = behind.watch("cart");
    shows(&watch, "a").await;

    proxy.set(Faults { mute: true, ..Faults::default() });
    direct.register(instance("cart", "b")).await.unwrap();
    let began = Instant::now();
    is_away(&behind).await;
    // The pings of HTTP/2 would need 6 s.
    assert!(began.elapsed() < ms(4_000), "{:?}", began.elapsed());
    assert_eq!(ids(&watch), "a");
    proxy.mend();
    shows(&watch, "a b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_whose_leader_is_killed_loses_nothing() {
    let mut servers = Etcd::cluster::<3>();
    let registry = registry_at(&servers);
    let services = registered(&registry, 20).await;
    let other = registry_at(&servers);
    let watch = other.watch("s1");
    shows(&watch, "a").await;

    let leader = servers.iter().position(is_leader).unwrap();
    servers[leader].kill();
    // Whoever reads meanwhile sees the last known set, always.
    let _second = Registration::spawn(registry.clone(), instance("s1", "b"));
    let mut reads = 0;
    let converged = eventually("the watch sees a change", async || {
        assert!(other.discover("s1").await.unwrap().get("a").is_some());
        assert!(watch.snapshot().get("a").is_some());
        reads += 1;
        watch.snapshot().get("b").is_some()
    });
    let converged = converged.await;
    println!("the change was seen after {converged:?} and {reads} reads");

    let survivors: Vec<_> = servers
        .into_iter()
        .enumerate()
        .filter_map(|(n, server)| (n != leader).then_some(server))
        .collect();
    all_back(&survivors, &services).await;
    assert_eq!(registry.stats().leases, 1);
    assert_eq!(registry.stats().put_again, 0, "no key was ever gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_is_passed_over() {
    let servers = Etcd::cluster::<3>();
    let quick = policy().call_within(ms(500));
    let registry = registry_with(&servers, quick.clone());
    let services = registered(&registry, 5).await;
    let watch = registry_with(&servers, quick);
    let watch = (watch.watch("s1"), watch);
    shows(&watch.0, "a").await;
    let leader = servers.iter().find(|server| is_leader(server)).unwrap();
    leader.pause();
    let _second = Registration::spawn(registry.clone(), instance("s1", "b"));
    let converged = shows(&watch.0, "a b").await;
    println!("the change was seen after {converged:?}");
    leader.resume();
    all_back(&servers, &services).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_without_a_quorum_counts_as_away() {
    let mut servers = Etcd::cluster::<3>();
    let registry = registry_with(&servers, policy().call_within(ms(500)));
    let services = registered(&registry, 5).await;
    let watch = registry.watch("s1");
    shows(&watch, "a").await;
    let [left, killed @ ..] = &mut servers;
    for server in killed.iter_mut() {
        server.kill();
    }
    is_away(&registry).await;
    let connected = registry.stats().connected;
    assert!(left.post("/v3/kv/range", r#"{"key":"YQ==","serializable":true}"#).is_some());
    assert_eq!(registry.discover("s1").await.unwrap().instances().len(), 1);
    eventually("it is marked", async || watch.snapshot().is_suspect()).await;
    assert_eq!(registry.stats().connected, connected, "what accepts connections does not count");
    killed[0].restart();
    all_back(&servers[..2], &services).await;
    eventually("it is no longer marked", async || !watch.snapshot().is_suspect()).await;
}

/// What a process does that is paused for longer than its lease lasts.
#[tokio::test]
async fn a_process_that_was_paused_for_longer_than_its_lease_registers_again() {
    let servers = [Etcd::start()];
    let child = process(&servers[0].address());
    let watch = (registry_at(&servers), "paused");
    let watch = (watch.0.watch(watch.1), watch.0);
    shows(&watch.0, "a b").await;
    child.pause();
    shows(&watch.0, "").await;
    child.resume();
    let back = shows(&watch.0, "a b").await;
    assert!(back < SOON, "{back:?}");
}

/// The body of the process of the test above; nothing in a run of the tests.
#[tokio::test]
async fn as_another_process() {
    let Ok(address) = std::env::var("GUSSET_ETCD_PROCESS") else { return };
    let registry = EtcdRegistry::spawn([address], policy()).unwrap();
    let spawn = |id| Registration::spawn(registry.clone(), instance("paused", id));
    let _both = ["a", "b"].map(spawn);
    // Until it is killed.
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn user_and_password_are_asked_for_and_a_token_that_is_no_longer_valid_is_replaced() {
    let mut servers = [Etcd::start()];
    let json = |path: &str, question| ask(&servers[0], path, &question);
    for user in ["root", "cart"] {
        json("/v3/auth/user/add", json!({ "name": user, "password": "secret" }));
    }
    json("/v3/auth/user/grant", json!({ "user": "root", "role": "root" }));
    json("/v3/auth/role/add", json!({ "name": "registry" }));
    let (key, range_end) = (STANDARD.encode("/gusset/1/"), STANDARD.encode("/gusset/10"));
    let perm = json!({ "permType": "READWRITE", "key": key, "range_end": range_end });
    json("/v3/auth/role/grant", json!({ "name": "registry", "perm": perm }));
    json("/v3/auth/user/grant", json!({ "user": "cart", "role": "registry" }));
    json("/v3/auth/enable", json!({}));

    let stranger = registry_with(&servers, policy().credentials("cart", "guessed"));
    let nobody = registry_at(&servers);
    let registry = registry_with(&servers, policy().credentials("cart", "secret"));
    let registration = Registration::spawn(registry.clone(), instance("cart", "a"));
    registration.registered().await.unwrap();
    let watch = registry.watch("cart");
    shows(&watch, "a").await;
    for other in [stranger, nobody] {
        assert!(other.instances("cart").await.is_err());
        assert!(other.state().is_away());
        println!("{:?}", other.state());
    }
    let elsewhere = policy().credentials("cart", "secret").prefix("/elsewhere");
    assert!(registry_with(&servers, elsewhere).services().await.is_err());

    // All tokens end when authentication is switched off.
    let connected = registry.stats().connected;
    let root = json("/v3/auth/authenticate", json!({ "name": "root", "password": "secret" }));
    let root = root["token"].as_str().unwrap();
    servers[0].post_as(root, "/v3/auth/disable", "{}").unwrap();
    json("/v3/auth/enable", json!({}));
    registry.register(instance("cart", "c")).await.unwrap();
    shows(&watch, "a c").await;
    assert!(registry.stats().connected > connected, "it has another token");
    let is_registered = async || registration.state() == RegistrationState::Registered;
    eventually("the registration holds", is_registered).await;

    // They are in the memory of the server, too.
    servers[0].kill();
    is_away(&registry).await;
    servers[0].spawn();
    is_connected(&registry).await;
    registry.register(instance("cart", "b")).await.unwrap();
    shows(&watch, "a b c").await;
}

#[tokio::test]
async fn a_process_may_start_before_its_etcd() {
    let [mut server] = Etcd::down::<1>();
    let registry = EtcdRegistry::spawn([server.address()], policy()).unwrap();
    let watch = registry.watch("cart");
    let registration = Registration::spawn(registry.clone(), instance("cart", "a"));
    let error = registry.instances("cart").await.unwrap_err();
    assert!(matches!(error, gusset_registry::Error::Unavailable(_)), "{error}");
    assert!(registry.services().await.is_err());
    assert!(watch.snapshot().instances().is_empty());
    server.restart();
    registration.registered().await.unwrap();
    shows(&watch, "a").await;
}

#[tokio::test]
async fn of_several_endpoints_one_that_answers_is_enough() {
    let servers = [Etcd::start()];
    let [down_1, down_2] = Etcd::down::<2>();
    let endpoints = [down_1.address(), servers[0].address(), down_2.address()];
    let registry = EtcdRegistry::spawn(endpoints, policy()).unwrap();
    registry.register(instance("cart", "a")).await.unwrap();
    assert!(EtcdRegistry::spawn(["not an address"], policy()).is_err());
    assert!(EtcdRegistry::spawn(Vec::<String>::new(), policy()).is_err());
}

#[tokio::test]
async fn dropping_the_last_clone_ends_all_tasks() {
    let servers = [Etcd::start()];
    let registry = registry_at(&servers);
    let mut watch = registry.watch("cart");
    registry.register(instance("cart", "a")).await.unwrap();
    shows(&watch, "a").await;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = alive();
    drop(registry);
    eventually("fewer tasks", async || alive() == 0 || alive() + 3 <= before).await;
    let ended = tokio::time::timeout(ms(50), watch.changed()).await;
    assert!(ended.is_ok_and(|last| last.instances().len() == 1), "what was known stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_service_is_listed_anew_now_and_then() {
    let server = Etcd::start();
    let registry = registry_with(std::slice::from_ref(&server), policy().list_every(ms(50)));
    let _registrations = registered(&registry, 1).await;
    let watch = registry.watch("s0");
    let listed = async || registry.stats().listings >= 5;
    eventually("it is listed again and again", listed).await;
    assert!(!registry.state().is_away());
    shows(&watch, "a").await;
}

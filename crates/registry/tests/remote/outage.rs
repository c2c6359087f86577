//! What becomes of registrations and watches when the server is gone, frozen, empty or out of reach.

use std::time::Instant;

use gusset_engines::{Faults, Proxy};
use gusset_registry::{Registration, RegistrationState, Registry, RemoteRegistry};
use tokio::time::timeout;

use super::{
    eventually,
    harness::{Process, Server},
    ids, instance, ms, policy, registry_at, shows,
};

fn twenty(registry: &RemoteRegistry) -> Vec<Registration> {
    let spawn = |n: u32| {
        let instance = instance(&format!("s{}", n % 4), &format!("i{n:02}"));
        Registration::spawn(registry.clone(), instance)
    };
    (0..20).map(spawn).collect()
}

async fn all_registered(registry: &RemoteRegistry) -> bool {
    let mut found = 0;
    for n in 0..4 {
        let Ok(snapshot) = registry.instances(&format!("s{n}")).await else { return false };
        found += snapshot.healthy().filter(|instance| !instance.suspect).count();
    }
    found == 20
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_are_back_within_a_heartbeat_and_backoff_after_the_registry_was_killed_and_lost_all() {
    let mut server = Process::start();
    let registry = registry_at(&server.address());
    let registrations = twenty(&registry);
    let watches: Vec<_> = (0..4).map(|n| registry.watch(&format!("s{n}"))).collect();
    eventually("registered", async || all_registered(&registry).await).await;
    for watch in &watches {
        eventually("seen", async || watch.snapshot().healthy().count() == 5).await;
    }
    for _ in 0..2 {
        server.kill();
        let since = Instant::now();
        eventually("noticed", async || registry.state().is_away()).await;
        // Longer than a TTL: to nobody's harm.
        eventually("a while", async || since.elapsed() > ms(3_500)).await;
        for watch in &watches {
            assert_eq!(watch.snapshot().healthy().count(), 5);
            assert!(watch.snapshot().is_suspect());
        }
        server.restart();
        let fresh = registry_at(&server.address());
        let since = Instant::now();
        let mut least = 5;
        while !all_registered(&fresh).await {
            for watch in &watches {
                least = least.min(watch.snapshot().healthy().count());
            }
            assert!(since.elapsed() < ms(15_000), "never all of them");
            tokio::time::sleep(ms(2)).await;
        }
        // A third of the TTL between heartbeats and a sixth of pause are 1.5 s; the bound above is for a busy machine.
        println!("20 registrations back after {:?}", since.elapsed());
        assert_eq!(least, 5, "no caller ever saw fewer");
        for registration in &registrations {
            eventually("told", async || registration.state() == RegistrationState::Registered)
                .await;
        }
        for watch in &watches {
            eventually("believed", async || !watch.snapshot().is_suspect()).await;
            assert_eq!(watch.snapshot().healthy().count(), 5);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_registry_is_waited_for_with_what_was_known() {
    let server = Process::start();
    let quick = policy().call_within(ms(300)).wait(ms(300));
    let registry = RemoteRegistry::new(&server.address(), quick).unwrap();
    let registrations = twenty(&registry);
    let watch = registry.watch("s0");
    eventually("registered", async || all_registered(&registry).await).await;
    eventually("seen", async || watch.snapshot().healthy().count() == 5).await;

    server.pause();
    eventually("noticed", async || registry.state().is_away()).await;
    eventually("suspect", async || watch.snapshot().is_suspect()).await;
    let read = timeout(ms(5_000), registry.discover("s0")).await.unwrap().unwrap();
    assert_eq!(read.instances().len(), 5);
    for registration in &registrations {
        let retrying = async || matches!(registration.state(), RegistrationState::Retrying { .. });
        eventually("retrying", retrying).await;
    }
    server.resume();
    eventually("back", async || all_registered(&registry).await).await;
    eventually("believed", async || !watch.snapshot().is_suspect()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn through_a_network_that_swallows_answers_calls_end_and_all_is_well_after_it() {
    let server = Server::start().await;
    let proxy = Proxy::before(server.port);
    let quick = policy().call_within(ms(300)).connect_within(ms(300)).wait(ms(300));
    let registry = RemoteRegistry::new(&proxy.address(), quick).unwrap();
    let beside = registry_at(&server.address());
    let registrations = twenty(&registry);
    let watch = registry.watch("s0");
    eventually("registered", async || all_registered(&beside).await).await;
    eventually("seen", async || watch.snapshot().healthy().count() == 5).await;

    proxy.set(Faults { mute: true, ..Faults::default() });
    eventually("noticed", async || registry.state().is_away()).await;
    eventually("suspect", async || watch.snapshot().is_suspect()).await;
    assert_eq!(watch.snapshot().healthy().count(), 5);
    beside.register(instance("s0", "new")).await.unwrap();
    proxy.mend();
    eventually("heard", async || ids(&watch).contains("new")).await;
    eventually("registered", async || all_registered_beside_new(&beside).await).await;
    for registration in &registrations {
        eventually("told", async || registration.state() == RegistrationState::Registered).await;
    }

    proxy.cut();
    eventually("noticed", async || registry.state().is_away()).await;
    proxy.mend();
    eventually("back", async || !registry.state().is_away()).await;
}

async fn all_registered_beside_new(registry: &RemoteRegistry) -> bool {
    let mut found = 0;
    for n in 0..4 {
        let Ok(snapshot) = registry.instances(&format!("s{n}")).await else { return false };
        found += snapshot.healthy().filter(|instance| &*instance.id != "new").count();
    }
    found == 20
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_sees_nobody_go_who_is_back_within_the_ttl_and_sees_the_dead_go_after_it() {
    let mut server = Server::start().await;
    let registry = registry_at(&server.address());
    let alive = Registration::spawn(registry.clone(), instance("cart", "alive"));
    registry.register(instance("cart", "dead")).await.unwrap();
    alive.registered().await.unwrap();
    let mut watch = registry.watch("cart");
    shows(&watch, "alive dead").await;
    let begin = Instant::now();
    server.restart_empty().await;
    while ids(&watch) != "alive" {
        assert!(ids(&watch).contains("alive"), "{:?}", watch.snapshot());
        let _ = timeout(ms(10_000), watch.changed()).await.unwrap();
    }
    assert!(begin.elapsed() >= ms(2_900), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_registration_survives_a_registry_that_answers_500() {
    let (address, asked) =
        super::kv::answers("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops").await;
    let registry = registry_at(&address);
    let registration = Registration::spawn(registry.clone(), instance("cart", "a"));
    eventually("said", async || registration.last_error().is_some()).await;
    assert!(matches!(registration.state(), RegistrationState::Retrying { .. }));
    let error = registration.last_error().unwrap();
    let cause = std::error::Error::source(&*error).unwrap().to_string();
    assert!(cause.ends_with("500 Internal Server Error: oops"), "{cause}");
    assert!(registry.instances("cart").await.is_err() && registry.services().await.is_err());
    assert!(asked.load(std::sync::atomic::Ordering::Relaxed) < 20);
}

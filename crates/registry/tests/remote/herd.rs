//! Very many clients whose registry is started again.

use std::time::Instant;

use gusset_registry::{Registration, RegistrationState, RemoteRegistry};

use gusset_registry::Registry;

use super::{eventually, harness::Server, instance, ms, policy};

/// They are in this process as well, which has work for seconds where it is not optimised.
const CLIENTS: usize = if cfg!(debug_assertions) { 400 } else { 2_000 };
/// With 20 instances each.
const SERVICES: usize = CLIENTS / 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn very_many_clients_come_back_one_after_the_other() {
    let mut server = Server::start().await;
    // Processes with 10 instances each.
    let registries: Vec<_> = (0..CLIENTS / 10)
        .map(|_| {
            let policy = policy().ttl(ms(12_000)).connections(2.try_into().unwrap());
            RemoteRegistry::new(&server.address(), policy).unwrap()
        })
        .collect();
    let registrations: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let instance = instance(&format!("s{}", n % SERVICES), &n.to_string());
            Registration::spawn(registries[n % registries.len()].clone(), instance)
        })
        .collect();
    for registration in &registrations {
        registration.registered().await.unwrap();
    }
    // Each process calls two services as well.
    let watches: Vec<_> = (0..CLIENTS / 5)
        .map(|n| registries[n % registries.len()].watch(&format!("s{}", n % SERVICES)))
        .collect();
    for watch in &watches {
        eventually("seen", async || watch.snapshot().healthy().count() == 20).await;
    }
    server.kill().await;
    // Until everybody has noticed, and waits for as long as they ever do.
    for registration in &registrations {
        let retrying = async || matches!(registration.state(), RegistrationState::Retrying { .. });
        eventually("noticed", retrying).await;
    }
    tokio::time::sleep(ms(6_000)).await;
    server.requests.lock().unwrap().clear();
    server.restart_empty().await;
    let began = Instant::now();
    for registration in &registrations {
        eventually("back", async || registration.state() == RegistrationState::Registered).await;
    }
    let back = began.elapsed();
    let requests = server.requests.lock().unwrap().clone();
    let mut slots = std::collections::BTreeMap::<u128, usize>::new();
    for at in &requests {
        *slots.entry(at.saturating_duration_since(began).as_millis() / 100).or_default() += 1;
    }
    let (all, peak) = (requests.len(), *slots.values().max().unwrap());
    println!("{all} requests of {CLIENTS} clients within {back:?}, at most {peak} in 100 ms");
    assert_eq!(server.consul.stats().instances, CLIENTS);
    for watch in &watches {
        assert_eq!(watch.snapshot().healthy().count(), 20);
    }
    // Pauses are of 1 to 2 s, so they come within these; each asks three times: is it known, register, pass. The rest is for a busy machine.
    assert!(back < ms(20_000), "{back:?}");
    // Evenly spread it would be a tenth of them or less, and all of them without pauses that differ.
    assert!(peak < all / 6, "{slots:?}");
}

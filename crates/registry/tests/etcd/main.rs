//! The registry that a real etcd keeps, and what becomes of it when etcd is gone, frozen, empty or another.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

#[path = "../conformance/mod.rs"]
mod conformance;
mod harness;
mod outage;
mod ownership;
#[cfg(feature = "http")]
#[path = "../rolling/mod.rs"]
mod rolling;
mod speed;
#[cfg(feature = "etcd-tls")]
mod tls;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gusset_engines::{Etcd, Faults, Proxy};
use gusset_registry::{
    EtcdPolicy, EtcdRegistry, Health, Instance, InstanceKey, Registration, RegistrationState,
    Registry, Watch,
};
use harness::{ask, is_leader, process};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// With a short TTL, and so patient that a busy machine decides nothing.
fn policy() -> EtcdPolicy {
    EtcdPolicy::default().ttl(ms(3_000)).ask_every(ms(200))
}

fn registry_at(servers: &[Etcd]) -> EtcdRegistry {
    registry_with(servers, policy())
}

fn registry_with(servers: &[Etcd], policy: EtcdPolicy) -> EtcdRegistry {
    EtcdRegistry::spawn(servers.iter().map(Etcd::address), policy).unwrap()
}

fn instance(service: &str, id: &str) -> Instance {
    Instance::new(service, "10.0.0.1", 80).with_id(id).with_health(Health::Healthy)
}

fn ids(watch: &Watch) -> String {
    let snapshot = watch.snapshot();
    let ids: Vec<_> = snapshot.healthy().map(|instance| &*instance.id).collect();
    ids.join(" ")
}

/// Waits for `condition`, but not for ever.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < Duration::from_secs(40), "never: {what}");
        tokio::time::sleep(ms(5)).await;
    }
    begin.elapsed()
}

async fn shows(watch: &Watch, wanted: &str) -> Duration {
    eventually(&format!("{wanted:?}"), async || ids(watch) == wanted).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms() {
    let servers = [Etcd::start()];
    let connect = async || Arc::new(registry_at(&servers)) as conformance::Engine;
    conformance::holds(connect).await;
}

#[cfg(feature = "http")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_real_servers_loses_no_request() {
    let servers = [Etcd::start()];
    rolling::loses_no_request(Arc::new(registry_at(&servers))).await;
}

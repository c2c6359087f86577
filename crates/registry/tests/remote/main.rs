//! The registry and the keys that a server of Consul's HTTP API keeps, over real connections, and what becomes of them when the server
//! is gone, frozen, empty, or talks nonsense.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

#[path = "../conformance/mod.rs"]
mod conformance;
mod harness;
mod herd;
mod kv;
mod outage;
mod registry;
mod speed;

use std::time::{Duration, Instant};

use gusset_registry::{Health, Instance, RemotePolicy, RemoteRegistry, Watch};

/// With a short TTL, and so patient that a busy machine decides nothing.
fn policy() -> RemotePolicy {
    RemotePolicy::default().ttl(ms(3_000)).wait(ms(1_000))
}

fn registry_at(address: &str) -> RemoteRegistry {
    RemoteRegistry::new(address, policy()).unwrap()
}

fn instance(service: &str, id: &str) -> Instance {
    Instance::new(service, "10.0.0.1", 80).with_id(id).with_health(Health::Healthy)
}

/// Ids of the healthy ones.
fn ids(watch: &Watch) -> String {
    let snapshot = watch.snapshot();
    let ids: Vec<_> = snapshot.healthy().map(|instance| &*instance.id).collect();
    ids.join(" ")
}

async fn shows(watch: &Watch, wanted: &str) -> Duration {
    eventually(&format!("{wanted:?}"), async || ids(watch) == wanted).await
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
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

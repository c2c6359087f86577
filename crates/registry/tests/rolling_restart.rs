//! Three servers behind a balancer are restarted one after the other; the registry is that of this process.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rolling;

use std::sync::Arc;

use gusset_registry::MemoryRegistry;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_of_real_servers_loses_no_request() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    rolling::loses_no_request(Arc::new(registry)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_stop_before_they_say_so_lose_requests() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    rolling::loses_requests_if_servers_stop_before_they_say_so(Arc::new(registry)).await;
}

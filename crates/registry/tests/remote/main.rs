//! The keys that a server of Consul's HTTP API keeps, over real connections, and what becomes of them when the server
//! is gone, frozen, empty, or talks nonsense.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod harness;
mod kv;

use std::time::{Duration, Instant};

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

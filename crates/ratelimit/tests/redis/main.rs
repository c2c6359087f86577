//! Limits kept by a real Redis server, and what becomes of them when it is gone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test"
)]

mod outage;
mod places;
mod sharing;

use std::{
    num::{NonZeroU32, NonZeroUsize},
    time::{Duration, Instant},
};

use gusset_engines::Redis;
use gusset_ratelimit::{Quota, RedisPolicy, RedisServer, RedisState, WhenAway};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// So many at once, and none come back while a test runs.
fn at_once(tokens: u32) -> Quota {
    Quota::new(tokens, Duration::from_secs(1_000_000))
}

fn local(instances: u32) -> WhenAway {
    WhenAway::local(NonZeroU32::new(instances).unwrap())
}

/// A connection beside that of the limiter.
fn connection(server: &Redis) -> redis::Connection {
    redis::Client::open(server.url()).unwrap().get_connection().unwrap()
}

fn server_at(server: &Redis) -> RedisServer {
    RedisServer::new(&server.url()).unwrap()
}

/// With a wait so long that a busy machine does not decide what happens.
fn patient(server: &Redis) -> RedisServer {
    patient_at(&server.url())
}

fn patient_at(url: &str) -> RedisServer {
    let policy = RedisPolicy::default().call_within(ms(10_000)).connect_within(ms(10_000));
    RedisServer::with_policy(url, policy).unwrap()
}

/// Waits for `condition`, but not for ever.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < Duration::from_secs(60), "never: {what}");
        tokio::time::sleep(ms(2)).await;
    }
}

fn is_away(server: &RedisServer) -> bool {
    matches!(server.state(), RedisState::Away { .. })
}

fn room(keys: usize) -> NonZeroUsize {
    NonZeroUsize::new(keys).unwrap()
}

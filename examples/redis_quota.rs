//! A quota that processes share through Redis: two gateways ask for one customer, who gets ten calls and not twenty.
//!
//! `cargo run -p examples --features redis --example redis_quota`; it starts a `redis-server` of its own, or takes the address of yours:
//! `-- redis://127.0.0.1:6379`.

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{env, num::NonZeroU32};

use gusset::{
    call::BoxError,
    ratelimit::{Quota, RedisDenied, RedisLimiter, RedisServer, WhenAway},
};
use gusset_engines::Redis;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let given = env::args().nth(1);
    let mut own = given.is_none().then(Redis::start);
    let url = given.or_else(|| own.as_ref().map(Redis::url)).unwrap_or_default();

    // Each gateway is a process of its own, with a connection of its own; here they are two values.
    let name = format!("api-{}", std::process::id());
    let mut gateways = Vec::new();
    for _ in 0..2 {
        let server = RedisServer::new(&url)?;
        server.connect().await;
        let half = NonZeroU32::MIN.saturating_add(1);
        let limiter = RedisLimiter::new(&server, &name, Quota::per_hour(10));
        gateways.push(limiter.when_away(WhenAway::local(half)));
    }

    let mut passed = [0, 0];
    for _ in 0..10 {
        for (gateway, passed) in gateways.iter().zip(&mut passed) {
            match gateway.check("customer-7").await {
                Ok(_) => *passed += 1,
                Err(RedisDenied::Limited(_)) => {}
                Err(other) => return Err(other.into_refusal()),
            }
        }
    }
    println!("each gateway asked ten times; passed: {} + {}", passed[0], passed[1]);

    if let Some(redis) = &mut own {
        redis.kill();
        let first = gateways[0].check("customer-8").await;
        let by = first.map(|decided| decided.by()).map_err(RedisDenied::into_refusal)?;
        println!("Redis is killed, and calls are decided by {by:?}, with half of the quota");
    }
    Ok(())
}

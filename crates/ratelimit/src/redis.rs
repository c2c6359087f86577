//! Limits that several processes share, kept by a Redis server.

mod layer;

mod limiter;
mod server;

mod gate;
mod link;
mod meter;

mod key;
mod policy;
mod state;

#[cfg(test)]
mod tests;

pub use key::WireKey;
pub use layer::{ForAll, RedisLimit, RedisLimitFuture, RedisLimitLayer};
pub use limiter::{Decided, Judge, RedisDenied, RedisLimiter, WhenAway};
pub use policy::RedisPolicy;
pub use server::{InvalidUrl, RedisServer};
pub use state::{RedisState, RedisStats};

//! Limits that several processes share, kept by a Redis server.

#[cfg(feature = "http")]
mod headers;
mod layer;

mod decided;
mod limiter;
mod when_away;

mod server;

mod question;

mod attempt;

mod gate;
mod link;
mod meter;

mod key;
mod policy;
mod state;

#[cfg(test)]
mod tests;

pub use decided::{Decided, Judge, RedisDenied};
#[cfg(feature = "http")]
pub use headers::{RedisHeaders, RedisHeadersFuture, RedisHeadersLayer};
pub use key::WireKey;
pub use layer::{ForAll, RedisLimit, RedisLimitFuture, RedisLimitLayer};
pub use limiter::RedisLimiter;
pub use policy::RedisPolicy;
pub use server::{InvalidUrl, RedisServer};
pub use state::{RedisState, RedisStats};
pub use when_away::WhenAway;

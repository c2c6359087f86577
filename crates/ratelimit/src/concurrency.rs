//! Limits how many calls run at once.

mod layer;
mod service;

mod future;

mod classify;
mod priority;

mod limiter;
mod policy;

mod aimd;
mod gradient;
mod window;

mod places;
mod tally;
mod tuner;

#[cfg(feature = "http")]
pub use classify::OverloadStatus;
pub use classify::{Classify, Outcome, RefusalsAreOverload};
pub use future::ConcurrencyFuture;
pub use layer::ConcurrencyLimitLayer;
pub use limiter::{ConcurrencyLimiter, ConcurrencyStats, Permit, PriorityStats};
pub use policy::Concurrency;
pub use priority::{AllNormal, Prioritize, Priority};
pub use service::ConcurrencyLimit;

#[cfg(test)]
mod tests;

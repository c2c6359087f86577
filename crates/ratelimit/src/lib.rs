//! Limits how often something is done: exactly, per key, in memory that never grows.
//!
//! ```
//! use gusset_ratelimit::{Limited, Quota, RateLimitLayer, RateLimiter};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let limiter = RateLimiter::new(Quota::per_minute(100).burst(2));
//! let mut mail = RateLimitLayer::new(limiter.clone())
//!     .layer(service_fn(|to: &'static str| async move { Ok::<_, std::io::Error>(to) }));
//!
//! for to in ["ann", "bob"] {
//!     assert_eq!(mail.ready().await.unwrap().call(to).await.unwrap(), to);
//! }
//! let error = mail.ready().await.unwrap().call("cat").await.unwrap_err();
//! assert!(error.is::<Limited>());
//! assert_eq!((limiter.stats().allowed, limiter.stats().refused), (2, 1));
//! # });
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`Quota`] | how much is allowed: tokens per period, and burst |
//! | [`RateLimiter`] | one bucket for all: [`check`](RateLimiter::check), [`until_ready`](RateLimiter::until_ready), [`peek`](RateLimiter::peek) |
//! | [`Keyed`] | one bucket per key, in bounded memory |
//! | [`Level`] | what is left, and when the bucket is full again |
//! | [`RateLimitLayer`], [`RateLimit`] | a limit around a service |
//! | [`Extract`], [`WithoutKey`] | what tells requests apart, and what becomes of those that lack it |
//! | [`Limited`], [`Denied`], [`TooCostly`] | the refusals |
//!
//! # How it counts
//!
//! A bucket holds `burst` tokens and begins full. Tokens come back evenly, one each `period / tokens`, never beyond the burst.
//! Three things follow, whatever the pattern of calls and however often one asks:
//!
//! - In any span of time `t`, at most `burst + rate · t` tokens are given.
//! - Whoever asks all the time gets `burst + rate · t`, rounded down: no fraction of a token is lost.
//! - A refusal says to the nanosecond when the next try will be allowed, if nobody else comes in between.
//!
//! All that up to a step of the clock, by which a token may come early. A step is at most two nanoseconds, but where the
//! burst is too large to be counted in those: with the largest burst of all, 2⁻³⁰ of a token's time, and 1/64 of it
//! in a [`Keyed`] limiter, whose buckets are smaller; there it is 2⁻²⁸ with a burst of 1,000.
//!
//! # Where it belongs
//!
//! On a server outermost but for what is cheaper than work: inside of `gusset_call::AnswerLayer`, which turns the refusal
//! into 429 with `Retry-After`, and inside of authentication if its subject is the key. Outside of queues and
//! concurrency limits, so that what is refused occupies neither.
//!
//! # Differences from
//!
//! - **tower's `RateLimit`**: it is `Clone`, all clones share one limit, and it refuses instead of waiting in `poll_ready`, where a
//!   waiting caller would hold what is ready behind it. Windows slide.
//! - **governor**: rates of any size are exact; a flood of keys neither grows the table nor has to be swept; waiting is first come, first
//!   served, and refused at once where it would last too long.
//! - **tower_governor**: a forged `X-Forwarded-For` changes nothing; a `Retry-After` is never 0.
//! - **leaky-bucket**: waiting takes no lock, and idle time cannot overflow.
//!
//! # What it does not do
//!
//! It keeps its count in this process only: *n* processes allow *n* times the quota. It forgets it when the process
//! ends. It does not limit how many calls run at once.
//!
//! # Features
//!
//! - `http`: keys from requests (`Header`, `PeerIp`, `ClientIp`, `Extension`) and `RateLimit` fields on answers
//!   (`RateLimitLayer::headers`). Adds the `http` crate and what `gusset-call/http` adds.

mod layer;
mod service;

mod future;

mod limit;

mod keyed;
mod limiter;

mod level;
mod quota;

mod bucket;
mod gcra;
mod table;

mod error;
mod stats;

#[cfg(feature = "http")]
mod headers;
#[cfg(feature = "http")]
mod keys;

pub use error::{Denied, TooCostly};
pub use future::ResponseFuture;
#[cfg(feature = "http")]
pub use gusset_call::AnswerLayer;
pub use gusset_call::{Limited, Refusal, refusal_in};
#[cfg(feature = "http")]
pub use headers::{Headers, HeadersFuture, HeadersLayer};
pub use keyed::Keyed;
#[cfg(feature = "http")]
pub use keys::{ClientIp, Extension, Header, PeerAddr, PeerIp, network};
pub use layer::RateLimitLayer;
pub use level::Level;
pub use limit::{Extract, Limit, PerKey, WithoutKey};
pub use limiter::RateLimiter;
pub use quota::Quota;
pub use service::RateLimit;
pub use stats::Stats;

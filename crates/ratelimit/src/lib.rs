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
//! | [`Limited`], [`Inadmissible`], [`Denied`], [`TooCostly`] | the refusals |
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
//! # Keys
//!
//! Whatever tells callers apart can be the key: a closure `|&Request| -> Option<Key>`, or with the feature `http` one of these.
//!
//! | extractor | the key is |
//! |---|---|
//! | `PeerIp` | the address at the other end of the connection |
//! | `ClientIp::trusting(networks)` | the client's address as proxies in these networks saw it |
//! | `ClientIp::behind(n)` | the same, where only the number of proxies is known |
//! | `Header` | the value of a header that something outside has checked |
//! | `Extension<T>` | what something outside has found out, such as the authenticated subject |
//! | `Route` | method and path template, as the router knows it |
//! | `(A, B)`, `(A, B, C)` | all of these together: each client on each route |
//!
//! Of an IPv6 address the first 64 bits count, for the rest is the customer's to choose (`network`). Of `X-Forwarded-For` and
//! `Forwarded` only what trusted proxies wrote is read, so a forged entry neither gives its author a new bucket nor empties that of
//! another.
//!
//! Servers keep the peer's address in extensions of their own; it takes one line to say where:
//!
//! ```
//! # #[cfg(feature = "http")] {
//! # use std::net::SocketAddr;
//! # #[derive(Clone)] struct ConnectInfo<T>(T); // as axum has it
//! use gusset_ratelimit::{ClientIp, PeerIp};
//!
//! let peer = PeerIp::by(|x| Some(x.get::<ConnectInfo<SocketAddr>>()?.0));
//! let client = ClientIp::trusting(["10.0.0.0/8".parse().unwrap()])
//!     .peer_by(|x| Some(x.get::<ConnectInfo<SocketAddr>>()?.0));
//! # }
//! ```
//!
//! What becomes of a request without a key says [`WithoutKey`]: it shares one bucket with all such, so that who leaves out the key gains
//! nothing by it, or passes, or is refused. If one part of a tuple is missing, there is no key.
//!
//! # Where it belongs
//!
//! On a server outermost but for what is cheaper than work: inside of `gusset_call::AnswerLayer`, which turns the refusal
//! into 429 with `Retry-After`, and inside of authentication if its subject is the key. Outside of queues and
//! concurrency limits, so that what is refused occupies neither. With `Route` in the key it must stand where the router has matched
//! already; in axum that is `Router::layer`, not a layer around the router.
//!
//! Around a client it stands inside of retries, for each try is a call to the server that counts them.
//!
//! | the call | over HTTP | over gRPC |
//! |---|---|---|
//! | admitted | `RateLimit-Policy`, `RateLimit` (with `RateLimitLayer::headers`) | the same, as metadata |
//! | [`Limited`] | 429, the same fields, `Retry-After`, a problem body | 8 `RESOURCE_EXHAUSTED`, the same fields, `grpc-retry-pushback-ms` |
//! | [`Inadmissible`] | 403, a problem body | 7 `PERMISSION_DENIED` |
//!
//! The fields are those of `draft-ietf-httpapi-ratelimit-headers-11`; `HeadersLayer::legacy` adds
//! `X-RateLimit-*`. `Retry-After` is rounded up and never 0.
//!
//! # Differences from
//!
//! - **tower's `RateLimit`**: it is `Clone`, all clones share one limit, and it refuses instead of waiting in `poll_ready`, where a
//!   waiting caller would hold what is ready behind it. Windows slide.
//! - **governor**: rates of any size are exact; a flood of keys neither grows the table nor has to be swept; waiting is first come, first
//!   served, and refused at once where it would last too long.
//! - **tower_governor**: a forged `X-Forwarded-For` changes nothing; a `Retry-After` is never 0; what becomes of a request without a
//!   key is a choice; per second is per second.
//! - **leaky-bucket**: waiting takes no lock, and idle time cannot overflow.
//!
//! # What it does not do
//!
//! It keeps its count in this process only: *n* processes allow *n* times the quota. It forgets it when the process
//! ends. It does not limit how many calls run at once.
//!
//! # Features
//!
//! - `http`: keys from requests (`PeerIp`, `ClientIp`, `Header`, `Extension`, `Route`) and `RateLimit` fields on answers
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
mod client;
#[cfg(feature = "http")]
mod forwarded;
#[cfg(feature = "http")]
mod headers;
#[cfg(feature = "http")]
mod keys;
#[cfg(feature = "http")]
mod network;

#[cfg(feature = "http")]
pub use client::{ClientIp, PeerAddr, PeerIp};
pub use error::{Denied, TooCostly};
pub use future::ResponseFuture;
#[cfg(feature = "http")]
pub use gusset_call::AnswerLayer;
pub use gusset_call::{Inadmissible, Limited, Refusal, refusal_in};
#[cfg(feature = "http")]
pub use headers::{Headers, HeadersFuture, HeadersLayer};
pub use keyed::Keyed;
#[cfg(feature = "http")]
pub use keys::{Extension, Header, Route, RouteKey};
pub use layer::RateLimitLayer;
pub use level::Level;
pub use limit::{Extract, Limit, PerKey, Refused, Weighed, WithoutKey};
pub use limiter::RateLimiter;
#[cfg(feature = "http")]
pub use network::{MalformedNetwork, Network, network};
pub use quota::Quota;
pub use service::RateLimit;
pub use stats::Stats;

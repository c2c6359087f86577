//! Limits how often something is done: exactly, per key, in memory that never grows. And how much of it at once.
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
//! | [`Quota`], [`InvalidQuota`] | how much is allowed: tokens per period, and burst; why a configured one makes no sense |
//! | [`RateLimiter`] | one bucket for all: [`check`](RateLimiter::check), [`until_ready`](RateLimiter::until_ready), [`reserve`](RateLimiter::reserve), [`peek`](RateLimiter::peek) |
//! | [`Reservation`] | tokens that are taken now and due later |
//! | [`Keyed`] | one bucket per key, in bounded memory |
//! | [`ExactKeyed`] | the same, where two keys must never share a bucket |
//! | [`Greedy`], [`GreedyKey`] | which keys are refused most, in bounded memory |
//! | [`AllOf`], [`Charge`], [`Exceeded`] | several limits at once, charged all or none; what it takes to be one of them; the refusal |
//! | [`Level`] | what is left, and when the bucket is full again |
//! | [`RateLimitLayer`], [`RateLimit`] | a limit around a service |
//! | `HeadersLayer`, `AllHeadersLayer`, `RedisHeadersLayer` (feature `http`) | the same, which also tells HTTP clients |
//! | [`Extract`], [`WithoutKey`] | what tells requests apart, and what becomes of those that lack it |
//! | [`Concurrency`] | how many calls may run at once: fixed, or following overload or latency |
//! | [`ConcurrencyLimiter`], [`Permit`] | places for calls that run; one of them |
//! | [`ConcurrencyLimitLayer`], [`ConcurrencyLimit`] | such a limiter around a service |
//! | [`Priority`], [`Prioritize`] | who is refused last; finding it in a request |
//! | [`Outcome`], [`Classify`] | what the end of a call says about the load; finding it in a result |
//! | `RedisLimiter`, `RedisLimitLayer`, `RedisServer` (feature `redis`) | one bucket per key, shared by several processes |
//! | [`Limited`], [`Inadmissible`], [`Denied`], [`TooCostly`], [`Overloaded`] | the refusals |
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
//! burst is too large to be counted in those: with the largest burst of all, 2⁻³⁰ of a token's time, and 1/16 of it
//! in a [`Keyed`] limiter, whose buckets are smaller; there it is 2⁻²⁶ with a burst of 1,000.
//!
//! Time is that of `gusset_call::Clock`. Should it go back, as the counters of a machine may that was moved or suspended, a bucket is empty at worst,
//! and full again after one burst: it is never locked until the clock has caught up.
//!
//! Quotas can change at any time (`set_quota`), without a pause: tokens that are spent stay spent, and those who wait keep their turns.
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
//! axum puts it there only if it is served so:
//!
//! ```text
//! axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
//! ```
//!
//! With `axum::serve(listener, app)` there is no peer address and no key, so all clients would share one bucket. Nothing else shows it but a counter
//! (`RateLimitLayer::stats_without_key`): watch it.
//!
//! What becomes of a request without a key says [`WithoutKey`]: it shares one bucket with all such, so that who leaves out the key gains
//! nothing by it, or passes, or is refused. If one part of a tuple is missing, there is no key.
//!
//! # Limits of concurrency
//!
//! A rate says how much callers may ask for. It does not protect a service that has become slow: at the same rate, ten
//! times the latency is ten times the calls at once. A [`ConcurrencyLimiter`] bounds those, refuses the others at once, and
//! finds the right bound itself:
//!
//! ```
//! use gusset_ratelimit::{Concurrency, ConcurrencyLimitLayer, ConcurrencyLimiter, Overloaded, Priority};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let limiter = ConcurrencyLimiter::new("reports", Concurrency::gradient().initial(5));
//! let mut reports = ConcurrencyLimitLayer::new(limiter.clone())
//!     .priority(|name: &&str| if *name == "nightly" { Priority::Low } else { Priority::Normal })
//!     .layer(service_fn(|name: &'static str| async move { Ok::<_, std::io::Error>(name) }));
//!
//! let busy: Vec<_> = (0..4).map(|_| limiter.try_acquire(Priority::Normal).unwrap()).collect();
//! assert!(reports.ready().await.unwrap().call("nightly").await.unwrap_err().is::<Overloaded>());
//! assert_eq!(reports.ready().await.unwrap().call("urgent").await.unwrap(), "urgent");
//! assert_eq!((limiter.limit(), limiter.in_flight(), limiter.stats().low.refused), (5, 4, 1));
//! # });
//! ```
//!
//! | limit | falls | grows, while half of it is in use |
//! |---|---|---|
//! | [`Concurrency::fixed`] | never | never |
//! | [`Concurrency::aimd`] | to 0.9 in a window in which more than 1 % of the calls were overload | by 1 in a window without |
//! | [`Concurrency::gradient`] | as `aimd`, and by up to a tenth in a window with more than 1.5 times the unloaded latency | by 0.2 · √limit in a window without |
//!
//! A window lasts for at least 100 ms and 10 calls, 50 with the gradient. When the limit fell, overload of calls that began
//! before lowers it no further: however many fail together, it falls once. A call is overload if its result says so ([`Classify`]), or if it ran for
//! [`Concurrency::timeout`], even if it then was dropped; so a timeout outside lowers the limit, and impatient clients do not.
//!
//! There is no queue and nothing waits, so nothing has to be woken, and there is no order among those who are refused. Calls of
//! [`Priority::Low`] may use 80 % of the places. They may starve while normal ones need them all.
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
//! | admitted | `RateLimit-Policy`, `RateLimit` (with `headers` of the layers) | the same, as metadata |
//! | [`Limited`] | 429, the same fields, `Retry-After`, a problem body | 8 `RESOURCE_EXHAUSTED`, the same fields, `grpc-retry-pushback-ms` |
//! | [`Inadmissible`] | 403, a problem body | 7 `PERMISSION_DENIED` |
//!
//! The fields are those of `draft-ietf-httpapi-ratelimit-headers-11`; `HeadersLayer::legacy` adds
//! `X-RateLimit-*`. `Retry-After` is rounded up and never 0.
//!
//! A limit of concurrency on a server comes next: outside of deadlines and retries, since a call that is tried again still is
//! the same load. On a client it stands around each endpoint, inside of retries and balancing, so that one slow instance
//! does not take the places of the others; and outside of that endpoint's breaker, which else would take the limit's refusals
//! for failures of the service.
//!
//! # When it does not compile
//!
//! | the compiler says | because |
//! |---|---|
//! | `Infallible: From<Box<dyn Error + Send + Sync>>` is not satisfied | axum wants a service that never fails: put `AnswerLayer` of `gusset-call` outside of the limit, or `Sidecar::inbound`, which has one |
//! | method `oneshot` (or `call`, `ready`) exists, but its trait bounds were not satisfied | the error of the inner service is not `Into<BoxError>`, or a closure that extracts the key does not name the type of its argument |
//!
//! # Differences from
//!
//! - **tower's `RateLimit`**: it is `Clone`, all clones share one limit, and it refuses instead of waiting in `poll_ready`, where a
//!   waiting caller would hold what is ready behind it. Windows slide.
//! - **governor**: rates of any size are exact, and no burst overflows; a flood of keys neither grows the table nor has to be swept; quotas change while in
//!   use; what is left can be looked at; waiting is first come, first served, and refused at once where it would last too long.
//! - **tower-resilience's rate limiter**: a wait that would be too long is refused at once and says for how long; what is readied and
//!   dropped uses no token; one lock less per call.
//! - **tower_governor**: a forged `X-Forwarded-For` changes nothing; a `Retry-After` is never 0; what becomes of a request without a
//!   key is a choice; per second is per second.
//! - **tower's `ConcurrencyLimit` with `LoadShed`**: the limit follows the service, priorities, a `Permit` to use by hand. Readiness holds no
//!   place: a readied service that is not called keeps nobody out.
//! - **Netflix's `concurrency-limits`**: lasting overload is never learnt as the normal latency, so the limit does not climb with it.
//! - **Envoy's adaptive concurrency**: measuring the unloaded latency refuses about 30 % where nothing queues, not nearly all.
//! - **leaky-bucket**: waiting takes no lock and is bounded in number; idle time cannot overflow, and no race can wedge it.
//!
//! # What it does not do
//!
//! All but `RedisLimiter` keep their count in this process only: *n* processes allow *n* times the quota, and what was
//! counted ends with the process. A limit of concurrency counts a call until its answer is there, not until the body of that has been read, and it does
//! not queue.
//!
//! # Shared by several processes
//!
//! With the feature `redis`, a `RedisLimiter` keeps the same buckets in a Redis server, and `RedisLimitLayer` puts it around a
//! service. Each check is one round trip of one script on the server's clock. It waits 20 ms at most, and after five failures in
//! a row nobody waits at all: meanwhile a limiter in the process decides with its share of the quota, or all calls
//! pass, or none. `RedisLimiter` says what is exact and what is not, and what stands in Redis.
//!
//! # Features
//!
//! - `http`: keys from requests (`PeerIp`, `ClientIp`, `Header`, `Extension`, `Route`) and `RateLimit` fields on answers
//!   (`headers` of the layers), and `OverloadStatus`. Adds the `http` crate and what `gusset-call/http` adds.
//! - `redis`: limits that processes share. Adds the `redis` crate without TLS (a program that wants it names one of that
//!   crate's TLS features in its own manifest), `arc-swap`, `rand`, `sha2` and `tracing`, and needs Rust 1.88.

mod layer;
mod service;

mod future;

mod extract;
mod greedy;
mod limit;
mod per_key;

mod all_of;
mod exact;
mod keyed;
mod limiter;
mod reservation;
mod turn;

mod level;
mod quota;

mod bucket;
mod gcra;
mod shard;
mod table;

mod hashing;
mod sync;

mod concurrency;

mod error;
mod stats;

#[cfg(feature = "http")]
mod all_headers;
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

#[cfg(feature = "redis")]
mod redis;

/// What the fuzz targets of the workspace's folder `fuzz` call.
#[cfg(all(any(test, fuzzing), feature = "http"))]
#[doc(hidden)]
pub mod fuzz;

#[cfg(feature = "http")]
pub use all_headers::{AllHeaders, AllHeadersLayer};
pub use all_of::{AllOf, Charge, Exceeded};
#[cfg(feature = "http")]
pub use client::{ClientIp, PeerAddr, PeerIp};
#[cfg(feature = "http")]
pub use concurrency::OverloadStatus;
pub use concurrency::{
    AllNormal, Classify, Concurrency, ConcurrencyFuture, ConcurrencyLimit, ConcurrencyLimitLayer,
    ConcurrencyLimiter, ConcurrencyStats, Outcome, Permit, Prioritize, Priority, PriorityStats,
    RefusalsAreOverload,
};
pub use error::{Denied, TooCostly};
pub use exact::ExactKeyed;
pub use extract::{Extract, WithoutKey};
pub use future::ResponseFuture;
pub use greedy::{Greedy, GreedyKey};
#[cfg(feature = "http")]
pub use gusset_call::AnswerLayer;
pub use gusset_call::{Inadmissible, Limited, NotARatio, Overloaded, Ratio, Refusal, refusal_in};
#[cfg(feature = "http")]
pub use headers::{Headers, HeadersFuture, HeadersLayer};
pub use keyed::Keyed;
#[cfg(feature = "http")]
pub use keys::{Extension, Header, Route, RouteKey};
pub use layer::RateLimitLayer;
pub use level::Level;
pub use limit::{Limit, Refused, Weighed};
pub use limiter::RateLimiter;
#[cfg(feature = "http")]
pub use network::{MalformedNetwork, Network, network};
pub use per_key::PerKey;
pub use quota::{InvalidQuota, Quota};
#[cfg(feature = "redis")]
pub use redis::{
    Decided, ForAll, InvalidUrl, Judge, RedisDenied, RedisLimit, RedisLimitFuture, RedisLimitLayer,
    RedisLimiter, RedisPolicy, RedisServer, RedisState, RedisStats, WhenAway, WireKey,
};
#[cfg(all(feature = "redis", feature = "http"))]
pub use redis::{RedisHeaders, RedisHeadersFuture, RedisHeadersLayer};
pub use reservation::Reservation;
pub use service::RateLimit;
pub use stats::Stats;

// Beside the machines and not in them, for the models in `tests/` include those files.
#[cfg(test)]
#[path = "bucket/tests.rs"]
mod bucket_tests;
#[cfg(test)]
#[path = "gcra/tests.rs"]
mod gcra_tests;
#[cfg(test)]
#[path = "table/tests.rs"]
mod table_tests;

/// The program in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

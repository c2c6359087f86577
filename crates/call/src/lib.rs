//! Carries through a stack of services what belongs to one call, and gives every refusal one shape.
//!
//! ```
//! use gusset_call::{BoxError, Open, refusal_in};
//!
//! // A layer refuses with a small struct, boxed as tower does it ...
//! let error: BoxError = Open::new("payments").with_retry_after(std::time::Duration::from_secs(3)).into();
//!
//! // ... and whoever stands outside asks what happened and when to come back.
//! let refusal = refusal_in(&*error).expect("a refusal of the family");
//! assert_eq!(refusal.retry_after().unwrap().as_secs(), 3);
//! assert_eq!(refusal.to_string(), "circuit payments is open");
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`Context`] | trace and deadline of the call that this task works for |
//! | [`spawn`], [`spawn_blocking`], [`carry`] | tasks that go on with it, and with the span of `tracing` |
//! | [`Ambient`] | all of it that is current, for whoever takes it further by hand |
//! | [`Deadline`] | a point in monotonic time after which nobody waits for the answer |
//! | [`Attempt`] | which try of a call this is, counted from 1 |
//! | [`Tried`], [`Offer`] | the instances that earlier tries of the same call went to; that whoever makes a call has a list of them |
//! | [`TraceContext`] | W3C trace identifiers, parsed and written without OpenTelemetry |
//! | [`TraceState`] | W3C `tracestate`, passed on as it came |
//! | [`Baggage`], [`RequestId`] | names and values that go along with a call; what its sender calls it |
//! | [`Open`], [`Limited`], [`Inadmissible`], [`NoInstance`], [`Overloaded`], [`DeadlineExceeded`] | the refusals |
//! | [`Refusal`], [`refusal_in`] | what all refusals know; finding one inside an error |
//! | [`Ratio`] | a share, of calls or of whatever |
//! | [`QuotaPolicy`], [`ServiceLimit`] | a quota and what is left of it, as clients are told |
//! | [`Clock`] (feature `clock`) | a monotonic clock that is cheap to read, and pausable in tests |
//! | [`AnswerLayer`] (feature `http`) | turns refusals into HTTP 429/403/503/504 and gRPC 8/7/14/4 answers |
//! | [`Problem`] (feature `http`) | RFC 9457 problem details |
//! | [`Door`], [`Asked`] (feature `http`) | who may ask at a listener for operators: by token, and no page of somebody else |
//!
//! # Refusals over the wire
//!
//! | refusal | HTTP | gRPC |
//! |---|---|---|
//! | [`Open`] | 503 | 14 `UNAVAILABLE` |
//! | [`Limited`] | 429 | 8 `RESOURCE_EXHAUSTED` |
//! | [`Inadmissible`] | 403 | 7 `PERMISSION_DENIED` |
//! | [`NoInstance`] | 503 | 14 `UNAVAILABLE` |
//! | [`Overloaded`] | 503 | 14 `UNAVAILABLE` |
//! | [`DeadlineExceeded`] | 504 | 4 `DEADLINE_EXCEEDED` |
//!
//! Each that knows when to come back says so in `Retry-After`, or in `grpc-retry-pushback-ms`. A [`Limited`] that knows its quotas also
//! tells them, in `RateLimit-Policy` and `RateLimit` fields and in the members of the problem type `quota-exceeded`
//! (`draft-ietf-httpapi-ratelimit-headers`).
//!
//! # What it does not do
//!
//! It holds no policy and no mechanism: nothing here retries, limits or routes.
//!
//! # Features
//!
//! - `clock`: [`Clock`]. Adds `quanta`.
//! - `serde`: identifiers of traces as text. Adds `serde`.
//! - `http`: problem bodies, [`AnswerLayer`], [`Door`]. Adds the `http`, `http-body-util`, `bytes` and
//!   `serde_json` crates, no server and no client.
//! - `axum`: [`Problem`] implements axum's `IntoResponse`. Adds `axum-core`.
//! - `reqwest`: a reqwest client as a service of `http::Request`, [`Reqwest`]. Adds `reqwest` without TLS.
//! - `tonic`: a tonic channel as a service of requests with any body, [`Tonic`], and the status of a refusal, [`to_status`]. Adds `tonic` without its transport.

mod ambient;
mod attempt;
mod baggage;
#[cfg(feature = "clock")]
mod clock;
mod context;
mod deadline;
mod limited;
mod now;
mod ratio;
mod refusal;
mod request_id;
mod trace;
mod trace_state;

#[cfg(feature = "http")]
mod answer;
#[cfg(feature = "http")]
mod door;
#[cfg(feature = "http")]
mod problem;
#[cfg(feature = "reqwest")]
mod reqwest;
#[cfg(feature = "tonic")]
mod tonic;

/// What the fuzz targets of the workspace's folder `fuzz` call.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;

pub use ambient::{Ambient, Carry, Entered, Scope, carry, current_trace, spawn, spawn_blocking};
pub use attempt::{Attempt, Offer, Tried};
pub use baggage::{Baggage, MalformedBaggage};
#[cfg(feature = "clock")]
pub use clock::Clock;
pub use context::Context;
pub use deadline::Deadline;
pub use limited::{Inadmissible, Limited, QuotaPolicy, ServiceLimit};
pub use ratio::{NotARatio, Ratio};
pub use refusal::{
    BoxError, DeadlineExceeded, NoInstance, Open, Overloaded, PerhapsMade, Refusal, never_made,
    refusal_in,
};
pub use request_id::{MalformedRequestId, RequestId};
pub use trace::{MalformedId, MalformedTraceparent, SpanId, TraceContext, TraceId};
pub use trace_state::{MalformedTracestate, TraceState};

#[cfg(feature = "http")]
pub use answer::{Answer, AnswerBody, AnswerFuture, AnswerLayer};
#[cfg(feature = "http")]
pub use door::{Asked, Door};
#[cfg(feature = "http")]
pub use problem::Problem;
#[cfg(feature = "reqwest")]
pub use reqwest::{Reqwest, ReqwestFuture, SendThrough};
#[cfg(feature = "tonic")]
pub use tonic::{Tonic, to_status};

/// The program in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

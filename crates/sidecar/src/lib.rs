//! Retries calls wisely, ends them in time, traces and measures them, as tower layers.
//!
//! ```
//! use gusset_sidecar::{Sidecar, SpanKind};
//! use http::{Request, Response};
//! use http_body_util::{BodyExt, Full};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! # type Body = Full<bytes::Bytes>;
//! let sidecar = Sidecar::new("orders");
//! let app = ServiceBuilder::new().layer(sidecar.inbound()).service(service_fn(
//!     |_: Request<Body>| async { Ok::<_, std::io::Error>(Response::new(Body::from("hello"))) },
//! ));
//!
//! let response = app.oneshot(Request::new(Body::default())).await.unwrap();
//! assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
//!
//! assert_eq!(sidecar.recorder().recent(1)[0].status, Some(200));
//! assert_eq!(sidecar.metrics().snapshot().total(SpanKind::Server).count(), 1);
//! # });
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`Sidecar`] | all layers around a service ([`Sidecar::inbound`]) and its clients ([`Sidecar::outbound`]); [`Sidecar::intercept`] for other work |
//! | [`RetryLayer`], [`RetryPolicy`], [`Backoff`] | makes failed calls again |
//! | [`Classify`], [`Verdict`], [`Idempotent`] | which results, and which requests |
//! | [`Budget`], [`ReplayBody`], [`PeekedBody`] | what pays for retries; the body that is sent again; the answer's, of which some was read |
//! | [`HedgeLayer`], [`HedgePolicy`] | makes slow calls a second time, and takes the first answer |
//! | [`DeadlineLayer`], [`BodyDeadlineLayer`] | ends calls whose caller has gone, and tells those called how long there is; the same for bodies |
//! | [`FaultLayer`], [`Fault`] | delays and failures made on purpose |
//! | [`TraceLayer`], [`Recorder`], [`Record`] | W3C trace context in and out, and counts where it is told to; the last finished calls |
//! | [`Details`] | what is recorded beyond that: paths, headers |
//! | [`Propagation`], [`B3`] | what goes along beside: baggage, Zipkin's headers, request ids |
//! | [`Waterfall`] | a trace as a picture in text |
//! | [`MetricsLayer`], [`Metrics`], [`Snapshot`] | counts and durations, as figures and as Prometheus text |
//! | [`Counter`], [`Gauge`], [`Histogram`] | the program's own figures: [`Metrics::counter`] and its like |
//! | [`MetricsEndpoint`] | all metrics for Prometheus: [`Metrics::endpoint`] |
//! | [`Collected`] | all metrics as plain data, for exporters |
//! | [`Route`] | the name by which both know an operation |
//! | [`current_trace`], [`spawn`], [`spawn_blocking`], [`carry`] | the trace of the work at hand; tasks that stay within it and its deadline |
//! | `telemetry` (feature) | logs with trace ids; export of spans, metrics and logs over OTLP |
//!
//! # The standard stack
//!
//! ```text
//!  a request comes in
//!    └─► trace + metrics ─► answers ─► deadline ─► your handler                     Sidecar::inbound
//!                                                      │ calls another service
//!    ┌─────────────────────────────────────────────────┘
//!    └─► trace + metrics ─► retry ─► deadline ─┐                                    Sidecar::outbound
//!          balance ◄───────────────────────────┘
//!             └─► breaker of the instance ─► connection                             gusset::standard
//! ```
//!
//! | layer, from the outside | why it stands there |
//! |---|---|
//! | trace, metrics | outermost, so that they see what the caller got: a refusal as its status, a call with three tries as one. Further in, a refusal would be no call, and a retry two. For the single attempts, put another pair inside of the retries |
//! | answers (`gusset_call::AnswerLayer`) | outside of whatever refuses, for that returns errors; inside of trace and metrics, for those want the status |
//! | deadline of the server | around the handler, so that it ends with all it calls |
//! | limits of rate and concurrency, if you have them | inside of [`Sidecar::inbound`] and outside of the handler: what is refused has cost nothing, is answered, and is counted with its status. See `gusset-ratelimit` |
//! | retry | outside of the balancer, so that an attempt may go to another instance; outside of the breaker, so that an open one is seen at once, as a call that was never sent |
//! | deadline of the client | inside of the retries, so that every attempt tells what is left when it begins. Outside, later ones would tell what was left at first. The retries read it as well: none begins that cannot end in time |
//! | balance, breaker | inside of all, one circuit for each instance: it sees single attempts, and what it says is about that instance |
//! | limit of an attempt ([`RetryPolicy::attempt_timeout`]) | in the retry, which knows the last attempt and lets it have what is left of the deadline |
//!
//! A [`HedgeLayer`] stands inside of the retries ([`OutboundLayer::hedge`]), deadlines of bodies and faults directly around the client or the handler
//! ([`OutboundLayer::body_deadline`], [`OutboundLayer::fault`], and the same of [`InboundLayer`]). `gusset::standard` makes all of the client in one line.
//!
//! # With axum, tonic, reqwest, hyper
//!
//! All layers are `Clone + Send + Sync`, have names ([`Inbound`], [`Outbound`] for what they make), and fit into axum's `Router::layer` and tonic's
//! `Server::builder().layer`. Clients: hyper-util's as it is; `gusset_call::Tonic` around a channel, with `to_status` outside, so that refusals
//! have codes; `gusset_call::Reqwest` around reqwest, with `SendThrough` for its builders. The examples `sidecar_axum`, `sidecar_tonic` and `sidecar_reqwest` do that.
//!
//! # What is bounded
//!
//! | what | bound | beyond it | counted by |
//! |---|---|---|---|
//! | records | 10,000, and 32 for each processor | the oldest goes | [`RecorderStats::overwritten`] |
//! | text of an error or a tag, tags | 256 bytes, 16 | cut, ignored | |
//! | series of calls | 1,000 | one overflow series | [`Snapshot::overflowed`] |
//! | hosts, methods of gRPC among their labels | 100, 1,000 | `_OTHER` | |
//! | own metrics, combinations of labels of each | 1,000, 1,000 | counted for nobody, one overflow | `gusset_instruments_refused_total` |
//! | samples of others, their sources | 10,000, 256 | dropped; a warning | `gusset_samples_dropped_total` |
//! | body kept for a retry | 64 KiB in 1,024 frames | sent once, no retry | [`RetryStats::body_gone`] |
//! | answer that is read before it counts | none; [`RetryPolicy::whole_answers`] | streamed | |
//! | retries | 20 % of the calls + 10/s | the failure stands | [`RetryStats::over_budget`] |
//! | times of calls for hedges | 2.2 KiB for each layer | those of the last 15 to 30 s | |
//! | `tracestate` | 32 members, 4 KiB | dropped | |
//! | `baggage`, `x-request-id` | 64 members in 8 KiB, 128 bytes | the rest dropped, another given | |
//! | memory of spans and copied heads that ended, to be used again | 64 and 32 for each thread | freed | |
//!
//! # Guarantees
//!
//! - A request that may have been acted on is sent again only if it is idempotent. A body is sent whole or not at all.
//! - In any 10 s there are no more retries than the budget of those 10 s, under any schedule.
//! - Every call ends exactly once in trace and metrics: complete, error, cancelled or panicked ([`End`]).
//! - No query is recorded, no header and no path unless it is asked for ([`Details`]), and no text from a request becomes a label.
//!
//! # Differences from
//!
//! - **tower::retry**: the request need not be `Clone`: a body is streamed, and kept up to a bound. It knows what is idempotent, `Retry-After` and gRPC's push-back, and no attempt
//!   begins that the deadline would cut. The share of the budget is exact (tower's rounds 0.6 up to 1), a deposit takes no lock, and an idle day costs the next caller
//!   nothing. Nested retries do not multiply.
//! - **reqwest's retry**: waits between attempts, and tells retries of others apart.
//! - **tower-http**: `TraceLayer` writes events for a subscriber; here each call is a record as well, also one that was abandoned, and the last ones can be asked for without a
//!   collector. `TimeoutLayer` knows its own limit; a deadline is also what the caller says, and is passed on. Its timer is armed only for a call that has to wait.
//! - **tower-otel**: no header is copied into spans, and no error's text becomes a label; cancelled calls have a duration; OpenTelemetry's types are not on the path of a call.
//! - **opentelemetry-instrumentation-tower**: the gauge of active requests returns to zero when calls are cancelled, and a span ends with the body instead of the headers.
//!
//! # What it does not do
//!
//! A gRPC status in trailers behind a
//! message is traced and counted, but comes too late for a retry.
//!
//! # Features
//!
//! - `hyper`: retries know the errors of hyper, hyper-util's client and h2 that prove that a request was never sent. Adds those crates.
//! - `telemetry`: the module `telemetry`: logs as JSON or for humans. Adds `tracing-subscriber` with its filter, `arc-swap` and `serde_json`.
//! - `otlp`: export of spans, metrics and logs to an OpenTelemetry collector, over HTTP with protobuf. Adds hyper's client: no SDK, no generated code.
//! - `otlp-grpc`: the same over gRPC. Adds `h2`.
//! - `otlp-tls`: the same over TLS. Adds rustls with ring.

mod sidecar;

mod retry;

mod hedge;

mod deadline;

mod fault;

mod trace;

mod metrics;

#[cfg(feature = "telemetry")]
pub mod telemetry;

mod ambient;
mod names;
mod sync;
mod watched;
mod waterfall;

/// What the fuzz targets of the workspace's folder `fuzz` call.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;

pub use ambient::ATTEMPT_HEADER;
pub use deadline::{
    DeadlineFuture, DeadlineLayer, WithDeadline,
    body::{BodyDeadlineFuture, BodyDeadlineLayer, DeadlineBody, WithBodyDeadline},
    timeout::TIMEOUT_HEADER,
};
pub use fault::{FAULT_HEADER, Fault, FaultFuture, FaultLayer, FaultStats, Faulty, Injected};
pub use gusset_call::{
    DeadlineExceeded, NotARatio, Ratio, carry, current_trace, spawn, spawn_blocking,
};
pub use hedge::{Hedge, HedgeFuture, HedgeLayer, HedgePolicy, HedgeStats};
pub use metrics::{
    Active, ActiveCall, Collected, Counter, Distribution, Durations, Exemplar, Family, FamilyKind,
    Gauge, Held, Histogram, Label, Labelled, Labels, Measure, MeasureFuture, Metrics,
    MetricsEndpoint, MetricsLayer, Point, Samples, SeriesSnapshot, Snapshot, Summary, Value,
};
pub use names::{Route, RouteOf};
pub use retry::{
    AttemptTimedOut, Backoff, Budget, BudgetStats, Classify, Idempotent, PeekedBody, ReplayBody,
    Retry, RetryFuture, RetryLayer, RetryPolicy, RetryStats, Transient, Verdict,
};
pub use sidecar::{Inbound, InboundLayer, Intercept, Outbound, OutboundLayer, Sidecar};
pub use trace::{
    ActiveSpan, B3, Cursor, Details, Propagation, Record, Recorder, RecorderStats, SpanKind, Trace,
    TraceFuture, TraceLayer,
};
pub use watched::{End, Watched};
pub use waterfall::{Row, Waterfall};

/// The program in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

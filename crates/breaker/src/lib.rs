//! Stops calling what keeps failing, and tries again later.
//!
//! ```
//! use gusset_breaker::{BreakerLayer, Circuit, Policy, State};
//! use tower::{Layer, Service, ServiceExt, service_fn};
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let circuit = Circuit::new("payments", Policy::consecutive(2));
//! let mut payments = BreakerLayer::new(circuit.clone())
//!     .layer(service_fn(|_: u32| async { Err::<(), _>("connection refused") }));
//!
//! for order in 1..=2 {
//!     let error = payments.ready().await.unwrap().call(order).await.unwrap_err();
//!     assert_eq!(error.to_string(), "connection refused");
//! }
//! let error = payments.ready().await.unwrap().call(3).await.unwrap_err();
//! assert_eq!(error.to_string(), "circuit payments is open");
//! assert_eq!(circuit.state(), State::Open);
//! # });
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`Circuit`] | the state that all who call one dependency share; also by hand: [`Circuit::call`], [`Circuit::run`], [`Circuit::try_acquire`] |
//! | [`Policy`], [`Window`], [`Ratio`] | when it trips, for how long, and what closes it |
//! | [`BreakerLayer`], [`Breaker`] | the circuit around a service |
//! | [`BreakerLayer::fallback`] | what answers instead: a value, a closure, another service |
//! | [`Classify`], [`Outcome`] | what counts as a failure |
//! | [`Circuits`] | one circuit per key, bounded |
//! | [`Circuit::with_listener`], [`Event`] | for metrics; see also [`Circuit::subscribe`], [`Circuit::stats`], [`Circuit::recent`] |
//! | [`Open`] | the refusal; it knows what opened the circuit, and, but in half-open, when to come back |
//!
//! # Transitions
//!
//! | from | event | to |
//! |---|---|---|
//! | Closed | so many failures in a row ([`Policy::consecutive`]), or too large a share of the calls in the window failed ([`Policy::failure_ratio`]) or was slow ([`Policy::or_slow_ratio`]) | Open |
//! | Open | a call arrives after [`Policy::open_for`] | HalfOpen, the call is the first probe |
//! | HalfOpen | so many probes succeeded ([`Policy::successes_to_close`]) | Closed, all at once or by a [`Policy::ramp`] |
//! | HalfOpen | a probe failed | Open, perhaps for longer ([`Policy::open_growth`]) |
//! | HalfOpen | all probe places taken, none given back for [`Policy::probe_lease`] | HalfOpen, anew, with a lease twice as long |
//! | any | [`Circuit::force_open`], [`Circuit::force_closed`], [`Circuit::disable`] | ForcedOpen, ForcedClosed, Disabled |
//! | any | [`Circuit::reset`] | Closed |
//!
//! Every transition begins a new generation, with an empty window. The outcome of a call that was admitted in an older
//! generation changes nothing; it is counted as [`Stats::late`]. Half-open is judged by its probes alone, whatever the window.
//!
//! # Cancellation
//!
//! A call that is dropped before its outcome gives its place back. It counts as a failure if it had been running for
//! [`Policy::slow_after`] (2 s, unless set) or if it panicked, and as nothing otherwise: a timeout outside the breaker trips it, impatient
//! clients do not. **A timeout outside that is shorter than [`Policy::slow_after`] is taken for impatience.**
//!
//! # Where it belongs
//!
//! ```text
//! retry → balance → breaker of the endpoint → timeout of the attempt → connection
//! ```
//!
//! Inside of retries, so that it sees single attempts and a retry sees [`Open`] at once; outside of the per-attempt
//! timeout, so that it sees the timeout's error. One circuit for each endpoint rather than one for all, so that one bad instance
//! does not close the door to the good ones: ask [`Circuit::is_eligible`] in the balancer. On a server, put `AnswerLayer` (feature
//! `http`) outside of it: the refusal becomes 503 with `Retry-After`. Set [`Policy::slow_after`] below any timeout that stands outside.
//!
//! Outside of limits as well: a refusal of ours that comes from inside (`Limited`, `Overloaded`, [`Open`] of another circuit) says that the
//! service was not asked, and is [`Outcome::Ignored`] whatever the classifier thinks of it.
//!
//! Around reqwest it needs `gusset_call::Reqwest` (feature `reqwest` there), which makes a service of `http` requests of that client. Around a
//! tonic channel, a refusal reaches the caller of the generated client as a status with code 2 `UNKNOWN`; [`refusal_in`] finds it in
//! the status, and with `AnswerLayer` around the channel the code is 14 `UNAVAILABLE`.
//!
//! # Testing
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! use std::time::Duration;
//! use gusset_breaker::{Circuit, Policy};
//!
//! // In a `#[tokio::test(start_paused = true)]`: the circuit has to be made within it.
//! let circuit = Circuit::new("db", Policy::consecutive(1).open_for(Duration::from_secs(30)));
//! circuit.try_acquire().unwrap().failure();
//! assert!(circuit.try_acquire().is_err());
//! tokio::time::advance(Duration::from_secs(30)).await;
//! assert!(circuit.try_acquire().is_ok());
//! # });
//! ```
//!
//! # When it does not compile
//!
//! | the compiler says | because |
//! |---|---|
//! | method `oneshot` (or `call`, `ready`) exists, but its trait bounds were not satisfied | the error of the inner service is not `Into<BoxError>`; or the classifier is for other types, as [`HttpStatus`] around what answers no `http::Response`; or a closure does not name the types of its arguments |
//! | `Infallible: From<Box<dyn Error + Send + Sync>>` is not satisfied | axum wants a service that never fails: put `AnswerLayer` outside of the breaker |
//! | `Body: Clone` is not satisfied | bodies of responses cannot be cloned for [`BreakerLayer::fallback_value`]: make one in [`BreakerLayer::fallback`] |
//! | implementation of `From` is not general enough | the service is awaited in a spawned block, and its error is `BoxError` itself: give it a type of its own |
//!
//! # Cost
//!
//! A call through a closed circuit allocates nothing and takes no lock: one load before it, one or two increments after it, and
//! in the layer a clone of the circuit for the future. The clock is read once when the call first is pending, once at its
//! end if the window is one of time, and twice if slow calls matter. A refusal takes a short lock to read its cause, and a box. Time is that of
//! `gusset_call::Clock`: a circuit that is made while tokio's time is paused obeys it.
//!
//! # Differences from
//!
//! - **tower** has none.
//! - **resilience4j, Hystrix**: the state is one atomic word; the path of a successful call takes no lock.
//! - **Polly, Sentinel**: time is monotonic, and a probe that hangs or panics does not pin the circuit.
//! - **tower-resilience**: windows slide, and need not be full; two `layer()` calls share the circuit they were given; the outcome
//!   of a call from before a transition is ignored; a refusal says when to come back.
//! - **failsafe, recloser**: half-open admits a bounded number of probes at once.
//! - **all of these**: a call that is dropped after it has run for long is a failure.
//!
//! # What it does not do
//!
//! It does not share its state with other processes, on purpose: each has its own view of a dependency. It does not
//! limit how long a call runs, nor how many run at once while it is closed. It judges what the service returns, not the
//! body that is streamed after it.
//!
//! # Features
//!
//! - `http`: [`HttpStatus`] and [`GrpcStatus`] classify responses, `AnswerLayer` answers refusals. Adds the `http` crate, and
//!   `http-body-util`, `bytes` and `serde_json` by `gusset-call`.

mod layer;
mod service;

mod fallback;
mod future;

mod circuit;
mod circuits;
mod permit;
mod stats;

mod event;

mod policy;

mod classify;
mod outcome;

mod window;

mod machine;

mod sync;

pub use circuit::Circuit;
pub use circuits::Circuits;
pub use classify::{Classify, ErrorsFail};
#[cfg(feature = "http")]
pub use classify::{GrpcStatus, HttpStatus};
pub use event::Event;
pub use fallback::{
    Answer, Asked, Fallback, FallbackFuture, FallbackLayer, FallbackService, FallbackValue,
};
pub use future::ResponseFuture;
#[cfg(feature = "http")]
pub use gusset_call::AnswerLayer;
pub use gusset_call::{BoxError, NotARatio, Open, Ratio, Refusal, refusal_in};
pub use layer::BreakerLayer;
pub use machine::State;
pub use outcome::Outcome;
pub use permit::Permit;
pub use policy::Policy;
pub use service::Breaker;
pub use stats::{Recent, Stats};
pub use window::Window;

// Beside the machine and not in it, for the model checker includes that file.
#[cfg(test)]
#[path = "machine/calls_tests.rs"]
mod calls_tests;
#[cfg(test)]
#[path = "machine/tests.rs"]
mod machine_tests;

/// The program in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

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
//! | [`Circuit`] | the state that all who call one dependency share; also by hand: [`Circuit::try_acquire`] |
//! | [`Policy`] | when it trips, for how long, and what closes it |
//! | [`BreakerLayer`], [`Breaker`] | the circuit around a service |
//! | [`Classify`], [`Outcome`] | what counts as a failure |
//! | [`Circuits`] | one circuit per key, bounded |
//! | [`Open`] | the refusal; [`Refusal::retry_after`] tells when to come back |
//!
//! # Transitions
//!
//! | from | event | to |
//! |---|---|---|
//! | Closed | so many failures in a row ([`Policy::consecutive`]) | Open |
//! | Open | a call arrives after [`Policy::open_for`] | HalfOpen, the call is the first probe |
//! | HalfOpen | so many probes succeeded ([`Policy::successes_to_close`]) | Closed |
//! | HalfOpen | a probe failed | Open |
//! | HalfOpen | all probe places taken, none given back for [`Policy::probe_lease`] | HalfOpen, anew |
//! | any | [`Circuit::force_open`], [`Circuit::disable`] | ForcedOpen, Disabled |
//! | any | [`Circuit::reset`] | Closed |
//!
//! Every transition begins a new generation. The outcome of a call that was admitted in an older generation changes
//! nothing; it is counted as [`Stats::late`].
//!
//! # Cancellation
//!
//! A call that is dropped before its outcome gives its place back. It counts as a failure if it had been running for
//! [`Policy::slow_after`] or if it panicked, and as nothing otherwise: a timeout outside the breaker trips it, impatient
//! clients do not.
//!
//! # Where it belongs
//!
//! Inside of retries, so that it sees single attempts and a retry sees [`Open`] at once; outside of the per-attempt
//! timeout, so that it sees the timeout's error. On a server, put `AnswerLayer` (feature `http`) outside of it: the refusal
//! becomes 503 with `Retry-After`. Set [`Policy::slow_after`] below any timeout that stands outside.
//!
//! # Differences from
//!
//! - **resilience4j, Hystrix**: the state is one atomic word; the path of a successful call takes no lock.
//! - **tower-resilience**: two `layer()` calls share the circuit they were given; the outcome of a call from before a
//!   transition is ignored; a probe that hangs does not pin the circuit for ever.
//! - **failsafe, recloser**: half-open admits a bounded number of probes at once.
//!
//! # What it does not do
//!
//! It does not share its state with other processes, on purpose: each has its own view of a dependency. It does not
//! limit how long a call runs, nor how many run at once while it is closed.
//!
//! # Features
//!
//! - `http`: [`HttpStatus`] and [`GrpcStatus`] classify responses, `AnswerLayer` answers refusals. Adds the `http` crate, and
//!   `http-body-util`, `bytes` and `serde_json` by `gusset-call`.

mod layer;
mod service;

mod future;

mod circuit;
mod circuits;

mod policy;

mod classify;

mod machine;

pub use circuit::{Circuit, Permit, Stats};
pub use circuits::Circuits;
pub use classify::{Classify, ErrorsFail, Outcome};
#[cfg(feature = "http")]
pub use classify::{GrpcStatus, HttpStatus};
pub use future::ResponseFuture;
#[cfg(feature = "http")]
pub use gusset_call::AnswerLayer;
pub use gusset_call::{Open, Refusal, refusal_in};
pub use layer::BreakerLayer;
pub use machine::State;
pub use policy::Policy;
pub use service::Breaker;

//! Carries out all steps of a process, or undoes all that were carried out, whatever fails on the way.
//!
//! ```
//! use gusset_saga::{Effect, Finished, MemoryStore, Orchestrator, Saga, StepContext, StepError};
//!
//! async fn reserve(_: StepContext, items: u32) -> Result<String, StepError> {
//!     Ok(format!("{items} on shelf 7"))
//! }
//! async fn release(_: StepContext, _: u32, stock: Effect<String>) -> Result<(), StepError> {
//!     assert_eq!(stock, Effect::Known("3 on shelf 7".to_owned()));
//!     Ok(())
//! }
//! async fn pay(_: StepContext, _: u32, _stock: String) -> Result<u64, StepError> {
//!     Err(StepError::rejected("card declined"))
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let mut saga = Saga::define("place-order", 1);
//! let stock = saga.step("reserve-stock").run(reserve).undo(release);
//! let paid = saga.step("pay").needs(&stock).run(pay).no_undo();
//! let place_order = saga.finish((&stock, &paid))?;
//!
//! let sagas = Orchestrator::new(MemoryStore::new());
//! let finished = sagas.run(&place_order, 3).await?;
//! let Finished::Compensated { failure, .. } = finished else { panic!("paid") };
//! assert_eq!(failure.to_string(), "step pay failed after 1 attempt: card declined");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`Saga`], [`Step`] | a definition in the making: steps, what they need, how they are undone |
//! | [`Definition`] | named, versioned, shared by all sagas that run it |
//! | [`Orchestrator`] | runs sagas, recovers them, and takes the orders of operators |
//! | [`Options`] | how many at once, how long a lease lasts |
//! | [`StepError`] | what a failed attempt says about its effect: rejected, transient or unknown |
//! | [`Effect`] | what an undo has to undo: a known output, or possibly something |
//! | [`Finished`], [`Failure`] | how a saga ended, with every error that led there |
//! | [`Policy`] | timeout, retries and backoff of a step or an undo |
//! | [`Store`], [`MemoryStore`] | where journals are kept |
//! | [`Event`], [`Record`], [`Report`] | what a journal holds, and where a saga stands by it |
//!
//! # What is guaranteed
//!
//! As long as the store keeps what it acknowledged, every saga ends in one of three ways: all its steps are done; every step that had an
//! effect, or may have had one, is undone; or it is listed as [`State::Stuck`] with the undos that failed. [`MemoryStore`] keeps it until the process ends,
//! so with it nothing survives a crash of the process; it does survive that of a task or of an orchestrator.
//!
//! Actions and undos are called **at least once** per [`StepContext::idempotency_key`]. What an action must promise: under one key it has one effect,
//! however often it is called, and an answer of rejected means that there is none and will be none. The same goes for an undo.
//!
//! # Transitions
//!
//! | from | event | to |
//! |---|---|---|
//! | - | [`Orchestrator::start`] | Running |
//! | Running | the last step is done | Completed |
//! | Running | a step is rejected, or all its attempts failed | TurningBack, or Compensated if there is nothing to undo |
//! | TurningBack | the last undo is settled, all succeeded | Compensated |
//! | TurningBack | the last undo is settled, some were given up | Stuck |
//! | Stuck | [`Orchestrator::retry`] | TurningBack |
//! | Stuck | [`Orchestrator::skip`] of the last undo that was given up | Compensated |
//! | any but the final ones | recovery does not know the definition | Blocked |
//! | Blocked | recovery or [`Orchestrator::retry`] knows it | as before |
//!
//! Each transition is a record in the journal. A record that says how a step ended also says which one begins, and is written **before** that
//! one is attempted: N steps in sequence cost N + 1 writes, and no crash leaves an effect that the journal has not heard of.
//!
//! # Attempts
//!
//! | outcome | what follows | undone when the saga turns back |
//! |---|---|---|
//! | done | the next step | yes, with [`Effect::Known`] |
//! | rejected | turning back at once | no |
//! | transient | another attempt, as the [`Policy`] says | no |
//! | unknown: so reported, timeout, panic, the process died | another attempt under the same key | yes, with [`Effect::Unknown`] |
//!
//! A step that had one unknown attempt counts as unknown whatever its later attempts say, short of done.
//!
//! # On the way back
//!
//! Undos run one after the other in reverse order, each with its own retries, which no forward attempt has used up. One that is
//! given up does **not** stop those of the earlier steps: stock that stays reserved because a refund failed helps nobody. So an undo must
//! not rely on a later step's having been undone.
//!
//! # Cancellation
//!
//! A saga runs in its own task. Dropping the future that started it, or its [`Handle`], changes nothing; see [`Orchestrator`] for
//! what does. An action that exceeds its timeout is dropped at an await, and may go on at the other end: that is what the key is for.
//!
//! # Differences from
//!
//! - **Temporal, Restate**: a library and a table instead of a server. A definition is data, so there is no replay of code and no rule of determinism; a
//!   change of steps is a new version. What may have happened counts as an effect: undo is owed from the first attempt on, not from success on.
//! - **steno**: outputs are typed instead of looked up by name; undos are retried, and one that fails neither stops the others nor passes for done; a
//!   store can fail without losing a record; N + 1 writes instead of 2 for each step and more.
//!
//! # What it does not do
//!
//! It does not isolate: others see the effects of a saga that may yet turn back. It does not make actions idempotent. Steps run in sequence; a definition has no
//! branches yet. The two tables of [`MemoryStore`] and of the running sagas are each behind one lock with short sections.
//!
//! # Features
//!
//! - `testing`: the module `testing`, a store that fails where it is told to. Adds no dependency.

mod builder;
mod needs;
mod step;

mod definition;

mod finished;
mod operator;
mod orchestrator;

mod options;
mod policy;

mod progress;
mod state;
mod tries;

mod engine;
mod live;
mod runner;
mod stats;
mod work;

mod record;
mod store;

mod error;
mod id;
mod json;

#[cfg(feature = "testing")]
pub mod testing;

pub use builder::{Acting, Saga, Step};
pub use definition::Definition;
pub use error::{DefinitionError, Failure, FailureKind, SagaError, StepError};
pub use finished::{Finished, Report, StepReport};
pub use gusset_call::BoxError;
pub use id::{InvalidName, SagaId};
pub use json::Json;
pub use needs::{Needs, StepRef};
pub use operator::{Recovered, Recovery};
pub use options::Options;
pub use orchestrator::{Handle, Orchestrator};
pub use policy::Policy;

pub use record::{Event, Record, Shape, StepShape, Unreadable};
pub use state::{Skipped, State, StepState};
pub use stats::Stats;
pub use step::{Direction, Effect, StepContext};
pub use store::{
    Begin, Claim, Commit, Hold, Journal, Mail, MemoryStore, Message, MessageId, Outgoing, Post,
    Query, Relay, Release, Renewed, Retention, Store, StoreError, StoreFuture, Summary, Wanted,
};

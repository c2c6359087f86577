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
//! # What is guaranteed
//!
//! As long as the store keeps what it acknowledged, every saga ends in one of these ways, whatever crashes: **all its steps are done**; or **every step that
//! had an effect, or may have had one, is undone**; or **it is listed**, as [`State::Stuck`] with what was given up, or as [`State::Blocked`] until a process comes
//! along that knows its definition. An operator can [close](Orchestrator::close) it, which is a state of its own. [`MemoryStore`] keeps journals until the
//! process ends: with it a saga survives the crash of a task or of an orchestrator, and not that of the process.
//!
//! # What an action must promise
//!
//! Actions and undos are called **at least once** per [`StepContext::idempotency_key`]. Under one key an action has one effect,
//! however often it is called; an answer of rejected means that there is none and will be none. An undo is told by [`Effect`] what it has to undo: that there is
//! nothing is a success. Who holds a saga can be believed dead while it is not: a participant that remembers the highest [`StepContext::epoch`] it saw can
//! refuse an older one.
//!
//! | item | what it is |
//! |---|---|
//! | [`Saga`], [`Step`] | a definition in the making: steps, what they wait for, how they are undone |
//! | [`PastPivot`], [`CertainStep`] | the part of it behind the point of no return |
//! | [`Definition`], [`Shape`] | named, versioned, shared by all sagas that run it; what the journal keeps of it |
//! | [`Orchestrator`] | runs sagas, recovers them, and takes signals and the orders of operators |
//! | [`Operator`] | looks at the sagas of other programs, and gives them orders |
//! | [`Options`] | how many at once, how long a lease lasts |
//! | [`StepError`] | what a failed attempt says about its effect: rejected, transient or unknown |
//! | [`Span`] | an attempt as exporters of traces want it |
//! | `IdempotencyLayer`, `Caller` (feature `http`) | the key and the epoch of an attempt, on requests and in servers |
//! | [`Effect`] | what an undo has to undo: a known output, or possibly something |
//! | [`Finished`], [`Failure`] | how a saga ended, with every error that led there |
//! | [`Policy`] | timeout, retries and backoff of a step or an undo |
//! | [`StepContext::emit`], [`OutboxRelay`] | messages that are sent if, and only if, the step is done |
//! | [`Entry`], [`InboxCall`], `SqliteInbox`, `PostgresInbox` | which calls a receiver carries out: repetitions, undos without an action, late actions |
//! | [`Aggregate`], [`Aggregates`], [`EventLog`] | what is the sum of its events, with versions and an audit, in the same stores |
//! | [`Store`], [`MemoryStore`] | where journals are kept |
//! | `SqliteStore` (feature `sqlite`) | journals in a file, which survive the process |
//! | `PostgresStore` (feature `postgres`) | journals in a database, which nodes share |
//! | [`Event`], [`Record`], [`Order`], [`Report`] | what a journal holds, and where a saga stands by it |
//!
//! # Transitions
//!
//! | from | event | to |
//! |---|---|---|
//! | - | [`Orchestrator::start`] | Running |
//! | Running | the last step is done | Completed |
//! | Running | a step is rejected or given up, the [deadline](Saga::deadline) passes, [`Orchestrator::turn_back`] | TurningBack, or Compensated if there is nothing to undo |
//! | Running | a step behind the pivot is rejected, and nothing else is under way | Stuck |
//! | TurningBack | the last undo is settled, all succeeded | Compensated |
//! | TurningBack | the last undo is settled, some were given up | Stuck |
//! | Stuck | [`Orchestrator::retry`] | TurningBack, or Running |
//! | Stuck | [`Orchestrator::skip`] of the last undo that was given up | Compensated |
//! | Stuck | [`Orchestrator::supply`] of what the step behind the pivot should have returned | Running, Completed |
//! | any but the final ones | recovery does not know the definition | Blocked |
//! | Blocked | a recovery that knows it | as before |
//! | any but the final ones | [`Orchestrator::close`] | Closed |
//!
//! Each transition is a record in the journal. A record that says how a step ended also says which ones begin, and is written **before** those
//! are attempted: N steps cost at most N + 1 writes, and no crash leaves an effect that the journal has not heard of.
//!
//! # Attempts
//!
//! | outcome | what follows | undone when the saga turns back |
//! |---|---|---|
//! | done | the steps that waited for it | yes, with [`Effect::Known`] |
//! | rejected | turning back at once | no |
//! | transient | another attempt, as the [`Policy`] says | no |
//! | unknown: so reported, timeout, panic, the process died | another attempt under the same key | yes, with [`Effect::Unknown`] |
//!
//! A step that had one unknown attempt counts as unknown whatever its later attempts say, short of done. Attempts are counted across processes without a record
//! for each: who shuts down hands the count on, and a crash counts as one. So a step that kills its process is given up like any other.
//!
//! # On the way back
//!
//! Undos run in reverse: that of a step begins when all that waited for it are settled, so branches are undone at the same time. Each has its own retries,
//! which no forward attempt has used up, and nobody's cancellation stops it. What is still under way in another branch is let end first, without a further attempt. An
//! undo that is given up does **not** stop those of the earlier steps: stock that stays reserved because a refund failed helps nobody. So an undo must
//! not rely on a later step's having been undone.
//!
//! # Cancellation
//!
//! A saga that waits runs in its own task. Dropping the future that started it, or its [`Handle`], changes nothing; see [`Orchestrator`] for
//! what does. An action that exceeds its timeout is dropped at an await, and may go on at the other end: that is what the key is for.
//!
//! # Memory
//!
//! What runs is held: the outputs of its steps, at most [`Options::max_running`] sagas. While a task of [`Orchestrator::spawn_recovery`] runs, a saga that waits for
//! 5 s or more, for a timer, a signal or the next attempt, is not held. A journal has at most two records for each step and two more, one for each time that it was
//! interrupted, and [`Mail::MOST`] for signals and orders. [`Orchestrator::purge`] forgets finished sagas by number and age.
//!
//! # Differences from
//!
//! - **Temporal**: a library and a table instead of a server. A definition is data, so there is no replay of code and no rule of determinism; a change of steps is a
//!   new version, and old sagas go on under theirs. Undos are part of the definition instead of code in a `catch`: what may have happened is undone as well, one that
//!   fails stops no other, and cancelling does not skip them. There is no history whose size ends a saga. Temporal has workers in many languages, schedules and
//!   queries of running code.
//! - **Restate**: it journals each step of a handler that is called again from its start; here a step knows its place, and the code between steps does not exist.
//!   Its guide collects compensations in a list of closures, which runs in the handler; here undo is owed from the first attempt on, with its own retries. Restate
//!   routes calls to keyed, single-writer services, which this does not.
//! - **steno**: outputs are typed instead of looked up by name; undos are retried, and one that fails neither stops the others nor passes for done; a
//!   store can fail without losing a record; N + 1 writes instead of 2 for each node and more; a panic or a timeout is an unknown outcome instead of a
//!   hung saga; the cost of a graph is linear in its edges; leases and epochs keep two processes from running one saga.
//!
//! # What it does not do
//!
//! It does not isolate: others see the effects of a saga that may yet turn back. It does not make actions idempotent. The two tables of [`MemoryStore`] and of the running sagas are each behind one
//! lock with short sections.
//!
//! # Features
//!
//! - `http`: `IdempotencyLayer` puts the key and the epoch of an attempt on its HTTP requests, `Caller` reads them in a server. Adds the `http` crate, no client and no
//!   server.
//! - `postgres`: `PostgresStore`. Adds tokio-postgres, without TLS: bring a connector for that.
//! - `sqlite`: `SqliteStore`. Adds rusqlite and builds SQLite in C, which takes a minute and a half of processor time. Needs Rust 1.89.
//! - `testing`: the module `testing`: `crash::Suite` crashes your own definitions at every write under every outcome of every step; `conformance` tells what every store must
//!   do, as tests; `FaultyStore` fails where it is told to. Adds no dependency.

mod acting;
mod builder;
mod past_pivot;

#[cfg(feature = "http")]
mod headers;
mod needs;
mod step;

mod definition;
mod diagram;
mod draft;
mod shape;
mod typed;

mod finished;
mod handle;
mod operator;
mod orchestrator;
mod recovery;

mod options;
mod policy;

mod few;
mod progress;
mod state;
mod tries;

mod blocked;
mod engine;
mod live;
mod runner;
mod seat;
mod span;
mod stats;
mod work;

mod aggregate;

mod event;
mod inbox;
mod outbox;
mod record;
mod store;

mod error;
mod id;
mod json;

#[cfg(feature = "testing")]
pub mod testing;

/// What the fuzz targets of the workspace's folder `fuzz` call.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;

/// The program in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

pub use acting::Acting;
pub use builder::{Saga, Step};
pub use definition::Definition;
pub use error::{DefinitionError, Failure, FailureKind, SagaError, StepError};
pub use finished::{Finished, Report, StepReport};
pub use gusset_call::BoxError;
pub use handle::Handle;
#[cfg(feature = "http")]
pub use headers::{Caller, EPOCH, IDEMPOTENCY_KEY, Idempotency, IdempotencyLayer, InvalidHeader};
pub use id::{InvalidName, SagaId};
pub use json::Json;
pub use needs::{Needs, StepRef};
pub use operator::{Operator, Ordered};
pub use options::Options;
pub use orchestrator::Orchestrator;
pub use past_pivot::{CertainStep, PastPivot};
pub use policy::Policy;
pub use recovery::{Recovered, Recovery};

pub use aggregate::{
    Aggregate, AggregateError, Aggregates, Change, ChangeError, EventLog, EventLogError,
    EventLogFuture, NewEvents, Recorded, Snapshot, StreamId, StreamPage, StreamSummary, Versioned,
};
pub use event::{Event, Order};
#[cfg(feature = "postgres")]
pub use inbox::PostgresInbox;
#[cfg(feature = "sqlite")]
pub use inbox::SqliteInbox;
pub use inbox::{Entry, InboxCall, InboxError};
pub use outbox::{OutboxRelay, OutboxTarget, RelayOptions, RelayStats};
pub use record::{Places, Record, Unreadable};
pub use shape::{Shape, StepKind, StepShape};
pub use span::{Span, SpanEnd};
pub use state::{Skipped, State, StepState};
pub use stats::Stats;
pub use step::{Direction, Effect, StepContext};
pub use store::{
    Begin, Bundle, Claim, Commit, Hold, Journal, Mail, MemoryStore, Message, MessageId, Outgoing,
    Pending, Post, Query, Relay, Relayed, Release, Renewed, Retention, Store, StoreError,
    StoreFuture, Summary, Wanted,
};
#[cfg(feature = "postgres")]
pub use store::{PostgresOptions, PostgresStore};
#[cfg(feature = "sqlite")]
pub use store::{SqliteError, SqliteStore};

#[cfg(feature = "sqlite")]
#[doc(no_inline)]
pub use rusqlite;
#[cfg(feature = "postgres")]
#[doc(no_inline)]
pub use tokio_postgres;

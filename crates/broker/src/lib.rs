//! Carries messages from publishers to groups of handlers, tries again what fails, and keeps what cannot be handled.
//!
//! **Guarantee: at least once.** A message whose publish returned `Ok` is handled by every group that wants it, until a handler says that it is done; or it is among the dead
//! letters, with its story; or it was counted where a policy asked for that: dropped, expired, a duplicate, unroutable. For how long depends on the engine:
//!
//! | engine | after `Ok` the message is | a process that is killed | a machine that loses power |
//! |---|---|---|---|
//! | [`MemoryEngine`] | in memory | loses all | loses all |
//! | `FileEngine` (feature `file`) | on the disk, synced | loses nothing | loses nothing |
//! | `NatsEngine` (feature `nats`) | in the file of a JetStream server | loses nothing | loses what the server had not synced, by its `sync_interval` |
//!
//! That is for named groups. In memory, one that nobody [declared](Broker::declare) goes with its last subscription, and what it held is counted as [`Stats::discarded`]; on disk and
//! on NATS it stays until [`Broker::remove`]. Each attempt is counted
//! before the handler runs, so a message that kills its process becomes a dead letter, too (where the engine outlives it). Nothing is handled exactly once.
//!
//! ```
//! use gusset_broker::{Broker, Delivery, Filter};
//! use tower::service_fn;
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! let broker = Broker::new();
//! let inventory = broker.subscribe("order.*").group("inventory").handle(service_fn(
//!     |order: Delivery<u32>| async move {
//!         if *order.body() == 13 { Err("no such product") } else { Ok(()) }
//!     },
//! )).await?;
//!
//! broker.publish("order.created", &7).await?;
//! broker.publish("order.created", &13).await?;
//! tokio::time::sleep(std::time::Duration::from_secs(1)).await;
//!
//! let dead = broker.dead_letters().list(&Filter::all(), None, 10).await?;
//! assert_eq!((dead.len(), &*dead[0].group, dead[0].attempts), (1, "inventory", 3));
//! inventory.close().await;
//! # Ok::<(), gusset_broker::Error>(())
//! # }).unwrap();
//! ```
//!
//! | item | what it is |
//! |---|---|
//! | [`Broker`] | where messages are published and groups made |
//! | [`Message`], [`Subject`], [`Headers`] | what is published; later, in time, urgent, or once, if it says so |
//! | [`Pattern`] | which subjects a group wants: `*` is one token, a last `>` the rest |
//! | [`Subscribe`], [`Subscription`] | a tower service that handles messages, and the guard that ends it |
//! | [`Delivery`], [`Reply`] | what a handler gets, and what it may answer |
//! | [`Pull`], [`Pulled`] | messages taken and answered by hand |
//! | [`Publisher`], [`ReactLayer`] | publishing as a tower service, for an outbox; events that follow from events |
//! | [`TraceLayer`], [`Span`], [`CloudEvent`] | one trace over both sides; what other programs read |
//! | [`Encode`], [`Decode`], [`Json`] | how bodies are written and read |
//! | [`Policy`], [`WhenFull`], [`WhenExpired`], [`OrderBy`] | bounds, attempts, backoff, order of a group |
//! | [`DeadLetters`], [`DeadLetter`] | what was given up: list, look, redrive, purge |
//! | [`Stats`], [`Sample`] | what is held and what happened, for each group, and under which name it is exported |
//! | [`engine`], [`Capabilities`] | what keeps the messages, and what it can do |
//! | [`MemoryEngine`], [`Limits`], [`Retention`], [`Start`] | the engine in memory, its bounds, and what it keeps for groups to come |
//!
//! # What happens to a message in a group
//!
//! | from | event | to |
//! |---|---|---|
//! | | published, or redriven | ready; delayed, if it is for later; in its lane, if an earlier one with its key is on its way |
//! | ready | a worker takes it; the attempt is counted | in flight |
//! | in flight | `()`, [`Reply::Ack`], [`Reply::Answer`] | done; the next of its lane is ready |
//! | in flight | error, panic, timeout, [`Reply::RetryAfter`], a [`Pulled`] dropped without an answer | delayed; after [`Policy::max_attempts`] dead |
//! | in flight | pulled and not answered in [`Policy::attempt_timeout`] | ready, last in line |
//! | in flight | [`Reply::Reject`], payload cannot be decoded | dead |
//! | in flight | the subscription is dropped, or the broker's closing runs out of time | ready, first in line, the attempt not counted |
//! | delayed | its time has come | ready, last in line |
//! | ready | its time to live is over | dead, or dropped, by [`Policy::when_expired`] |
//! | ready, delayed, in its lane | room is needed, [`WhenFull::DropOldest`] | dropped, counted |
//! | dead | [`DeadLetters::redrive`] | ready, attempts counted anew |
//!
//! A message that waits for its next attempt occupies no worker, only its place in the group. A slow or failing group delays no
//! other group's deliveries; when it is full it may hold up publishers, see [`Broker::publish_message`].
//!
//! A handler may see a message more than once: after a failure, a timeout (its future is dropped, what it began may have been
//! done), the end of a subscription. [`Delivery::id`] is the same each time.
//!
//! # What a handler and its layers may say
//!
//! Any tower layer may stand around a handler; what it returns means the same as from the handler:
//!
//! | it returns | and so the message is |
//! |---|---|
//! | `Ok` | acknowledged, answered, retried or rejected, as the [`Reply`] says |
//! | an error: of the handler, of a timeout, a load shed, a limit | retried after the backoff, a failed attempt |
//! | an error with a refusal that says when to come back, as of a circuit breaker of `gusset-breaker` | retried then at the earliest, a failed attempt |
//! | nothing: it panics, or takes longer than [`Policy::attempt_timeout`] | retried after the backoff, a failed attempt; the future is dropped |
//!
//! `poll_ready` is asked before a message is taken. One that is not ready (a limit of concurrency) takes none and charges none. A retry layer inside repeats within one attempt.
//! [`TraceLayer`] belongs outside of the others, [`ReactLayer`] directly around the handler.
//!
//! # When there is no room, or nobody listens
//!
//! | what | choice | counted as |
//! |---|---|---|
//! | a group is full | [`WhenFull::Wait`], at most so long or until the caller's deadline (default, 5 s) | [`GroupStats::waiting`], [`GroupStats::refused`] |
//! | | [`WhenFull::Reject`]: `Overloaded` at once | [`GroupStats::refused`] |
//! | | [`WhenFull::DropOldest`] | [`GroupStats::dropped`] |
//! | no group wants it | [`WhenUnheard::Drop`] (default) | [`Stats::unroutable`] |
//! | | [`WhenUnheard::Bury`] | the same, and a dead letter |
//! | | [`Retention`]: kept for groups to come | [`Stats::retained`] |
//! | nobody listens to a group | [declared](Broker::declare), on disk or on NATS, it keeps all; else there is none | [`GroupStats::lag`] |
//! | the dead letters are full | [`WhenLettersFull::DropOldest`] (default) | [`Stats::dead_letters_dropped`] |
//! | | [`WhenLettersFull::Refuse`]: it stays in its group | [`Stats::dead_letters_refused`] |
//!
//! A handler that publishes into a full group, its own or one that waits for it, does not wait for itself; see [`Broker::publish_message`].
//!
//! # Order
//!
//! First come, first served, as long as nothing fails and [`Subscribe::concurrency`] is 1. With [`Subscribe::ordered_by`], messages with the same key are handled one
//! after the other in the order of publishing, whatever fails and however many workers there are; a key that fails holds up only itself. When one is dead, the next
//! goes on; one that is redriven, or was published for later, comes last.
//!
//! # Memory
//!
//! Each group holds at most [`Policy::capacity`] messages (1,000) of [`Policy::max_bytes`] (64 MiB), what a handler
//! publishes into its own full group excepted, see [`Broker::publish_message`]; the payload is shared between groups. There
//! are at most [`Limits::groups`] groups (10,000), [`Limits::dead_letters`] dead letters (10,000, 64 MiB), [`Limits::dedup`] ids (100,000), and what
//! [`Retention`] says. A group keeps the memory of its slots for the most messages that it ever held at once. A waiting message takes less than 136 bytes
//! beside its payload and headers (in memory, counted by the allocator on 64 bits), and each further group that has it less than 40.
//!
//! # What travels with a message
//!
//! | header | what it is | set by |
//! |---|---|---|
//! | `traceparent` | W3C trace context of the publisher | publishing, from `gusset_call::Context::current()` or [`TraceLayer`] |
//! | `tracestate` | what goes with it | publishing, from `gusset_call::TraceState::current()` or [`TraceLayer`] |
//! | `gusset-deadline` | until when somebody waits for what comes of it | [`Message::with_deadline`], [`Broker::request`] |
//! | `correlation-id`, `causation-id` | what began it all, and what caused it | [`Message::caused_by`], [`ReactLayer`] |
//! | `ce-id`, `ce-source`, `ce-type`, `ce-time`, … | attributes of CloudEvents 1.0, binary mode | [`Message::with_cloud_event`] |
//! | `content-type`, `schema-version` | what the payload is | the codec, [`Message::with_schema_version`] |
//! | `reply-to` | where an answer goes | [`Broker::request`] |
//!
//! # What can be seen
//!
//! [`Broker::stats`] has all numbers, [`Stats::samples`] the same with names for an exporter, [`TraceLayer`] makes spans. Events by `tracing`, target `gusset_broker`:
//!
//! | event | level | fields |
//! |---|---|---|
//! | dead letter | WARN | group, subject, id, attempts, reason, last_error |
//! | oldest dead letter dropped to make room | WARN | group, id |
//! | settling failed; the message is delivered again | WARN | group, id, error |
//! | handler is not ready; tried again in 1 s | WARN | group, error |
//! | group removed with messages that nobody handled | WARN | group, count |
//! | dead letter redriven; dead letters purged | INFO | letter, group, id; count |
//! | delivery failed | DEBUG | group, attempt, kind, error |
//! | message matches no group | DEBUG | id |
//!
//! # Differences from
//!
//! - **`tokio::sync::broadcast`**: a slow receiver loses nothing unless its policy says so; it holds up publishers instead. What fails is tried again, and members of a group
//!   share the work.
//! - **NATS** (core): nothing is lost because a client is slow, or because nobody listens to a declared group. A group belongs to the broker and has one pattern.
//! - **NATS JetStream**: a failed attempt waits for the backoff, where a bare nak comes back at once. What is given up is kept with payload, headers and errors; there it stays in the
//!   stream, and an advisory names its number.
//! - **RabbitMQ**: a failed message is delayed, where a rejected one is put back at once or dead-lettered. What is fetched ahead and not handed over is not charged. A dead letter
//!   goes back to the one group that failed, and only so often; there it is published anew by whoever writes the tool.
//! - **SQS**: no message comes back while its handler is still at work, for a timeout ends the handler first; there the visibility timeout must be longer than the work. (What is
//!   pulled by hand comes back after its time limit, as there.) A redriven message keeps its id. **SQS FIFO**: a key that fails holds up only itself, and other keys of its
//!   group go on.
//!
//! # What it does not do
//!
//! In memory it does not outlive the process; in memory and in files it reaches no other one. It does not handle a message exactly once: make handlers idempotent by
//! [`Delivery::id`]. Only messages whose id was [given](Message::with_id) are recognised when they come again.
//!
//! # Features
//!
//! | feature | adds | costs |
//! |---|---|---|
//! | `conformance` | the suite that every engine must pass | nothing but its code |
//! | `file` | `FileEngine`, which keeps messages in a directory | `crc32fast`, a thread, Rust 1.89 |
//! | `nats` | `NatsEngine`, which keeps messages on a NATS JetStream server | `async-nats`, Rust 1.89 |
//! | `nats-tls` | the same over TLS | `ring`, which needs a C compiler |

mod broker;
mod publisher;
mod pull;
mod receipt;
mod subscribe;

mod cloud_event;
mod codec;
mod headers;
mod message;
mod message_id;
mod subject;

mod reaction;
mod span;
mod trace;

mod delivery;
mod handling;
mod inbox;
mod judge;
mod leftover;
mod tasks;
mod wall;
mod worker;

mod attempt;
mod limits;
mod order;
mod policy;
mod retention;

mod capabilities;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod engine;
#[cfg(feature = "file")]
mod file;
mod memory;
#[cfg(feature = "nats")]
mod nats;

mod dead_letters;
mod error;
mod letter;
mod samples;
mod stats;
#[cfg(feature = "file")]
mod sync;

/// What the fuzz targets of the workspace's folder `fuzz` call.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;

pub use broker::Broker;
pub use capabilities::Capabilities;
pub use cloud_event::{CloudEvent, InvalidCloudEvent};
pub use codec::{Decode, Encode, Json};
pub use dead_letters::{DeadLetters, Redrive, Redriven};
pub use delivery::{Answer, Delivery, IntoReply, Reply};
pub use error::Error;
#[cfg(feature = "file")]
pub use file::{FileEngine, FileError, FileOptions};
pub use headers::Headers;
pub use leftover::Leftover;
pub use letter::{DeadLetter, DeadLetterId, Failure, FailureKind, Filter, Reason};
pub use limits::{Limits, WhenLettersFull};
pub use memory::MemoryEngine;
pub use message::{Message, Priority};
pub use message_id::MessageId;
#[cfg(feature = "nats")]
pub use nats::{NatsEngine, NatsError, NatsOptions, NatsTls};
pub use order::OrderBy;
pub use policy::{Policy, WhenExpired, WhenFull};
pub use publisher::{PublishFuture, Publisher};
pub use pull::{Pull, Pulled};
pub use reaction::{React, ReactFuture, ReactLayer, Reaction};
pub use receipt::Receipt;
pub use retention::{Retention, Start, WhenUnheard};
pub use samples::{Sample, SampleKind};
pub use span::{End, Span, SpanKind};
pub use stats::{GroupStats, Stats};
pub use subject::{InvalidSubject, Pattern, Subject};
pub use subscribe::{Subscribe, Subscription};
pub use trace::{Trace, TraceLayer, TracedHandling, TracedPublish};

/// The program in the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

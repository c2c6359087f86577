//! Carries messages from publishers to groups of handlers, tries again what fails, and keeps what cannot be handled.
//!
//! **Guarantee: at least once.** A publish that returned `Ok` is handled by every group that matched, or is there to be seen as a dead letter, or was
//! counted where a policy asked for that: dropped, expired, a duplicate. How long this holds is up to the engine. The one that is here, in **memory**, writes nothing to disk:
//! all is lost with the process. A group that nobody [declared](Broker::declare) goes with its last subscription, and what it
//! held is counted as [`Stats::discarded`].
//!
//! With `FileEngine` (feature `file`): **a publish that returned `Ok` is on the disk** for every named group, and so are attempts, declared groups and
//! dead letters; a process or a machine that ends, however it ends, loses none of them.
//!
//! With `NatsEngine` (feature `nats`): a publish that returned `Ok` is in the file of a JetStream server, and outlives every process; what a machine loses
//! that loses power is up to how often that server syncs.
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
//! | [`Encode`], [`Decode`], [`Json`] | how bodies are written and read |
//! | [`Policy`], [`WhenFull`], [`WhenExpired`], [`OrderBy`] | bounds, attempts, backoff, order of a group |
//! | [`DeadLetters`], [`DeadLetter`] | what was given up: list, look, redrive, purge |
//! | [`Stats`] | what is held and what happened, for each group |
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
//! [`Retention`] says. A group keeps the memory of its slots for the most messages that it ever held at once.
//!
//! # Differences from
//!
//! - **`tokio::sync::broadcast`**: a slow receiver loses nothing unless its policy says so; it holds up publishers instead.
//! - **NATS**: a group belongs to the broker and has one pattern; groups declared keep what comes while nobody listens.
//! - **NATS JetStream**: an attempt that failed waits for the backoff; what is given up is kept with its payload and errors.
//! - **NATS JetStream, SQS**: no message comes back while its handler is still at work; a timeout ends the handler first. (What is pulled by hand comes back after its
//!   time limit, as there.)
//! - **SQS FIFO**: a key that fails holds up only itself, and other keys of its group go on.
//! - **RabbitMQ**: a failed message is delayed, not put back at once, and the attempts are counted.
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

mod broker;
mod publisher;
mod pull;
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

pub use broker::{Broker, Leftover, Receipt};
pub use capabilities::Capabilities;
pub use cloud_event::{CloudEvent, InvalidCloudEvent};
pub use codec::{Decode, Encode, Json};
pub use dead_letters::{DeadLetters, Redrive, Redriven};
pub use delivery::{Answer, Delivery, IntoReply, Reply};
pub use error::Error;
#[cfg(feature = "file")]
pub use file::{FileEngine, FileError, FileOptions};
pub use headers::Headers;
pub use letter::{DeadLetter, DeadLetterId, Failure, FailureKind, Filter, Reason};
pub use limits::{Limits, WhenLettersFull};
pub use memory::MemoryEngine;
pub use message::{Message, Priority};
pub use message_id::MessageId;
#[cfg(feature = "nats")]
pub use nats::{NatsEngine, NatsError, NatsOptions};
pub use order::OrderBy;
pub use policy::{Policy, WhenExpired, WhenFull};
pub use publisher::{PublishFuture, Publisher};
pub use pull::{Pull, Pulled};
pub use reaction::{React, ReactFuture, ReactLayer, Reaction};
pub use retention::{Retention, Start, WhenUnheard};
pub use samples::{Sample, SampleKind};
pub use span::{End, Span, SpanKind};
pub use stats::{GroupStats, Stats};
pub use subject::{InvalidSubject, Pattern, Subject};
pub use subscribe::{Subscribe, Subscription};
pub use trace::{Trace, TraceLayer, TracedHandling, TracedPublish};

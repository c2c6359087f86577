//! Carries messages from publishers to groups of handlers, tries again what fails, and keeps what cannot be handled.
//!
//! **Guarantee: at least once within the process, lost with the process.** A publish that returned `Ok` is handled by every
//! group that matched, or is there to be seen as a dead letter, or was counted as dropped where a policy asked for that;
//! as long as the process and the group live. Nothing is written to disk. A group that nobody [declared](Broker::declare)
//! goes with its last subscription, and what it held is counted as [`Stats::discarded`].
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
//! | [`Message`], [`Subject`], [`Headers`] | what is published |
//! | [`Pattern`] | which subjects a group wants: `*` is one token, a last `>` the rest |
//! | [`Subscribe`], [`Subscription`] | a tower service that handles messages, and the guard that ends it |
//! | [`Delivery`], [`Reply`] | what a handler gets, and what it may answer |
//! | [`Policy`], [`WhenFull`] | bounds, attempts, backoff of a group |
//! | [`DeadLetters`], [`DeadLetter`] | what was given up: list, look, redrive, purge |
//! | [`Stats`] | what is held and what happened, for each group |
//! | [`Limits`] | bounds of the broker as a whole |
//!
//! # What happens to a message in a group
//!
//! | from | event | to |
//! |---|---|---|
//! | | published, or redriven | ready |
//! | ready | a worker takes it; the attempt is counted | in flight |
//! | in flight | `()` or [`Reply::Ack`] | done |
//! | in flight | error, panic, timeout, [`Reply::RetryAfter`] | delayed; after [`Policy::max_attempts`] dead |
//! | in flight | [`Reply::Reject`], payload cannot be decoded | dead |
//! | in flight | the subscription is dropped, or the broker's closing runs out of time | ready, first in line, the attempt not counted |
//! | delayed | its time has come | ready, last in line |
//! | ready, delayed | room is needed, [`WhenFull::DropOldest`] | dropped, counted |
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
//! First come, first served, as long as nothing fails and [`Subscribe::concurrency`] is 1.
//!
//! # Memory
//!
//! Each group holds at most [`Policy::capacity`] messages (1,000) of [`Policy::max_bytes`] (64 MiB), what a handler
//! publishes into its own full group excepted, see [`Broker::publish_message`]; the payload is shared between groups. There
//! are at most [`Limits::groups`] groups (10,000) and [`Limits::dead_letters`] dead letters (10,000, 64 MiB).
//!
//! # Differences from
//!
//! - **`tokio::sync::broadcast`**: a slow receiver loses nothing unless its policy says so.
//! - **NATS**: a group belongs to the broker and has one pattern; groups declared keep what comes while nobody listens.
//! - **NATS JetStream, SQS**: no message comes back while its handler is still at work; a timeout ends the handler first.
//! - **RabbitMQ**: a failed message is delayed, not put back at once, and the attempts are counted.
//!
//! # What it does not do
//!
//! It does not outlive the process and reaches no other one. It keeps no order under failures or among workers. It does not
//! recognise duplicates: make handlers idempotent by [`Delivery::id`].

mod broker;
mod pull;
mod subscribe;

mod codec;
mod message;
mod subject;

mod delivery;
mod handling;
mod inbox;
mod judge;
mod tasks;
mod worker;

mod attempt;
mod limits;
mod order;
mod policy;
mod retention;

mod capabilities;
pub mod engine;
mod memory;

mod dead_letters;
mod error;
mod letter;
mod stats;

pub use broker::{Broker, Leftover, Receipt};
pub use capabilities::Capabilities;
pub use codec::{Decode, Encode, Json};
pub use dead_letters::{DeadLetters, Redrive, Redriven};
pub use delivery::{Answer, Delivery, IntoReply, Reply};
pub use error::Error;
pub use letter::{DeadLetter, DeadLetterId, Failure, FailureKind, Filter, Reason};
pub use limits::Limits;
pub use memory::MemoryEngine;
pub use message::{Headers, Message, MessageId, Priority};
pub use order::OrderBy;
pub use policy::{Policy, WhenExpired, WhenFull};
pub use pull::{Pull, Pulled};
pub use retention::{Retention, Start, WhenUnheard};
pub use stats::{GroupStats, Stats};
pub use subject::{InvalidSubject, Pattern, Subject};
pub use subscribe::{Subscribe, Subscription};

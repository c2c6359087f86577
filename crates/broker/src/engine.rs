//! What a broker needs from the system that keeps its messages. Whoever writes an engine implements these traits, and runs the
//! conformance suite over it.
//!
//! **Who decides what.** The engine stores, counts attempts and delivers. The worker loop, which is the same for all engines, runs the
//! handlers and judges what came of them: it says *when* a message is tried again and *whether* it is dead. So backoff, the
//! greatest number of attempts, timeouts, panics and undecodable payloads mean the same everywhere.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use gusset_call::Deadline;

use crate::{
    Capabilities, DeadLetter, DeadLetterId, Error, Failure, Filter, Leftover, Message, OrderBy,
    Pattern, Policy, Reason, Receipt, Start, Stats,
};

/// A future on the heap, for what asks a network or a disk.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Takes an answer to where somebody waits for it.
pub type TakeAnswer = Arc<dyn Fn(Message) + Send + Sync>;

/// Keeps messages and delivers them to groups.
///
/// Its methods are called by [`Broker`](crate::Broker), which has checked names, patterns and the [`Capabilities`] before. None may
/// block the thread.
pub trait Engine: fmt::Debug + Send + Sync + 'static {
    /// What this engine can do; asked once. What it cannot do, the broker refuses with
    /// [`Error::Unsupported`] before the engine hears of it.
    fn capabilities(&self) -> Capabilities;

    /// What an error says of something that it cannot do: `what`, better with what one may do instead.
    fn unable(&self, what: &'static str) -> &'static str {
        what
    }

    /// Where answers go that are published in other processes, with a subject that begins with `prefix`. Called once, before anything is published. An engine that
    /// reaches no other process has nothing to do.
    fn bring_answers(&self, prefix: &str, take: TakeAnswer) {
        let _ = (prefix, take);
    }

    /// Takes the message over, for all groups whose pattern matches or for none. When this is ready with `Ok`, what the engine
    /// promises holds: a durable engine has it on disk.
    fn publish(&self, message: Message) -> Publishing;

    /// Makes a group that stays without members. [`GroupSpec::name`] is there.
    fn declare(&self, group: GroupSpec) -> BoxFuture<'_, Result<(), Error>>;

    /// Ends the keeping of a declared group; how many messages went with it.
    fn remove(&self, group: Arc<str>) -> BoxFuture<'_, Result<usize, Error>>;

    /// Joins a group, or makes one that lives as long as its members. When this is ready, whatever is published reaches the group.
    fn join(&self, group: GroupSpec) -> BoxFuture<'_, Result<Arc<dyn Member>, Error>>;

    /// Its dead letters.
    fn dead_letters(&self) -> &dyn DeadLetterStore;

    /// What it holds and has seen, as far as this process knows without asking anybody.
    fn stats(&self) -> Stats;

    /// Takes no more messages, but for what handlers at work publish; delivers nothing more; waits for the leases that are out until
    /// `deadline`. The broker ends the workers when this is ready.
    fn close(&self, deadline: Deadline) -> BoxFuture<'_, Leftover>;

    /// Comes after [`close`](Self::close), when the workers have ended, or one of them does not: gives free what the engine holds outside of this
    /// process, such as the lock of a directory. The broker waits at most a second for it. Default: there is nothing.
    fn end(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// Which group is meant, and how it is to be.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GroupSpec {
    /// Name of the group, already checked; none for a subscription that is a group of its own.
    pub name: Option<Arc<str>>,
    /// Which subjects it wants.
    pub pattern: Pattern,
    /// How it keeps its messages; none: what the group has, or the default.
    pub policy: Option<Policy>,
    /// By which key it keeps the order; none: what the group has, or none.
    pub order: Option<OrderBy>,
    /// With which message it begins, if it is made now.
    pub start: Start,
}

/// One subscription's place in a group. Dropping it leaves the group.
pub trait Member: fmt::Debug + Send + Sync + 'static {
    /// The group.
    fn group(&self) -> &GroupInfo;

    /// A place to take messages from; each worker has its own. With `ack_wait`, a lease that is not settled in that span after it was taken or was last
    /// said to be [in progress](Lease::in_progress) is over, and the message is delivered again. Without, whoever takes it always answers in time.
    fn source(&self, ack_wait: Option<Duration>) -> Box<dyn Source>;
}

/// A group as its members know it.
#[derive(Clone, Debug)]
pub struct GroupInfo {
    /// Tells groups of this process apart; from [`GroupInfo::next_id`].
    pub id: u64,
    /// Its name; one that begins with `_` if none was given.
    pub name: Arc<str>,
    /// How it keeps its messages.
    pub policy: Policy,
}

impl GroupInfo {
    /// A new id. They grow.
    #[must_use]
    pub fn next_id() -> u64 {
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
        /// One counter for the process, so that handlers of several brokers are told apart.
        static IDS: AtomicU64 = AtomicU64::new(1);
        IDS.fetch_add(1, Relaxed)
    }
}

/// Where one worker gets its messages. Asked only when the handler is ready.
pub trait Source: Send + 'static {
    /// The next message, its attempt counted; none if there is none now.
    ///
    /// A source may set further messages aside for its worker, if it gives them up, uncharged, when it is told to [let go](Self::let_go).
    fn take(&mut self) -> Option<Lease>;

    /// [`Verdict::Ack`] for a delivery that was taken here. A source may put it off until it is told to [let go](Self::let_go), and acknowledge many at once.
    fn ack(&mut self, claim: Claim) -> Settling {
        claim.settle(Verdict::Ack)
    }

    /// The worker is at something that takes its time: what was set aside for it goes to others, and what was put off is done. Called
    /// before the worker waits for anything. Default: nothing, for sources that neither set aside nor put off.
    fn let_go(&mut self) {}

    /// Ready with `true` when it is worth while to try [`take`](Self::take), with `false` if it never will be again. For each message that
    /// becomes ready at least one worker that waits here is woken. One that is woken and is then dropped must not swallow the wake-up:
    /// another has to be woken in its stead.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<bool>;

    /// This worker will not ask for a while: it [lets go](Self::let_go), and if it was woken for a message, another should be. Cheap, and may be
    /// called at any time.
    fn rest(&mut self);
}

/// One delivery: a message that is held for whoever has this, until it is settled. Dropping it gives the message back, uncharged.
#[must_use = "dropping it gives the message back"]
pub struct Lease {
    message: Arc<Message>,
    attempt: u32,
    expired: bool,
    redriven: bool,
    claim: Claim,
}

/// What is left of a [`Lease`] while its message is elsewhere: the duty to settle it. Dropping it gives the message back, uncharged.
#[must_use = "dropping it gives the message back"]
pub struct Claim {
    /// None once it is settled.
    keeper: Option<Arc<dyn Keeper>>,
    token: u64,
}

impl Lease {
    /// A lease of `message`, delivered for the `attempt`th time (from 1), which `keeper` knows by `token`.
    pub fn new(message: Arc<Message>, attempt: u32, keeper: Arc<dyn Keeper>, token: u64) -> Self {
        Self {
            message,
            attempt,
            expired: false,
            redriven: false,
            claim: Claim { keeper: Some(keeper), token },
        }
    }

    /// The same lease of a message whose time to live was over before.
    pub const fn expired(mut self, expired: bool) -> Self {
        self.expired = expired;
        self
    }

    /// The same lease of a message that came back from the dead letters.
    pub const fn redriven(mut self, redriven: bool) -> Self {
        self.redriven = redriven;
        self
    }

    /// Whether the message came back from the dead letters. Whoever waited for it has gone then.
    pub(crate) const fn is_redriven(&self) -> bool {
        self.redriven
    }

    /// Whether the message's time to live was over before this delivery.
    pub(crate) const fn is_expired(&self) -> bool {
        self.expired
    }

    /// The message.
    #[must_use]
    pub const fn message(&self) -> &Arc<Message> {
        &self.message
    }

    /// Which delivery this is, counted from 1. More than [`Policy::max_attempts`] if earlier ones ended without a verdict, as in the crash of a process.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Ends it with a verdict.
    pub fn settle(self, verdict: Verdict) -> Settling {
        self.claim.settle(verdict)
    }

    /// Says that there is still work on it, so that it is not delivered elsewhere meanwhile.
    pub fn in_progress(&self) -> Settling {
        match &self.claim.keeper {
            Some(keeper) => keeper.clone().in_progress(self.claim.token),
            None => Settling::Done(Ok(())),
        }
    }

    pub(crate) fn split(self) -> (Arc<Message>, Claim) {
        (self.message, self.claim)
    }
}

impl Claim {
    /// Ends the delivery with a verdict.
    pub fn settle(mut self, verdict: Verdict) -> Settling {
        match self.keeper.take() {
            Some(keeper) => keeper.settle(self.token, verdict),
            None => Settling::Done(Ok(())),
        }
    }

    /// To be settled by whoever takes it apart.
    pub(crate) fn into_parts(mut self) -> (Option<Arc<dyn Keeper>>, u64) {
        (self.keeper.take(), self.token)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(keeper) = self.keeper.take() {
            drop(keeper.settle(self.token, Verdict::GiveBack));
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("message", &self.message)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("token", &self.token).finish_non_exhaustive()
    }
}

/// Who settles leases.
pub trait Keeper: Send + Sync + 'static {
    /// Does what the verdict says. What must be done even if the result is dropped unpolled, as for [`Verdict::GiveBack`], is done, or handed
    /// to somebody who does it, before this returns.
    fn settle(self: Arc<Self>, token: u64, verdict: Verdict) -> Settling;

    /// Begins the time anew after which the message is delivered again.
    fn in_progress(self: Arc<Self>, token: u64) -> Settling;
}

/// What becomes of a delivered message. The engine obeys: attempts and backoff have been considered.
#[derive(Debug)]
#[non_exhaustive]
pub enum Verdict {
    /// Done.
    Ack,
    /// It failed: to be delivered again when `after` has passed.
    Retry {
        /// How long it waits.
        after: Duration,
        /// What went wrong, to be kept as first and last failure.
        failure: Failure,
    },
    /// To the dead letters. The record is stored before the message leaves the group; if it cannot be stored, the message stays
    /// and is delivered again when `otherwise` has passed.
    Bury {
        /// Why.
        reason: Reason,
        /// What went wrong this time, if the handler was asked.
        failure: Option<Failure>,
        /// How long the message waits if it cannot be buried.
        otherwise: Duration,
    },
    /// Its time to live was over: gone, and counted.
    Expire,
    /// Nobody's fault: first in line again, as if it had not been delivered.
    GiveBack,
}

/// The result of a settlement: there already, or still under way. A message whose settlement fails is delivered again.
#[must_use = "a settlement may fail"]
pub enum Settling {
    /// It is done, or failed.
    Done(Result<(), Error>),
    /// It goes on while this is polled.
    Waiting(BoxFuture<'static, Result<(), Error>>),
}

/// The result of a publish: there already, or still under way. Dropping it cancels the publish, as far as the engine says.
#[must_use = "a publish may fail"]
pub enum Publishing {
    /// It is done, or refused.
    Done(Result<Receipt, Error>),
    /// It goes on while this is polled.
    Waiting(BoxFuture<'static, Result<Receipt, Error>>),
}

macro_rules! ready_or_boxed {
    ($($name:ident: $output:ty),*) => {$(
        impl Future for $name {
            type Output = Result<$output, Error>;

            fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
                match &mut *self {
                    Self::Waiting(future) => future.as_mut().poll(cx),
                    // Polled again, it waits for ever, as any future may that has been ready.
                    Self::Done(_) => match std::mem::replace(&mut *self, Self::Waiting(Box::pin(std::future::pending()))) {
                        Self::Done(result) => Poll::Ready(result),
                        Self::Waiting(_) => Poll::Pending,
                    },
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    Self::Done(result) => f.debug_tuple("Done").field(result).finish(),
                    Self::Waiting(_) => f.debug_tuple("Waiting").finish_non_exhaustive(),
                }
            }
        }
    )*};
}

ready_or_boxed!(Publishing: Receipt, Settling: ());

/// Where an engine has its dead letters. Ids grow in the order of dying.
pub trait DeadLetterStore: Send + Sync {
    /// Up to `limit` records younger than `after`, oldest first.
    fn list(
        &self,
        filter: Filter,
        after: Option<DeadLetterId>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Arc<DeadLetter>>, Error>>;

    /// The record with this id.
    fn get(&self, id: DeadLetterId) -> BoxFuture<'_, Result<Option<Arc<DeadLetter>>, Error>>;

    /// Gives one back to its group and to no other, attempts counted anew; deleted here when it is there. If that fails, it stays, or is in both places: never in none.
    fn redrive(&self, id: DeadLetterId) -> BoxFuture<'_, Result<(), Error>>;

    /// Names a record such that all that die from now on have a higher id; none if there is no record. The default reads all pages.
    fn newest(&self) -> BoxFuture<'_, Result<Option<DeadLetterId>, Error>> {
        const PAGE: usize = 256;
        Box::pin(async move {
            let mut newest = None;
            while let Some(last) = self.list(Filter::all(), newest, PAGE).await?.last() {
                newest = Some(last.id);
            }
            Ok(newest)
        })
    }

    /// How often one message may be redriven, so that a machine that redrives all it finds does not keep a poisonous one
    /// going for ever; the broker asks before it redrives. Default 5.
    fn max_redrives(&self) -> u32 {
        5
    }

    /// Deletes what matches; how many that were.
    fn purge(&self, filter: Filter) -> BoxFuture<'_, Result<usize, Error>>;
}

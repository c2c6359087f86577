//! Messages that a NATS JetStream server keeps.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::SeqCst},
};

use gusset_call::Deadline;
use tokio::{runtime::Handle, sync::mpsc};

mod answers;
mod closing;
mod core;
mod dial;
mod error;
mod feeder;
mod groups;
mod hall;
mod jetstream;
mod joining;
mod keeper;
mod kept;
mod layout;
mod letters;
mod link;
mod member;
mod moment;
mod options;
mod publishing;
mod records;
mod recount;
mod wire;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;

pub use error::NatsError;
pub use options::{NatsOptions, NatsTls};

use self::{
    answers::Answers,
    core::Core,
    groups::{Groups, Known},
    keeper::{Chore, do_chores},
    layout::{Life, token_of},
    letters::Letters,
    recount::recount_after_reconnections,
};
use crate::{
    Capabilities, Error, Leftover, Limits, Message, Stats,
    engine::{BoxFuture, DeadLetterStore, Engine, GroupSpec, Member, Publishing, TakeAnswer},
    handling::handling,
};

/// An engine whose messages a NATS JetStream server keeps, of version 2.9 or later.
///
/// # Guarantee
///
/// At least once, across the end of any process and the restart of the server. A publish that returned `Ok` is in the
/// server's file, **written but not yet synced**: a server process that is killed loses nothing, a machine that loses power
/// may lose what came since the last sync.
///
/// | the server's `sync_interval` (in its `jetstream` block) | a machine that loses power loses at most |
/// |---|---|
/// | default | the last two minutes |
/// | `"10s"` | the last ten seconds |
/// | `always` | nothing that was acknowledged; each publish waits for the disk |
/// | servers before 2.10 | the last two minutes; they cannot set it |
///
/// Version 2.10.27 has been seen to forget, when it was killed (3 of 48 times on a busy machine), how far an emptied stream had counted: new messages then have old numbers,
/// and a group that was past those would never get them. Each process looks for that when it has connected again, and when it joins a group: such a group is made anew, and
/// begins with the first message that is there. A group of which no process knows at that moment is seen to only if it still is past the last number when one joins it.
/// 2.9.10 did not forget in 200 times, 2.15.1 not in 32. Servers before 2.10 may bring back messages from their disk that had been settled when they were killed, and then keep them for ever:
/// those are deleted, unless the stream retains what is settled.
///
/// Servers before 2.10.15 may count a delivery that they gave to nobody, when a message is delivered again while all requests for messages have just ended, and give the message
/// out only after the ack wait. With servers before 2.11 one delivery that is missing behind one that failed or was given back is not charged, so a message that also
/// ends its process may be tried once more than the policy says.
///
/// With [`NatsOptions::replicas`] of 3 a message is acknowledged when two servers have it in their files: the loss of one machine loses nothing, that of power
/// for all at once what was not synced.
///
/// # Groups
///
/// A group is a durable consumer of the server. It stays when its members leave, whether it was
/// [declared](crate::Broker::declare) or not, and keeps what is published for it, until [`Broker::remove`](crate::Broker::remove); so
/// a service that restarts misses nothing. A subscription without a group has a consumer of its own, which goes with it, or
/// five minutes after its process was killed. A message is kept until all groups that want it have settled it;
/// one that no group wants is not kept. Unless the stream [retains](NatsOptions::retain) what is settled: then all are kept for a time, and a group may begin with the past.
///
/// # Order
///
/// The server has no order for each key. A group with an [order](crate::Subscribe::ordered_by) is given **one message at a time**, whichever its key, whatever its
/// concurrency, in all its processes together, in the order of publishing; so the order of each key is kept, through failures and crashes. The price: a message that
/// fails, or was published for later, holds up its group until it is handled or dead. For more at once, put a part of the key into the subject
/// (`order.3.created`), and make a group for each part.
///
/// # Questions
///
/// A question goes the way of all messages, until whoever asked waits no more. Its answer is kept nowhere; it is sent until whoever asked says that he has it, also to
/// one who lost his connection meanwhile. For one who does not come back within 3 seconds, or says nothing [as long as a call may take](NatsOptions::call_within), a group
/// waits once, and then 50 ms for each answer until he is heard of; so an answer may be lost where the server itself is away for longer than that.
///
/// [`Error::NoResponders`] means that no group on the server wants the question; a group that went less than ten seconds ago may still count.
///
/// # What is elsewhere than in memory
///
/// - No [priority](crate::Priority): a consumer has one line, and two consumers for each group would cost every group twice.
/// - No [`WhenFull::DropOldest`](crate::WhenFull::DropOldest): the stream belongs to all groups.
/// - Bounds are those of the stream, for all groups together, see [`NatsOptions::max_messages`]: at the bound a publish waits as long
///   as a question may take, and is refused with [`Error::Full`]. [`Policy::capacity`](crate::Policy::capacity), [`Policy::max_bytes`](crate::Policy::max_bytes) and
///   [`Policy::when_full`](crate::Policy::when_full) are not looked at.
/// - [`Receipt::groups`](crate::Receipt::groups) counts the groups of this process only, but for questions.
/// - A policy is what each process gives its own members; processes need not agree.
/// - When a message is given back uncharged, or its process was killed, it comes back first in line, but others may have overtaken it.
/// - How a message failed before is noted on the server, for a week and for the last 100,000 that failed; beyond that it
///   goes on without.
///
/// # Cancellation
///
/// A publish that is dropped before it is ready, or that fails with [`Error::Engine`], may have been published. The server recognises a message
/// by the id that was [given](Message::with_id) to it: publish it again within [`NatsOptions::dedup_window`] and it is there once.
///
/// # Tasks
///
/// One for the connection, one that looks after the groups when it was made anew, one for what is given back, one for answers once something was asked, and one for each subscription; they end with the engine and the
/// subscription.
pub struct NatsEngine {
    core: Arc<Core>,
    letters: Letters,
    answers: Arc<Answers>,
    chores: mpsc::UnboundedSender<Chore>,
    groups: Arc<Mutex<Groups>>,
    runtime: Handle,
}

impl NatsEngine {
    /// Connects, looks at what the server is, and makes the streams that are not there. Must be called in a tokio runtime, in
    /// which its tasks then live. [`Limits::dead_letters`] and [`Limits::dead_letter_bytes`] hold for streams that are made from now
    /// on, the oldest letters make room.
    ///
    /// # Errors
    ///
    /// [`NatsError`].
    pub async fn connect(options: NatsOptions, limits: Limits) -> Result<Self, NatsError> {
        let core = Arc::new(Core::connect(options, limits).await?);
        let (chores, todo) = mpsc::unbounded_channel();
        tokio::spawn(do_chores(core.link.clone(), todo));
        tokio::spawn(recount_after_reconnections(Arc::downgrade(&core), core.link.connections()));
        let (letters, runtime) = (Letters(core.clone()), Handle::current());
        let answers = Arc::new(Answers::new(core.clone(), runtime.clone()));
        Ok(Self { core, letters, answers, chores, groups: Arc::default(), runtime })
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.core.closed.load(SeqCst) { Err(Error::Closed) } else { Ok(()) }
    }
}

const ENGINE: &str = "nats";

const NO_PAST: &str = "begin a group with the past, since its stream keeps nothing that is settled; make it with NatsOptions::retain";

impl Engine for NatsEngine {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new(ENGINE);
        capabilities.durable = true;
        capabilities.dedup = true;
        capabilities.delay = true;
        capabilities.expiry = true;
        capabilities.ordered = true;
        capabilities.requests = true;
        capabilities.replay = self.core.is_retained();
        capabilities
    }

    fn unable(&self, what: &'static str) -> &'static str {
        match what {
            "prefer messages" => {
                "prefer messages; publish urgent ones with a subject of their own, for a group of its own"
            }
            "begin a group with the past" => NO_PAST,
            "drop the oldest of a full group" => {
                "drop the oldest of a full group; give messages a time to live, and the group WhenExpired::Drop"
            }
            what => what,
        }
    }

    fn bring_answers(&self, prefix: &str, take: TakeAnswer) {
        self.answers.bring_to(prefix, take);
    }

    fn publish(&self, message: Message) -> Publishing {
        if self.core.closed.load(SeqCst) && handling().is_none() {
            return Publishing::Done(Err(Error::Closed));
        }
        let (core, groups) = (self.core.clone(), self.groups.clone());
        if Answers::is_answer(&message) {
            let answers = self.answers.clone();
            return Publishing::Waiting(Box::pin(async move { answers.answer(&message).await }));
        }
        if Answers::is_question(&message) {
            let asking = Self::ask(self.answers.clone(), core, groups, message);
            return Publishing::Waiting(Box::pin(asking));
        }
        Publishing::Waiting(Box::pin(Self::publish_one(core, groups, message)))
    }

    fn declare(&self, spec: GroupSpec) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.check_open()?;
            let Some(name) = spec.name.clone() else { return Ok(()) };
            self.know(&name, &spec)?;
            let made = self.make(&name, &spec, Life::Declared).await;
            let mut groups = self.groups();
            match made {
                Ok((config, _)) => {
                    self.core.need(&token_of(&name), &config);
                    if let Some(known) = groups.known.get_mut(&name) {
                        (known.stays, known.removed) = (true, false);
                    }
                    Ok(())
                }
                Err(error) => {
                    groups.forget(&name);
                    Err(error)
                }
            }
        })
    }

    fn remove(&self, group: Arc<str>) -> BoxFuture<'_, Result<usize, Error>> {
        Box::pin(self.remove_one(group))
    }

    fn join(&self, group: GroupSpec) -> BoxFuture<'_, Result<Arc<dyn Member>, Error>> {
        Box::pin(self.join_one(group))
    }

    fn dead_letters(&self) -> &dyn DeadLetterStore {
        &self.letters
    }

    /// Of what this process has seen; the server knows more. Dead letters are not counted.
    fn stats(&self) -> Stats {
        let groups = self.groups();
        let mut known: Vec<_> = groups.known.values().collect();
        known.sort_by_key(|known| known.info.id);
        Stats { groups: known.into_iter().map(Known::stats).collect(), ..Stats::default() }
    }

    fn close(&self, deadline: Deadline) -> BoxFuture<'_, Leftover> {
        Box::pin(self.close_all(deadline))
    }
}

impl fmt::Debug for NatsEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsEngine").field("options", &self.core.options).finish_non_exhaustive()
    }
}

//! Messages that a NATS JetStream server keeps.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::Ordering::{Relaxed, SeqCst},
    },
    time::Duration,
};

use gusset_call::Deadline;
use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use uuid::Uuid;

mod answers;
mod core;
mod error;
mod feeder;
mod groups;
mod hall;
mod jetstream;
mod keeper;
mod layout;
mod letters;
mod link;
mod member;
mod options;
mod records;
mod wire;

pub use error::NatsError;
pub use options::{NatsOptions, NatsTls};

use self::{
    answers::Answers,
    core::Core,
    feeder::Feeder,
    groups::{Groups, Known, Present},
    jetstream::{CONSUMER_NOT_FOUND, ConsumerInfo, STREAM_NOT_FOUND},
    keeper::{Chore, Counts, Ledger, do_chores},
    layout::{Life, check_format, order_in, token_of},
    letters::Letters,
    member::NatsMember,
    wire::Route,
};
use crate::{
    Capabilities, Error, Leftover, Limits, Message, Receipt, Start, Stats,
    engine::{
        BoxFuture, DeadLetterStore, Engine, GroupInfo, GroupSpec, Member, Publishing, TakeAnswer,
    },
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
/// Version 2.10.27 has been seen to forget, when it was killed (3 of 48 times on a busy machine), how far an emptied stream had counted: new messages then had old numbers,
/// and groups that were past those never got them, though they had been acknowledged. 2.9.10 did not in 30 times, 2.15.1 not in 32.
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
/// A question goes the way of all messages, until whoever asked waits no more. Its answer is kept nowhere: who loses his connection meanwhile
/// waits until his deadline. [`Error::NoResponders`] means that no group on the server wants the question; a group that went less than ten seconds ago may still count.
///
/// # What is elsewhere than in memory
///
/// - No [priority](crate::Priority): a consumer has one line, and two consumers for each group would cost every group twice.
/// - No [`WhenFull::DropOldest`](crate::WhenFull::DropOldest): the stream belongs to all groups.
/// - Bounds are those of the stream, for all groups together, see [`NatsOptions::max_messages`]: at the bound a publish waits as long
///   as a question may take, and is refused with [`Error::Full`]. [`Policy::capacity`](crate::Policy::capacity), [`Policy::max_bytes`](crate::Policy::max_bytes) and
///   [`Policy::when_full`](crate::Policy::when_full) are not looked at.
/// - [`Receipt::groups`] counts the groups of this process only, but for questions.
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
/// One for the connection, one for what is given back, one for answers once something was asked, and one for each subscription; they end with the engine and the
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
        let (letters, runtime) = (Letters(core.clone()), Handle::current());
        let answers = Arc::new(Answers::new(core.clone(), runtime.clone()));
        Ok(Self { core, letters, answers, chores, groups: Arc::default(), runtime })
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish_one(
        core: Arc<Core>,
        groups: Arc<Mutex<Groups>>,
        message: Message,
    ) -> Result<Receipt, Error> {
        let stored = core.publish(&message, &Route::default()).await?;
        let duplicate = stored.duplicate && message.is_known_by_id();
        core.duplicates.fetch_add(u64::from(duplicate), Relaxed);
        let groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
        let matching = groups.known.values().filter(|g| g.pattern.matches(message.subject()));
        let mut receipt = Receipt::new(message.id(), matching.count());
        receipt.duplicate = duplicate;
        receipt.sequence = core.is_retained().then_some(stored.seq);
        Ok(receipt)
    }

    /// A question is published only if somebody is there whom it will reach.
    async fn ask(
        answers: Arc<Answers>,
        core: Arc<Core>,
        groups: Arc<Mutex<Groups>>,
        question: Message,
    ) -> Result<Receipt, Error> {
        let able = answers.askable(&question).await?;
        if able == 0 {
            return Ok(Receipt::new(question.id(), 0));
        }
        answers.listen().await?;
        let mut receipt = Self::publish_one(core, groups, question).await?;
        receipt.groups = able;
        Ok(receipt)
    }

    /// Makes the group on the server, or finds it there as it should be.
    async fn make(
        &self,
        name: &str,
        spec: &GroupSpec,
        life: Life,
    ) -> Result<(Value, ConsumerInfo), Error> {
        let core = &self.core;
        let (consumer, until) = (token_of(name), core.link.patience());
        if consumer.len() > LONGEST_CONSUMER {
            return Err(Error::GroupName(name.to_owned()));
        }
        // The stream may have been made anew since it was asked for its capabilities.
        if spec.start != Start::New && !core.is_retained() {
            return Err(Error::Unsupported { engine: ENGINE, what: NO_PAST });
        }
        let config = core.layout.group(&consumer, spec, &core.options, life);
        let mut made = core.make_consumer(&consumer, &config, until).await;
        if matches!(&made, Err(NatsError::Refused { code: STREAM_NOT_FOUND, .. })) {
            core.restore().await?;
            made = core.make_consumer(&consumer, &config, core.link.patience()).await;
        }
        made?;
        let until = core.link.patience();
        let found = core.link.consumer(&core.layout.messages, &consumer, until).await?;
        check_format(&format!("group {name}"), &found.config.description)?;
        if found.config.filter_subject != core.layout.message(spec.pattern.as_str()) {
            return Err(Error::GroupDiffers { group: name.into(), what: "pattern" });
        }
        if let Some(order) = &spec.order {
            if order_in(&found.config.description) != Some(order.name()) {
                return Err(Error::GroupDiffers { group: name.into(), what: "order" });
            }
        }
        Ok((config, found))
    }

    /// The group as this process knows it from now on.
    fn know(&self, name: &Arc<str>, spec: &GroupSpec) -> Result<(GroupInfo, Arc<Counts>), Error> {
        let mut groups = self.groups();
        if let Some(known) = groups.known.get_mut(name) {
            let differs = |what| Err(Error::GroupDiffers { group: name.clone(), what });
            if known.pattern != spec.pattern {
                return differs("pattern");
            }
            match spec.policy {
                Some(policy) if known.members.is_empty() => known.info.policy = policy,
                Some(policy) if policy != known.info.policy => return differs("policy"),
                _ => {}
            }
            return Ok((known.info.clone(), known.counts.clone()));
        }
        if groups.known.len() >= self.core.limits.groups {
            return Err(Error::TooManyGroups(groups.known.len()));
        }
        let policy = spec.policy.unwrap_or_default();
        let info = GroupInfo { id: GroupInfo::next_id(), name: name.clone(), policy };
        let (counts, pattern) = (Arc::<Counts>::default(), spec.pattern.clone());
        let known = Known {
            info: info.clone(),
            pattern,
            counts: counts.clone(),
            members: Vec::new(),
            stays: false,
            removed: false,
        };
        groups.known.insert(name.clone(), known);
        Ok((info, counts))
    }

    async fn join_one(&self, spec: GroupSpec) -> Result<Arc<dyn Member>, Error> {
        self.check_open()?;
        let (name, life): (Arc<str>, _) = match &spec.name {
            Some(name) => (name.clone(), Life::Declared),
            None => (format!("_{}", Uuid::now_v7().simple()).into(), Life::Subscription),
        };
        let (info, counts) = self.know(&name, &spec)?;
        let consumer = token_of(&name);
        let core = self.core.clone();
        // From here on the group is forgotten again unless a member comes of it.
        let mut member = NatsMember {
            info,
            hall: Arc::default(),
            ledger: None,
            id: GroupInfo::next_id(),
            goes: life == Life::Subscription,
            consumer: consumer.clone(),
            core: core.clone(),
            groups: self.groups.clone(),
            runtime: self.runtime.clone(),
        };
        let (config, found) = self.make(&name, &spec, life).await?;
        let ledger =
            Ledger::new(core.clone(), consumer.clone(), name.clone(), counts, self.chores.clone());
        let (ledger, hall) = (Arc::new(ledger), member.hall.clone());
        member.ledger = Some(ledger.clone());
        let (runs, running) = watch::channel(());
        let feeder = Feeder::new(ledger.clone(), hall.clone(), found.delivered.stream_seq, runs);
        let feeder = feeder.await.map_err(|_| NatsError::Ended)?;
        let present = Present { id: member.id, hall, ledger, feeder: running };
        {
            let mut groups = self.groups();
            self.check_open()?;
            if let Some(known) = groups.known.get_mut(&name) {
                known.members.push(present);
                known.stays |= life == Life::Declared;
            }
            self.core.need(&consumer, &config);
        }
        // Ends when the member does.
        tokio::spawn(feeder.run());
        Ok(Arc::new(member))
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.core.closed.load(SeqCst) { Err(Error::Closed) } else { Ok(()) }
    }

    async fn remove_one(&self, name: Arc<str>) -> Result<usize, Error> {
        let (core, consumer) = (&self.core, token_of(&name));
        let until = core.link.patience();
        let info = match core.link.consumer(&core.layout.messages, &consumer, until).await {
            Err(f) if f.is_refusal(CONSUMER_NOT_FOUND) || f.is_refusal(STREAM_NOT_FOUND) => {
                return Err(Error::NoSuchGroup(name));
            }
            info => info?,
        };
        {
            let mut groups = self.groups();
            if let Some(known) = groups.known.get_mut(&name) {
                if !known.members.is_empty() {
                    known.removed = true;
                    return Ok(0);
                }
                groups.known.remove(&name);
            }
            core.need_no_more(&consumer);
        }
        core.link.delete_consumer(&core.layout.messages, &consumer, until).await?;
        Ok(usize::try_from(info.num_pending + info.num_ack_pending).unwrap_or(usize::MAX))
    }

    async fn close_all(&self, deadline: Deadline) -> Leftover {
        let core = &self.core;
        let present: Vec<(Arc<str>, Present)> = {
            let groups = self.groups();
            core.closed.store(true, SeqCst);
            let of = |(name, known): (&Arc<str>, &Known)| {
                known.members.iter().map(|m| (name.clone(), m.clone())).collect::<Vec<_>>()
            };
            groups.known.iter().flat_map(of).chain(groups.departing.iter().cloned()).collect()
        };
        for (_, member) in &present {
            drop(member.hall.stop());
        }
        let all_idle = async {
            for (_, member) in &present {
                let mut feeder = member.feeder.clone();
                while feeder.changed().await.is_ok() {}
                member.ledger.idle().await;
            }
        };
        let _ = timeout_at(deadline.instant(), all_idle).await;
        let mut leftover = Leftover::default();
        for (name, member) in &present {
            let cut_short = member.ledger.end_all();
            leftover.cut_short += cut_short;
            if cut_short > 0 {
                leftover.groups.push((name.clone(), cut_short));
            }
        }
        // What was settled is on its way; the server shall have it before the process ends.
        let until = deadline.instant().max(Instant::now() + FLUSH);
        let (done, told) = oneshot::channel();
        if self.chores.send(Chore::Tell(done)).is_ok() {
            let _ = timeout_at(until, told).await;
        }
        if core.link.round_trip(until).await.is_err() {
            tracing::warn!("the NATS server may not know of all that was settled");
        }
        leftover
    }
}

const ENGINE: &str = "nats";

const NO_PAST: &str = "begin a group with the past, since its stream keeps nothing that is settled; make it with NatsOptions::retain";

/// The server puts a consumer's name into that of a file.
const LONGEST_CONSUMER: usize = 200;

/// How long closing waits for the server beyond its deadline, so that what is given back does come back.
const FLUSH: Duration = Duration::from_secs(1);

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

//! Messages that a NATS JetStream server keeps.

use std::{
    collections::HashMap,
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

mod core;
mod error;
mod feeder;
mod hall;
mod jetstream;
mod keeper;
mod layout;
mod letters;
mod link;
mod options;
mod records;
mod wire;

pub use error::NatsError;
pub use options::NatsOptions;

use self::{
    core::Core,
    feeder::Feeder,
    hall::{Door, Hall},
    jetstream::{CONSUMER_NOT_FOUND, ConsumerInfo, STREAM_NOT_FOUND},
    keeper::{Chore, Counts, Ledger, do_chores},
    layout::{Life, check_format, token_of},
    letters::Letters,
    wire::Route,
};
use crate::{
    Capabilities, Error, GroupStats, Leftover, Limits, Message, Pattern, Receipt, Stats,
    engine::{
        BoxFuture, DeadLetterStore, Engine, GroupInfo, GroupSpec, Member, Publishing, Source,
    },
    handling::handling,
};

/// An engine whose messages a NATS JetStream server keeps, of version 2.9 or later.
///
/// # Guarantee
///
/// At least once, across the end of any process and the restart of the server. A publish that returned `Ok` is in the
/// server's file, written but not yet synced: a server process that is killed loses nothing, a machine that loses power
/// may lose what came in the last two minutes, which is how often the server syncs by default (`sync_interval`; servers
/// before 2.10 cannot set it). [`NatsOptions::replicas`] of 3 guard against the loss of a machine.
///
/// # Groups
///
/// A group is a durable consumer of the server. It stays when its members leave, whether it was
/// [declared](crate::Broker::declare) or not, and keeps what is published for it, until [`Broker::remove`](crate::Broker::remove); so
/// a service that restarts misses nothing. A subscription without a group has a consumer of its own, which goes with it, or
/// five minutes after its process was killed. A message is kept until all groups that want it have settled it;
/// one that no group wants is not kept.
///
/// # What is elsewhere than in memory
///
/// - Bounds are those of the stream, for all groups together, see [`NatsOptions::max_messages`]: at the bound a publish waits as long
///   as a question may take, and is refused with [`Error::Full`]. [`Policy::capacity`](crate::Policy::capacity), [`Policy::max_bytes`](crate::Policy::max_bytes) and
///   [`Policy::when_full`](crate::Policy::when_full) are not looked at.
/// - [`Receipt::groups`] counts the groups of this process only.
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
/// One for the connection, one for what is given back, and one for each subscription; they end with the engine and the subscription.
pub struct NatsEngine {
    core: Arc<Core>,
    letters: Letters,
    chores: mpsc::UnboundedSender<Chore>,
    groups: Arc<Mutex<Groups>>,
    runtime: Handle,
}

/// What this process has to do with groups.
#[derive(Debug, Default)]
struct Groups {
    known: HashMap<Arc<str>, Known>,
    /// Members that have left, to which something may still come.
    departing: Vec<(Arc<str>, Present)>,
}

impl Groups {
    /// Forgets the group unless there is reason to know it.
    fn forget(&mut self, name: &str) {
        let is_idle = |known: &Known| known.members.is_empty() && (known.removed || !known.stays);
        if self.known.get(name).is_some_and(is_idle) {
            self.known.remove(name);
        }
    }
}

/// A group that this process knows.
#[derive(Debug)]
struct Known {
    info: GroupInfo,
    pattern: Pattern,
    counts: Arc<Counts>,
    members: Vec<Present>,
    /// It is on the server, and stays there without members.
    stays: bool,
    /// To be deleted with its last member here.
    removed: bool,
}

/// A member, as long as it is there.
#[derive(Clone, Debug)]
struct Present {
    id: u64,
    hall: Arc<Hall>,
    ledger: Arc<Ledger>,
    /// Closed when nothing more comes from the server.
    feeder: watch::Receiver<()>,
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
        Ok(Self { core, letters, chores, groups: Arc::default(), runtime })
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
        core.duplicates.fetch_add(u64::from(stored.duplicate && message.is_known_by_id()), Relaxed);
        let groups = groups.lock().unwrap_or_else(PoisonError::into_inner);
        let matching = groups.known.values().filter(|g| g.pattern.matches(message.subject()));
        Ok(Receipt {
            id: message.id(),
            groups: matching.count(),
            duplicate: stored.duplicate && message.is_known_by_id(),
            sequence: None,
        })
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
        let config = core.layout.group(&consumer, &spec.pattern, &core.options, life);
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

/// The server puts a consumer's name into that of a file.
const LONGEST_CONSUMER: usize = 200;

/// How long closing waits for the server beyond its deadline, so that what is given back does come back.
const FLUSH: Duration = Duration::from_secs(1);

impl Engine for NatsEngine {
    fn capabilities(&self) -> Capabilities {
        let mut capabilities = Capabilities::new("nats");
        capabilities.durable = true;
        capabilities.dedup = true;
        capabilities.delay = true;
        capabilities.expiry = true;
        capabilities
    }

    fn publish(&self, message: Message) -> Publishing {
        if self.core.closed.load(SeqCst) && handling().is_none() {
            return Publishing::Done(Err(Error::Closed));
        }
        let (core, groups) = (self.core.clone(), self.groups.clone());
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

impl Known {
    fn stats(&self) -> GroupStats {
        let counts = &self.counts;
        let halls = self.members.iter().map(|member| member.hall.demand().ready);
        let in_flight: usize = self.members.iter().map(|member| member.ledger.in_flight()).sum();
        let ready: usize = halls.sum();
        GroupStats {
            group: self.info.name.clone(),
            pattern: self.pattern.clone(),
            subscriptions: self.members.len(),
            ready,
            in_flight: in_flight.saturating_sub(ready),
            delayed: 0,
            in_lanes: 0,
            expired: counts.expired.load(Relaxed),
            overdue: counts.overdue.load(Relaxed),
            bytes: 0,
            oldest: None,
            waiting: 0,
            published: 0,
            redriven: counts.redriven.load(Relaxed),
            delivered: counts.delivered.load(Relaxed),
            redelivered: counts.redelivered.load(Relaxed),
            acked: counts.acked.load(Relaxed),
            dead: counts.dead.load(Relaxed),
            dropped: 0,
            returned: counts.returned.load(Relaxed),
            refused: 0,
        }
    }
}

/// A subscription's place in a group.
struct NatsMember {
    info: GroupInfo,
    hall: Arc<Hall>,
    /// None while it is made.
    ledger: Option<Arc<Ledger>>,
    id: u64,
    /// The group goes with it.
    goes: bool,
    consumer: String,
    core: Arc<Core>,
    groups: Arc<Mutex<Groups>>,
    runtime: Handle,
}

impl Member for NatsMember {
    fn group(&self) -> &GroupInfo {
        &self.info
    }

    fn source(&self, ack_wait: Option<Duration>) -> Box<dyn Source> {
        let limit = ack_wait.and_then(|span| Some((self.ledger.clone()?, span)));
        Box::new(Door::new(self.hall.clone(), limit))
    }
}

impl Drop for NatsMember {
    fn drop(&mut self) {
        // The feeder ends by itself, having given back what comes to it still.
        drop(self.hall.stop());
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone = self.goes;
        if let Some(known) = groups.known.get_mut(&self.info.name) {
            let own = known.members.iter().position(|present| present.id == self.id);
            let own = own.map(|place| known.members.swap_remove(place));
            gone |= known.members.is_empty() && known.removed;
            if let Some(own) = own {
                groups.departing.retain(|(_, present)| present.feeder.has_changed().is_ok());
                groups.departing.push((self.info.name.clone(), own));
            }
        }
        groups.forget(&self.info.name);
        if gone {
            self.core.need_no_more(&self.consumer);
        }
        drop(groups);
        if gone {
            let (core, consumer) = (self.core.clone(), std::mem::take(&mut self.consumer));
            self.runtime.spawn(async move {
                let until = core.link.patience();
                let stream = &core.layout.messages;
                let _ = core.link.delete_consumer(stream, &consumer, until).await;
            });
        }
    }
}

impl fmt::Debug for NatsMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsMember").field("group", &self.info).finish_non_exhaustive()
    }
}

use std::{collections::HashMap, fmt, num::NonZeroUsize, sync::Arc};

use bytes::Bytes;
use gusset_call::BoxError;
use serde::de::DeserializeOwned;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{AbortHandle, JoinSet},
};
use tower_service::Service;

use crate::{
    Broker, Delivery, Error, IntoReply, Pattern, Policy,
    group::Group,
    shared::{Shared, bury_unhandled, group_name},
    worker::{Decode, Mode, Worker, keep_time},
};

/// A subscription to be. From [`Broker::subscribe`]; [`handle`](Self::handle) makes it real.
#[derive(Clone, Debug)]
#[must_use = "nothing is subscribed until a handler is given"]
pub struct Subscribe {
    broker: Broker,
    pattern: Arc<str>,
    group: Option<Arc<str>>,
    policy: Option<Policy>,
    concurrency: NonZeroUsize,
}

impl Subscribe {
    pub(crate) fn new(broker: Broker, pattern: Arc<str>) -> Self {
        let concurrency = NonZeroUsize::MIN.saturating_add(15);
        Self { broker, pattern, group: None, policy: None, concurrency }
    }

    /// Joins the group of this name: of its members, one gets each message. Without, the subscription is a group of its own and
    /// gets every message.
    ///
    /// If there is no such group yet, it is made, and goes with its last member, together with what it holds then;
    /// use [`Broker::declare`] for one that stays. A group has one pattern: members must name the same.
    pub fn group(mut self, name: impl Into<Arc<str>>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// The policy of the group. If the group exists, it must be the same; default: what it has, [`Policy::new`] for
    /// a new one.
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// How many messages this subscription handles at once; 0 means the same as 1. Default 16: enough to cover the waiting for a
    /// network, few enough not to trample on what the handler calls. Each is a task of its own. With 1, messages are handled in the order
    /// of their coming as long as none fails.
    pub const fn concurrency(mut self, messages: usize) -> Self {
        self.concurrency = match NonZeroUsize::new(messages) {
            Some(messages) => messages,
            None => NonZeroUsize::MIN,
        };
        self
    }

    /// Spawns workers, as many as [`concurrency`](Self::concurrency) says, and one task that keeps the time. They end with
    /// the guard that this returns. From now on no matching message is missed.
    ///
    /// The payload is read as JSON; one that is no `T` becomes a dead letter at once. Each worker has its own clone of
    /// `service`, waits for it to be ready before it takes a message, and gives it up (takes a new clone) when
    /// there is nothing to do. The handler runs in a `gusset_call::Context` with the publisher's span and the end
    /// of [`Policy::attempt_timeout`] as deadline; a span of its own is up to it. An error, a panic or a timeout is a failed attempt. If the error holds
    /// a refusal that knows when to come back, such as an open circuit's, the next attempt is not before that.
    ///
    /// While the service's `poll_ready` fails, no message is taken: it is logged, and a new clone is asked after 1 s.
    ///
    /// # Errors
    ///
    /// [`Error::Subject`], [`Error::GroupName`], [`Error::GroupDiffers`], [`Error::TooManyGroups`], [`Error::Closed`],
    /// [`Error::NoRuntime`] outside of a tokio runtime.
    pub fn handle<T, S>(self, service: S) -> Result<Subscription, Error>
    where
        T: DeserializeOwned + Send + 'static,
        S: Service<Delivery<T>> + Clone + Send + 'static,
        S::Response: IntoReply,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        self.spawn(service, |message| {
            serde_json::from_slice(message.payload()).map_err(|error| error.to_string())
        })
    }

    /// [`handle`](Self::handle) with the payload as it is.
    ///
    /// # Errors
    ///
    /// Those of [`handle`](Self::handle).
    pub fn handle_raw<S>(self, service: S) -> Result<Subscription, Error>
    where
        S: Service<Delivery<Bytes>> + Clone + Send + 'static,
        S::Response: IntoReply,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        self.spawn(service, |message| Ok(message.payload().clone()))
    }

    fn spawn<T, S>(self, service: S, decode: Decode<T>) -> Result<Subscription, Error>
    where
        T: Send + 'static,
        S: Service<Delivery<T>> + Clone + Send + 'static,
        S::Response: IntoReply,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let pattern = Pattern::new(self.pattern)?;
        let name = self.group.as_deref().map(group_name).transpose()?;
        // Cloned before any lock is taken and anything is joined: that is foreign code.
        let services: Vec<_> =
            (0..self.concurrency.get()).map(|_| (service.clone(), service.clone())).collect();
        let membership = Membership::new(self.broker.shared, name, pattern, self.policy)?;
        let (mode, receiver) = watch::channel(Mode::Running);
        let mut tasks = JoinSet::new();
        let clock = tasks.spawn_on(keep_time(membership.group.clone()), &runtime);
        for (pristine, service) in services {
            let (shared, group) = (membership.shared.clone(), membership.group.clone());
            let mode = receiver.clone();
            let worker = Worker { shared, group, mode, decode, pristine, service };
            let handle = tasks.spawn_on(worker.run(), &runtime);
            membership.enlist(handle);
        }
        Ok(Subscription { tasks, clock, mode, membership })
    }
}

/// A subscription at work. Dropping it ends it at once: handlers are cut short where they wait, and their messages go back
/// to the head of the group, *uncharged*, since an attempt that we cut short says nothing about the message. What the handler did
/// until then, it will do again.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    // Aborted before the membership ends.
    tasks: JoinSet<()>,
    clock: AbortHandle,
    mode: watch::Sender<Mode>,
    membership: Membership,
}

impl Subscription {
    /// Name of the group; one that begins with `_` if none was given.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.membership.group.name
    }

    /// Takes no more messages until [`resume`](Self::resume). Handlers at work go on. The group's messages go to its other
    /// members, or wait.
    pub fn pause(&self) {
        self.mode.send_replace(Mode::Paused);
    }

    /// Ends the pause.
    pub fn resume(&self) {
        self.mode.send_replace(Mode::Running);
    }

    /// Takes no more messages, waits for the handlers at work (each at most for its
    /// [`Policy::attempt_timeout`]), and ends the subscription.
    ///
    /// # Cancellation
    ///
    /// Dropping the future is dropping the subscription.
    pub async fn close(mut self) {
        self.mode.send_replace(Mode::Closing);
        self.clock.abort();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// Being a member of a group; ends when dropped.
struct Membership {
    shared: Arc<Shared>,
    group: Arc<Group>,
    id: u64,
}

/// The tasks of all memberships, so that a broker can end them.
#[derive(Debug, Default)]
pub(crate) struct Members {
    last: u64,
    workers: HashMap<u64, Vec<AbortHandle>>,
    aborted: bool,
}

impl Members {
    pub(crate) fn abort_all(&mut self) {
        self.aborted = true;
        self.workers.values().flatten().for_each(AbortHandle::abort);
    }
}

impl Membership {
    fn new(
        shared: Arc<Shared>,
        name: Option<Arc<str>>,
        pattern: Pattern,
        policy: Option<Policy>,
    ) -> Result<Self, Error> {
        let mut registry = shared.registry();
        let group = shared.find_or_add(&mut registry, name, pattern, policy)?;
        group.lock().join();
        registry.members.last += 1;
        let id = registry.members.last;
        drop(registry);
        Ok(Self { shared, group, id })
    }

    fn enlist(&self, worker: AbortHandle) {
        let members = &mut self.shared.registry().members;
        if members.aborted {
            worker.abort();
        }
        members.workers.entry(self.id).or_default().push(worker);
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut registry = self.shared.registry();
        let workers = registry.members.workers.remove(&self.id);
        let group_goes = self.group.lock().leave();
        let dropped = group_goes.then(|| self.shared.drop_group(&registry, &self.group));
        drop(registry);
        drop(workers);
        if let Some(dropped) = dropped {
            bury_unhandled(&self.group, dropped);
        }
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("group", &self.group.name).finish_non_exhaustive()
    }
}

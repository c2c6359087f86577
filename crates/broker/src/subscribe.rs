use std::{num::NonZeroUsize, sync::Arc};

use bytes::Bytes;
use gusset_call::{BoxError, Clock};
use serde::de::DeserializeOwned;
use tokio::{runtime::Handle, sync::watch, task::JoinSet};
use tower_service::Service;

use crate::{
    Broker, Decode, Delivery, Error, IntoReply, Json, Message, OrderBy, Pattern, Policy, Pull,
    Start,
    broker::group_name,
    delivery::Body,
    engine::{GroupSpec, Member},
    handling::HANDLING,
    tasks::Enlisted,
    worker::{Mode, Read, Worker},
};

/// A subscription to be. From [`Broker::subscribe`]; [`handle`](Self::handle) makes it real.
///
/// # Cancellation
///
/// What makes it real, dropped midway, subscribes nobody. The group may have been made.
#[derive(Clone, Debug)]
#[must_use = "nothing is subscribed until a handler is given"]
pub struct Subscribe {
    broker: Broker,
    pattern: Arc<str>,
    group: Option<Arc<str>>,
    policy: Option<Policy>,
    order: Option<OrderBy>,
    start: Start,
    concurrency: NonZeroUsize,
}

impl Subscribe {
    pub(crate) fn new(broker: Broker, pattern: Arc<str>) -> Self {
        let concurrency = NonZeroUsize::MIN.saturating_add(15);
        Self {
            broker,
            pattern,
            group: None,
            policy: None,
            order: None,
            start: Start::New,
            concurrency,
        }
    }

    /// Joins the group of this name: of its members, one gets each message. Without, the subscription is a group of its own and
    /// gets every message.
    ///
    /// If there is no such group yet, it is made. In memory it goes with its last member, together with what it holds then;
    /// use [`Broker::declare`] for one that stays. On disk and on NATS it stays until [`Broker::remove`]. A group has one pattern: members must name the same.
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

    /// Keeps the order of messages that have the same key. If the group exists, it must keep the same order; default: what it does, none for a new
    /// one.
    pub fn ordered_by(mut self, order: OrderBy) -> Self {
        self.order = Some(order);
        self
    }

    /// With which message the group begins, if it is made by this. What is retained comes in at once, even beyond the group's capacity. Default:
    /// [`Start::New`].
    pub const fn starting(mut self, start: Start) -> Self {
        self.start = start;
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

    /// Spawns workers, as many as [`concurrency`](Self::concurrency) says, which end with the guard that this returns. From now on no matching message is missed.
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
    pub async fn handle<T, S>(self, service: S) -> Result<Subscription, Error>
    where
        T: DeserializeOwned + Send + 'static,
        S: Service<Delivery<T>> + Clone + Send + 'static,
        S::Response: IntoReply,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        self.handle_as::<Json, T, S>(service).await
    }

    /// [`handle`](Self::handle) with the payload as the codec `C` reads it.
    ///
    /// # Errors
    ///
    /// Those of [`handle`](Self::handle).
    pub async fn handle_as<C, T, S>(self, service: S) -> Result<Subscription, Error>
    where
        C: Decode<T>,
        T: Send + 'static,
        S: Service<Delivery<T>> + Clone + Send + 'static,
        S::Response: IntoReply,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        self.spawn(service, decode::<C, T>).await
    }

    /// [`handle`](Self::handle) with the payload as it is.
    ///
    /// # Errors
    ///
    /// Those of [`handle`](Self::handle).
    pub async fn handle_raw<S>(self, service: S) -> Result<Subscription, Error>
    where
        S: Service<Delivery<Bytes>> + Clone + Send + 'static,
        S::Response: IntoReply,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        self.spawn(service, |_| Ok(Body::PAYLOAD)).await
    }

    /// Makes a group that keeps what is published for it while nobody listens, until [`Broker::remove`]. If a group of this name exists, it is kept
    /// from now on.
    ///
    /// # Errors
    ///
    /// [`Error::GroupName`] also without a name, [`Error::Subject`], [`Error::GroupDiffers`], [`Error::TooManyGroups`], [`Error::Closed`],
    /// [`Error::Unsupported`], [`Error::Engine`].
    pub async fn declare(self) -> Result<(), Error> {
        let spec = self.spec()?;
        if spec.name.is_none() {
            return Err(Error::GroupName(String::new()));
        }
        self.broker.engine.declare(spec).await
    }

    /// Takes messages by hand: `T` is read from the payload as JSON.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use gusset_broker::Broker;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// let broker = Broker::new();
    /// let mut orders = broker.subscribe("order.*").group("stock").pull::<u32>().await?;
    /// broker.publish("order.created", &7).await?;
    ///
    /// let order = orders.next().await.expect("the broker is open");
    /// order.nak(Some(Duration::from_secs(5))).await?;
    /// let again = orders.next().await.expect("the broker is open");
    /// assert_eq!((*again.body(), again.attempt().number()), (7, 2));
    /// again.ack().await?;
    /// # Ok::<(), gusset_broker::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// A payload that is no `T`, and what was delivered too often without an answer, becomes a dead letter and is not seen here.
    ///
    /// # Errors
    ///
    /// Those of [`handle`](Self::handle).
    pub async fn pull<T: DeserializeOwned>(self) -> Result<Pull<T>, Error> {
        self.pull_as::<Json, T>().await
    }

    /// [`pull`](Self::pull) with the payload as the codec `C` reads it.
    ///
    /// # Errors
    ///
    /// Those of [`handle`](Self::handle).
    pub async fn pull_as<C: Decode<T>, T>(self) -> Result<Pull<T>, Error> {
        let member = self.broker.engine.join(self.spec()?).await?;
        Ok(Pull::new(member, decode::<C, T>))
    }

    /// [`pull`](Self::pull) with the payload as it is.
    ///
    /// # Errors
    ///
    /// Those of [`handle`](Self::handle).
    pub async fn pull_raw(self) -> Result<Pull, Error> {
        let member = self.broker.engine.join(self.spec()?).await?;
        Ok(Pull::new(member, |_| Ok(Body::PAYLOAD)))
    }

    /// Checks what the engine need not check again.
    fn spec(&self) -> Result<GroupSpec, Error> {
        let spec = GroupSpec {
            name: self.group.as_deref().map(group_name).transpose()?,
            pattern: Pattern::new(self.pattern.clone())?,
            policy: self.policy,
            order: self.order.clone(),
            start: self.start,
        };
        self.broker.can_group(&spec)?;
        Ok(spec)
    }

    async fn spawn<T, S>(self, service: S, decode: Read<T>) -> Result<Subscription, Error>
    where
        T: Send + 'static,
        S: Service<Delivery<T>> + Clone + Send + 'static,
        S::Response: IntoReply,
        S::Error: Into<BoxError>,
        S::Future: Send,
    {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        // Cloned before anything is joined: that is foreign code.
        let services: Vec<_> =
            (0..self.concurrency.get()).map(|_| (service.clone(), service.clone())).collect();
        let member = self.broker.engine.join(self.spec()?).await?;
        let enlisted = self.broker.tasks.entry();
        let (mode, receiver) = watch::channel(Mode::Running);
        let mut tasks = JoinSet::new();
        for (pristine, service) in services {
            let (source, group) = (member.source(None), member.group().clone());
            let mode = receiver.clone();
            let (broker, _working) = (self.broker.clone(), enlisted.worker());
            let (handles, clock) = (group.id, Clock::new());
            let worker = Worker {
                broker,
                source,
                group,
                mode,
                runs: false,
                decode,
                clock,
                pristine,
                service,
                _working,
            };
            let worker = HANDLING.scope(handles, worker.run());
            enlisted.enlist(tasks.spawn_on(worker, &runtime));
        }
        Ok(Subscription { tasks, mode, _enlisted: enlisted, member })
    }
}

fn decode<C: Decode<T>, T>(message: &Message) -> Result<Body<T>, String> {
    C::decode(message).map(Body::Own).map_err(|error| error.to_string())
}

/// A subscription at work. Dropping it ends it at once: handlers are cut short where they wait, and their messages go back
/// to the head of the group, *uncharged*, since an attempt that we cut short says nothing about the message. What the handler did
/// until then, it will do again.
#[derive(Debug)]
#[must_use = "dropping it ends the subscription"]
pub struct Subscription {
    // Aborted before the membership ends.
    tasks: JoinSet<()>,
    mode: watch::Sender<Mode>,
    _enlisted: Enlisted,
    member: Arc<dyn Member>,
}

impl Subscription {
    /// Name of the group; one that begins with `_` if none was given.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.member.group().name
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
        while self.tasks.join_next().await.is_some() {}
    }
}

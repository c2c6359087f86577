use std::{fmt, sync::Arc, time::Duration};

use gusset_call::{Context, Deadline, DeadlineExceeded};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::{timeout, timeout_at};

use crate::{
    Answer, Capabilities, DeadLetters, Decode, Error, Headers, Json, Leftover, Limits,
    MemoryEngine, Message, Policy, Priority, Publisher, Receipt, Start, Stats, Subject, Subscribe,
    WhenFull, WhenUnheard,
    engine::{Engine, GroupSpec, Publishing},
    inbox::{Inbox, Taken},
    tasks::Tasks,
};

/// Carries messages from publishers to groups of handlers. Clones share one broker; the last one to go ends nothing,
/// subscriptions go on until their guards are dropped.
///
/// The crate's documentation says what is guaranteed and what is not.
#[derive(Clone)]
pub struct Broker {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) capabilities: Capabilities,
    pub(crate) tasks: Arc<Tasks>,
    inbox: Arc<Inbox>,
}

impl Broker {
    /// A broker in memory with the default [`Limits`].
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(Limits::new())
    }

    /// A broker in memory with these limits.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self::on(MemoryEngine::new(limits, None, WhenUnheard::Drop))
    }

    /// A broker on this engine.
    #[must_use]
    pub fn on(engine: impl Engine) -> Self {
        let (capabilities, inbox) = (engine.capabilities(), Arc::<Inbox>::default());
        let taking = inbox.clone();
        engine.bring_answers(inbox.prefix(), Arc::new(move |answer| taking.bring(answer)));
        Self { engine: Arc::new(engine), capabilities, tasks: Arc::default(), inbox }
    }

    /// What the engine can do.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Publishes `body` as JSON. The body is encoded by this call; the future publishes.
    ///
    /// # Errors
    ///
    /// Those of [`Message::json`] and of [`publish_message`](Self::publish_message).
    pub fn publish<S, T>(
        &self,
        subject: S,
        body: &T,
    ) -> impl Future<Output = Result<Receipt, Error>> + Send + use<S, T>
    where
        S: TryInto<Subject>,
        S::Error: Into<Error>,
        T: Serialize + ?Sized,
    {
        let (message, broker) = (Message::json(subject, body), self.clone());
        async move { broker.publish_message(message?).await }
    }

    /// Gives a message to every group whose pattern matches its subject: to all of them or, if this fails, to none.
    ///
    /// If a group has no room, what happens is that group's [`WhenFull`](crate::WhenFull), for all groups: one that
    /// refuses makes the publish fail, one that waits makes it wait. So a group that may fall behind without holding up
    /// the publishers of others has [`WhenFull::DropOldest`](crate::WhenFull::DropOldest). Publishers that wait for one
    /// group enter in the order in which they came. Who comes when there is room for all of them and for one more does not wait.
    ///
    /// A handler may publish, into its own group too. It waits like anybody else, unless the wait could be for itself:
    /// if the full group is its own, or one whose handlers wait, directly or through others, for its own. Then it never
    /// waits, but may go beyond the bound by as many messages, and bytes, as that group has in flight; beyond that it is
    /// refused with [`Error::Full`] at once. So a handler that publishes one message, no larger than what it handles,
    /// into its own group and then succeeds is never refused. (This knows the handler's own task and one broker only.
    /// What a handler spawns and then waits for can wait in a circle, until the group's
    /// [`WhenFull::Wait`](crate::WhenFull::Wait) ends it.)
    ///
    /// # Cancellation
    ///
    /// In memory, dropping the future before it is ready means that no group has got the message. On engines that write, files and NATS, one that is being written may
    /// arrive all the same: publish it again under the same id ([`Message::with_id`]). A future that is neither polled
    /// nor dropped keeps its place in the line, and those behind it waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], [`Error::DeadlineExceeded`], [`Error::TooLarge`], [`Error::Closed`].
    pub async fn publish_message(&self, message: Message) -> Result<Receipt, Error> {
        // A publisher that never waits would otherwise keep the thread from its handlers.
        tokio::task::coop::consume_budget().await;
        match self.begin(message)? {
            Publishing::Done(result) => result,
            waiting @ Publishing::Waiting(_) => waiting.await,
        }
    }

    /// [`publish_message`](Self::publish_message) as a tower service, for layers to stand around it.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.clone())
    }

    /// Only from within a poll of the future that publishes.
    pub(crate) fn begin(&self, mut message: Message) -> Result<Publishing, Error> {
        self.can_publish(&message)?;
        message.stamp();
        Ok(self.engine.publish(message))
    }

    /// Asks whoever handles `subject`, and waits for the first [`Reply::Answer`](crate::Reply::Answer) at most `patience` long, or until the deadline of
    /// `gusset_call::Context::current()`. Handlers get what is left of it as their deadline. Both bodies are JSON.
    ///
    /// ```
    /// # use std::time::Duration;
    /// use gusset_broker::{Broker, Delivery, Reply};
    /// use tower::service_fn;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
    /// let broker = Broker::new();
    /// let _prices = broker.subscribe("price.get").handle(service_fn(|product: Delivery<String>| async move {
    ///     Reply::answer(&product.body().len())
    /// })).await?;
    /// let price: usize = broker.request("price.get", "lamp", Duration::from_secs(1)).await?;
    /// assert_eq!(price, 4);
    /// # Ok::<(), gusset_broker::Error>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Cancellation
    ///
    /// Dropping the future forgets the question; it may be handled all the same.
    ///
    /// # Errors
    ///
    /// [`Error::NoResponders`] at once if no group matches, [`Error::DeadlineExceeded`], [`Error::Decode`], [`Error::Unsupported`], and those of
    /// [`publish`](Self::publish).
    pub async fn request<S, T, R>(
        &self,
        subject: S,
        body: &T,
        patience: Duration,
    ) -> Result<R, Error>
    where
        S: TryInto<Subject>,
        S::Error: Into<Error>,
        T: Serialize + ?Sized,
        R: DeserializeOwned,
    {
        let answer = self.request_message(Message::json(subject, body)?, patience).await?;
        Json::decode(&answer).map_err(Error::Decode)
    }

    /// [`request`](Self::request) with a message, for a message.
    ///
    /// # Errors
    ///
    /// Those of [`request`](Self::request).
    pub async fn request_message(
        &self,
        question: Message,
        patience: Duration,
    ) -> Result<Message, Error> {
        self.able(self.capabilities.requests, "answer requests")?;
        let own = Deadline::after(patience);
        let deadline = Context::current().with_deadline(own).deadline().unwrap_or(own);
        let asked = self.inbox.open();
        let question =
            question.with_header(Headers::REPLY_TO, asked.subject()).with_deadline(deadline);
        let subject = question.subject().clone();
        let answered = async {
            let receipt = self.publish_message(question).await?;
            // A duplicate was handled by somebody; that nobody does would be a lie.
            if receipt.groups == 0 && !receipt.duplicate {
                return Err(Error::NoResponders(subject));
            }
            asked.answer().await
        };
        let late = |_| Err(Error::DeadlineExceeded(DeadlineExceeded));
        timeout_at(deadline.instant(), answered).await.unwrap_or_else(late)
    }

    /// Brings an answer to whoever asked. Does nothing if nobody did, or waits no more.
    pub(crate) async fn answer(&self, question: &Message, answer: Answer) -> Result<(), Error> {
        let Some(subject) = question.headers().get(Headers::REPLY_TO) else { return Ok(()) };
        let message = Message::new(subject, answer.payload)?
            .with_header(Headers::CONTENT_TYPE, answer.content_type);
        match self.inbox.take(subject) {
            Taken::Here(asker) => asker.is_some_and(|asker| asker.send(message).is_ok()),
            Taken::Elsewhere => self.publish_message(message).await?.groups > 0,
        };
        Ok(())
    }

    /// Begins a subscription to the subjects that `pattern` matches.
    pub fn subscribe(&self, pattern: impl Into<Arc<str>>) -> Subscribe {
        Subscribe::new(self.clone(), pattern.into())
    }

    /// Makes a group that keeps what is published for it while nobody listens, until [`remove`](Self::remove). If a
    /// group of this name exists, it is kept from now on.
    ///
    /// # Errors
    ///
    /// [`Error::GroupName`], [`Error::Subject`], [`Error::GroupDiffers`], [`Error::TooManyGroups`], [`Error::Closed`].
    pub async fn declare(&self, group: &str, pattern: &str, policy: Policy) -> Result<(), Error> {
        self.subscribe(pattern).group(group).policy(policy).declare().await
    }

    /// Ends the keeping of a declared group: it goes, with what it holds, when it has no subscription any more, at once
    /// if it has none now. Its dead letters stay. Returns how many messages went with it now.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchGroup`].
    ///
    /// # Cancellation
    ///
    /// The group may have gone.
    pub async fn remove(&self, group: &str) -> Result<usize, Error> {
        self.engine.remove(group.into()).await
    }

    /// The messages that were given up.
    #[must_use]
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters::new(self.engine.clone())
    }

    /// What the broker holds and has seen, as far as this process knows without asking anybody.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// Ends the broker: refuses publishes and subscriptions with [`Error::Closed`], delivers nothing more, and waits for
    /// the handlers at work, whose own publishes are still taken as long as there is room. At `deadline` it cuts short
    /// those that are not done, and gives their messages back uncharged; they end where they next wait, for which this
    /// waits a second at most. Then the engine gives free what it holds outside of the process: a directory can be opened
    /// again when this returns. What is left is lost with the broker, unless the engine keeps it.
    ///
    /// # Cancellation
    ///
    /// The broker is closed even if the future is dropped after its first poll; the handlers at work then go on until
    /// they are done.
    pub async fn close(&self, deadline: Deadline) -> Leftover {
        /// For what was told to end and has nothing to wait for.
        const GRACE: Duration = Duration::from_secs(1);
        let leftover = self.engine.close(deadline).await;
        self.tasks.abort_all();
        let _ = timeout(GRACE, self.tasks.ended()).await;
        let _ = timeout(GRACE, self.engine.end()).await;
        leftover
    }

    fn can_publish(&self, message: &Message) -> Result<(), Error> {
        if message.is_plain() {
            return Ok(());
        }
        let can = self.capabilities;
        self.able(can.delay || message.delay().is_none(), "deliver later")?;
        self.able(can.expiry || message.ttl().is_none(), "let messages expire")?;
        self.able(can.priority || message.priority() == Priority::Normal, "prefer messages")?;
        self.able(can.dedup || !message.is_known_by_id(), "recognise duplicates")
    }

    pub(crate) fn can_group(&self, spec: &GroupSpec) -> Result<(), Error> {
        let can = self.capabilities;
        let drops = spec.policy.is_some_and(|policy| policy.when_full == WhenFull::DropOldest);
        self.able(can.drop_oldest || !drops, "drop the oldest of a full group")?;
        self.able(can.ordered || spec.order.is_none(), "keep the order of keys")?;
        self.able(can.replay || spec.start == Start::New, "begin a group with the past")
    }

    /// What the engine cannot do is refused here.
    pub(crate) fn able(&self, able: bool, what: &'static str) -> Result<(), Error> {
        if able {
            Ok(())
        } else {
            let what = self.engine.unable(what);
            Err(Error::Unsupported { engine: self.capabilities.engine, what })
        }
    }
}

pub(crate) fn group_name(name: &str) -> Result<Arc<str>, Error> {
    const LONGEST: usize = 128;
    let strange = |c: char| c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > LONGEST || name.starts_with('_') || name.contains(strange) {
        return Err(Error::GroupName(name.chars().take(LONGEST).collect()));
    }
    Ok(name.into())
}

impl Default for Broker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("engine", &self.engine).finish_non_exhaustive()
    }
}

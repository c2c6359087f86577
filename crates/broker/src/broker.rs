use std::{fmt, sync::Arc};

use gusset_call::Deadline;
use serde::Serialize;

use crate::{
    Capabilities, DeadLetters, Error, Limits, MemoryEngine, Message, MessageId, Pattern, Policy,
    Stats, Subscribe, WhenFull,
    engine::{Engine, GroupSpec},
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
}

/// A message was taken over by the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Id of the message.
    pub id: MessageId,
    /// How many groups have got it. 0 if no pattern matches: the message is gone, counted as [`Stats::unroutable`].
    pub groups: usize,
}

/// What was not done when a broker was closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftover {
    /// Handlers that were cut short at the deadline.
    pub cut_short: usize,
    /// Messages left in each group that has any, those whose handlers were cut short included.
    pub groups: Vec<(Arc<str>, usize)>,
}

impl Leftover {
    /// Whether everything was done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Messages left in all groups.
    #[must_use]
    pub fn messages(&self) -> usize {
        self.groups.iter().map(|(_, messages)| messages).sum()
    }
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
        Self::on(MemoryEngine::new(limits))
    }

    /// A broker on this engine.
    #[must_use]
    pub fn on(engine: impl Engine) -> Self {
        let capabilities = engine.capabilities();
        Self { engine: Arc::new(engine), capabilities, tasks: Arc::default() }
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
    pub fn publish<T: Serialize + ?Sized>(
        &self,
        subject: &str,
        body: &T,
    ) -> impl Future<Output = Result<Receipt, Error>> + Send + use<T> {
        let (message, broker) = (Message::json(subject, body), self.clone());
        async move { broker.publish_message(message?).await }
    }

    /// Gives a message to every group whose pattern matches its subject: to all of them or, if this fails, to none.
    ///
    /// If a group has no room, what happens is that group's [`WhenFull`](crate::WhenFull), for all groups: one that
    /// refuses makes the publish fail, one that waits makes it wait. So a group that may fall behind without holding up
    /// the publishers of others has [`WhenFull::DropOldest`](crate::WhenFull::DropOldest). Publishers that wait for one
    /// group enter in the order in which they came.
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
    /// Dropping the future before it is ready means that no group has got the message. A future that is neither polled
    /// nor dropped keeps its place in the line, and those behind it waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], [`Error::DeadlineExceeded`], [`Error::TooLarge`], [`Error::Closed`].
    pub async fn publish_message(&self, mut message: Message) -> Result<Receipt, Error> {
        message.stamp();
        self.engine.publish(message).await
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
        let spec = self.spec(Some(group), Pattern::new(pattern)?, Some(policy))?;
        self.engine.declare(spec).await
    }

    /// Ends the keeping of a declared group: it goes, with what it holds, when it has no subscription any more, at once
    /// if it has none now. Its dead letters stay. Returns how many messages went with it now.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchGroup`].
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
    /// those that are not done, and gives their messages back uncharged; they end soon after this returns, where they
    /// next wait. What is left then is lost with the broker.
    ///
    /// # Cancellation
    ///
    /// The broker is closed even if the future is dropped after its first poll; the handlers at work then go on until
    /// they are done.
    pub async fn close(&self, deadline: Deadline) -> Leftover {
        let leftover = self.engine.close(deadline).await;
        self.tasks.abort_all();
        leftover
    }

    /// Checks what the engine need not check again.
    pub(crate) fn spec(
        &self,
        name: Option<&str>,
        pattern: Pattern,
        policy: Option<Policy>,
    ) -> Result<GroupSpec, Error> {
        let name = name.map(group_name).transpose()?;
        let drops = policy.is_some_and(|policy| policy.when_full == WhenFull::DropOldest);
        self.able(!drops || self.capabilities.drop_oldest, "drop the oldest of a full group")?;
        Ok(GroupSpec::new(name, pattern, policy))
    }

    /// What the engine cannot do is refused here.
    fn able(&self, able: bool, what: &'static str) -> Result<(), Error> {
        if able {
            Ok(())
        } else {
            Err(Error::Unsupported { engine: self.capabilities.engine, what })
        }
    }
}

fn group_name(name: &str) -> Result<Arc<str>, Error> {
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

use std::{borrow::Cow, fmt, sync::Arc, time::SystemTime};

use crate::{Message, Pattern, wall::wall_clock};

/// A message that a group could not handle, and why.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// Names this record. Ids grow in the order of dying.
    pub id: DeadLetterId,
    /// The message as it was published: id, subject, payload, headers, time.
    pub message: Arc<Message>,
    /// The group that could not handle it. Other groups have their own copy, which knows nothing of this.
    pub group: Arc<str>,
    /// Why it was given up.
    pub reason: Reason,
    /// How often it was delivered, since it was published or last redriven.
    pub attempts: u32,
    /// The first failure since then; none if it was rejected or undecodable at once.
    pub first_failure: Option<Failure>,
    /// The last failure since then.
    pub last_failure: Option<Failure>,
    /// When it was given up. By the wall clock.
    pub died_at: SystemTime,
    /// How often it was redriven before.
    pub redrives: u32,
}

impl DeadLetter {
    /// One that was given up now, without a story, for engines of one's own; the rest is set in its fields.
    ///
    /// ```
    /// use std::{sync::Arc, time::SystemTime};
    /// use gusset_broker::{DeadLetter, DeadLetterId, Failure, FailureKind, Message, Reason};
    ///
    /// let message = Arc::new(Message::json("order.created", &13)?);
    /// let mut letter = DeadLetter::new(DeadLetterId::new(1), message, "mails", Reason::Exhausted);
    /// letter.attempts = 3;
    /// letter.last_failure = Some(Failure::new(3, SystemTime::now(), FailureKind::Error, "no such customer"));
    /// assert_eq!(letter.last_failure.unwrap().to_string(), "attempt 3: no such customer");
    /// # Ok::<(), gusset_broker::Error>(())
    /// ```
    pub fn new(
        id: DeadLetterId,
        message: Arc<Message>,
        group: impl Into<Arc<str>>,
        reason: Reason,
    ) -> Self {
        let group = group.into();
        let (first_failure, last_failure, died_at) = (None, None, wall_clock());
        Self {
            id,
            message,
            group,
            reason,
            attempts: 0,
            first_failure,
            last_failure,
            died_at,
            redrives: 0,
        }
    }

    /// What it counts against the bound in bytes.
    pub(crate) fn size(&self) -> usize {
        let reason = match &self.reason {
            Reason::Exhausted | Reason::Expired | Reason::Unheard => 0,
            Reason::Rejected(why) | Reason::Undecodable(why) => why.len(),
        };
        let failures = [&self.first_failure, &self.last_failure];
        let errors: usize = failures.into_iter().flatten().map(|failure| failure.error.len()).sum();
        size_of::<Self>() + self.message.size() + reason + errors
    }

    /// The event that goes with every new record.
    pub(crate) fn announce(&self) {
        tracing::warn!(
            group = &*self.group,
            subject = self.message.subject().as_str(),
            id = %self.message.id(),
            attempts = self.attempts,
            reason = %self.reason,
            last_error = self.last_failure.as_ref().map(|failure| &*failure.error),
            "dead letter"
        );
    }
}

/// Id of a [`DeadLetter`] within one broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeadLetterId(u64);

impl DeadLetterId {
    /// The id with this value.
    #[must_use]
    pub const fn new(id: u64) -> Self {
        Self(id)
    }

    /// The value, counted from 1.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a message was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// All attempts failed.
    Exhausted,
    /// The handler rejected it, with this reason.
    Rejected(String),
    /// The payload is none that the handler takes, as this text says.
    Undecodable(String),
    /// Its time to live was over before it was delivered.
    Expired,
    /// No group wanted it; it belongs to none, and to redrive it is to publish it again.
    Unheard,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exhausted => f.write_str("all attempts failed"),
            Self::Rejected(why) => write!(f, "rejected: {why}"),
            Self::Undecodable(why) => write!(f, "cannot be decoded: {why}"),
            Self::Expired => f.write_str("expired"),
            Self::Unheard => f.write_str("no group wanted it"),
        }
    }
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// Number of the attempt, counted from 1.
    pub attempt: u32,
    /// When it failed. By the wall clock.
    pub at: SystemTime,
    /// In which way.
    pub kind: FailureKind,
    /// The error and its sources, or the message of the panic; at most 1,024 bytes of it.
    pub error: Cow<'static, str>,
}

impl Failure {
    /// The attempt of this number failed so. Of `error` engines keep 1,024 bytes.
    pub fn new(
        attempt: u32,
        at: SystemTime,
        kind: FailureKind,
        error: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { attempt, at, kind, error: error.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {}: {}", self.attempt, self.error)
    }
}

/// In which way an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The handler returned an error.
    Error,
    /// The handler panicked.
    Panic,
    /// The handler took longer than [`Policy::attempt_timeout`](crate::Policy::attempt_timeout).
    Timeout,
    /// The handler asked for another attempt, [`Reply::RetryAfter`](crate::Reply::RetryAfter).
    Retry,
}

/// Which dead letters are meant; by default all.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    group: Option<Arc<str>>,
    subjects: Option<Pattern>,
}

impl Filter {
    /// All dead letters.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Of these, those of the group with this name.
    #[must_use]
    pub fn group(mut self, name: impl Into<Arc<str>>) -> Self {
        self.group = Some(name.into());
        self
    }

    /// Of these, those with a subject that `pattern` matches.
    #[must_use]
    pub fn subjects(mut self, pattern: Pattern) -> Self {
        self.subjects = Some(pattern);
        self
    }

    #[cfg(feature = "nats")]
    pub(crate) fn wanted_group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    #[cfg(feature = "nats")]
    pub(crate) const fn wanted_subjects(&self) -> Option<&Pattern> {
        self.subjects.as_ref()
    }

    pub(crate) fn matches(&self, letter: &DeadLetter) -> bool {
        self.group.as_ref().is_none_or(|name| *name == letter.group)
            && self.subjects.as_ref().is_none_or(|p| p.matches(letter.message.subject()))
    }
}

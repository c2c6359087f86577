use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use gusset_call::Attempt;

use serde::Serialize;

use crate::{Encode, Error, Headers, Json, Message, MessageId, Subject};

/// One message on its way to one handler, its body decoded.
#[derive(Clone, Debug)]
pub struct Delivery<T = Bytes> {
    message: Arc<Message>,
    group: Arc<str>,
    attempt: Attempt,
    max_attempts: u32,
    body: Body<T>,
}

/// What was read of a message.
#[derive(Clone, Debug)]
pub(crate) enum Body<T> {
    Own(T),
    /// It is in the message, and cloned for who wants to keep it: most handlers only look at it, and the first clone of a payload allocates.
    Lent(fn(&Message) -> &T, fn(&T) -> T),
}

impl<T> Body<T> {
    fn of<'d>(&'d self, message: &'d Message) -> &'d T {
        match self {
            Self::Own(body) => body,
            Self::Lent(find, _) => find(message),
        }
    }
}

impl Body<Bytes> {
    pub(crate) const PAYLOAD: Self = Self::Lent(Message::payload, Bytes::clone);
}

impl<T> Delivery<T> {
    pub(crate) const fn new(
        message: Arc<Message>,
        group: Arc<str>,
        attempt: Attempt,
        max_attempts: u32,
        body: Body<T>,
    ) -> Self {
        Self { message, group, attempt, max_attempts, body }
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &T {
        self.body.of(&self.message)
    }

    /// The body, for keeps.
    #[must_use]
    pub fn into_body(self) -> T {
        match self.body {
            Body::Own(body) => body,
            Body::Lent(find, keep) => keep(find(&self.message)),
        }
    }

    /// The message as it was published; all groups share it.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.message
    }

    pub(crate) fn shared(&self) -> Arc<Message> {
        self.message.clone()
    }

    /// [`Message::id`]: the same in every attempt and in every group, so a handler can recognise what it has done.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.message.id()
    }

    /// [`Message::subject`].
    #[must_use]
    pub fn subject(&self) -> &Subject {
        self.message.subject()
    }

    /// [`Message::headers`].
    #[must_use]
    pub fn headers(&self) -> &Headers {
        self.message.headers()
    }

    /// Name of the group that it was delivered to.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.group
    }

    /// Which delivery of this message to this group this is. It starts anew when a dead letter is redriven.
    #[must_use]
    pub const fn attempt(&self) -> Attempt {
        self.attempt
    }

    /// Whether a failure now makes it a dead letter.
    #[must_use]
    pub const fn is_last_attempt(&self) -> bool {
        self.attempt.number() >= self.max_attempts
    }
}

/// What a handler says about a message. `()` says [`Reply::Ack`]; an error of the handler says: try again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    #[default]
    Ack,
    /// Try again after this span, instead of the backoff's. Counts as a failed attempt like any other.
    RetryAfter(Duration),
    /// No use to try again: to the dead letters, with this reason.
    Reject(String),
    /// Done, and this is the answer to whoever [asked](crate::Broker::request). If nobody did, it is [`Reply::Ack`].
    Answer(Answer),
}

/// What a handler answers to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The bytes.
    pub payload: Bytes,
    /// What they are, for the header [`Headers::CONTENT_TYPE`].
    pub content_type: &'static str,
}

impl Reply {
    /// [`Reply::Answer`] with `body` as JSON.
    ///
    /// # Errors
    ///
    /// [`Error::Encode`].
    pub fn answer<T: Serialize + ?Sized>(body: &T) -> Result<Self, Error> {
        let payload = Json::encode(body).map_err(Error::Encode)?;
        Ok(Self::Answer(Answer { payload, content_type: <Json as Encode<T>>::CONTENT_TYPE }))
    }

    /// [`Reply::Reject`].
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject(reason.into())
    }
}

/// What a handler may answer.
pub trait IntoReply {
    /// What it means.
    fn into_reply(self) -> Reply;
}

impl IntoReply for () {
    fn into_reply(self) -> Reply {
        Reply::Ack
    }
}

impl IntoReply for Reply {
    fn into_reply(self) -> Reply {
        self
    }
}

mod when;

use std::{
    borrow::Cow,
    fmt,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use gusset_call::{Context, Deadline, TraceContext, TraceState};
use serde::Serialize;

use self::when::When;
#[cfg(any(feature = "file", feature = "nats"))]
use crate::wall::nanos;
pub(crate) use crate::wall::wall_clock;
use crate::{Encode, Error, Headers, Json, MessageId, Subject, wall::wall_nanos};

/// What is published: a subject, a payload, headers and a unique id.
///
/// ```
/// use gusset_broker::Message;
///
/// let message = Message::new("image.uploaded", &b"\x89PNG"[..])?.with_header("content-type", "image/png");
/// assert_eq!(message.headers().get("content-type"), Some("image/png"));
/// # Ok::<(), gusset_broker::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    id: MessageId,
    subject: Subject,
    payload: Bytes,
    /// As [`nanos`] says, in one word.
    published: u64,
    /// Boxed, since most messages have none of it.
    extras: Option<Box<Extras>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Extras {
    headers: Headers,
    when: Option<When>,
    ttl: Option<Duration>,
    /// The same as the header, by the monotonic clock, as long as it stays in this process.
    deadline: Option<Deadline>,
    priority: Priority,
    dedup: bool,
}

/// How urgent a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// As most are.
    #[default]
    Normal,
    /// Overtakes those that wait in a group, but for one in nine.
    High,
}

impl Message {
    /// A message with these bytes. The subject may be a text, which is checked, or a [`Subject`], which costs nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Subject`].
    pub fn new<S>(subject: S, payload: impl Into<Bytes>) -> Result<Self, Error>
    where
        S: TryInto<Subject>,
        S::Error: Into<Error>,
    {
        let (id, published) = MessageId::next();
        let (subject, payload) = (subject.try_into().map_err(Into::into)?, payload.into());
        Ok(Self { id, subject, payload, published, extras: None })
    }

    /// A message with `body` as JSON and the header `content-type: application/json`.
    ///
    /// # Errors
    ///
    /// [`Error::Subject`]; [`Error::Encode`] if `body` cannot be written as JSON.
    pub fn json<S, T>(subject: S, body: &T) -> Result<Self, Error>
    where
        S: TryInto<Subject>,
        S::Error: Into<Error>,
        T: Serialize + ?Sized,
    {
        Self::encoded::<Json, S, T>(subject, body)
    }

    /// A message with `body` as the codec `C` writes it, and its content type as a header.
    ///
    /// # Errors
    ///
    /// [`Error::Subject`]; [`Error::Encode`] if `body` cannot be written.
    pub fn encoded<C, S, T>(subject: S, body: &T) -> Result<Self, Error>
    where
        C: Encode<T>,
        S: TryInto<Subject>,
        S::Error: Into<Error>,
        T: ?Sized,
    {
        let payload = C::encode(body).map_err(Error::Encode)?;
        Ok(Self::new(subject, payload)?.with_header(Headers::CONTENT_TYPE, C::CONTENT_TYPE))
    }

    /// The same message with another id, for one that already has an id elsewhere, as in an outbox. An engine that recognises duplicates takes
    /// one message with such an id and answers the next with [`Receipt::duplicate`](crate::Receipt::duplicate).
    #[must_use]
    pub fn with_id(mut self, id: MessageId) -> Self {
        self.id = id;
        self.extras().dedup = true;
        self
    }

    /// The same message with the header [`Headers::SCHEMA_VERSION`]: of its body's schema, so that handlers of two versions tell them apart.
    #[must_use]
    pub fn with_schema_version(self, version: u32) -> Self {
        self.with_header(Headers::SCHEMA_VERSION, version.to_string())
    }

    /// The version of its body's schema, if it says one.
    #[must_use]
    pub fn schema_version(&self) -> Option<u32> {
        self.headers().get(Headers::SCHEMA_VERSION)?.parse().ok()
    }

    /// Whether it has neither headers nor wishes.
    pub(crate) const fn is_plain(&self) -> bool {
        self.extras.is_none()
    }

    /// The same message with this priority.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.extras().priority = priority;
        self
    }

    /// The same message with one more header; it replaces one of the same name.
    #[must_use]
    pub fn with_header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Self {
        self.extras().headers.insert(name, value);
        self
    }

    /// What sets this message apart from all others; all its deliveries share it.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.id
    }

    /// What it is about.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// Its bytes; clones share them.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Its headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        self.extras.as_ref().map_or(Headers::NONE, |extras| &extras.headers)
    }

    /// How urgent it is.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.extras.as_ref().map_or(Priority::Normal, |extras| extras.priority)
    }

    /// Whether a second one with the same id is the same message: whether the id was [given](Self::with_id).
    #[must_use]
    pub fn is_known_by_id(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.dedup)
    }

    /// When it was published, or made as long as it is not. By the wall clock: for people, not for decisions.
    #[must_use]
    pub fn published_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.published)
    }

    /// The span of the publisher, if the header [`Headers::TRACEPARENT`] is there and well-formed.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.headers().get(Headers::TRACEPARENT)?.parse().ok()
    }

    /// What tracing systems left for each other, if the header [`Headers::TRACESTATE`] is there beside a well-formed [`trace`](Self::trace), and well-formed itself.
    #[must_use]
    pub fn trace_state(&self) -> Option<TraceState> {
        self.trace()?;
        self.headers().get(Headers::TRACESTATE)?.parse().ok()
    }

    /// Whether somebody waits for an answer, by [`Headers::REPLY_TO`].
    #[must_use]
    pub fn is_request(&self) -> bool {
        self.headers().get(Headers::REPLY_TO).is_some()
    }

    /// What it counts against bounds in bytes: subject, payload and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        self.subject.as_str().len() + self.payload.len() + self.headers().size()
    }

    /// A message that was published before, as an engine found it.
    #[cfg(feature = "nats")]
    pub(crate) fn restored(
        id: MessageId,
        subject: Subject,
        payload: Bytes,
        published_at: SystemTime,
    ) -> Self {
        Self { id, subject, payload, published: nanos(published_at), extras: None }
    }

    /// The same with these headers.
    #[cfg(feature = "nats")]
    pub(crate) fn with_headers(mut self, headers: Headers) -> Self {
        self.extras().headers = headers;
        self
    }

    /// Notes time and trace of publishing.
    pub(crate) fn stamp(&mut self) {
        self.published = wall_nanos();
        if let Some(trace) = Context::current().trace() {
            if self.headers().get(Headers::TRACEPARENT).is_none() {
                let headers = &mut self.extras().headers;
                headers.insert(Headers::TRACEPARENT, trace.to_string());
                // One of another trace says nothing about this one.
                headers.remove(Headers::TRACESTATE);
                if let Some(state) = TraceState::current() {
                    headers.insert(Headers::TRACESTATE, state.as_str());
                }
            }
        }
    }

    /// The message that was written down: what this is, with the id and the time of then.
    #[cfg(feature = "file")]
    pub(crate) fn written(mut self, id: MessageId, published_at: SystemTime) -> Self {
        self.id = id;
        self.published = nanos(published_at);
        self
    }

    fn extras(&mut self) -> &mut Extras {
        self.extras.get_or_insert_default()
    }
}

/// Without the payload, which may be long or secret.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("subject", &self.subject)
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_publisher_s_trace_is_noted_unless_the_message_brings_one() {
        let (mine, other) = (TraceContext::new_root(), TraceContext::new_root());
        let mut fresh = Message::new("a", "").unwrap();
        let mut traced =
            Message::new("a", "").unwrap().with_header("traceparent", other.to_string());
        Context::default()
            .with_trace(mine)
            .scope(async {
                fresh.stamp();
                traced.stamp();
            })
            .await;
        assert_eq!((fresh.trace(), traced.trace()), (Some(mine), Some(other)));
    }

    #[test]
    fn a_state_goes_with_its_trace_and_with_no_other() {
        let (trace, state) = (TraceContext::new_root(), "a=1".parse::<TraceState>().unwrap());
        let stale = || Message::new("a", "").unwrap().with_header(Headers::TRACESTATE, "old=1");
        let stamped = |state: Option<TraceState>, mut message: Message| {
            let cx = Context::default().with_trace(trace);
            TraceState::sync_scope(state, || cx.sync_scope(|| message.stamp()));
            message.trace_state()
        };
        assert_eq!(stamped(Some(state.clone()), stale()), Some(state.clone()));
        assert_eq!(stamped(None, stale()), None);
        let kept = stale().with_header(Headers::TRACEPARENT, trace.to_string());
        assert_eq!(stamped(Some(state), kept).unwrap().as_str(), "old=1");
        assert_eq!(stale().trace_state(), None, "without a trace it means nothing");
    }

    #[test]
    fn a_header_set_again_is_replaced_and_all_count_for_the_size() {
        let message = Message::new("ab", "payload").unwrap().with_header("k", "1");
        let message = message.with_header("k", "22");
        assert_eq!(message.headers().iter().collect::<Vec<_>>(), [("k", "22")]);
        assert_eq!(message.size(), 2 + 7 + 3);
    }
}

use std::{
    borrow::Cow,
    cell::Cell,
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use gusset_call::{Clock, Context, TraceContext};
use serde::Serialize;
use uuid::{Uuid, Variant, Version};

use crate::{Encode, Error, Json, Subject};

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
    published_at: SystemTime,
    /// Boxed, since most messages have none of it.
    extras: Option<Box<Extras>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Extras {
    headers: Headers,
    when: Option<When>,
    ttl: Option<Duration>,
    priority: Priority,
    dedup: bool,
}

/// When it is to be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    After(Duration),
    At(SystemTime),
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
        let (id, published_at) = MessageId::next();
        let (subject, payload) = (subject.try_into().map_err(Into::into)?, payload.into());
        Ok(Self { id, subject, payload, published_at, extras: None })
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

    /// The same message as an event of the CloudEvents specification 1.0 in binary mode: its attributes are headers with the prefix `ce-`. The id is that of the
    /// message; `source` says where it comes from, a URI reference, and `kind` what happened, such as `com.example.order.created`.
    #[must_use]
    pub fn with_cloud_event(self, source: impl Into<String>, kind: impl Into<String>) -> Self {
        let id = self.id.to_string();
        self.with_header("ce-specversion", "1.0")
            .with_header("ce-id", id)
            .with_header("ce-source", source)
            .with_header("ce-type", kind)
    }

    /// Delivered no sooner than `span` after it is published. It takes its place in the groups from the beginning, and counts for their bounds.
    #[must_use]
    pub fn with_delay(mut self, span: Duration) -> Self {
        self.extras().when = Some(When::After(span));
        self
    }

    /// Delivered no sooner than at this time of the wall clock.
    #[must_use]
    pub fn with_delivery_at(mut self, at: SystemTime) -> Self {
        self.extras().when = Some(When::At(at));
        self
    }

    /// Of no use to anybody `span` after it is published; what then becomes of it is the group's [`WhenExpired`](crate::WhenExpired). What is
    /// being handled then is not interrupted.
    #[must_use]
    pub fn with_ttl(mut self, span: Duration) -> Self {
        self.extras().ttl = Some(span);
        self
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
        static NONE: Headers = Headers(Vec::new());
        self.extras.as_ref().map_or(&NONE, |extras| &extras.headers)
    }

    /// How long after publishing it is to be delivered; none: at once.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        match self.extras.as_ref()?.when? {
            When::After(span) => Some(span),
            When::At(at) => at.duration_since(self.published_at).ok(),
        }
    }

    /// How long after publishing it is of no use any more; none: never.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.extras.as_ref()?.ttl
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
    pub const fn published_at(&self) -> SystemTime {
        self.published_at
    }

    /// The span of the publisher, if the header [`Headers::TRACEPARENT`] is there and well-formed.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.headers().get(Headers::TRACEPARENT)?.parse().ok()
    }

    /// What it counts against bounds in bytes: subject, payload and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        self.subject.as_str().len() + self.payload.len() + self.headers().size()
    }

    /// A message that was published before, as an engine found it.
    #[cfg(feature = "nats")]
    pub(crate) const fn restored(
        id: MessageId,
        subject: Subject,
        payload: Bytes,
        published_at: SystemTime,
    ) -> Self {
        Self { id, subject, payload, published_at, extras: None }
    }

    /// The same with these headers.
    #[cfg(feature = "nats")]
    pub(crate) fn with_headers(mut self, headers: Headers) -> Self {
        self.extras().headers = headers;
        self
    }

    /// Notes time and trace of publishing.
    pub(crate) fn stamp(&mut self) {
        self.published_at = wall_clock();
        if let Some(trace) = Context::current().trace() {
            if self.headers().get(Headers::TRACEPARENT).is_none() {
                self.extras().headers.insert(Headers::TRACEPARENT, trace.to_string());
            }
        }
    }

    /// The message that was written down: what this is, with the id and the time of then.
    #[cfg(feature = "file")]
    pub(crate) const fn written(mut self, id: MessageId, published_at: SystemTime) -> Self {
        self.id = id;
        self.published_at = published_at;
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

/// Names and values that travel with a message. Names are compared letter by letter; use lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, String)>);

impl Headers {
    /// W3C trace context of the publisher; set from `gusset_call::Context::current()` at publishing, unless the message
    /// brings its own.
    pub const TRACEPARENT: &'static str = "traceparent";
    /// What the payload is, a media type.
    pub const CONTENT_TYPE: &'static str = "content-type";
    /// Version of the body's schema, a number.
    pub const SCHEMA_VERSION: &'static str = "schema-version";
    /// The subject to which an answer goes.
    pub const REPLY_TO: &'static str = "reply-to";
    /// When whoever asked stops waiting: milliseconds of the wall clock since 1970. The handler's deadline is not later.
    pub const DEADLINE: &'static str = "gusset-deadline";

    /// The value of the header `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(other, value)| (other == name).then_some(value))
    }

    /// All headers in the order in which they were first set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    fn insert(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, present)) => *present = value,
            None => self.0.push((name, value)),
        }
    }

    fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

#[cfg(feature = "nats")]
impl FromIterator<(String, String)> for Headers {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(headers: I) -> Self {
        Self(headers.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

/// Unique id of a message: a UUID of version 7. Ids made by one process grow strictly with time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Uuid);

impl MessageId {
    /// The id with this value, of whatever version.
    #[must_use]
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> Uuid {
        self.0
    }

    /// Written by hand because `Uuid::now_v7` keeps its counter under a lock that all threads share. This is method 3
    /// of RFC 9562, section 6.2: the 12 bits after the milliseconds are the fraction of the millisecond.
    fn next() -> (Self, SystemTime) {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let at = wall_clock();
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = ticks(since);
        let mut last = LAST.load(Relaxed);
        let ticks = loop {
            let next = now.max(last + 1);
            match LAST.compare_exchange_weak(last, next, Relaxed, Relaxed) {
                Ok(_) => break next,
                Err(seen) => last = seen,
            }
        };
        let random = u128::from(rand::random::<u64>());
        let bits = u128::from(ticks >> 12) << 80 | u128::from(ticks & 0xfff) << 64 | random;
        let mut builder = uuid::Builder::from_u128(bits);
        builder.set_version(Version::SortRand).set_variant(Variant::RFC4122);
        (Self(builder.into_uuid()), at)
    }
}

/// In 1/4096 of a millisecond, which fits until the year 10889, as the 48 bits of milliseconds do.
fn ticks(since: Duration) -> u64 {
    let fraction = u64::from(since.subsec_nanos()) << 12;
    since.as_secs().saturating_mul(1_000 << 12).saturating_add(fraction / 1_000_000)
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The wall clock, read anew at most once in a millisecond of a thread: two dates of each message would cost as much as a third of its way.
/// It may be late by that millisecond, and is told of a clock that is set within one.
pub(crate) fn wall_clock() -> SystemTime {
    thread_local! {
        static LAST: Cell<Option<(u64, SystemTime)>> = const { Cell::new(None) };
        static CLOCK: Clock = Clock::new();
    }
    let now = CLOCK.with(Clock::nanos);
    match LAST.get() {
        Some((at, read)) if now.saturating_sub(at) < 1_000_000 => {
            read + Duration::from_nanos(now - at.min(now))
        }
        _ => {
            let read = system_clock();
            LAST.set(Some((now, read)));
            read
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a date for people and other systems; decides nothing"
)]
fn system_clock() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn ids_grow_and_are_uuids_of_version_7_that_tell_the_time() {
        let mut last = MessageId::next().0;
        for _ in 0..10_000 {
            let (id, at) = MessageId::next();
            assert!(id > last);
            last = id;
            assert_eq!((id.get().get_version_num(), id.get().get_variant()), (7, Variant::RFC4122));
            let (secs, _) = id.get().get_timestamp().unwrap().to_unix();
            let clock = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            assert!(secs.abs_diff(clock) <= 10, "{secs} {clock}");
        }
        assert_eq!(last.to_string().parse::<MessageId>().unwrap(), last);
    }

    #[test]
    fn ids_of_several_threads_differ() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| [(); 5_000].map(|()| MessageId::next().0).to_vec()))
            .collect();
        let ids: HashSet<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert_eq!(ids.len(), 20_000);
    }

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
    fn a_header_set_again_is_replaced_and_all_count_for_the_size() {
        let message = Message::new("ab", "payload").unwrap().with_header("k", "1");
        let message = message.with_header("k", "22");
        assert_eq!(message.headers().iter().collect::<Vec<_>>(), [("k", "22")]);
        assert_eq!(message.size(), 2 + 7 + 3);
    }

    proptest! {
        #[test]
        fn ticks_never_go_back_and_never_overflow(a: u64, b: u64, nanos in 0u32..1_000_000_000) {
            let (early, late) = (a.min(b), a.max(b));
            prop_assert!(ticks(Duration::new(early, nanos)) <= ticks(Duration::new(late, nanos)));
        }
    }
}

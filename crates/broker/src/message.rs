use std::{
    borrow::Cow,
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use gusset_call::{Context, TraceContext};
use serde::Serialize;
use uuid::{Uuid, Variant, Version};

use crate::{Error, Subject};

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
    headers: Headers,
    published_at: SystemTime,
}

impl Message {
    /// A message with these bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Subject`].
    pub fn new(subject: &str, payload: impl Into<Bytes>) -> Result<Self, Error> {
        let (id, published_at) = MessageId::next();
        let (subject, payload) = (Subject::new(subject)?, payload.into());
        Ok(Self { id, subject, payload, headers: Headers::default(), published_at })
    }

    /// A message with `body` as JSON and the header `content-type: application/json`.
    ///
    /// # Errors
    ///
    /// [`Error::Subject`]; [`Error::Encode`] if `body` cannot be written as JSON.
    pub fn json<T: Serialize + ?Sized>(subject: &str, body: &T) -> Result<Self, Error> {
        let payload = serde_json::to_vec(body).map_err(Error::Encode)?;
        Ok(Self::new(subject, payload)?.with_header("content-type", "application/json"))
    }

    /// The same message with another id, for one that already has an id elsewhere, as in an outbox.
    #[must_use]
    pub fn with_id(mut self, id: MessageId) -> Self {
        self.id = id;
        self
    }

    /// The same message with one more header; it replaces one of the same name.
    #[must_use]
    pub fn with_header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
    ) -> Self {
        self.headers.insert(name, value);
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
    pub const fn headers(&self) -> &Headers {
        &self.headers
    }

    /// When it was published, or made as long as it is not. By the wall clock: for people, not for decisions.
    #[must_use]
    pub const fn published_at(&self) -> SystemTime {
        self.published_at
    }

    /// The span of the publisher, if the header [`Headers::TRACEPARENT`] is there and well-formed.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        self.headers.get(Headers::TRACEPARENT)?.parse().ok()
    }

    /// What it counts against bounds in bytes: subject, payload and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        self.subject.as_str().len() + self.payload.len() + self.headers.size()
    }

    /// Notes time and trace of publishing.
    pub(crate) fn stamp(&mut self) {
        self.published_at = wall_clock();
        if let Some(trace) = Context::current().trace() {
            if self.headers.get(Headers::TRACEPARENT).is_none() {
                self.headers.insert(Headers::TRACEPARENT, trace.to_string());
            }
        }
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

#[expect(
    clippy::disallowed_methods,
    reason = "a date for people and other systems; decides nothing"
)]
pub(crate) fn wall_clock() -> SystemTime {
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

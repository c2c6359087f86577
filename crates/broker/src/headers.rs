use std::borrow::Cow;

/// Names and values that travel with a message. Names are compared letter by letter; use lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Cow<'static, str>, String)>);

impl Headers {
    /// W3C trace context of the publisher; set from `gusset_call::Context::current()` at publishing, unless the message
    /// brings its own.
    pub const TRACEPARENT: &'static str = "traceparent";
    /// W3C `tracestate`, beside [`TRACEPARENT`](Self::TRACEPARENT): that of the publisher, passed on as it came.
    pub const TRACESTATE: &'static str = "tracestate";
    /// What the payload is, a media type.
    pub const CONTENT_TYPE: &'static str = "content-type";
    /// Version of the body's schema, a number.
    pub const SCHEMA_VERSION: &'static str = "schema-version";
    /// The subject to which an answer goes.
    pub const REPLY_TO: &'static str = "reply-to";
    /// When nobody waits any more for what comes of it: milliseconds of the wall clock since 1970. Set by [`Message::with_deadline`](crate::Message::with_deadline) and by
    /// requests.
    pub const DEADLINE: &'static str = "gusset-deadline";

    /// Id of the message that began it all, the same for all that follow from it; see [`Message::caused_by`](crate::Message::caused_by).
    pub const CORRELATION_ID: &'static str = "correlation-id";
    /// Id of the message in whose handling this one was published.
    pub const CAUSATION_ID: &'static str = "causation-id";

    /// None at all.
    pub(crate) const NONE: &'static Self = &Self(Vec::new());

    /// The value of the header `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find_map(|(other, value)| (other == name).then_some(value))
    }

    /// All headers in the order in which they were first set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    pub(crate) fn insert(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) {
        let (name, value) = (name.into(), value.into());
        match self.0.iter_mut().find(|(other, _)| *other == name) {
            Some((_, present)) => *present = value,
            None => self.0.push((name, value)),
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(other, _)| other != name);
    }

    pub(crate) fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

#[cfg(feature = "nats")]
impl FromIterator<(String, String)> for Headers {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(headers: I) -> Self {
        Self(headers.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

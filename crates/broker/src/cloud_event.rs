use std::{fmt, fmt::Write as _, time::SystemTime};

use crate::{
    Headers, Message,
    wall::{read_date, wall_clock, write_date},
};

/// The attributes of an event as the specification CloudEvents 1.0 has them. A message carries them in binary mode: as headers with the prefix `ce-`, beside a
/// payload that is the event's data, whose media type is the header [`Headers::CONTENT_TYPE`]. Other programs on the same NATS server read them as they are.
///
/// ```
/// use gusset_broker::{CloudEvent, Message};
///
/// let event = CloudEvent::new("/shop/orders", "com.example.order.created")?.with_subject("order/7");
/// let message = Message::json("order.created", &7)?.with_cloud_event(event);
/// assert_eq!(message.headers().get("ce-type"), Some("com.example.order.created"));
///
/// let read = message.cloud_event()?.expect("it is an event");
/// assert_eq!((read.id(), read.source()), (&*message.id().to_string(), "/shop/orders"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudEvent {
    id: String,
    source: String,
    kind: String,
    time: Option<SystemTime>,
    subject: Option<String>,
    data_schema: Option<String>,
    extensions: Vec<(String, String)>,
}

/// Why headers, or what was given for them, are no event of CloudEvents 1.0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidCloudEvent {
    attribute: String,
}

impl fmt::Display for InvalidCloudEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attribute {} of the event is missing or invalid", self.attribute)
    }
}

impl std::error::Error for InvalidCloudEvent {}

fn invalid(attribute: &str) -> InvalidCloudEvent {
    InvalidCloudEvent { attribute: attribute.chars().take(64).collect() }
}

impl CloudEvent {
    /// An event that happened now. `source` says where it comes from, a URI reference, and `kind` what happened, the attribute `type`, such as
    /// `com.example.order.created`. Its id is that of the message, unless it gets another.
    ///
    /// # Errors
    ///
    /// [`InvalidCloudEvent`] if one of them is empty.
    pub fn new(
        source: impl Into<String>,
        kind: impl Into<String>,
    ) -> Result<Self, InvalidCloudEvent> {
        let (source, kind) = (source.into(), kind.into());
        for (name, value) in [("source", &source), ("type", &kind)] {
            if value.is_empty() {
                return Err(invalid(name));
            }
        }
        let (id, time, extensions) = (String::new(), Some(wall_clock()), Vec::new());
        Ok(Self { id, source, kind, time, subject: None, data_schema: None, extensions })
    }

    /// The same with an id of its own: source and id together set an event apart from all others.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// The same, which happened then. It is written in UTC and to the millisecond.
    #[must_use]
    pub const fn with_time(mut self, at: SystemTime) -> Self {
        self.time = Some(at);
        self
    }

    /// The same about this, as seen from the source; the attribute `subject`, which is not the [`Subject`](crate::Subject) of the message.
    #[must_use]
    pub fn with_subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// The same with data that follow this schema, a URI.
    #[must_use]
    pub fn with_data_schema(mut self, schema: impl Into<String>) -> Self {
        self.data_schema = Some(schema.into());
        self
    }

    /// The same with an attribute that the specification does not define.
    ///
    /// # Errors
    ///
    /// [`InvalidCloudEvent`] if `name` is one that it does, or not of lower-case letters and digits, as it demands.
    pub fn with_extension(
        mut self,
        name: &str,
        value: impl Into<String>,
    ) -> Result<Self, InvalidCloudEvent> {
        if !is_name(name) || DEFINED.contains(&name) {
            return Err(invalid(name));
        }
        self.extensions.retain(|(other, _)| other != name);
        self.extensions.push((name.to_owned(), value.into()));
        Ok(self)
    }

    /// The id; empty as long as it is to be that of the message.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// What happened, the attribute `type`.
    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// When it happened, if that is known.
    #[must_use]
    pub const fn time(&self) -> Option<SystemTime> {
        self.time
    }

    /// What it is about, if that is said.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// Which schema its data follow, if that is said.
    #[must_use]
    pub fn data_schema(&self) -> Option<&str> {
        self.data_schema.as_deref()
    }

    /// The value of the extension `name`.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extensions.iter().find_map(|(other, value)| (other == name).then_some(&**value))
    }
}

/// What the specification defines; no extension has such a name. (`data` is the payload.)
const DEFINED: [&str; 9] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "dataschema",
    "datacontenttype",
    "data",
];

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

impl Message {
    /// The same message as this event. Give the message [its id](Self::with_id) before, if it gets one.
    #[must_use]
    pub fn with_cloud_event(self, event: CloudEvent) -> Self {
        let id = if event.id.is_empty() { self.id().to_string() } else { event.id };
        let mut message = self
            .with_header("ce-specversion", "1.0")
            .with_header("ce-id", escaped(&id))
            .with_header("ce-source", escaped(&event.source))
            .with_header("ce-type", escaped(&event.kind));
        if let Some(at) = event.time {
            message = message.with_header("ce-time", write_date(at));
        }
        if let Some(subject) = event.subject {
            message = message.with_header("ce-subject", escaped(&subject));
        }
        if let Some(schema) = event.data_schema {
            message = message.with_header("ce-dataschema", escaped(&schema));
        }
        for (name, value) in event.extensions {
            message = message.with_header(format!("ce-{name}"), escaped(&value));
        }
        message
    }

    /// The event that this message is; none if it does not say that it is one. Names of headers are read in upper and lower case alike.
    ///
    /// # Errors
    ///
    /// [`InvalidCloudEvent`] if it lacks what an event must have, has a time that is none, or is of another version than 1.
    pub fn cloud_event(&self) -> Result<Option<CloudEvent>, InvalidCloudEvent> {
        let attribute = |name: &str| attributes(self.headers()).find(|(other, _)| other == name);
        let text = |name: &str| attribute(name).map(|(_, value)| unescaped(value));
        let must = |name: &str| text(name).filter(|v| !v.is_empty()).ok_or_else(|| invalid(name));
        match text("specversion") {
            None => return Ok(None),
            Some(version) if version == "1.0" || version.starts_with("1.") => {}
            Some(_) => return Err(invalid("specversion")),
        }
        let time = match text("time") {
            Some(time) => Some(read_date(&time).ok_or_else(|| invalid("time"))?),
            None => None,
        };
        let mut extensions: Vec<(String, String)> = Vec::new();
        for (name, value) in attributes(self.headers()) {
            // Of two that differ in their case only, the first.
            let is_new = extensions.iter().all(|(other, _)| *other != name);
            if is_new && is_name(&name) && !DEFINED.contains(&&*name) {
                extensions.push((name, unescaped(value)));
            }
        }
        Ok(Some(CloudEvent {
            id: must("id")?,
            source: must("source")?,
            kind: must("type")?,
            time,
            subject: text("subject"),
            data_schema: text("dataschema"),
            extensions,
        }))
    }
}

/// The headers of an event, without the prefix.
fn attributes(headers: &Headers) -> impl Iterator<Item = (String, &str)> {
    headers.iter().filter_map(|(name, value)| {
        let prefix = name.get(..3)?;
        let name = name.get(3..).filter(|_| prefix.eq_ignore_ascii_case("ce-"))?;
        Some((name.to_ascii_lowercase(), value))
    })
}

/// As the bindings of HTTP and NATS want values: what is not visible ASCII, and `"` and `%`, as percent signs and hexadecimal digits.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_graphic() && byte != b'"' && byte != b'%' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// The reverse. What is not well written is left as it is, and what is no UTF-8 is replaced, as the specification has it.
fn unescaped(value: &str) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..2).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let byte = digits
            .filter(|_| *first == b'%')
            .and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &more[2..] } else { more };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn message() -> Message {
        Message::new("a", "").unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let event = CloudEvent::new("/a b", "t\u{fc}r").unwrap().with_id("7%").with_time(at);
        let event = event.with_subject("s\"").with_data_schema("urn:x");
        let event = event.with_extension("partitionkey", "k").unwrap();
        let message = message().with_cloud_event(event.clone());
        assert_eq!(message.headers().get("ce-source"), Some("/a%20b"));
        assert_eq!(message.headers().get("ce-type"), Some("t%C3%BCr"));
        assert_eq!(message.headers().get("ce-time"), Some("2023-11-14T22:13:20.123Z"));
        assert_eq!(message.cloud_event().unwrap().unwrap(), event);
        assert_eq!(event.extension("partitionkey"), Some("k"));
        assert_eq!(event.data_schema(), Some("urn:x"));
    }

    #[test]
    fn an_event_of_another_program_is_read_and_what_is_none_is_refused() {
        assert_eq!(message().with_header("ce-id", "7").cloud_event(), Ok(None));
        let mut other = message();
        for (name, value) in [("CE-SpecVersion", "1.0"), ("ce-id", "1"), ("ce-source", "s")] {
            other = other.with_header(name, value);
        }
        assert_eq!(other.cloud_event(), Err(invalid("type")));
        let other = other.with_header("ce-type", "100%").with_header("ce-MyExt", "x");
        let event = other.cloud_event().unwrap().unwrap();
        assert_eq!(
            (event.kind(), event.time(), event.extension("myext")),
            ("100%", None, Some("x"))
        );
        assert!(other.clone().with_header("ce-time", "yesterday").cloud_event().is_err());
        let newer = message().with_header("ce-specversion", "2.0");
        assert_eq!(newer.cloud_event(), Err(invalid("specversion")));
    }

    #[test]
    fn of_two_extensions_that_differ_in_their_case_only_the_first_is_read() {
        let twice = message()
            .with_cloud_event(CloudEvent::new("/a", "b").unwrap())
            .with_header("ce-shard", "1")
            .with_header("Ce-Shard", "2");
        let read = twice.cloud_event().unwrap().unwrap();
        assert_eq!(read.extensions, [("shard".to_owned(), "1".to_owned())]);
    }

    #[test]
    fn what_the_specification_forbids_cannot_be_built() {
        assert!(CloudEvent::new("", "t").is_err() && CloudEvent::new("s", "").is_err());
        for name in ["", "id", "Upper", "with-dash", "data"] {
            assert!(CloudEvent::new("s", "t").unwrap().with_extension(name, "").is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn values_arrive_whatever_they_are(value in "\\PC{0,20}", odd in "[%0-9A-F]{0,9}") {
            prop_assert_eq!(unescaped(&escaped(&value)), value);
            prop_assert_eq!(unescaped(&escaped(&odd)), odd.clone());
            let _ = unescaped(&odd);
            prop_assert!(escaped(&odd).bytes().all(|b| b.is_ascii_graphic()));
        }
    }
}

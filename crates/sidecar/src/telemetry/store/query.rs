//! Which logs and traces are wanted.

use std::time::Duration;

use gusset_call::TraceId;
use tracing::Level;

use super::TraceSummary;
use crate::{
    Record,
    telemetry::log::{FieldValue, Log},
};

/// Which logs are wanted: those that all of this is true of. At first, the last 100.
#[derive(Clone, Debug)]
pub struct LogQuery {
    pub(super) service: Option<String>,
    pub(super) level: Level,
    pub(super) trace: Option<TraceId>,
    pub(super) since: u64,
    pub(super) until: u64,
    pub(super) text: Text,
    pub(super) before: Option<u64>,
    pub(super) limit: usize,
}

/// Which traces are wanted: those that all of this is true of. At first, the last 100.
#[derive(Clone, Debug)]
pub struct TraceQuery {
    pub(super) service: Option<String>,
    pub(super) since: u64,
    pub(super) until: u64,
    pub(super) longer_than: Duration,
    pub(super) failed: bool,
    pub(super) text: Text,
    pub(super) limit: usize,
}

const LIMIT: usize = 100;

impl LogQuery {
    /// The last 100 logs.
    #[must_use]
    pub fn new() -> Self {
        Self {
            service: None,
            level: Level::TRACE,
            trace: None,
            since: 0,
            until: u64::MAX,
            text: Text::default(),
            before: None,
            limit: LIMIT,
        }
    }

    /// Of this service.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// At least as grave as this.
    #[must_use]
    pub const fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Of this trace.
    #[must_use]
    pub const fn trace(mut self, id: TraceId) -> Self {
        self.trace = Some(id);
        self
    }

    /// From `since` on and before `until`, in nanoseconds since 1970.
    #[must_use]
    pub const fn between(mut self, since: u64, until: u64) -> Self {
        (self.since, self.until) = (since, until);
        self
    }

    /// With this text in the message, the target or a field, in letters of any case.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.text = Text::new(text);
        self
    }

    /// Before the log with this number: what follows on what was asked for before.
    #[must_use]
    pub const fn before(mut self, number: u64) -> Self {
        self.before = Some(number);
        self
    }

    /// At most so many. Default 100.
    #[must_use]
    pub const fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    pub(super) fn wants(&self, log: &Log) -> bool {
        log.level <= self.level
            && self.service.as_ref().is_none_or(|service| **service == *log.service)
            && self.trace.is_none_or(|id| log.trace.is_some_and(|trace| trace.trace_id() == id))
            && (self.since..self.until).contains(&log.unix_nanos)
            && (self.text.is_in([&*log.message, log.target])
                || self.text.is_in(log.fields.iter().map(|(name, _)| *name))
                || log.fields.iter().any(|(_, value)| match value {
                    FieldValue::Text(text) => self.text.is_in([&**text]),
                    FieldValue::Bool(value) => self.text.is_in([&*value.to_string()]),
                    FieldValue::Int(value) => self.text.is_in([&*value.to_string()]),
                    FieldValue::Unsigned(value) => self.text.is_in([&*value.to_string()]),
                    FieldValue::Float(value) => self.text.is_in([&*value.to_string()]),
                }))
    }
}

impl Default for LogQuery {
    fn default() -> Self {
        Self::new()
    }
}

impl TraceQuery {
    /// The last 100 traces.
    #[must_use]
    pub fn new() -> Self {
        Self {
            service: None,
            since: 0,
            until: u64::MAX,
            longer_than: Duration::ZERO,
            failed: false,
            text: Text::default(),
            limit: LIMIT,
        }
    }

    /// In which this service took part.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// That began from `since` on and before `until`, in nanoseconds since 1970.
    #[must_use]
    pub const fn between(mut self, since: u64, until: u64) -> Self {
        (self.since, self.until) = (since, until);
        self
    }

    /// That took at least so long.
    #[must_use]
    pub const fn longer_than(mut self, span: Duration) -> Self {
        self.longer_than = span;
        self
    }

    /// In which something failed.
    #[must_use]
    pub const fn failed(mut self) -> Self {
        self.failed = true;
        self
    }

    /// With this text in the name, the error or a tag of a span, in letters of any case.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.text = Text::new(text);
        self
    }

    /// At most so many. Default 100.
    #[must_use]
    pub const fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    pub(super) fn is_of_service(&self, record: &Record) -> bool {
        self.service.as_ref().is_none_or(|service| **service == *record.service)
    }

    pub(super) fn has_text(&self, record: &Record) -> bool {
        self.text.is_in([&*record.name()])
            || self.text.is_in(record.error.as_deref())
            || self.text.is_in(record.tags.iter().flat_map(|(key, value)| [&**key, &**value]))
    }

    /// The same of a trace of one span.
    pub(super) fn wants_span(&self, record: &Record) -> bool {
        self.is_of_service(record)
            && self.has_text(record)
            && (self.since..self.until).contains(&record.start_unix_nanos)
            && record.duration >= self.longer_than
            && (record.is_failure() || !self.failed)
    }

    pub(super) fn wants(&self, trace: &TraceSummary) -> bool {
        (self.since..self.until).contains(&trace.start_unix_nanos)
            && Duration::from_nanos(trace.duration_nanos) >= self.longer_than
            && (trace.failures > 0 || !self.failed)
    }
}

impl Default for TraceQuery {
    fn default() -> Self {
        Self::new()
    }
}

/// A text to be found; the empty one is everywhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_lowercase())
    }

    fn is_in<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> bool {
        self.0.is_empty() || texts.into_iter().any(|text| text.to_lowercase().contains(&self.0))
    }
}

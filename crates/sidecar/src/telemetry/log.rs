//! A log as plain data, and the ring that keeps the last of them.

use std::{
    collections::VecDeque,
    fmt::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use gusset_call::TraceContext;
use serde::{Serialize, Serializer, ser::SerializeMap};
use tracing::{Level, field};

/// An event of `tracing`, as plain data. Serialises as flat JSON, with the fields of the event in `fields`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Log {
    /// Its number among the logs of the process, which begin at 0.
    pub number: u64,
    /// When it was, in nanoseconds since 1970.
    pub unix_nanos: u64,
    /// How grave it is.
    pub level: Level,
    /// The service that logged it.
    pub service: Arc<str>,
    /// The module, unless the event says otherwise.
    pub target: &'static str,
    /// What it says, at most 8 KiB of it.
    pub message: Box<str>,
    /// The trace and span that it was logged in.
    pub trace: Option<TraceContext>,
    /// At most 32 fields; texts of at most 1 KiB.
    pub fields: Vec<(&'static str, FieldValue)>,
    /// How many fields were left out.
    pub dropped_fields: u32,
}

/// Value of a field of a [`Log`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum FieldValue {
    /// A text, or what has no other place here.
    Text(Box<str>),
    /// Yes or no.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// One that may be larger.
    Unsigned(u64),
    /// A number.
    Float(f64),
}

/// Most bytes of a message, of a field's text; most fields.
const MESSAGE: usize = 8 << 10;
const TEXT: usize = 1 << 10;
const FIELDS: usize = 32;

impl Log {
    /// What `event` says, now.
    pub(super) fn new(
        service: &Arc<str>,
        trace: Option<TraceContext>,
        event: &tracing::Event<'_>,
    ) -> Self {
        let metadata = event.metadata();
        let mut log = Self {
            number: 0,
            unix_nanos: unix_nanos(),
            level: *metadata.level(),
            service: service.clone(),
            target: metadata.target(),
            message: Box::default(),
            trace,
            fields: Vec::new(),
            dropped_fields: 0,
        };
        event.record(&mut log);
        log
    }

    fn add(&mut self, field: &field::Field, value: FieldValue) {
        if self.fields.len() < FIELDS {
            self.fields.push((field.name(), value));
        } else {
            self.dropped_fields = self.dropped_fields.saturating_add(1);
        }
    }

    /// About how much memory it takes.
    fn size(&self) -> usize {
        let texts = self.fields.iter().map(|(_, value)| match value {
            FieldValue::Text(text) => text.len(),
            _ => 0,
        });
        size_of::<Self>()
            + self.message.len()
            + texts.sum::<usize>()
            + self.fields.capacity() * size_of::<(&str, FieldValue)>()
    }
}

impl field::Visit for Log {
    fn record_f64(&mut self, field: &field::Field, value: f64) {
        self.add(field, FieldValue::Float(value));
    }

    fn record_i64(&mut self, field: &field::Field, value: i64) {
        self.add(field, FieldValue::Int(value));
    }

    fn record_u64(&mut self, field: &field::Field, value: u64) {
        let value = i64::try_from(value).map_or(FieldValue::Unsigned(value), FieldValue::Int);
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &field::Field, value: bool) {
        self.add(field, FieldValue::Bool(value));
    }

    fn record_str(&mut self, field: &field::Field, value: &str) {
        self.record_text(field, format_args!("{value}"));
    }

    fn record_error(&mut self, field: &field::Field, value: &(dyn std::error::Error + 'static)) {
        self.record_text(field, format_args!("{}", WithCauses(value)));
    }

    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        self.record_text(field, format_args!("{value:?}"));
    }
}

impl Log {
    fn record_text(&mut self, field: &field::Field, text: fmt::Arguments<'_>) {
        if field.name() == "message" {
            self.message = bounded(MESSAGE, text);
        } else if self.fields.len() < FIELDS {
            self.add(field, FieldValue::Text(bounded(TEXT, text)));
        } else {
            self.dropped_fields = self.dropped_fields.saturating_add(1);
        }
    }
}

/// An error and what caused it.
pub(super) struct WithCauses<'a>(pub(super) &'a (dyn std::error::Error + 'static));

impl fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)?;
        let mut next = self.0.source();
        while let Some(cause) = next {
            write!(f, ": {cause}")?;
            next = cause.source();
        }
        Ok(())
    }
}

/// The text, up to so many bytes; what is longer ends in `…` and is not written any further.
pub(super) fn bounded(most: usize, text: fmt::Arguments<'_>) -> Box<str> {
    struct Bounded {
        text: String,
        most: usize,
    }
    impl Write for Bounded {
        fn write_str(&mut self, part: &str) -> fmt::Result {
            let room = self.most - self.text.len();
            if part.len() <= room {
                self.text.push_str(part);
                return Ok(());
            }
            let end = (0..=room).rev().find(|end| part.is_char_boundary(*end)).unwrap_or(0);
            self.text.push_str(&part[..end]);
            Err(fmt::Error)
        }
    }
    let mut to = Bounded { text: String::new(), most: most - '…'.len_utf8() };
    if to.write_fmt(text).is_err() {
        to.text.push('…');
    }
    to.text.into()
}

#[expect(clippy::disallowed_methods, reason = "a log tells the time of the day")]
fn unix_nanos() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

impl Serialize for Log {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("number", &self.number)?;
        map.serialize_entry("unix_nanos", &self.unix_nanos)?;
        map.serialize_entry("level", self.level.as_str())?;
        map.serialize_entry("service", &*self.service)?;
        map.serialize_entry("target", self.target)?;
        map.serialize_entry("message", &self.message)?;
        if let Some(trace) = self.trace {
            map.serialize_entry("trace_id", &format_args!("{}", trace.trace_id()))?;
            map.serialize_entry("span_id", &format_args!("{}", trace.span_id()))?;
        }
        map.serialize_entry("fields", &Fields(&self.fields))?;
        if self.dropped_fields > 0 {
            map.serialize_entry("dropped_fields", &self.dropped_fields)?;
        }
        map.end()
    }
}

struct Fields<'a>(&'a [(&'static str, FieldValue)]);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

/// The last logs: at most so many, and at most so many bytes. The oldest make room.
///
/// One lock, held for a few instructions: who logs has waited for the lock of the output, for longer.
#[derive(Debug)]
pub(super) struct LogRing {
    state: Mutex<State>,
    most: usize,
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    logs: VecDeque<Arc<Log>>,
    bytes: usize,
    /// Number of the next log, so that of the first is this less the length.
    next: u64,
}

impl State {
    fn first(&self) -> u64 {
        self.next - self.logs.len() as u64
    }
}

impl LogRing {
    pub(super) fn new(most: usize, most_bytes: usize) -> Self {
        Self { state: Mutex::default(), most, most_bytes }
    }

    pub(super) const fn is_off(&self) -> bool {
        self.most == 0 || self.most_bytes == 0
    }

    pub(super) fn push(&self, mut log: Log) {
        let size = log.size();
        let mut gone = Vec::new();
        let mut state = self.lock();
        log.number = state.next;
        state.next += 1;
        state.bytes += size;
        state.logs.push_back(Arc::new(log));
        while state.logs.len() > self.most || state.bytes > self.most_bytes {
            let Some(oldest) = state.logs.pop_front() else { break };
            state.bytes -= oldest.size();
            gone.push(oldest);
        }
        drop(state);
        // Freed when nobody waits for it.
        drop(gone);
    }

    /// Up to `limit` logs from number `next` on, the oldest first, and how many from there on are gone. `next` moves behind them.
    pub(super) fn read(&self, next: &mut u64, limit: usize) -> (Vec<Arc<Log>>, u64) {
        let state = self.lock();
        let first = state.first();
        let missed = first.saturating_sub(*next);
        let from = usize::try_from((*next).max(first) - first).unwrap_or(usize::MAX);
        let logs: Vec<_> = state.logs.iter().skip(from).take(limit).cloned().collect();
        *next = (*next).max(first) + logs.len() as u64;
        (logs, missed)
    }

    /// Up to `limit` logs before number `before`, the youngest first.
    pub(super) fn before(&self, before: u64, limit: usize) -> Vec<Arc<Log>> {
        let state = self.lock();
        let skip = usize::try_from(state.next.saturating_sub(before)).unwrap_or(usize::MAX);
        state.logs.iter().rev().skip(skip).take(limit).cloned().collect()
    }

    /// How many were logged, how many of them are here, and how many bytes those take.
    pub(super) fn counts(&self) -> (u64, usize, usize) {
        let state = self.lock();
        (state.next, state.logs.len(), state.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(in crate::telemetry) mod tests;

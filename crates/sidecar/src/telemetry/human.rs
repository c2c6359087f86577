//! Lines for humans.

use std::fmt::{self, Write};

use gusset_call::Context;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    field::RecordFields,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

use super::log::WithCauses;

/// Time, level, target, message and fields, and behind them the identifiers.
///
/// Who chooses a name or an address chooses what is logged. So an event is one line, and what a terminal would obey is written as what it is.
pub(super) struct Human;

impl<S, N> FormatEvent<S, N> for Human
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        cx: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        SystemTime.format_time(&mut to)?;
        let meta = event.metadata();
        let colours = to.has_ansi_escapes();
        let (begin, end) = if colours { (colour(*meta.level()), "\x1b[0m") } else { ("", "") };
        write!(to, " {begin}{:>5}{end} {}: ", meta.level(), meta.target())?;
        cx.field_format().format_fields(to.by_ref(), event)?;
        if let Some(trace) = Context::current().trace() {
            write!(to, " trace_id={} span_id={}", trace.trace_id(), trace.span_id())?;
        }
        writeln!(to)
    }
}

const fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

/// The message, then `name=value`.
pub(super) struct HumanFields;

impl<'writer> FormatFields<'writer> for HumanFields {
    fn format_fields<R: RecordFields>(&self, mut to: Writer<'writer>, fields: R) -> fmt::Result {
        let mut fields_to =
            To { to: Escaping { to: &mut to, json: false }, first: true, result: Ok(()) };
        fields.record(&mut fields_to);
        fields_to.result
    }
}

struct To<W> {
    to: Escaping<W>,
    first: bool,
    result: fmt::Result,
}

impl<W: Write> To<W> {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.result.is_ok() {
            let space = if std::mem::take(&mut self.first) { "" } else { " " };
            self.result = match field.name() {
                "message" => write!(self.to, "{space}{value}"),
                name => write!(self.to, "{space}{name}={value}"),
            };
        }
    }
}

impl<W: Write> Visit for To<W> {
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, format_args!("{}", WithCauses(value)));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

/// Writes what acts on a terminal as an escape: `\u{1b}`, or `\u001b` within JSON.
pub(super) struct Escaping<W> {
    pub(super) to: W,
    pub(super) json: bool,
}

impl<W: Write> Write for Escaping<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut written = 0;
        for (at, c) in text.char_indices().filter(|(_, c)| acts(*c)) {
            self.to.write_str(&text[written..at])?;
            if self.json {
                write!(self.to, "\\u{:04x}", u32::from(c))?;
            } else {
                write!(self.to, "{}", c.escape_default())?;
            }
            written = at + c.len_utf8();
        }
        self.to.write_str(&text[written..])
    }
}

/// Whether a terminal or an editor does something else than to show it.
fn acts(c: char) -> bool {
    // Line and paragraph separators; marks that turn the direction of writing.
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

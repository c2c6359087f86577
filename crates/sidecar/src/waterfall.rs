//! A trace as a picture.

use std::{collections::HashMap, fmt};

use crate::{End, Record, SpanKind};

/// Columns of the bars.
const WIDTH: u64 = 32;

/// Columns of the names.
const NAME: usize = 58;

/// The spans of one trace as a tree: what was caused stands below its cause, in order of beginning. It displays as one line for each: who did what,
/// its status, how long it took, and when within the trace.
///
/// A span whose cause is not among the records is a root.
///
/// ```
/// # use gusset_sidecar::{Recorder, SpanKind, Waterfall};
/// # use gusset_call::TraceContext;
/// # use std::time::Duration;
/// # let recorder = Recorder::new("orders");
/// # let root = TraceContext::new_root();
/// # recorder.record(recorder.finished(root, SpanKind::Server, "POST /orders", Duration::from_millis(2)));
/// let records = recorder.trace(root.trace_id());
/// let waterfall = Waterfall::new(&records);
/// assert_eq!(waterfall.rows()[0].name(), "orders POST /orders");
/// print!("{waterfall}");
/// ```
#[derive(Clone, Debug)]
pub struct Waterfall<'a> {
    rows: Vec<Row<'a>>,
}

/// A line of a [`Waterfall`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Row<'a> {
    /// How many of the other rows are above it as causes of causes.
    pub depth: usize,
    /// The span.
    pub record: &'a Record,
}

impl Row<'_> {
    /// The service, and the name of the span; behind an arrow if it is a call or a message that went out.
    #[must_use]
    pub fn name(&self) -> String {
        let sends = matches!(self.record.kind, SpanKind::Client | SpanKind::Producer);
        let arrow = if sends { " → " } else { " " };
        format!("{}{arrow}{}", self.record.service, self.record.name())
    }
}

impl<'a> Waterfall<'a> {
    /// Of these records, in whatever order.
    #[must_use]
    pub fn new(records: &'a [Record]) -> Self {
        let mut by_start: Vec<_> = records.iter().collect();
        by_start.sort_by_key(|record| record.start_unix_nanos);
        let places: HashMap<_, _> =
            by_start.iter().enumerate().map(|(place, record)| (record.span_id, place)).collect();
        let mut below = vec![Vec::new(); by_start.len()];
        let mut roots = Vec::new();
        for (place, record) in by_start.iter().enumerate() {
            match record.parent_id.and_then(|parent| places.get(&parent)) {
                Some(&cause) if cause != place => below[cause].push(place),
                _ => roots.push(place),
            }
        }
        let mut rows = Vec::with_capacity(by_start.len());
        let mut shown = vec![false; by_start.len()];
        // A trace from outside may name causes in a circle, which no root leads to. Its first span is then one.
        for root in roots.into_iter().chain(0..by_start.len()) {
            let mut next = vec![(0, root)];
            while let Some((depth, place)) = next.pop() {
                if !std::mem::replace(&mut shown[place], true) {
                    rows.push(Row { depth, record: by_start[place] });
                    next.extend(below[place].iter().rev().map(|&below| (depth + 1, below)));
                }
            }
        }
        Self { rows }
    }

    /// From the top to the bottom.
    #[must_use]
    pub fn rows(&self) -> &[Row<'a>] {
        &self.rows
    }
}

impl fmt::Display for Waterfall<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let records = || self.rows.iter().map(|row| row.record);
        let start = records().map(|record| record.start_unix_nanos).min().unwrap_or_default();
        let end = records().map(end_of).max().unwrap_or_default();
        let whole = u128::from((end - start).max(1));
        let column = |nanos: u64| {
            let column = u128::from(nanos - start) * u128::from(WIDTH) / whole;
            usize::try_from(column.min(u128::from(WIDTH - 1))).unwrap_or_default()
        };
        for row in &self.rows {
            let record = row.record;
            let (from, to) = (column(record.start_unix_nanos), column(end_of(record)));
            let bar = format!("{}{}", " ".repeat(from), "▬".repeat(to - from + 1));
            let status = match (record.grpc_status, record.status, record.end) {
                (_, _, End::Cancelled) => "left".to_owned(),
                (_, _, End::Panicked) => "died".to_owned(),
                (Some(code), ..) => code.to_string(),
                (None, Some(status), _) => status.to_string(),
                (None, None, End::Error) => "err".to_owned(),
                (None, None, End::Complete) => String::new(),
            };
            let name = format!("{}{}", "· ".repeat(row.depth), row.name());
            let millis = record.duration.as_secs_f64() * 1_000.0;
            writeln!(f, "{name:<NAME$.NAME$} {status:>4} {millis:>7.2} ms {bar}")?;
        }
        Ok(())
    }
}

fn end_of(record: &Record) -> u64 {
    let nanos = u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX);
    record.start_unix_nanos.saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recorder;
    use gusset_call::TraceContext;
    use std::time::Duration;

    /// Spans by name, cause and millisecond of beginning.
    fn records(spans: &[(&'static str, Option<&str>, u64)]) -> Vec<Record> {
        let (recorder, root) = (Recorder::new("s"), TraceContext::new_root());
        let ids: Vec<_> = spans.iter().map(|(name, ..)| (*name, root.child())).collect();
        let id = |wanted: &str| ids.iter().find(|(name, _)| *name == wanted).map(|(_, id)| *id);
        let record = |(name, cause, start): &(&'static str, Option<&str>, u64)| {
            let id = id(name).unwrap();
            let span = Duration::from_millis(2);
            let mut record = recorder.finished(id, SpanKind::Internal, *name, span);
            record.start_unix_nanos = start * 1_000_000;
            let outside = root.child().span_id();
            record.parent_id = cause.map(|cause| self::cause(&ids, cause).unwrap_or(outside));
            record
        };
        spans.iter().map(record).collect()
    }

    fn cause(ids: &[(&str, TraceContext)], wanted: &str) -> Option<gusset_call::SpanId> {
        ids.iter().find(|(name, _)| *name == wanted).map(|(_, id)| id.span_id())
    }

    fn tree(records: &[Record]) -> Vec<String> {
        let waterfall = Waterfall::new(records);
        let line = |row: &Row<'_>| format!("{}{}", "·".repeat(row.depth), row.record.operation);
        waterfall.rows().iter().map(line).collect()
    }

    #[test]
    fn what_was_caused_stands_below_its_cause_in_order_of_beginning() {
        let spans = [
            ("late", Some("root"), 5),
            ("leaf", Some("early"), 4),
            ("early", Some("root"), 3),
            ("root", Some("somewhere else"), 1),
            ("other root", None, 2),
        ];
        let expected = ["root", "·early", "··leaf", "·late", "other root"];
        assert_eq!(tree(&records(&spans)), expected);
    }

    #[test]
    fn causes_in_a_circle_are_shown_once_each() {
        let spans = [("a", Some("b"), 1), ("b", Some("a"), 2), ("self", Some("self"), 3)];
        assert_eq!(tree(&records(&spans)), ["self", "a", "·b"]);
        let mut twice = records(&[("a", None, 1), ("b", Some("a"), 2)]);
        twice.push(twice[0].clone());
        assert_eq!(tree(&twice).len(), 3);
    }

    #[test]
    fn a_line_shows_who_what_how_and_when() {
        let mut records = records(&[("root", None, 0), ("é".repeat(70).leak(), Some("root"), 6)]);
        records[0].duration = Duration::from_millis(8);
        records[1].end = End::Cancelled;
        let text = Waterfall::new(&records).to_string();
        let lines: Vec<_> = text.lines().collect();
        let root = format!("{:<58} {:>4}    8.00 ms {}", "s root", "", "▬".repeat(32));
        assert_eq!(lines[0], root);
        let bar = format!("{}{}", " ".repeat(24), "▬".repeat(8));
        assert!(lines[1].starts_with("· s ééé") && lines[1].ends_with(&bar), "{text}");
        assert!(lines[1].contains(" left    2.00 ms "), "{text}");
        assert_eq!(lines[0].chars().count(), lines[1].chars().count());
        assert_eq!(Waterfall::new(&[]).to_string(), "");
    }

    #[test]
    fn times_at_the_end_of_their_type_do_not_overflow() {
        let mut records = records(&[("a", None, 0), ("b", None, 0)]);
        records[1].start_unix_nanos = u64::MAX - 1;
        records[1].duration = Duration::MAX;
        assert_eq!(Waterfall::new(&records).to_string().lines().count(), 2);
    }
}

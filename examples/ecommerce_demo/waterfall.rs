use std::collections::HashMap;

use gusset::{
    call::SpanId,
    sidecar::{Record, SpanKind},
};

/// Columns of the bars.
const WIDTH: u64 = 32;

/// One line a span: who, what, and when within the trace.
pub(crate) fn waterfall(records: &[Record]) -> Vec<String> {
    let start = records.iter().map(|record| record.start_unix_nanos).min().unwrap_or_default();
    let end = records.iter().map(end_of).max().unwrap_or_default();
    let whole = (end - start).max(1);
    let depths = depths(records);
    let line = |record: &Record| {
        let column = |nanos: u64| ((nanos - start) * WIDTH / whole).min(WIDTH - 1) as usize;
        let (from, to) = (column(record.start_unix_nanos), column(end_of(record)));
        let bar = format!("{}{}", " ".repeat(from), "▬".repeat(to - from + 1));
        let depth = depths.get(&record.span_id).copied().unwrap_or_default();
        let status = record.status.map(|status| status.to_string()).unwrap_or_default();
        let sends = matches!(record.kind, SpanKind::Client | SpanKind::Producer);
        let arrow = if sends { " → " } else { " " };
        let name = format!("{}{}{arrow}{}", "· ".repeat(depth), record.service, record.name());
        let millis = record.duration.as_secs_f64() * 1_000.0;
        format!("{name:<58.58} {status:>3} {millis:>7.2} ms {bar}")
    };
    records.iter().map(line).collect()
}

fn end_of(record: &Record) -> u64 {
    let nanos = u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX);
    record.start_unix_nanos.saturating_add(nanos)
}

/// How far each span is from the root of the trace.
fn depths(records: &[Record]) -> HashMap<SpanId, usize> {
    let parents: HashMap<_, _> =
        records.iter().map(|record| (record.span_id, record.parent_id)).collect();
    let depth = |record: &Record| {
        let up = |span: &Option<SpanId>| parents.get(&(*span)?).copied();
        let ancestors = std::iter::successors(Some(record.parent_id), up);
        // A trace from outside may name a parent twice; no chain is longer than the trace.
        ancestors
            .take(records.len())
            .filter(|span| span.is_some_and(|id| parents.contains_key(&id)))
            .count()
    };
    records.iter().map(|record| (record.span_id, depth(record))).collect()
}

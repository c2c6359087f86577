use std::str::FromStr;

use gusset_call::TraceId;
use gusset_sidecar::{
    Waterfall,
    telemetry::{LogQuery, Store, TraceQuery},
};
use serde_json::{Value, json};

use crate::Sources;

/// What comes with each change: the page keeps the older ones.
const NEWEST: usize = 200;
/// What the page asks for at its start.
pub(crate) const MOST: usize = 10_000;
/// Logs of one trace, and beside the list.
const LOGS: usize = 1_000;

pub(crate) fn page(sources: &Sources) -> Value {
    let Some(store) = &sources.traces else { return json!({ "absent": true }) };
    let logs = store.logs(&LogQuery::new().limit(100));
    let logs: Vec<_> = logs.iter().map(|log| &**log).collect();
    json!({
        "newest": store.traces(&TraceQuery::new().limit(NEWEST)),
        "stats": store.stats(),
        "logs": logs,
    })
}

/// The youngest.
pub(crate) fn list(store: Option<&Store>) -> Value {
    let traces = store.map(|store| store.traces(&TraceQuery::new().limit(MOST)));
    json!({ "traces": traces.unwrap_or_default() })
}

/// One trace as a waterfall, with what was logged meanwhile. `None` if there is nothing of it.
pub(crate) fn one(store: &Store, id: &str) -> Option<Value> {
    let id = TraceId::from_str(id).ok()?;
    let records = store.trace(id);
    let logs = store.logs(&LogQuery::new().trace(id).limit(LOGS));
    if records.is_empty() && logs.is_empty() {
        return None;
    }
    let waterfall = Waterfall::new(&records);
    let spans = waterfall.rows().iter().map(|row| {
        json!({ "depth": row.depth, "name": row.name(), "failed": row.record.is_failure(), "span": row.record })
    });
    let logs: Vec<_> = logs.iter().rev().map(|log| &**log).collect();
    Some(json!({ "trace_id": id.to_string(), "spans": spans.collect::<Vec<_>>(), "logs": logs }))
}

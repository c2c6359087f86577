use std::str::FromStr;

use gusset_call::TraceId;
use gusset_sidecar::{
    Waterfall,
    telemetry::{LogQuery, Store, TraceQuery},
};
use serde_json::{Value, json};

use crate::{Page, Sources, merge};

/// What comes with each change: the page keeps the older ones.
const NEWEST: usize = 200;
/// What the page asks for at its start.
pub(crate) const MOST: usize = 10_000;
/// Logs of one trace, and beside the list.
const LOGS: usize = 1_000;

pub(crate) fn page(sources: &Sources) -> Value {
    let of_one = |store: &Store| {
        let logs = store.logs(&LogQuery::new().limit(100));
        let logs: Vec<_> = logs.iter().map(|log| &**log).collect();
        json!({
            "newest": store.traces(&TraceQuery::new().limit(NEWEST)),
            "stats": store.stats(),
            "logs": logs,
        })
    };
    let all = sources.traces.iter().map(of_one);
    let all = all.reduce(|mut all, more| {
        merge::page(Page::Traces, &mut all, more);
        all
    });
    all.unwrap_or_else(|| json!({ "absent": true }))
}

/// The youngest.
pub(crate) fn list(stores: &[Store]) -> Value {
    let of_one = |store: &Store| json!({ "traces": store.traces(&TraceQuery::new().limit(MOST)) });
    together(stores.iter().map(of_one), "all").unwrap_or_else(|| json!({ "traces": [] }))
}

/// One trace as a waterfall, with what was logged meanwhile. `None` if there is nothing of it.
pub(crate) fn one(stores: &[Store], id: &str) -> Option<Value> {
    let trace = TraceId::from_str(id).ok()?;
    together(stores.iter().filter_map(|store| of_one(store, trace)), id)
}

/// What several know as one tells it.
fn together(mut all: impl Iterator<Item = Value>, id: &str) -> Option<Value> {
    let mut found = all.next()?;
    let mut more = all.peekable();
    if more.peek().is_some() {
        more.for_each(|more| merge::detail("traces", &mut found, more));
        merge::arrange("traces", id, &mut found);
    }
    Some(found)
}

fn of_one(store: &Store, id: TraceId) -> Option<Value> {
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

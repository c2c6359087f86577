use std::str::FromStr;

use gusset_saga::{Event, Orchestrator, Order, Query, Record, SagaError, SagaId, State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Sources, live::within};

/// How many of each state are listed. Those that wait for somebody come first.
const OF_EACH: usize = 100;
const STATES: [State; 7] = [
    State::Stuck,
    State::Blocked,
    State::TurningBack,
    State::Running,
    State::Compensated,
    State::Closed,
    State::Completed,
];
/// Most records of one saga that are shown: the last.
const RECORDS: usize = 500;

pub(crate) async fn page(sources: &Sources) -> Value {
    let Some(sagas) = &sources.sagas else { return json!({ "absent": true }) };
    within(lists(sagas)).await.unwrap_or_else(|why| json!({ "error": why }))
}

async fn lists(sagas: &Orchestrator) -> Result<Value, SagaError> {
    let counts = sagas.count().await?;
    let mut listed = Vec::new();
    for state in STATES {
        if counts.iter().any(|(of, count)| *of == state && *count > 0) {
            listed.extend(sagas.list(&Query::in_state(state).limit(OF_EACH)).await?);
        }
    }
    let listed = listed.iter().map(|saga| {
        json!({
            "saga": saga.saga,
            "definition": &*saga.definition,
            "version": saga.version,
            "state": saga.state,
            "records": saga.records,
            "created_at": saga.created_at,
            "changed_at": saga.changed_at,
            "node": saga.node.as_deref(),
            "due": saga.due,
        })
    });
    let counts = counts.iter().map(|(state, count)| json!({ "state": state, "count": count }));
    let (counts, sagas): (Vec<_>, Vec<_>) = (counts.collect(), listed.collect());
    Ok(json!({ "counts": counts, "sagas": sagas }))
}

/// Where one stands, with its steps as a graph and the end of its journal.
pub(crate) async fn one(sagas: &Orchestrator, id: &str) -> Result<Value, SagaError> {
    let Ok(id) = SagaId::from_str(id) else { return Ok(Value::Null) };
    let (report, history) = (sagas.report(&id).await?, sagas.history(&id).await?);
    let trace = history.first().and_then(trace_of);
    let last = &history[history.len().saturating_sub(RECORDS)..];
    Ok(json!({ "report": report, "shape": report.shape(), "history": last, "trace_id": trace }))
}

/// Of a W3C `traceparent`, the second part.
fn trace_of(record: &Record) -> Option<&str> {
    match &record.event {
        Event::Started { trace, .. } => trace.as_deref()?.split('-').nth(1),
        _ => None,
    }
}

/// What an operator can order.
#[derive(Deserialize)]
pub(crate) struct Act {
    saga: String,
    #[serde(rename = "do")]
    act: String,
    #[serde(default)]
    step: String,
    #[serde(default)]
    output: Value,
    #[serde(default)]
    note: String,
}

pub(crate) async fn act(sagas: &Orchestrator, act: &Act) -> Result<Value, String> {
    let saga = SagaId::from_str(&act.saga).map_err(|error| error.to_string())?;
    if act.note.trim().is_empty() {
        return Err("an order needs a note, which stands in the journal".to_owned());
    }
    let report = match &*act.act {
        "retry" => sagas.order(&saga, Order::Retry, &act.note).await,
        "skip" => sagas.skip(&saga, &act.step, &act.note).await,
        "supply" => sagas.supply(&saga, &act.step, &act.output, &act.note).await,
        "turn_back" => sagas.order(&saga, Order::TurnBack, &act.note).await,
        "close" => sagas.order(&saga, Order::Close, &act.note).await,
        _ => return Err("do is retry, skip, supply, turn_back or close".to_owned()),
    };
    let report = report.map_err(|error| error.to_string())?;
    Ok(json!({ "state": report.state }))
}

use std::{str::FromStr, time::Duration};

use gusset_call::TraceId;
use gusset_saga::{
    Event, Json, Operator, Orchestrator, Order, Ordered, Query, Record, Report, SagaError, SagaId,
    State, Summary,
};
use gusset_sidecar::telemetry::Store;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Sources, live::within, millis};

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

/// How long an order waits for the process that holds the saga.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sagas, with the definitions of this process or without any.
#[derive(Clone)]
pub(crate) enum Sagas {
    Of(Orchestrator),
    In(Operator),
}

impl Sagas {
    async fn list(&self, query: &Query) -> Result<Vec<Summary>, SagaError> {
        match self {
            Self::Of(sagas) => sagas.list(query).await,
            Self::In(store) => store.list(query).await,
        }
    }

    async fn count(&self) -> Result<Vec<(State, u64)>, SagaError> {
        match self {
            Self::Of(sagas) => sagas.count().await,
            Self::In(store) => store.count().await,
        }
    }

    async fn history(&self, saga: &SagaId) -> Result<Vec<Record>, SagaError> {
        match self {
            Self::Of(sagas) => sagas.history(saga).await,
            Self::In(store) => store.history(saga).await,
        }
    }

    /// What came of it, as JSON.
    async fn order(&self, saga: &SagaId, order: Order, note: &str) -> Result<Value, SagaError> {
        Ok(match self {
            Self::Of(sagas) => json!({ "state": sagas.order(saga, order, note).await?.state }),
            Self::In(store) => match store.order(saga, order, note, PATIENCE).await? {
                Ordered::Journaled(report) => json!({ "state": report.state }),
                Ordered::Waiting { node } => json!({ "state": "waiting", "node": &*node }),
                _ => json!({ "state": "waiting" }),
            },
        })
    }
}

async fn lists(sagas: &Sagas) -> Result<Value, SagaError> {
    let counts = sagas.count().await?;
    let mut listed = Vec::new();
    for state in STATES {
        if counts.iter().any(|(of, count)| *of == state && *count > 0) {
            let all = Query::in_state(state).limit(OF_EACH);
            // Whoever waits has waited since the first; of the others the last tell how it goes.
            let waits = matches!(state, State::Stuck | State::Blocked);
            let query = if waits { all } else { all.newest_first() };
            listed.extend(sagas.list(&query).await?);
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

/// Where one stands, with its steps as a graph, the end of its journal, and what is known of the attempts at its steps.
pub(crate) async fn one(sagas: &Sagas, id: &str, traces: &[Store]) -> Result<Value, SagaError> {
    let Ok(id) = SagaId::from_str(id) else { return Ok(Value::Null) };
    let history = sagas.history(&id).await?;
    let report = Report::replay(id.clone(), &history)?;
    let trace = history.first().and_then(trace_of);
    let last = &history[history.len().saturating_sub(RECORDS)..];
    let attempts = trace.map(|trace| attempts(traces, &id, trace));
    Ok(json!({
        "report": report,
        "shape": report.shape(),
        "history": last,
        "trace_id": trace,
        "attempts": attempts.unwrap_or_default(),
    }))
}

/// Spans of the saga's trace that were recorded for attempts at its steps.
fn attempts(stores: &[Store], id: &SagaId, trace: &str) -> Vec<Value> {
    let Ok(trace) = TraceId::from_str(trace) else { return Vec::new() };
    let mut records: Vec<_> = stores.iter().flat_map(|store| store.trace(trace)).collect();
    records.sort_by_key(|record| record.start_unix_nanos);
    let tag = |record: &gusset_sidecar::Record, name: &str| {
        let found = record.tags.iter().find(|(of, _)| of == name);
        found.map(|(_, value)| value.to_string())
    };
    let of_saga = records.iter().filter(|r| tag(r, "saga.id").as_deref() == Some(id.as_str()));
    let attempts = of_saga.map(|record| {
        json!({
            "step": tag(record, "saga.step"),
            "direction": tag(record, "saga.direction"),
            "attempt": record.attempt,
            "failed": record.is_failure(),
            "error": record.error.as_deref(),
            "began_at": record.start_unix_nanos / 1_000_000,
            "duration_ms": millis(record.duration),
        })
    });
    attempts.take(RECORDS).collect()
}

/// Of a W3C `traceparent`, the second part.
fn trace_of(record: &Record) -> Option<&str> {
    match &record.event {
        Event::Started { trace, .. } => trace.as_deref()?.split('-').nth(1),
        _ => None,
    }
}

fn null() -> Json {
    Json::null()
}

/// What an operator can order.
#[derive(Deserialize)]
pub(crate) struct Act {
    saga: String,
    #[serde(rename = "do")]
    act: String,
    #[serde(default)]
    step: String,
    #[serde(default = "null")]
    output: Json,
    #[serde(default)]
    note: String,
}

pub(crate) async fn act(sagas: &Sagas, act: Act) -> Result<Value, String> {
    let saga = SagaId::from_str(&act.saga).map_err(|error| error.to_string())?;
    if act.note.trim().is_empty() {
        return Err("an order needs a note, which stands in the journal".to_owned());
    }
    let order = match &*act.act {
        "retry" => Order::Retry,
        "skip" => Order::Skip { step: act.step.into() },
        "supply" => Order::Supply { step: act.step.into(), output: act.output },
        "turn_back" => Order::TurnBack,
        "close" => Order::Close,
        _ => return Err("do is retry, skip, supply, turn_back or close".to_owned()),
    };
    sagas.order(&saga, order, &act.note).await.map_err(|error| error.to_string())
}

//! What an instance tells whoever looks after the shop, on paths that no gateway leads to. Where the instance is a process of its own, this is how it is looked into.

use std::{sync::Arc, time::Duration};

use axum::{Json, Router, extract::Path, routing::get};
use gusset::{
    breaker::{self, Circuits},
    call::{SpanId, TraceContext, TraceId},
    sidecar::{End, Record, Recorder, Sidecar, SpanKind, Summary},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an instance has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// Requests.
    pub requests: u64,
    /// Of them, those that failed.
    pub errors: u64,
    /// How long one took on average, in seconds.
    pub average: f64,
}

impl From<Summary> for Answered {
    fn from(summary: Summary) -> Self {
        let average = summary.durations.average().as_secs_f64();
        Self { requests: summary.count(), errors: summary.errors, average }
    }
}

/// All figures of an instance.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) answered: Answered,
    /// Attempts after the first.
    pub(crate) retries: u64,
    /// Of which other instances it keeps a circuit, and whether that is closed.
    pub(crate) circuits: Vec<(String, bool)>,
}

impl Figures {
    pub(crate) fn of(sidecar: &Sidecar, circuits: Option<&Circuits<Arc<str>>>) -> Self {
        let closed = |state| state == breaker::State::Closed;
        let circuits = circuits.into_iter().flat_map(Circuits::all);
        Self {
            answered: sidecar.metrics().snapshot().total(SpanKind::Server).into(),
            retries: retries_in(&sidecar.metrics().render_prometheus()),
            circuits: circuits
                .map(|circuit| (circuit.name().to_owned(), closed(circuit.state())))
                .collect(),
        }
    }
}

/// How many a page of metrics tells of.
pub(crate) fn retries_in(metrics: &str) -> u64 {
    let values = metrics.lines().filter(|line| line.starts_with("gusset_retries_total{"));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

/// `/metrics`, `/figures`, and `/spans/{trace}`.
pub(crate) fn router(sidecar: &Sidecar, circuits: Option<Circuits<Arc<str>>>) -> Router {
    let (metrics, recorder, all) =
        (sidecar.metrics().clone(), sidecar.recorder().clone(), sidecar.clone());
    Router::new()
        .route("/metrics", get(async move || metrics.render_prometheus()))
        .route("/figures", get(async move || Json(Figures::of(&all, circuits.as_ref()))))
        .merge(spans(recorder))
}

/// `/spans/{trace}`.
pub(crate) fn spans(recorder: Recorder) -> Router {
    let spans = async move |Path(trace): Path<String>| {
        Json(trace.parse::<TraceId>().map_or_else(|_| Vec::new(), |id| recorder.trace(id)))
    };
    Router::new().route("/spans/{trace}", get(spans))
}

/// What [`Record`] serialises to, as far as a waterfall shows it.
#[derive(Deserialize)]
struct Span {
    trace_id: String,
    span_id: String,
    parent_id: Option<String>,
    kind: String,
    service: String,
    operation: String,
    method: String,
    attempt: u32,
    start_unix_nanos: u64,
    duration_nanos: u64,
    status: Option<u16>,
    #[serde(default)]
    grpc_status: Option<u8>,
    end: String,
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    path: Option<String>,
}

/// The records that another process told of; what is no record is left out.
pub(crate) fn records(told: Value) -> Vec<Record> {
    let spans: Vec<Value> = serde_json::from_value(told).unwrap_or_default();
    spans.into_iter().filter_map(|span| record(serde_json::from_value(span).ok()?)).collect()
}

fn record(span: Span) -> Option<Record> {
    let kind = match &*span.kind {
        "server" => SpanKind::Server,
        "client" => SpanKind::Client,
        "producer" => SpanKind::Producer,
        "consumer" => SpanKind::Consumer,
        _ => SpanKind::Internal,
    };
    // One by gRPC goes by its method.
    let rpc = span.path.as_deref().filter(|_| span.grpc_status.is_some());
    let rpc = rpc.map(|path| path.trim_start_matches('/').to_owned());
    let methods = ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"];
    let known = methods.into_iter().find(|method| *method == span.method && rpc.is_none());
    let operation = rpc.unwrap_or(span.operation);
    let blank = Recorder::with_capacity(span.service, 1);
    let duration = Duration::from_nanos(span.duration_nanos);
    let context = TraceContext::new_root();
    let mut record = blank.finished(context, kind, operation, duration);
    record.trace_id = span.trace_id.parse().ok()?;
    record.span_id = span.span_id.parse().ok()?;
    record.parent_id = span.parent_id.and_then(|parent| parent.parse::<SpanId>().ok());
    record.method = known.unwrap_or_default();
    record.attempt = span.attempt;
    record.start_unix_nanos = span.start_unix_nanos;
    record.status = span.status;
    record.grpc_status = span.grpc_status;
    record.error = span.error.map(Into::into);
    record.end = match &*span.end {
        "cancelled" => End::Cancelled,
        "panicked" => End::Panicked,
        "error" => End::Error,
        _ => End::Complete,
    };
    Some(record)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_the_same_after_its_way_from_another_process() {
        let recorder = Recorder::new("order-service");
        let root = TraceContext::new_root();
        let took = Duration::from_millis(7);
        for kind in [SpanKind::Server, SpanKind::Client, SpanKind::Consumer, SpanKind::Producer] {
            let mut record = recorder.finished(root, kind, "POST /orders", took);
            (record.method, record.status, record.attempt) = ("POST", Some(503), 2);
            record.parent_id = Some(TraceContext::new_root().span_id());
            (record.end, record.error) = (End::Error, Some("gone".into()));
            assert_eq!(records(json!([record, { "no": "record" }])), [record]);
        }
    }
}

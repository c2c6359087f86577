//! A record as OpenTelemetry sees it.

use std::time::{Duration, SystemTime};

use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind as OtelKind, Status, TraceState},
};
use opentelemetry_sdk::trace::SpanData;

use crate::{End, Record, SpanKind};

pub(super) fn span_data(record: Record) -> SpanData {
    let start_time = SystemTime::UNIX_EPOCH + Duration::from_nanos(record.start_unix_nanos);
    let flags = if record.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let failure = record.is_failure();
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(record.trace_id.get()),
            SpanId::from(record.span_id.get()),
            flags,
            false,
            TraceState::default(),
        ),
        parent_span_id: record.parent_id.map_or(SpanId::INVALID, |id| SpanId::from(id.get())),
        parent_span_is_remote: record.kind == SpanKind::Server,
        span_kind: match record.kind {
            SpanKind::Server => OtelKind::Server,
            SpanKind::Client => OtelKind::Client,
            SpanKind::Internal => OtelKind::Internal,
        },
        name: record.name().into_owned().into(),
        start_time,
        end_time: start_time + record.duration,
        status: if failure {
            Status::error(record.error.as_deref().unwrap_or_default().to_owned())
        } else {
            Status::Unset
        },
        attributes: attributes(record, failure),
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        instrumentation_scope: InstrumentationScope::builder("gusset-sidecar").build(),
    }
}

/// By OpenTelemetry's semantic conventions for HTTP and RPC.
fn attributes(record: Record, failure: bool) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(8 + record.tags.len());
    if !record.method.is_empty() {
        attributes.push(KeyValue::new("http.request.method", record.method));
        if *record.operation != *record.method {
            let client = record.kind == SpanKind::Client;
            let name = if client { "peer.service" } else { "http.route" };
            attributes.push(KeyValue::new(name, record.operation.to_string()));
        }
    }
    if let Some(status) = record.status {
        attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
    }
    if let Some(code) = record.grpc_status {
        attributes.push(KeyValue::new("rpc.response.status_code", code.to_string()));
    }
    if let Some(peer) = &record.peer {
        attributes.push(KeyValue::new("server.address", peer.host().to_owned()));
        if let Some(port) = peer.port_u16() {
            attributes.push(KeyValue::new("server.port", i64::from(port)));
        }
    }
    if record.attempt > 1 {
        let resends = i64::from(record.attempt) - 1;
        attributes.push(KeyValue::new("http.request.resend_count", resends));
    }
    let error = match (record.end, record.status) {
        (End::Cancelled, _) => Some("cancelled".to_owned()),
        (End::Panicked, _) => Some("panicked".to_owned()),
        (_, Some(status)) if failure && record.end == End::Complete => Some(status.to_string()),
        _ => failure.then(|| "_OTHER".to_owned()),
    };
    attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
    let tags = record.tags.into_iter();
    attributes.extend(tags.map(|(key, value)| KeyValue::new(key, value)));
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Recorder, Sidecar};
    use gusset_call::TraceContext;

    #[test]
    fn the_attributes_follow_the_conventions() {
        let cx = TraceContext::new_root();
        let recorder = Recorder::new("s");
        let work = Sidecar::with_recorder(recorder.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(work.intercept("work", async { Ok::<_, String>(()) })).unwrap();
        let plain = recorder.recent(1).remove(0);
        let called = Record {
            trace_id: cx.trace_id(),
            kind: SpanKind::Client,
            operation: "orders".into(),
            method: "GET",
            peer: Some("orders:8080".parse().unwrap()),
            attempt: 3,
            status: Some(503),
            ..plain
        };
        let span = span_data(called);
        assert_eq!(span.name, "GET orders");
        assert_eq!(span.span_kind, OtelKind::Client);
        assert!(matches!(span.status, Status::Error { .. }));
        let attributes: Vec<_> =
            span.attributes.iter().map(|kv| format!("{}={}", kv.key, kv.value)).collect();
        assert_eq!(
            attributes,
            [
                "http.request.method=GET",
                "peer.service=orders",
                "http.response.status_code=503",
                "server.address=orders",
                "server.port=8080",
                "http.request.resend_count=2",
                "error.type=503",
            ]
        );
    }
}

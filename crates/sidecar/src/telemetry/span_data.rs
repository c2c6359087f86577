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
        parent_span_is_remote: matches!(record.kind, SpanKind::Server | SpanKind::Consumer),
        span_kind: match record.kind {
            SpanKind::Server => OtelKind::Server,
            SpanKind::Client => OtelKind::Client,
            SpanKind::Internal => OtelKind::Internal,
            SpanKind::Producer => OtelKind::Producer,
            SpanKind::Consumer => OtelKind::Consumer,
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

/// Tags that the conventions want as numbers.
const NUMBERS: [&str; 2] = ["messaging.message.body.size", "messaging.batch.message_count"];

/// By OpenTelemetry's semantic conventions for HTTP and RPC. Those for messages come as tags.
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
    if record.attempt > 1 && !record.method.is_empty() {
        let resends = i64::from(record.attempt) - 1;
        attributes.push(KeyValue::new("http.request.resend_count", resends));
    }
    let error = match (record.end, record.status) {
        (End::Cancelled, _) => Some("cancelled".to_owned()),
        (End::Panicked, _) => Some("panicked".to_owned()),
        (_, Some(status)) if failure && record.end == End::Complete => Some(status.to_string()),
        _ => failure.then(|| "_OTHER".to_owned()),
    };
    // Who recorded it may know better.
    let error = error.filter(|_| record.tags.iter().all(|(key, _)| key != "error.type"));
    attributes.extend(error.map(|error| KeyValue::new("error.type", error)));
    attributes.extend(record.tags.into_iter().map(|(key, value)| {
        let number = NUMBERS.contains(&&*key).then(|| value.parse::<i64>().ok()).flatten();
        match number {
            Some(number) => KeyValue::new(key, number),
            None => KeyValue::new(key, value),
        }
    }));
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Recorder, Sidecar};
    use gusset_call::TraceContext;

    fn text(span: &SpanData) -> Vec<String> {
        span.attributes.iter().map(|kv| format!("{}={}", kv.key, kv.value)).collect()
    }

    #[test]
    fn a_message_is_a_span_of_its_kind_with_its_own_attributes() {
        let recorder = Recorder::new("s");
        let trace = TraceContext::new_root();
        let span = Duration::from_millis(2);
        let mut handled =
            recorder.finished(trace, SpanKind::Consumer, "process order.created", span);
        (handled.attempt, handled.end) = (2, End::Error);
        handled.tags = [("messaging.message.body.size", "7"), ("error.type", "rejected")]
            .map(|(key, value)| (key.into(), value.into()))
            .into();
        let sent = recorder.finished(trace, SpanKind::Producer, "publish order.created", span);
        let (handled, sent) = (span_data(handled), span_data(sent));
        assert_eq!(handled.name, "process order.created");
        let kinds = (handled.span_kind.clone(), sent.span_kind);
        assert_eq!(kinds, (OtelKind::Consumer, OtelKind::Producer));
        assert!(handled.parent_span_is_remote && !sent.parent_span_is_remote);
        assert_eq!(text(&handled), ["messaging.message.body.size=7", "error.type=rejected"]);
        assert_eq!(handled.attributes[0].value, opentelemetry::Value::I64(7));
        assert!(matches!(handled.status, Status::Error { .. }));
    }

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
        assert_eq!(
            text(&span),
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

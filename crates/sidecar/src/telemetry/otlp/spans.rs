//! A record as OpenTelemetry sees it: the message `Span`.

use std::borrow::Cow;

use super::{proto::Message, resource::attribute};
use crate::{
    Record, SpanKind,
    metrics::{
        calls::{grpc_code, scheme, version},
        series::Scheme,
    },
};

/// The flags of a span say in bit 8 that they know whether its parent is in another process, and in bit 9 that it is.
const PARENT_KNOWN: u32 = 1 << 8;
const PARENT_REMOTE: u32 = 1 << 9;

pub(super) fn write(span: &mut Message, record: &Record) {
    let failure = record.is_failure();
    span.bytes(1, &record.trace_id.get().to_be_bytes())
        .bytes(2, &record.span_id.get().to_be_bytes());
    if let Some(parent) = record.parent_id {
        span.bytes(4, &parent.get().to_be_bytes());
    }
    let nanos = u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX);
    span.text(5, &record.name())
        .varint(6, kind(record.kind))
        .fixed64(7, record.start_unix_nanos)
        .fixed64(8, record.start_unix_nanos.saturating_add(nanos));
    attributes(span, record, failure);
    if failure {
        span.message(15, |status| {
            if let Some(error) = &record.error {
                status.text(2, error);
            }
            status.varint(3, 2);
        });
    }
    let remote = matches!(record.kind, SpanKind::Server | SpanKind::Consumer);
    let remote = if remote { PARENT_REMOTE } else { 0 };
    span.fixed32(16, u32::from(record.sampled) | PARENT_KNOWN | remote);
}

const fn kind(kind: SpanKind) -> u64 {
    match kind {
        SpanKind::Internal => 1,
        SpanKind::Server => 2,
        SpanKind::Client => 3,
        SpanKind::Producer => 4,
        SpanKind::Consumer => 5,
    }
}

/// Tags that the conventions want as numbers.
const NUMBERS: [&str; 2] = ["messaging.message.body.size", "messaging.batch.message_count"];

/// By OpenTelemetry's semantic conventions for HTTP and RPC. Those for messages come as tags.
fn attributes(span: &mut Message, record: &Record, failure: bool) {
    let mut add = |key: &str, value: Value<'_>| {
        span.message(9, |pair| match value {
            Value::Text(text) => attribute(pair, key, text),
            Value::Int(number) => drop(pair.text(1, key).message(2, |value| {
                value.int(3, number);
            })),
            Value::List(text) => drop(pair.text(1, key).message(2, |value| {
                value.message(5, |list| {
                    list.message(1, |item| {
                        item.text(1, text);
                    });
                });
            })),
        });
    };
    call(&mut add, record);
    // Who recorded it may know better.
    let known = record.tags.iter().any(|(key, _)| key == "error.type");
    if let Some(error) = error_type(record, failure).filter(|_| !known) {
        add("error.type", Value::Text(&error));
    }
    for (key, value) in &record.tags {
        if key.starts_with("http.request.header.") || key.starts_with("http.response.header.") {
            add(key, Value::List(value));
            continue;
        }
        let number = NUMBERS.contains(&&**key).then(|| value.parse::<i64>().ok()).flatten();
        add(key, number.map_or(Value::Text(value), Value::Int));
    }
}

/// Of a request: by the conventions for RPC if it was made by gRPC, or else by those for HTTP.
fn call(add: &mut impl FnMut(&str, Value<'_>), record: &Record) {
    let client = record.kind == SpanKind::Client;
    let is_request = !record.method.is_empty();
    if let Some(method) = record.rpc_method() {
        add("rpc.system.name", Value::Text("grpc"));
        add("rpc.method", Value::Text(method));
    } else if is_request {
        http(add, record, client);
    }
    if client && is_request && *record.operation != *record.method {
        add("peer.service", Value::Text(&record.operation));
    }
    if let Some(code) = record.grpc_status {
        add("rpc.response.status_code", Value::Text(grpc_code(code)));
    }
    if let Some(version) = version(record.protocol.version) {
        add("network.protocol.version", Value::Text(version));
    }
    if let Some(peer) = &record.peer {
        add("server.address", Value::Text(peer.host()));
        let default = match record.protocol.scheme {
            Scheme::Http => Some(80),
            Scheme::Https => Some(443),
            Scheme::Other => None,
        };
        if let Some(port) = peer.port_u16().or(default) {
            add("server.port", Value::Int(port.into()));
        }
    }
}

fn http(add: &mut impl FnMut(&str, Value<'_>), record: &Record, client: bool) {
    add("http.request.method", Value::Text(record.method));
    if let Some(status) = record.status {
        add("http.response.status_code", Value::Int(status.into()));
    }
    if client {
        if record.attempt > 1 {
            add("http.request.resend_count", Value::Int(i64::from(record.attempt) - 1));
        }
        return;
    }
    add("url.scheme", Value::Text(scheme(record.protocol.scheme)));
    if let Some(path) = &record.path {
        add("url.path", Value::Text(path));
    }
    if *record.operation != *record.method {
        add("http.route", Value::Text(&record.operation));
    }
}

enum Value<'a> {
    Text(&'a str),
    Int(i64),
    /// Of one text.
    List(&'a str),
}

fn error_type(record: &Record, failure: bool) -> Option<Cow<'static, str>> {
    if let Some(broke) = record.end.error_type() {
        return Some(broke.into());
    }
    Some(match (record.grpc_status, record.status) {
        _ if !failure => return None,
        (Some(code), _) if code != 0 => grpc_code(code).into(),
        (_, Some(status)) => status.to_string().into(),
        _ => "_OTHER".into(),
    })
}

use std::{borrow::Cow, fmt, num::NonZeroU16, sync::Arc, time::Duration};

use gusset_call::{SpanId, TraceId};
use http::uri::Authority;
use serde::{Serialize, Serializer};

use super::ring::Kept;
use crate::{
    End, Route,
    metrics::{is_failure, series::Protocol},
};

/// A text of a record.
pub(crate) type Text = Cow<'static, str>;

/// Longest text that a record keeps of an error or a tag, in bytes.
pub(crate) const MAX_TEXT: usize = 256;

/// Most tags of one span; further ones are ignored.
pub(crate) const MAX_TAGS: usize = 16;

/// As much of `text` as a record keeps.
pub(crate) fn cut(text: Text) -> Text {
    if text.len() <= MAX_TEXT {
        return text;
    }
    beginning(&text).to_owned().into()
}

/// The same of a text that somebody else keeps.
pub(crate) fn beginning(text: &str) -> &str {
    if text.len() <= MAX_TEXT {
        return text;
    }
    let end = (0..=MAX_TEXT).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    &text[..end]
}

/// A finished call: a span, as plain data. Serialises as flat JSON with identifiers in hexadecimal.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Record {
    /// The trace it belongs to.
    #[serde(serialize_with = "as_text")]
    pub trace_id: TraceId,
    /// Its own identifier.
    #[serde(serialize_with = "as_text")]
    pub span_id: SpanId,
    /// The span that caused it; none at the root of a trace.
    #[serde(serialize_with = "as_optional_text")]
    pub parent_id: Option<SpanId>,
    /// Which side of a call this process was.
    pub kind: SpanKind,
    /// The service that recorded it.
    #[serde(serialize_with = "as_text")]
    pub service: Arc<str>,
    /// The matched route, for a client the upstream, for `intercept` and messages the name given to it, or else the method. Never a raw path.
    pub operation: Route,
    /// HTTP method, `_OTHER` where HTTP does not define it, empty where it was no HTTP request.
    pub method: &'static str,
    /// Host and port that a client called.
    #[serde(serialize_with = "as_optional_text", skip_serializing_if = "Option::is_none")]
    pub peer: Option<Authority>,
    /// Which try it was, counted from 1.
    pub attempt: u32,
    /// When it began, in nanoseconds since 1970.
    pub start_unix_nanos: u64,
    /// How long it took until the last byte of the answer; in JSON as `duration_nanos`.
    #[serde(rename = "duration_nanos", serialize_with = "as_nanos")]
    pub duration: Duration,
    /// HTTP status of the answer, if there was one.
    pub status: Option<u16>,
    /// gRPC status of the answer, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_status: Option<u8>,
    /// How it was over.
    pub end: End,
    /// The error's text, at most 256 bytes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Box<str>>,
    /// Whether the trace is sampled; what failed or was slow is exported anyway.
    pub sampled: bool,
    /// What `intercept` was told beside, or the attributes of a message; at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "as_map")]
    pub tags: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// Path of a request: of one that a server answered, if [asked for](crate::Details::paths) and exported, and of every call by gRPC, of which it is the method. Never a query; at
    /// most 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Box<str>>,
    /// What the request said about how it came.
    #[serde(skip)]
    pub(crate) protocol: Protocol,
}

/// Which side of a call a process was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SpanKind {
    /// It answered a request.
    Server,
    /// It made one.
    Client,
    /// Neither.
    Internal,
    /// It published a message. No layer of this crate does; what does brings its records to [`Recorder::record`](crate::Recorder::record).
    Producer,
    /// It handled one.
    Consumer,
}

impl Record {
    pub(super) fn of(service: Arc<str>, kept: Kept) -> Self {
        let more = kept.more.map(|more| *more).unwrap_or_default();
        let method = kept.method.as_str();
        Self {
            trace_id: kept.trace_id,
            span_id: kept.span_id,
            parent_id: kept.parent_id,
            kind: kept.kind,
            service,
            operation: kept.route.unwrap_or_else(|| method.into()),
            method,
            peer: kept.peer,
            attempt: kept.attempt.into(),
            start_unix_nanos: kept.start_unix_nanos,
            duration: Duration::from_nanos(kept.nanos),
            status: kept.status.map(NonZeroU16::get),
            grpc_status: kept.grpc_status,
            end: kept.end,
            error: more.error,
            sampled: kept.sampled,
            tags: more.tags,
            path: kept.path,
            protocol: kept.protocol,
        }
    }

    /// Whether something went wrong: an error, a panic, HTTP 5xx (for a client also 4xx), or a gRPC code that is an error
    /// by OpenTelemetry's conventions. A caller that left is no failure.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        is_failure(self.kind, self.end, self.status, self.grpc_status)
    }

    /// Full name of the method that was called by gRPC, such as `shop.Orders/Create`, and `_OTHER` where the server has no such method; none of other calls.
    #[must_use]
    pub fn rpc_method(&self) -> Option<&str> {
        const UNIMPLEMENTED: Option<u8> = Some(12);
        let path = self.path.as_deref().filter(|_| self.protocol.grpc)?;
        // The text of a caller names nothing of this server.
        let unknown = self.kind == SpanKind::Server && self.grpc_status == UNIMPLEMENTED;
        Some(if unknown { "_OTHER" } else { path.trim_start_matches('/') })
    }

    /// Name of the span: method and route, the method of a call by gRPC, or the operation.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        if let Some(method) = self.rpc_method() {
            Cow::Borrowed(method)
        } else if self.method.is_empty() || *self.operation == *self.method {
            Cow::Borrowed(&self.operation)
        } else {
            Cow::Owned(format!("{} {}", self.method, self.operation))
        }
    }
}

fn as_text<T: fmt::Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn as_optional_text<T: fmt::Display, S: Serializer>(
    value: &Option<T>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => to.collect_str(value),
        None => to.serialize_none(),
    }
}

fn as_nanos<S: Serializer>(span: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

fn as_map<S: Serializer>(
    tags: &[(Cow<'static, str>, Cow<'static, str>)],
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_map(tags.iter().map(|(key, value)| (key, value)))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use gusset_call::TraceContext;

    /// A record of one fixed trace, begun at nanosecond `start`.
    pub(in crate::trace) fn record(start: u64) -> Record {
        let cx: TraceContext =
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
        Record {
            trace_id: cx.trace_id(),
            span_id: cx.span_id(),
            parent_id: None,
            kind: SpanKind::Server,
            service: "orders".into(),
            operation: "/orders/{id}".into(),
            method: "GET",
            peer: None,
            attempt: 1,
            start_unix_nanos: start,
            duration: Duration::from_millis(2),
            status: Some(200),
            grpc_status: None,
            end: End::Complete,
            error: None,
            sampled: true,
            tags: Vec::new(),
            path: None,
            protocol: Protocol::default(),
        }
    }

    #[test]
    fn a_client_error_is_a_failure_for_the_client_only() {
        let served = Record { status: Some(404), ..record(0) };
        assert!(!served.is_failure());
        assert!(Record { kind: SpanKind::Client, ..served.clone() }.is_failure());
        assert!(Record { status: Some(503), ..served.clone() }.is_failure());
        assert!(Record { grpc_status: Some(14), ..served.clone() }.is_failure());
        assert!(Record { end: End::Panicked, ..served.clone() }.is_failure());
        assert!(!Record { end: End::Cancelled, ..served }.is_failure());
    }

    #[test]
    fn a_span_is_named_by_method_and_route() {
        assert_eq!(record(0).name(), "GET /orders/{id}");
        assert_eq!(Record { operation: "GET".into(), ..record(0) }.name(), "GET");
        assert_eq!(Record { method: "", operation: "pay".into(), ..record(0) }.name(), "pay");
        let mut rpc = Record { path: Some("/shop.Orders/Create".into()), ..record(0) };
        assert_eq!(rpc.name(), "GET /orders/{id}");
        rpc.protocol.grpc = true;
        assert_eq!(rpc.name(), "shop.Orders/Create");
        rpc.grpc_status = Some(12);
        assert_eq!(rpc.name(), "_OTHER", "anybody can call anything");
        assert_eq!(Record { kind: SpanKind::Client, ..rpc }.name(), "shop.Orders/Create");
    }
}

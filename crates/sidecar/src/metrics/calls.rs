//! The layers' own figures, under OpenTelemetry's names.

use std::borrow::Cow;

use super::{
    collected::{Family, FamilyKind, Label, Labels, Value, count},
    registry::Registry,
    series::{Facts, Key, Scheme, Series, Version},
    snapshot,
};
use crate::SpanKind;

struct Kind {
    kind: SpanKind,
    grpc: bool,
    name: &'static str,
    help: &'static str,
}

const DURATIONS: [Kind; 5] = [
    Kind {
        kind: SpanKind::Server,
        grpc: false,
        name: "http.server.request.duration",
        help: "Duration of HTTP server requests.",
    },
    Kind {
        kind: SpanKind::Client,
        grpc: false,
        name: "http.client.request.duration",
        help: "Duration of HTTP client requests.",
    },
    Kind {
        kind: SpanKind::Server,
        grpc: true,
        name: "rpc.server.call.duration",
        help: "Duration of remote procedure calls that came in.",
    },
    Kind {
        kind: SpanKind::Client,
        grpc: true,
        name: "rpc.client.call.duration",
        help: "Duration of remote procedure calls that went out.",
    },
    Kind {
        kind: SpanKind::Internal,
        grpc: false,
        name: "gusset.operation.duration",
        help: "Duration of operations.",
    },
];

const ACTIVE: [(SpanKind, &str, &str, &str); 3] = [
    (
        SpanKind::Server,
        "http.server.active_requests",
        "HTTP server requests under way.",
        "{request}",
    ),
    (
        SpanKind::Client,
        "http.client.active_requests",
        "HTTP client requests under way.",
        "{request}",
    ),
    (SpanKind::Internal, "gusset.operation.active", "Operations under way.", "{operation}"),
];

/// What the layers have counted, without families that have no points.
pub(crate) fn families(registry: &Registry) -> Vec<Family> {
    let mut series: Vec<_> = registry.series.iter().collect();
    series.sort_by_cached_key(|series| {
        let Key { facts, route, peer } = series.key();
        (route.map(str::to_owned), peer.map(str::to_owned), facts.word())
    });
    let overflow = registry.overflow.read();
    let mut families = Vec::new();
    for Kind { kind, grpc, name, help } in DURATIONS {
        let mut family = Family::new(name, help, "s", FamilyKind::Histogram);
        let is = |facts: Facts| facts.kind == kind && facts.protocol.grpc == grpc;
        for series in series.iter().filter(|series| is(series.facts)) {
            let value = series.spans.read().distribution(series.exemplars.read());
            family.add(labels_of(series), Value::Distribution(value));
        }
        // The overflow has lost its labels and is shown once, with the calls of the server.
        if kind == SpanKind::Server && !grpc && overflow.count() > 0 {
            let labels = vec![("otel.metric.overflow".into(), Label::Bool(true))];
            family.add(labels, Value::Distribution(overflow.distribution(Vec::new())));
        }
        families.push(family);
    }
    let active = snapshot::active(registry);
    for (kind, name, help, unit) in ACTIVE {
        let mut family = Family::new(name, help, unit, FamilyKind::UpDownCounter);
        for calls in active.iter().filter(|calls| calls.kind == kind) {
            let method = (!calls.method.is_empty()).then_some(calls.method);
            let labels = method.map(|method| ("http.request.method".into(), method.into()));
            family.add(labels.into_iter().collect(), Value::Int(calls.calls));
        }
        families.push(family);
    }
    families.retain(|family| !family.points.is_empty());
    let (name, help) = ("gusset_overflowed_calls_total", "Calls without a series of their own.");
    let overflowed = Family::new(name, help, "", FamilyKind::Counter);
    families.push(overflowed.with(Vec::new(), count(overflow.count())));
    families
}

/// What is unknown has no label.
fn labels_of(series: &Series) -> Labels {
    let Key { facts, route, peer } = series.key();
    let Facts { kind, method, status, protocol, grpc_status, .. } = facts;
    let mut labels = Labels::new();
    let mut add = |name: &'static str, value: Option<Label>| {
        labels.extend(value.map(|value| (Cow::Borrowed(name), value)));
    };
    let route = route.map(|route| Label::from(route.to_owned()));
    let address = peer.map(address);
    if protocol.grpc {
        add("rpc.system.name", Some("grpc".into()));
        add("rpc.method", route);
        let status = grpc_status.map(|code| GRPC.get(usize::from(code)).unwrap_or(&"_OTHER"));
        add("rpc.response.status_code", status.map(|name| Label::from(*name)));
    } else if kind == SpanKind::Internal {
        add("operation", route);
    } else {
        add("http.route", route);
        add("http.request.method", Some(method.as_str().into()));
        add("http.response.status_code", (status != 0).then(|| Label::Int(status.into())));
        add("network.protocol.version", version(protocol.version).map(Label::from));
        add("url.scheme", (kind == SpanKind::Server).then(|| scheme(protocol.scheme).into()));
    }
    add("server.address", address.map(|(host, _)| Label::from(host.to_owned())));
    add("server.port", address.and_then(|(_, port)| port).map(|port| Label::Int(port.into())));
    add("error.type", error_type(facts).map(Label::Text));
    labels
}

/// Host and port of an authority, or the name of an upstream, which has no port.
fn address(peer: &str) -> (&str, Option<u16>) {
    match peer.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) => (host, Some(port)),
        _ => (peer, None),
    }
}

pub(crate) const fn scheme(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
        Scheme::Other => "_OTHER",
    }
}

pub(crate) const fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::None => None,
        Version::Http10 => Some("1.0"),
        Version::Http11 => Some("1.1"),
        Version::Http2 => Some("2"),
        Version::Http3 => Some("3"),
    }
}

/// The name of one of gRPC's codes.
pub(crate) fn grpc_code(code: u8) -> &'static str {
    GRPC.get(usize::from(code)).copied().unwrap_or("_OTHER")
}

const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// From a closed set: how the call broke, or else the status that makes it a failure.
fn error_type(facts: Facts) -> Option<Cow<'static, str>> {
    if let Some(broke) = facts.end.error_type() {
        return Some(broke.into());
    }
    Some(match (facts.status, facts.grpc_status) {
        _ if !facts.is_failure() => return None,
        (_, Some(code)) if code != 0 => grpc_code(code).into(),
        (0, _) => "_OTHER".into(),
        (status, _) => status.to_string().into(),
    })
}

//! The layers' own figures, under OpenTelemetry's names.

use std::borrow::Cow;

use super::{
    collected::{Family, FamilyKind, Label, Labels, Value, count},
    snapshot::{SeriesSnapshot, Snapshot},
};
use crate::{End, SpanKind};

struct Kind {
    kind: SpanKind,
    duration: (&'static str, &'static str),
    active: (&'static str, &'static str, &'static str),
}

const KINDS: [Kind; 3] = [
    Kind {
        kind: SpanKind::Server,
        duration: ("http.server.request.duration", "Duration of HTTP server requests."),
        active: (
            "http.server.active_requests",
            "Number of active HTTP server requests.",
            "{request}",
        ),
    },
    Kind {
        kind: SpanKind::Client,
        duration: ("http.client.request.duration", "Duration of HTTP client requests."),
        active: (
            "http.client.active_requests",
            "Number of active HTTP client requests.",
            "{request}",
        ),
    },
    Kind {
        kind: SpanKind::Internal,
        duration: ("gusset.operation.duration", "Duration of operations."),
        active: ("gusset.operation.active", "Operations under way.", "{operation}"),
    },
];

/// What `snapshot` says, without families that have no points.
pub(crate) fn families(snapshot: &Snapshot) -> Vec<Family> {
    let mut families = Vec::new();
    for Kind { kind, duration: (name, help), active: (active_name, active_help, unit) } in &KINDS {
        let mut durations = Family::new(*name, *help, "s", FamilyKind::Histogram);
        for series in snapshot.series.iter().filter(|series| series.kind == *kind) {
            let value = series.durations.distribution(series.exemplars.clone());
            durations.add(labels_of(series), Value::Distribution(value));
        }
        // The overflow has lost its labels and is shown once, with the calls of the server.
        if *kind == SpanKind::Server && snapshot.overflowed > 0 {
            let labels = vec![("otel.metric.overflow".into(), Label::Bool(true))];
            let value = snapshot.overflow.distribution(Vec::new());
            durations.add(labels, Value::Distribution(value));
        }
        let mut active = Family::new(*active_name, *active_help, *unit, FamilyKind::UpDownCounter);
        for calls in snapshot.active.iter().filter(|calls| calls.kind == *kind) {
            let method = (!calls.method.is_empty()).then_some(calls.method);
            let labels = method.map(|method| ("http.request.method".into(), method.into()));
            active.add(labels.into_iter().collect(), Value::Int(calls.calls));
        }
        families.extend([durations, active].into_iter().filter(|family| !family.points.is_empty()));
    }
    let overflowed = Family::new(
        "gusset_overflowed_calls_total",
        "Calls without a series of their own.",
        "",
        FamilyKind::Counter,
    );
    families.push(overflowed.with(Vec::new(), count(snapshot.overflowed)));
    families
}

/// What is unknown has no label.
fn labels_of(series: &SeriesSnapshot) -> Labels {
    let mut labels = Labels::new();
    let mut add = |name: &'static str, value: Option<Label>| {
        labels.extend(value.map(|value| (Cow::Borrowed(name), value)));
    };
    let route = series.route.as_deref().map(|route| Label::from(route.to_owned()));
    match series.kind {
        SpanKind::Server => add("http.route", route),
        SpanKind::Client => add("server.address", route),
        _ => add("operation", route),
    }
    add("http.request.method", (!series.method.is_empty()).then(|| series.method.into()));
    add("http.response.status_code", series.status.map(|status| Label::Int(status.into())));
    add("rpc.response.status_code", series.grpc_status.map(|code| Label::Int(code.into())));
    add("error.type", error_type(series).map(Label::Text));
    labels
}

/// From a closed set: how the call broke, or else the status that makes it a failure.
fn error_type(series: &SeriesSnapshot) -> Option<Cow<'static, str>> {
    Some(match (series.end, series.status, series.grpc_status) {
        (End::Cancelled, ..) => "cancelled".into(),
        (End::Panicked, ..) => "panicked".into(),
        (End::Error, ..) => "error".into(),
        _ if !series.is_failure() => return None,
        (_, _, Some(code)) if code != 0 => format!("grpc_{code}").into(),
        (_, Some(status), _) => status.to_string().into(),
        _ => "_OTHER".into(),
    })
}

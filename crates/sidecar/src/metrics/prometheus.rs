//! Prometheus' text format.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
};

use super::registry::{SeriesSnapshot, Snapshot};
use crate::{End, SpanKind};

/// Samples of others, as they are added to a rendering.
#[derive(Debug, Default)]
pub struct Samples {
    families: BTreeMap<String, Family>,
    count: usize,
    dropped: u64,
}

#[derive(Debug)]
struct Family {
    help: String,
    kind: &'static str,
    /// By label text: one combination of labels has one value, the last one given.
    values: BTreeMap<String, f64>,
}

/// At most this many samples of others are rendered; the rest is counted in `gusset_samples_dropped_total`.
const MAX_SAMPLES: usize = 10_000;

impl Samples {
    /// Adds a value that goes up and down. Letters that Prometheus does not allow in names become `_`.
    pub fn gauge(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.add("gauge", name, help, labels, value);
    }

    /// Adds a count that only grows; by convention its name ends in `_total`.
    pub fn counter(&mut self, name: &str, help: &str, labels: &[(&str, &str)], value: f64) {
        self.add("counter", name, help, labels, value);
    }

    fn add(
        &mut self,
        kind: &'static str,
        name: &str,
        help: &str,
        labels: &[(&str, &str)],
        value: f64,
    ) {
        if self.count >= MAX_SAMPLES {
            self.dropped += 1;
            return;
        }
        let family = self.families.entry(sane(name, true)).or_insert_with(|| Family {
            help: help.to_owned(),
            kind,
            values: BTreeMap::new(),
        });
        let labels = labels.iter().map(|(name, value)| (sane(name, false), (*value).to_owned()));
        if family.values.insert(label_text(labels), value).is_none() {
            self.count += 1;
        }
    }
}

/// A name of letters that Prometheus allows.
fn sane(name: &str, colons: bool) -> String {
    let mut sane: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || colons && c == ':' { c } else { '_' })
        .collect();
    if !sane.starts_with(|c: char| !c.is_ascii_digit()) {
        sane.insert(0, '_');
    }
    sane
}

/// `{a="1",b="2"}`, or nothing.
fn label_text(labels: impl IntoIterator<Item = (String, String)>) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(&name);
        text.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '"' => text.push_str("\\\""),
                '\n' => text.push_str("\\n"),
                c => text.push(c),
            }
        }
        text.push('"');
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

struct Kind {
    kind: SpanKind,
    duration: (&'static str, &'static str),
    active: (&'static str, &'static str),
}

const KINDS: [Kind; 3] = [
    Kind {
        kind: SpanKind::Server,
        duration: ("http_server_request_duration_seconds", "Duration of HTTP server requests."),
        active: ("http_server_active_requests", "HTTP server requests under way."),
    },
    Kind {
        kind: SpanKind::Client,
        duration: ("http_client_request_duration_seconds", "Duration of HTTP client requests."),
        active: ("http_client_active_requests", "HTTP client requests under way."),
    },
    Kind {
        kind: SpanKind::Internal,
        duration: ("gusset_operation_duration_seconds", "Duration of operations."),
        active: ("gusset_active_operations", "Operations under way."),
    },
];

pub(crate) fn render(snapshot: &Snapshot, samples: &Samples) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_all(&mut text, snapshot, samples);
    text
}

fn write_all(text: &mut String, snapshot: &Snapshot, samples: &Samples) -> fmt::Result {
    for kind in &KINDS {
        write_kind(text, snapshot, kind)?;
    }
    header(
        text,
        "gusset_overflowed_calls_total",
        "Calls without a series of their own.",
        "counter",
    )?;
    writeln!(text, "gusset_overflowed_calls_total {}", snapshot.overflowed)?;
    header(text, "gusset_samples_dropped_total", "Samples beyond the bound.", "counter")?;
    writeln!(text, "gusset_samples_dropped_total {}", samples.dropped)?;
    for (name, family) in &samples.families {
        header(text, name, &family.help, family.kind)?;
        for (labels, value) in &family.values {
            writeln!(text, "{name}{labels} {}", Number(*value))?;
        }
    }
    Ok(())
}

fn write_kind(text: &mut String, snapshot: &Snapshot, kind: &Kind) -> fmt::Result {
    let mut series = snapshot.series.iter().filter(|series| series.kind == kind.kind).peekable();
    // The overflow has lost its labels and is shown once, with the calls of the server.
    let overflow = (kind.kind == SpanKind::Server && snapshot.overflowed > 0)
        .then_some((String::from("otel_metric_overflow=\"true\""), &snapshot.overflow));
    let (name, help) = kind.duration;
    if series.peek().is_some() || overflow.is_some() {
        header(text, name, help, "histogram")?;
    }
    let series = series.map(|series| (labels_of(series), &series.durations));
    for (labels, durations) in series.chain(overflow) {
        for (bound, count) in durations.cumulative() {
            writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}")?;
        }
        let count = durations.count();
        writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {count}")?;
        writeln!(text, "{name}_sum{{{labels}}} {}", durations.sum().as_secs_f64())?;
        writeln!(text, "{name}_count{{{labels}}} {count}")?;
    }
    let mut active = snapshot.active.iter().filter(|active| active.kind == kind.kind).peekable();
    let (name, help) = kind.active;
    if active.peek().is_some() {
        header(text, name, help, "gauge")?;
    }
    for active in active {
        writeln!(text, "{name}{{http_request_method=\"{}\"}} {}", active.method, active.calls)?;
    }
    Ok(())
}

/// The labels of a series, without braces.
fn labels_of(series: &SeriesSnapshot) -> String {
    let mut labels = Vec::with_capacity(5);
    let mut add = |name: &str, value: String| labels.push((name.to_owned(), value));
    if series.kind == SpanKind::Internal {
        add("operation", series.route.as_deref().unwrap_or_default().to_owned());
    } else {
        add("http_request_method", series.method.to_owned());
        let client = series.kind == SpanKind::Client;
        add(
            if client { "upstream" } else { "http_route" },
            series.route.as_deref().unwrap_or_default().to_owned(),
        );
        let status = series.status.map(|status| status.to_string());
        add("http_response_status_code", status.unwrap_or_default());
    }
    if let Some(code) = series.grpc_status {
        add("rpc_response_status_code", code.to_string());
    }
    add("error_type", error_type(series));
    label_text(labels).trim_matches(['{', '}']).to_owned()
}

/// From a closed set: how the call broke, or else the status that makes it a failure.
fn error_type(series: &SeriesSnapshot) -> String {
    match (series.end, series.status, series.grpc_status) {
        (End::Cancelled, ..) => "cancelled".into(),
        (End::Panicked, ..) => "panicked".into(),
        (End::Error, ..) => "error".into(),
        _ if !series.is_failure() => String::new(),
        (_, _, Some(code)) if code != 0 => format!("grpc_{code}"),
        (_, Some(status), _) => status.to_string(),
        _ => "_OTHER".into(),
    }
}

fn header(text: &mut String, name: &str, help: &str, kind: &str) -> fmt::Result {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

/// A number as Prometheus writes it.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            value if value.is_nan() => f.write_str("NaN"),
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            value => value.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_of_others_cannot_break_the_format() {
        let mut samples = Samples::default();
        samples.gauge("9 lives\n", "a\\b\nc", &[("l-1", "x\"y\\z\n")], f64::NAN);
        samples.gauge("up", "Up.", &[], f64::INFINITY);
        let text = render(&Snapshot::default(), &samples);
        assert!(text.contains("# HELP _9_lives_ a\\\\b\\nc\n# TYPE _9_lives_ gauge\n"), "{text}");
        assert!(text.contains("_9_lives_{l_1=\"x\\\"y\\\\z\\n\"} NaN\n"), "{text}");
        assert!(text.contains("\nup +Inf\n"), "{text}");
    }

    #[test]
    fn one_combination_of_labels_is_rendered_once() {
        let mut samples = Samples::default();
        samples.counter("c_total", "C.", &[("a", "1")], 1.0);
        samples.counter("c_total", "C.", &[("a", "1")], 2.0);
        samples.counter("c_total", "C.", &[("a", "2")], 3.0);
        let text = render(&Snapshot::default(), &samples);
        assert_eq!(text.matches("# TYPE c_total").count(), 1);
        assert!(text.contains("c_total{a=\"1\"} 2\nc_total{a=\"2\"} 3\n"), "{text}");
    }

    #[test]
    fn more_samples_than_allowed_are_dropped_and_counted() {
        let mut samples = Samples::default();
        for n in 0..MAX_SAMPLES + 5 {
            samples.gauge("g", "G.", &[("n", &n.to_string())], 0.0);
        }
        assert!(
            render(&Snapshot::default(), &samples).contains("gusset_samples_dropped_total 5\n")
        );
    }
}

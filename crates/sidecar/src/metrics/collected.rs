//! All that a registry has to tell, as plain data for exporters.

use std::{borrow::Cow, fmt};

use gusset_call::{SpanId, TraceId};

/// All figures of a [`Metrics`](crate::Metrics) registry at one moment: the layers' own, those that the program counts, and those of its sources.
/// Exporters take it, whatever they write; [`Metrics::render_prometheus`](crate::Metrics::render_prometheus) is one of them.
///
/// Names and labels are OpenTelemetry's (`http.server.request.duration`, `http.request.method`) where it has any. All counts and
/// distributions are cumulative since `start_unix_nanos`.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Collected {
    /// When the counts began: when the registry was made, in nanoseconds since 1970.
    pub start_unix_nanos: u64,
    /// When this was read, in nanoseconds since 1970; never before the start.
    pub unix_nanos: u64,
    /// Sorted by name; no name is there twice.
    pub families: Vec<Family>,
}

/// Figures of one name, which differ in their labels.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Family {
    /// Such as `http.server.request.duration`, or whatever the program calls it.
    pub name: Cow<'static, str>,
    /// What it is, in a sentence.
    pub help: Cow<'static, str>,
    /// The unit as UCUM writes it, such as `s`, `By` or `{request}`; empty where there is none.
    pub unit: Cow<'static, str>,
    /// What its values mean.
    pub kind: FamilyKind,
    /// No combination of labels is there twice.
    pub points: Vec<Point>,
}

/// What the values of a [`Family`] mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FamilyKind {
    /// A count that only grows: OpenTelemetry's monotonic sum.
    Counter,
    /// A count that goes up and down, and that can be added up over processes: OpenTelemetry's sum that is not monotonic.
    UpDownCounter,
    /// A value of this moment.
    Gauge,
    /// Distributions.
    Histogram,
}

/// One figure of a [`Family`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Point {
    /// What tells it from the others.
    pub labels: Labels,
    /// A number, or a distribution in a family of those.
    pub value: Value,
}

/// Names and values of labels, OpenTelemetry's attributes. No name is there twice.
pub type Labels = Vec<(Cow<'static, str>, Label)>;

/// Value of a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Label {
    /// A text.
    Text(Cow<'static, str>),
    /// A number, such as an HTTP status.
    Int(i64),
    /// Yes or no.
    Bool(bool),
}

/// Value of a [`Point`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// How measured values are spread.
    Distribution(Distribution),
}

/// How measured values are spread over buckets.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Distribution {
    /// Upper bounds of the buckets, each included, in rising order.
    pub bounds: Cow<'static, [f64]>,
    /// How many values lie in each, not those below it; the last is for what lies above the last bound, so there is one more than bounds.
    pub buckets: Vec<u64>,
    /// All values added up.
    pub sum: f64,
    /// Examples, at most one for each bucket, in rising order of their values' buckets.
    pub exemplars: Vec<Exemplar>,
}

impl Distribution {
    /// How many values were measured.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// A measured value with the call that it comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Exemplar {
    /// What was measured.
    pub value: f64,
    /// When, in nanoseconds since 1970.
    pub unix_nanos: u64,
    /// The trace of the call.
    pub trace_id: TraceId,
    /// Its span.
    pub span_id: SpanId,
}

impl Family {
    pub(crate) fn new(
        name: impl Into<Cow<'static, str>>,
        help: impl Into<Cow<'static, str>>,
        unit: impl Into<Cow<'static, str>>,
        kind: FamilyKind,
    ) -> Self {
        Self { name: name.into(), help: help.into(), unit: unit.into(), kind, points: Vec::new() }
    }

    pub(crate) fn add(&mut self, labels: Labels, value: Value) {
        self.points.push(Point { labels, value });
    }

    pub(crate) fn with(mut self, labels: Labels, value: Value) -> Self {
        self.add(labels, value);
        self
    }
}

/// A count as a value; beyond what the type holds, in 300,000 years at a million a second, it stands still.
pub(crate) fn count(count: u64) -> Value {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Int(number) => number.fmt(f),
            Self::Bool(yes) => yes.fmt(f),
        }
    }
}

impl From<&'static str> for Label {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Label {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

//! Metrics as OpenTelemetry sees them: the message `Metric`. All are cumulative, as the registry counts.

use super::{proto::Message, resource::attribute};
use crate::{Collected, Distribution, Family, FamilyKind, Label, Labels, Point, Value};

const CUMULATIVE: u64 = 2;

/// When the counts began, and when they were read, in nanoseconds since 1970.
#[derive(Clone, Copy)]
pub(super) struct Times {
    start: u64,
    now: u64,
}

impl Times {
    pub(super) const fn of(collected: &Collected) -> Self {
        Self { start: collected.start_unix_nanos, now: collected.unix_nanos }
    }
}

/// A family with some of its points.
pub(super) fn write(metric: &mut Message, family: &Family, points: &[Point], times: Times) {
    metric.text(1, &family.name).text(2, &family.help).text(3, &family.unit);
    let all = |data: &mut Message| {
        for point in points {
            data.message(1, |to| write_point(to, point, times));
        }
    };
    match family.kind {
        FamilyKind::Gauge => metric.message(5, all),
        FamilyKind::Counter => metric.message(7, |data| {
            all(data);
            data.varint(2, CUMULATIVE).varint(3, 1);
        }),
        FamilyKind::UpDownCounter => metric.message(7, |data| {
            all(data);
            data.varint(2, CUMULATIVE);
        }),
        FamilyKind::Histogram => metric.message(9, |data| {
            all(data);
            data.varint(2, CUMULATIVE);
        }),
    };
}

fn write_point(to: &mut Message, point: &Point, times: Times) {
    to.fixed64(2, times.start).fixed64(3, times.now);
    match &point.value {
        Value::Int(number) => to.fixed64(6, u64::from_ne_bytes(number.to_ne_bytes())),
        Value::Float(number) => to.double(4, *number),
        Value::Distribution(distribution) => {
            write_distribution(to, distribution);
            write_labels(to, 9, &point.labels);
            return;
        }
    };
    write_labels(to, 7, &point.labels);
}

fn write_distribution(to: &mut Message, distribution: &Distribution) {
    to.fixed64(4, distribution.count())
        .double(5, distribution.sum)
        .packed64(6, distribution.buckets.iter().copied())
        .packed64(7, distribution.bounds.iter().map(|bound| bound.to_bits()));
    for exemplar in &distribution.exemplars {
        to.message(8, |to| {
            to.fixed64(2, exemplar.unix_nanos)
                .double(3, exemplar.value)
                .bytes(4, &exemplar.span_id.get().to_be_bytes())
                .bytes(5, &exemplar.trace_id.get().to_be_bytes());
        });
    }
}

fn write_labels(to: &mut Message, field: u32, labels: &Labels) {
    for (name, value) in labels {
        to.message(field, |pair| match value {
            Label::Text(text) => attribute(pair, name, text),
            Label::Int(number) => {
                pair.text(1, name).message(2, |to| {
                    to.int(3, *number);
                });
            }
            Label::Bool(yes) => {
                pair.text(1, name).message(2, |to| {
                    to.varint(2, (*yes).into());
                });
            }
        });
    }
}

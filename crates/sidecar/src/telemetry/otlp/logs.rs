//! A log as OpenTelemetry sees it: the message `LogRecord`.

use tracing::Level;

use super::{proto::Message, resource::attribute};
use crate::telemetry::{FieldValue, Log};

pub(super) fn write(record: &mut Message, log: &Log) {
    record
        .fixed64(1, log.unix_nanos)
        .fixed64(11, log.unix_nanos)
        .varint(2, severity(log.level))
        .text(3, log.level.as_str())
        .message(5, |body| {
            body.text(1, &log.message);
        });
    record.message(6, |pair| attribute(pair, "log.target", log.target));
    for (name, value) in &log.fields {
        record.message(6, |pair| {
            pair.text(1, name).message(2, |to| {
                match value {
                    FieldValue::Text(text) => to.text(1, text),
                    FieldValue::Bool(yes) => to.varint(2, (*yes).into()),
                    FieldValue::Int(number) => to.int(3, *number),
                    // The protocol knows no larger whole numbers.
                    FieldValue::Unsigned(number) => match i64::try_from(*number) {
                        Ok(number) => to.int(3, number),
                        Err(_) => to.text(1, &number.to_string()),
                    },
                    FieldValue::Float(number) => to.double(4, *number),
                };
            });
        });
    }
    if log.dropped_fields > 0 {
        record.varint(7, log.dropped_fields.into());
    }
    if let Some(trace) = log.trace {
        record
            .fixed32(8, trace.is_sampled().into())
            .bytes(9, &trace.trace_id().get().to_be_bytes())
            .bytes(10, &trace.span_id().get().to_be_bytes());
    }
}

/// By OpenTelemetry's table of severities.
fn severity(level: Level) -> u64 {
    match level {
        Level::TRACE => 1,
        Level::DEBUG => 5,
        Level::INFO => 9,
        Level::WARN => 13,
        Level::ERROR => 17,
    }
}

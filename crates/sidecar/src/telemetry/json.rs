//! Lines as JSON.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use super::{human::Escaping, log::WithCauses};
use gusset_call::Context;
use serde_json::{Map, Value};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// One JSON object a line.
pub(super) struct Json {
    pub(super) service: Arc<str>,
}

/// What a line says beside its own fields.
const RESERVED: [&str; 7] =
    ["timestamp", "level", "service", "target", "message", "trace_id", "span_id"];

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        cx: &FmtContext<'_, S, N>,
        mut to: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        for span in cx.event_scope().into_iter().flatten() {
            let extensions = span.extensions();
            let Some(formatted) = extensions.get::<FormattedFields<N>>() else { continue };
            if let Ok(Value::Object(of_span)) = serde_json::from_str(&formatted.fields) {
                // From the innermost outwards: what is there already is closer to the event.
                for (name, value) in of_span {
                    fields.spans.entry(name).or_insert(value);
                }
            }
        }
        event.record(&mut fields);

        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Map::new();
        let mut add = |name: &str, value: Value| drop(line.insert(name.to_owned(), value));
        add("timestamp", time.into());
        add("level", event.metadata().level().as_str().into());
        add("service", (*self.service).into());
        add("target", event.metadata().target().into());
        if let Some(message) = fields.event.remove("message") {
            add("message", message);
        }
        // The context knows them even where the filter has left the span out.
        if let Some(trace) = Context::current().trace() {
            add("trace_id", trace.trace_id().to_string().into());
            add("span_id", trace.span_id().to_string().into());
        }
        for (name, value) in fields.event {
            let name = if RESERVED.contains(&&*name) { format!("fields.{name}") } else { name };
            line.insert(name, value);
        }
        for (name, value) in fields.spans {
            if !RESERVED.contains(&&*name) || name.ends_with("_id") {
                line.entry(name).or_insert(value);
            }
        }
        // JSON itself escapes only what stands below the blank.
        write!(Escaping { to: &mut to, json: true }, "{}", Value::Object(line))?;
        writeln!(to)
    }
}

#[derive(Default)]
struct Fields {
    event: Map<String, Value>,
    spans: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        self.event.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.add(field, WithCauses(value).to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

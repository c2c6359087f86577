//! What is set up, and how.

use std::{
    fmt,
    io::{self, IsTerminal},
    sync::Arc,
};

use tracing::{Dispatch, Subscriber};
use tracing_subscriber::{
    Layer, Registry,
    fmt::{MakeWriter, format::JsonFields, writer::BoxMakeWriter},
    layer::SubscriberExt,
};

use super::{
    Filter, InitError, Store, Telemetry,
    capture::Capture,
    environment::Environment,
    filter::Filtering,
    handlers::HandlerSpans,
    human::{Human, HumanFields},
    json::Json,
    log::LogRing,
};
#[cfg(feature = "otlp")]
use super::{
    Otlp,
    otlp::{Exported, Exporter, Plan},
    resource::Resource,
};
use crate::{Recorder, Sidecar};

/// Begins to set up the telemetry of the process whose service has this name.
pub fn init(service: impl Into<Arc<str>>) -> Init {
    Init {
        service: service.into(),
        format: None,
        filter: None,
        writer: None,
        layers: Vec::new(),
        recorder: None,
        keep: (10_000, 8 << 20),
        #[cfg(feature = "otlp")]
        metrics: None,
        environment: Environment::default(),
        #[cfg(feature = "otlp")]
        attributes: Vec::new(),
        #[cfg(feature = "otlp")]
        otlp: None,
    }
}

/// Telemetry that is being set up; [`Init::start`] ends that.
#[must_use = "nothing happens until it is started"]
pub struct Init {
    service: Arc<str>,
    format: Option<Format>,
    filter: Option<String>,
    /// Standard output if none.
    writer: Option<BoxMakeWriter>,
    layers: Vec<Box<dyn Layer<Registry> + Send + Sync>>,
    recorder: Option<Recorder>,
    /// How many logs, and bytes of them.
    keep: (usize, usize),
    #[cfg(feature = "otlp")]
    metrics: Option<crate::Metrics>,
    environment: Environment,
    #[cfg(feature = "otlp")]
    attributes: Vec<(String, String)>,
    #[cfg(feature = "otlp")]
    otlp: Option<Otlp>,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Json,
    Pretty,
}

impl Init {
    /// Logs one JSON object a line: `timestamp`, `level`, `service`, `target`, `message`, inside of a call `trace_id` and `span_id`, and the fields
    /// of the event and of the spans around it, the innermost first. A field with one of those names is written as `fields.` and the name.
    ///
    /// This is the default unless standard output is a terminal.
    pub const fn json(mut self) -> Self {
        self.format = Some(Format::Json);
        self
    }

    /// Logs lines for humans, with the trace and span id behind them. Control characters in them are escaped, so that nobody can forge a line.
    ///
    /// This is the default where standard output is a terminal.
    pub const fn pretty(mut self) -> Self {
        self.format = Some(Format::Pretty);
        self
    }

    /// What is logged, in the syntax of `RUST_LOG`, for instance `info,hyper=warn`. The environment variable wins. Default
    /// `info`. [`Telemetry::filter`] changes it later.
    pub fn filter(mut self, directives: impl Into<String>) -> Self {
        self.filter = Some(directives.into());
        self
    }

    /// Logs to `writer`. Default standard output, where containers expect it.
    pub fn writer(mut self, writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) -> Self {
        self.writer = Some(BoxMakeWriter::new(writer));
        self
    }

    /// Adds a layer of `tracing-subscriber`, which sees what the filter lets through.
    pub fn with(mut self, layer: impl Layer<Registry> + Send + Sync) -> Self {
        self.layers.push(layer.boxed());
        self
    }

    /// Takes the finished calls and the metrics of this sidecar, and brings the spans of handlers into its recorder; see [Spans of handlers](super#spans-of-handlers).
    pub fn sidecar(mut self, sidecar: &Sidecar) -> Self {
        self.recorder = Some(sidecar.recorder().clone());
        #[cfg(feature = "otlp")]
        {
            self.metrics = Some(sidecar.metrics().clone());
        }
        self
    }

    /// Keeps the last `logs` logs, and at most `bytes` of them, for the [`Store`] and until they are exported. Default 10,000 and 8 MiB: with ten logs a call, the
    /// last thousand calls. None of either keeps none, and exports none.
    pub const fn keep_logs(mut self, logs: usize, bytes: usize) -> Self {
        self.keep = (logs, bytes);
        self
    }

    /// Reads these environment variables instead of the process's.
    pub fn variables<K: Into<String>, V: Into<String>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.environment = Environment::of(variables);
        self
    }

    /// Adds an attribute of the process to all that is exported, for instance `deployment.environment.name`. There already are `service.name`,
    /// `service.instance.id`, which is random, `host.name` and `telemetry.sdk.*`.
    #[cfg(feature = "otlp")]
    pub fn attribute(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push((key.into(), value.into()));
        self
    }

    /// Exports the finished calls, the metrics and the logs.
    #[cfg(feature = "otlp")]
    pub fn otlp(mut self, otlp: Otlp) -> Self {
        self.otlp = Some(otlp);
        self
    }

    /// Makes this the telemetry of the process. Keep the guard until its end: dropping it exports what is left.
    ///
    /// # Errors
    ///
    /// If the filter cannot be parsed, if an environment variable has a bad value, or if the process has a subscriber already.
    pub fn start(self) -> Result<Telemetry, InitError> {
        let (dispatch, telemetry) = self.build()?;
        tracing::dispatcher::set_global_default(dispatch)
            .map_err(|error| InitError::new("process has a subscriber", error))?;
        Ok(telemetry)
    }

    /// The same without making it that of the process, for instance for `tracing::dispatcher::with_default` in a test.
    ///
    /// # Errors
    ///
    /// If the filter cannot be parsed, or if an environment variable has a bad value.
    pub fn build(mut self) -> Result<(Dispatch, Telemetry), InitError> {
        let directives = self.environment.get("RUST_LOG").or(self.filter.clone());
        let filter = Filter::new(directives.as_deref().unwrap_or("info"))?;
        let logs = Arc::new(LogRing::new(self.keep.0, self.keep.1));
        #[cfg(feature = "otlp")]
        let (service, exporter) = self.exporter(&logs)?;
        #[cfg(not(feature = "otlp"))]
        let service = self.service.clone();
        let store = Store::new(logs.clone(), self.recorder.clone());
        let capture = Capture { service: service.clone(), ring: logs };
        let spans_left_out = Arc::default();
        let handlers = HandlerSpans::new(self.recorder.as_ref(), Arc::clone(&spans_left_out));
        // An empty list of layers would have no interest in anything.
        let layers = Some(std::mem::take(&mut self.layers)).filter(|layers| !layers.is_empty());
        let subscriber = tracing_subscriber::registry()
            .with(layers)
            .with(Filtering(filter.clone()))
            .with(capture)
            .with(handlers)
            .with(self.lines(service));
        let telemetry = Telemetry {
            filter,
            store,
            spans_left_out,
            #[cfg(feature = "otlp")]
            exporter,
        };
        Ok((Dispatch::new(subscriber), telemetry))
    }

    /// What the process is called, and its exporter.
    #[cfg(feature = "otlp")]
    fn exporter(&self, logs: &Arc<LogRing>) -> Result<(Arc<str>, Option<Exporter>), InitError> {
        let environment = &self.environment;
        let resource = Resource::new(self.service.clone(), &self.attributes, environment)?;
        let named = resource.service.clone();
        let Some(otlp) = self.otlp.clone() else { return Ok((named, None)) };
        let what = Exported {
            service: self.service.clone(),
            resource: Arc::new(resource),
            recorder: self.recorder.clone(),
            metrics: self.metrics.clone(),
            logs: logs.clone(),
        };
        let plan = otlp.plan(what, environment)?;
        let exporter = plan.map(Plan::start).transpose()?;
        if let (Some(exporter), Some(metrics)) = (&exporter, &self.metrics) {
            exporter.stats().measured_by(metrics);
        }
        Ok((named, exporter))
    }

    /// The layer that writes lines.
    fn lines<S>(self, service: Arc<str>) -> Box<dyn Layer<S> + Send + Sync>
    where
        S: Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
    {
        let terminal = io::stdout().is_terminal();
        let format = self.format.unwrap_or(if terminal { Format::Pretty } else { Format::Json });
        let colours =
            terminal && self.writer.is_none() && self.environment.get("NO_COLOR").is_none();
        let writer = self.writer.unwrap_or_else(|| BoxMakeWriter::new(io::stdout));
        let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours);
        match format {
            Format::Json => {
                layer.fmt_fields(JsonFields::new()).event_format(Json { service }).boxed()
            }
            Format::Pretty => layer.fmt_fields(HumanFields).event_format(Human).boxed(),
        }
    }
}

impl fmt::Debug for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Init")
            .field("service", &self.service)
            .field("format", &self.format)
            .field("filter", &self.filter)
            .finish_non_exhaustive()
    }
}

//! Sets up what a process tells about itself: logs with trace ids, a store that can be asked for them and, with the feature `otlp`, the export of traces,
//! metrics and logs.
//!
//! ```
//! use gusset_sidecar::{Sidecar, telemetry};
//!
//! let sidecar = Sidecar::new("orders");
//! let telemetry = telemetry::init("orders").sidecar(&sidecar).filter("info,hyper=warn").start()?;
//! tracing::info!(order = 7, "ready");
//! telemetry.filter().set("debug")?;
//! # Ok::<(), telemetry::InitError>(())
//! ```

mod capture;
mod environment;
mod filter;
mod human;
mod json;
mod log;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(feature = "otlp")]
mod resource;

use std::{
    borrow::Cow,
    fmt,
    io::{self, IsTerminal},
    sync::Arc,
};

use gusset_call::BoxError;
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::{
    Layer,
    fmt::{MakeWriter, format::JsonFields, writer::BoxMakeWriter},
    layer::SubscriberExt,
};

pub use filter::Filter;
pub use log::{FieldValue, Log};
#[cfg(feature = "otlp-tls")]
pub use otlp::OtlpTls;
#[cfg(feature = "otlp")]
pub use otlp::{ExportStats, Otlp, SignalStats};

use self::{
    capture::Capture,
    environment::Environment,
    filter::Filtering,
    human::{Human, HumanFields},
    json::Json,
    log::LogRing,
};
use crate::{Ratio, Recorder, Sidecar};

/// Begins to set up the telemetry of the process whose service has this name.
pub fn init(service: impl Into<Arc<str>>) -> Init {
    Init {
        service: service.into(),
        format: None,
        filter: None,
        writer: None,
        recorder: None,
        environment: Environment::default(),
        #[cfg(feature = "otlp")]
        attributes: Vec::new(),
        #[cfg(feature = "otlp")]
        otlp: None,
    }
}

/// The share of new traces that the operator wants sampled, for [`Sidecar::sample`]: what `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG` say; none if
/// they are silent.
///
/// The samplers `parentbased_always_on`, `parentbased_always_off` and `parentbased_traceidratio` are known, and the same without `parentbased_`, which mean the same
/// here: who continues a trace does what its caller decided, so that no trace has holes.
///
/// # Errors
///
/// If the sampler is another one, or the share is none. The error names the variable.
pub fn sampling() -> Result<Option<Ratio>, InitError> {
    Environment::default().sampler()
}

/// Telemetry that is being set up; [`Init::start`] ends that.
#[must_use = "nothing happens until it is started"]
pub struct Init {
    service: Arc<str>,
    format: Option<Format>,
    filter: Option<String>,
    /// Standard output if none.
    writer: Option<BoxMakeWriter>,
    recorder: Option<Recorder>,
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

    /// Takes the finished calls and the metrics of this sidecar.
    pub fn sidecar(mut self, sidecar: &Sidecar) -> Self {
        self.recorder = Some(sidecar.recorder().clone());
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
    /// `service.instance.id`, which is random, `host.name`, `process.pid` and `telemetry.sdk.*`.
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
    pub fn build(self) -> Result<(Dispatch, Telemetry), InitError> {
        let directives = self.environment.get("RUST_LOG").or(self.filter.clone());
        let filter = Filter::new(directives.as_deref().unwrap_or("info"))?;
        let logs = Arc::new(LogRing::new(10_000, 8 << 20));
        #[cfg(feature = "otlp")]
        let (service, exporter) = self.exporter(&logs)?;
        #[cfg(not(feature = "otlp"))]
        let service = self.service.clone();
        let capture = Capture { service: service.clone(), ring: logs };
        let subscriber = tracing_subscriber::registry()
            .with(Filtering(filter.clone()))
            .with(capture)
            .with(self.lines(service));
        let telemetry = Telemetry {
            filter,
            #[cfg(feature = "otlp")]
            exporter,
        };
        Ok((Dispatch::new(subscriber), telemetry))
    }

    /// What the process is called, and its exporter.
    #[cfg(feature = "otlp")]
    fn exporter(
        &self,
        logs: &Arc<LogRing>,
    ) -> Result<(Arc<str>, Option<otlp::Exporter>), InitError> {
        let environment = &self.environment;
        let resource =
            resource::Resource::new(self.service.clone(), &self.attributes, environment)?;
        let named = resource.service.clone();
        let Some(otlp) = self.otlp.clone() else { return Ok((named, None)) };
        let what = otlp::Exported {
            service: self.service.clone(),
            resource: Arc::new(resource),
            recorder: self.recorder.clone(),
            logs: logs.clone(),
        };
        let plan = otlp.plan(what, environment)?;
        Ok((named, plan.map(otlp::Plan::start).transpose()?))
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

/// The telemetry of a process. Dropping it exports what was recorded until then, for at most the time that [`Otlp::flush_within`] gives; the logs
/// go on.
///
/// The export has a thread and a runtime of its own, so that it may be dropped in any runtime, on its only worker, and where there is none.
#[derive(Debug)]
#[must_use = "dropping it ends the export"]
pub struct Telemetry {
    filter: Filter,
    #[cfg(feature = "otlp")]
    exporter: Option<otlp::Exporter>,
}

impl Telemetry {
    /// What is logged, to be changed at run time.
    #[must_use]
    pub const fn filter(&self) -> &Filter {
        &self.filter
    }

    /// What became of what was recorded; none without export.
    #[cfg(feature = "otlp")]
    #[must_use]
    pub fn export_stats(&self) -> Option<ExportStats> {
        self.exporter.as_ref().map(otlp::Exporter::stats)
    }

    /// Exports what was recorded until now, for instance before a process is frozen. True if the collector has all of it, and if nothing is exported.
    ///
    /// It takes as long as the requests that it needs; bound it with a timeout.
    ///
    /// # Cancellation
    ///
    /// Dropping the future does not stop the export.
    #[cfg(feature = "otlp")]
    pub async fn flush(&self) -> bool {
        match &self.exporter {
            Some(exporter) => exporter.flush().await,
            None => true,
        }
    }

    /// Ends the export as dropping does, but without blocking a worker of the runtime meanwhile.
    ///
    /// # Cancellation
    ///
    /// Dropping the future does not stop the export, which ends in its own time.
    #[cfg(feature = "otlp")]
    pub async fn shutdown(self) {
        // The result only tells of a panic, and there is nothing left to do about one.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

/// Telemetry could not be set up.
#[derive(Debug)]
pub struct InitError {
    what: Cow<'static, str>,
    cause: Option<BoxError>,
}

impl InitError {
    fn new(what: &'static str, cause: impl Into<BoxError>) -> Self {
        Self { what: what.into(), cause: Some(cause.into()) }
    }

    /// A variable that has a bad value, which is not told: it may be a secret.
    fn variable(name: &'static str, why: &'static str) -> Self {
        Self { what: format!("{name} {why}").into(), cause: None }
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot set up telemetry: {}", self.what)
    }
}

impl std::error::Error for InitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&**self.cause.as_ref()?)
    }
}

//! Sets up what a process tells about itself: logs with trace ids and, with the feature `otlp`, the export of traces.
//!
//! ```
//! use gusset_sidecar::{Sidecar, telemetry};
//!
//! let sidecar = Sidecar::new("orders");
//! let _telemetry = telemetry::init("orders").filter("info,hyper=warn").start()?;
//! tracing::info!(order = 7, "ready");
//! # Ok::<(), telemetry::InitError>(())
//! ```

mod logs;
#[cfg(feature = "otlp")]
mod otlp;
#[cfg(feature = "otlp")]
mod span_data;

use std::{
    fmt,
    io::{self, IsTerminal},
    sync::Arc,
};

use tracing::Subscriber;
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{
        MakeWriter,
        format::{DefaultFields, JsonFields},
        writer::BoxMakeWriter,
    },
    layer::SubscriberExt,
};

#[cfg(feature = "otlp")]
pub use otlp::{ExportStats, Otlp};

use logs::{Human, Json};

/// Begins to set up the telemetry of the process whose service has this name.
pub fn init(service: impl Into<Arc<str>>) -> Init {
    Init {
        service: service.into(),
        format: None,
        filter: None,
        writer: None,
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

    /// Logs lines for humans, with the trace and span id behind them.
    ///
    /// This is the default where standard output is a terminal.
    pub const fn pretty(mut self) -> Self {
        self.format = Some(Format::Pretty);
        self
    }

    /// What is logged, in the syntax of `RUST_LOG`, for instance `info,hyper=warn`. The environment variable wins. Default
    /// `info`.
    pub fn filter(mut self, directives: impl Into<String>) -> Self {
        self.filter = Some(directives.into());
        self
    }

    /// Logs to `writer`. Default standard output, where containers expect it.
    pub fn writer(mut self, writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) -> Self {
        self.writer = Some(BoxMakeWriter::new(writer));
        self
    }

    /// Exports traces.
    #[cfg(feature = "otlp")]
    pub fn otlp(mut self, otlp: Otlp) -> Self {
        self.otlp = Some(otlp);
        self
    }

    /// Makes this the telemetry of the process. Keep the guard until its end: dropping it exports what is left.
    ///
    /// # Errors
    ///
    /// If the filter cannot be parsed, if the process has a subscriber already, or if the exporter cannot be made.
    pub fn start(self) -> Result<Telemetry, InitError> {
        #[cfg(feature = "otlp")]
        let otlp = self.otlp.clone();
        let subscriber = self.subscriber()?;
        tracing::subscriber::set_global_default(subscriber)
            .map_err(|error| InitError { what: "process has a subscriber", cause: error.into() })?;
        Ok(Telemetry {
            #[cfg(feature = "otlp")]
            exporter: otlp.map(Otlp::start).transpose()?,
        })
    }

    /// The subscriber alone, for who sets it up otherwise, for instance with `tracing::subscriber::with_default` in a test. It exports
    /// nothing.
    ///
    /// # Errors
    ///
    /// If the filter cannot be parsed.
    pub fn subscriber(self) -> Result<impl Subscriber + Send + Sync, InitError> {
        let filter = std::env::var("RUST_LOG").ok().filter(|filter| !filter.trim().is_empty());
        let filter = filter.or(self.filter).unwrap_or_else(|| "info".into());
        let filter = EnvFilter::try_new(filter)
            .map_err(|error| InitError { what: "log filter", cause: error.into() })?;
        let terminal = io::stdout().is_terminal();
        let format = self.format.unwrap_or(if terminal { Format::Pretty } else { Format::Json });
        let colours = terminal && self.writer.is_none() && std::env::var_os("NO_COLOR").is_none();
        let writer = self.writer.unwrap_or_else(|| BoxMakeWriter::new(io::stdout));
        let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours);
        let logs = match format {
            Format::Json => layer
                .fmt_fields(JsonFields::new())
                .event_format(Json { service: self.service })
                .boxed(),
            Format::Pretty => layer.fmt_fields(DefaultFields::new()).event_format(Human).boxed(),
        };
        Ok(tracing_subscriber::registry().with(filter).with(logs))
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
#[derive(Debug)]
#[must_use = "dropping it ends the export"]
pub struct Telemetry {
    #[cfg(feature = "otlp")]
    exporter: Option<otlp::Exporter>,
}

impl Telemetry {
    /// What became of the records; none without export.
    #[cfg(feature = "otlp")]
    #[must_use]
    pub fn export_stats(&self) -> Option<ExportStats> {
        self.exporter.as_ref().map(otlp::Exporter::stats)
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
    what: &'static str,
    cause: Box<dyn std::error::Error + Send + Sync>,
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot set up telemetry: {}", self.what)
    }
}

impl std::error::Error for InitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.cause)
    }
}

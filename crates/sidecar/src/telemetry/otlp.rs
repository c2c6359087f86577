//! Export to an OpenTelemetry collector, from a thread of its own.

mod answer;
mod channel;
#[cfg(all(any(test, fuzzing), feature = "otlp-grpc"))]
pub(crate) mod fuzz;
mod logs;
mod metrics;
mod proto;
mod resource;
mod settings;
mod source;
mod spans;
mod stats;
mod thread;
#[cfg(feature = "otlp-tls")]
mod tls;
mod worker;

use std::{collections::VecDeque, sync::Arc, time::Duration};

pub use stats::{ExportStats, SignalStats};
pub(super) use thread::{Exporter, Plan};
#[cfg(feature = "otlp-tls")]
pub use tls::OtlpTls;

use self::{
    channel::Channel,
    settings::{Settings, Signal},
    source::{Figures, Logs, Source, Spans},
    thread::Job,
};
use super::{InitError, environment::Environment, log::LogRing, resource::Resource};
use crate::{Cursor, Metrics, Recorder};

/// Exports to an OpenTelemetry collector, as OTLP over HTTP with protobuf, or over gRPC (feature `otlp-grpc`).
///
/// What is not said here comes from the environment, by the OpenTelemetry specification. `{S}` stands for nothing or for `TRACES_`, `METRICS_` or
/// `LOGS_`, which win; an empty value is as good as none; a bad one is an error that names the variable.
///
/// | variable | values | default |
/// |---|---|---|
/// | `OTEL_SDK_DISABLED` | `true`: nothing is exported | `false` |
/// | `OTEL_TRACES_EXPORTER`, `OTEL_METRICS_EXPORTER`, `OTEL_LOGS_EXPORTER` | `otlp`, `none` | `otlp` |
/// | `OTEL_EXPORTER_OTLP_ENDPOINT` | base URL | `http://localhost:4318`, for gRPC 4317 |
/// | `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` and so on | the whole URL | the base and `/v1/traces` |
/// | `OTEL_EXPORTER_OTLP_{S}PROTOCOL` | `http/protobuf`, `grpc` | `http/protobuf` |
/// | `OTEL_EXPORTER_OTLP_{S}HEADERS` | `key=value,…`, percent-encoded | |
/// | `OTEL_EXPORTER_OTLP_{S}TIMEOUT` | milliseconds for one request | 10000 |
/// | `OTEL_METRIC_EXPORT_INTERVAL` | milliseconds between readings | 60000 |
/// | `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES` | who this is; they win over the program | |
///
/// Others are not read; nothing is compressed.
///
/// # When the collector is away
///
/// Nothing is queued for it: spans wait in the recorder's ring, logs in the ring of logs, and metrics add up. What is overwritten there meanwhile is counted
/// ([`SignalStats::missed`]). One batch of each signal, 1 MiB at most, is offered again with growing waits of up to 10 s, or
/// when the collector says, but not after more than 5 minutes.
#[derive(Clone, Debug)]
pub struct Otlp {
    endpoint: Option<String>,
    headers: Secrets,
    slow: Duration,
    flush: Duration,
    every: Duration,
    metrics_every: Option<Duration>,
    #[cfg(feature = "otlp-tls")]
    tls: Option<OtlpTls>,
}

/// Pairs of which nothing is shown.
#[derive(Clone, Default)]
struct Secrets(Vec<(String, String)>);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Otlp {
    /// Export with the defaults and by the environment.
    #[must_use]
    pub fn new() -> Self {
        Self {
            endpoint: None,
            headers: Secrets::default(),
            slow: Duration::from_secs(1),
            flush: Duration::from_secs(5),
            every: Duration::from_secs(1),
            metrics_every: None,
            #[cfg(feature = "otlp-tls")]
            tls: None,
        }
    }

    /// Where the collector is, for instance `http://collector:4318`. Paths such as `/v1/traces` are added. The environment is
    /// then not asked.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
        self
    }

    /// A header of every request, for instance with a key. It is never logged.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.0.push((name.into(), value.into()));
        self
    }

    /// From which duration on a call is exported though its trace is not sampled. Default 1 s, by which time a user has
    /// noticed.
    #[must_use]
    pub const fn slow(mut self, span: Duration) -> Self {
        self.slow = span;
        self
    }

    /// How long the end of the process may wait for the last export. Default 5 s, as in the OpenTelemetry SDKs.
    #[must_use]
    pub const fn flush_within(mut self, span: Duration) -> Self {
        self.flush = span;
        self
    }

    /// How often spans and logs are exported. Default 1 s, so that a console is never far behind; at least a millisecond.
    #[must_use]
    pub const fn every(mut self, span: Duration) -> Self {
        self.every = span;
        self
    }

    /// How often metrics are read and exported. Default what `OTEL_METRIC_EXPORT_INTERVAL` says, or every minute, as in the OpenTelemetry SDKs.
    #[must_use]
    pub const fn metrics_every(mut self, span: Duration) -> Self {
        self.metrics_every = Some(span);
        self
    }

    /// How the collector is known where the URL begins with `https`.
    #[cfg(feature = "otlp-tls")]
    #[must_use]
    pub fn tls(mut self, tls: OtlpTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// What is to be done, by the program and the environment. None if nothing is.
    pub(super) fn plan(
        self,
        what: Exported,
        environment: &Environment,
    ) -> Result<Option<Plan>, InitError> {
        if environment.flag("OTEL_SDK_DISABLED")? {
            return Ok(None);
        }
        let mut jobs = Vec::new();
        for signal in [Signal::Traces, Signal::Metrics, Signal::Logs] {
            if !signal.wanted(environment)? {
                continue;
            }
            let Some(source) = what.source(signal, self.slow) else { continue };
            let settings =
                Settings::new(signal, self.endpoint.as_deref(), &self.headers.0, environment)?;
            #[cfg(feature = "otlp-tls")]
            let tls = match &self.tls {
                given @ Some(_) => given.clone(),
                None if settings.tls => Some(OtlpTls::of(&settings.tls_files, environment)?),
                None => None,
            };
            let channel = Channel::new(
                settings,
                #[cfg(feature = "otlp-tls")]
                tls,
            );
            let every = match signal {
                Signal::Metrics => self.interval(environment)?,
                Signal::Traces | Signal::Logs => self.every,
            };
            let every = every.max(Duration::from_millis(1));
            jobs.push(Job { signal, source, channel, every });
        }
        Ok((!jobs.is_empty()).then_some(Plan { jobs, flush: self.flush }))
    }

    fn interval(&self, environment: &Environment) -> Result<Duration, InitError> {
        const NAME: &str = "OTEL_METRIC_EXPORT_INTERVAL";
        match (self.metrics_every, environment.get(NAME)) {
            (Some(given), _) => Ok(given),
            (None, Some(text)) => settings::millis(NAME, &text),
            (None, None) => Ok(Duration::from_secs(60)),
        }
    }
}

impl Default for Otlp {
    fn default() -> Self {
        Self::new()
    }
}

/// What a process has to export.
pub(super) struct Exported {
    pub(super) service: Arc<str>,
    pub(super) resource: Arc<Resource>,
    pub(super) recorder: Option<Recorder>,
    pub(super) metrics: Option<Metrics>,
    pub(super) logs: Arc<LogRing>,
}

impl Exported {
    fn source(&self, signal: Signal, slow: Duration) -> Option<Box<dyn Source>> {
        let resource = self.resource.clone();
        match signal {
            Signal::Traces => Some(Box::new(Spans {
                recorder: self.recorder.clone()?,
                resource,
                service: self.service.clone(),
                slow,
                cursor: Cursor::default(),
                read: VecDeque::new(),
            })),
            Signal::Metrics => Some(Box::new(Figures {
                metrics: self.metrics.clone()?,
                resource,
                read: VecDeque::new(),
            })),
            Signal::Logs => {
                Some(Box::new(Logs { ring: self.logs.clone(), resource, next: 0, missed: 0 }))
            }
        }
    }
}

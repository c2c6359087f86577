//! Export of finished calls as OpenTelemetry spans, over HTTP and from a thread of its own.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use opentelemetry_otlp::{
    ExporterBuildError, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use tokio::{sync::oneshot, time::timeout};

use super::{InitError, span_data::span_data};
use crate::{Cursor, End, Record, Recorder};

/// Most spans of one request, as in the OpenTelemetry SDKs.
const BATCH: usize = 512;
/// How long one request may take.
const REQUEST: Duration = Duration::from_secs(3);
/// How often a batch is offered before it is dropped; with one try a second a collector may be away for half a minute.
const TRIES: u32 = 30;

/// Exports what a [`Recorder`] holds to an OpenTelemetry collector, as OTLP over HTTP with protobuf.
///
/// It reads the ring once a second and needs no buffer beside it; while the collector is away, the records wait there. It exports the
/// calls of sampled traces and all that failed, were cancelled or were slow.
///
/// The endpoint, headers and resource attributes come from the environment variables of the OpenTelemetry specification
/// (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`) unless set here. It speaks plain HTTP: a collector
/// elsewhere is reached through one beside the process.
#[derive(Clone, Debug)]
pub struct Otlp {
    recorder: Recorder,
    endpoint: Option<String>,
    slow: Duration,
    flush: Duration,
    every: Duration,
}

impl Otlp {
    /// Exports what `recorder` holds.
    #[must_use]
    pub const fn new(recorder: Recorder) -> Self {
        Self {
            recorder,
            endpoint: None,
            slow: Duration::from_secs(1),
            flush: Duration::from_secs(5),
            every: Duration::from_secs(1),
        }
    }

    /// Where the collector is, for instance `http://collector:4318`. A URL without a path gets `/v1/traces`. Default
    /// `http://localhost:4318`.
    #[must_use]
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = Some(url.into());
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

    /// Starts the thread.
    pub(super) fn start(self) -> Result<Exporter, InitError> {
        let failed = |cause| InitError { what: "export of traces", cause };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| failed(error.into()))?;
        let mut worker = Worker {
            stats: Arc::default(),
            cursor: Cursor::default(),
            pending: VecDeque::new(),
            exporters: HashMap::new(),
            reachable: true,
            otlp: self,
        };
        // A bad endpoint is known now or never.
        let service = worker.otlp.recorder.service().clone();
        worker.exporter(&service).map_err(|error| failed(error.into()))?;

        let (stats, flush) = (worker.stats.clone(), worker.otlp.flush);
        let (stop, stopped) = oneshot::channel();
        let (over, done) = mpsc::channel();
        thread::Builder::new()
            .name("gusset-otlp".into())
            .spawn(move || {
                runtime.block_on(worker.run(stopped));
                // A look-up of a name may hang there, and nobody waits for it.
                runtime.shutdown_background();
                drop(over);
            })
            .map_err(|error| failed(error.into()))?;
        Ok(Exporter { stop: Some(stop), done, flush, stats })
    }

    fn wants(&self, record: &Record) -> bool {
        record.sampled
            || record.end != End::Complete
            || record.is_failure()
            || record.duration >= self.slow
    }
}

/// What became of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportStats {
    /// Spans that the collector has.
    pub exported: u64,
    /// Spans that it did not take in 30 tries.
    pub dropped: u64,
    /// Records that were overwritten before they could be exported.
    pub missed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    exported: AtomicU64,
    dropped: AtomicU64,
    missed: AtomicU64,
}

/// The thread. Dropping this ends it, after a last export that is waited for within its bound.
#[derive(Debug)]
pub(super) struct Exporter {
    stop: Option<oneshot::Sender<()>>,
    done: mpsc::Receiver<()>,
    flush: Duration,
    stats: Arc<Counters>,
}

impl Exporter {
    pub(super) fn stats(&self) -> ExportStats {
        ExportStats {
            exported: self.stats.exported.load(Relaxed),
            dropped: self.stats.dropped.load(Relaxed),
            missed: self.stats.missed.load(Relaxed),
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Nothing is ever sent: the wait ends when the thread drops its end, or with the bound. The thread bounds itself
        // likewise; the wait here is a little longer so that it can report.
        let _ = self.done.recv_timeout(self.flush + Duration::from_millis(100));
    }
}

struct Worker {
    otlp: Otlp,
    stats: Arc<Counters>,
    cursor: Cursor,
    /// The batch that was read last, by service, as far as the collector has not taken it. All that came after waits in the ring.
    pending: VecDeque<(Arc<str>, Vec<Record>)>,
    /// One for each service that records into the ring, since that is an attribute of the resource. Services are
    /// named by the program, so there are only so many.
    exporters: HashMap<Arc<str>, SpanExporter>,
    /// Whether the last request went well, so that a collector that is away is told of once.
    reachable: bool,
}

impl Worker {
    async fn run(mut self, mut stopped: oneshot::Receiver<()>) {
        let mut tries = 0;
        while timeout(self.otlp.every, &mut stopped).await.is_err() {
            // A request under way is not cut off by the end: its outcome is counted, and it is bounded.
            tries = if self.export_all().await { 0 } else { tries + 1 };
            if tries == TRIES {
                self.give_up();
                tries = 0;
            }
        }
        let _ = timeout(self.otlp.flush, self.export_all()).await;
    }

    /// Exports all that is there. False if the collector did not take it.
    async fn export_all(&mut self) -> bool {
        loop {
            while let Some((service, records)) = self.pending.front() {
                let (service, spans) = (service.clone(), records.len() as u64);
                let batch = records.iter().cloned().map(span_data).collect();
                let result = match self.exporter(&service) {
                    Ok(exporter) => match timeout(REQUEST, exporter.export(batch)).await {
                        Ok(result) => result.map_err(|error| error.to_string()),
                        Err(_) => Err("no answer in time".into()),
                    },
                    Err(error) => Err(error.to_string()),
                };
                if let Err(error) = result {
                    if std::mem::replace(&mut self.reachable, false) {
                        tracing::warn!(error, "collector does not take traces, they wait");
                    }
                    return false;
                }
                self.reachable = true;
                self.stats.exported.fetch_add(spans, Relaxed);
                self.pending.pop_front();
            }
            let records = self.otlp.recorder.read(&mut self.cursor, BATCH);
            self.stats.missed.store(self.cursor.missed(), Relaxed);
            if records.is_empty() {
                return true;
            }
            let mut batches: HashMap<Arc<str>, Vec<Record>> = HashMap::new();
            for record in records.into_iter().filter(|record| self.otlp.wants(record)) {
                batches.entry(record.service.clone()).or_default().push(record);
            }
            self.pending.extend(batches);
        }
    }

    /// Passes over a batch that the collector never takes, for it may be the batch's fault.
    fn give_up(&mut self) {
        let dropped = self.pending.pop_front().map_or(0, |(_, records)| records.len() as u64);
        self.stats.dropped.fetch_add(dropped, Relaxed);
    }

    fn exporter(&mut self, service: &Arc<str>) -> Result<&SpanExporter, ExporterBuildError> {
        if !self.exporters.contains_key(service) {
            let mut builder = SpanExporter::builder()
                .with_http()
                .with_timeout(REQUEST)
                .with_retry_policy(RetryPolicy::disabled());
            if let Some(endpoint) = &self.otlp.endpoint {
                builder = builder.with_endpoint(with_path(endpoint));
            }
            let mut exporter = builder.build()?;
            let resource = Resource::builder().with_service_name(service.to_string()).build();
            exporter.set_resource(&resource);
            self.exporters.insert(service.clone(), exporter);
        }
        Ok(&self.exporters[service])
    }
}

fn with_path(endpoint: &str) -> String {
    let base = endpoint.trim_end_matches('/');
    match base.split_once("://") {
        Some((_, rest)) if !rest.contains('/') => format!("{base}/v1/traces"),
        _ => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests;

//! What a process can be asked about itself.

mod body;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod query;
mod request;
mod service;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
};

use gusset_call::TraceId;
use serde::Serialize;

pub use body::StoreBody;
pub use query::{LogQuery, TraceQuery};
pub use service::StoreService;

use super::log::{Log, LogRing};
use crate::{Cursor, Record, Recorder};

/// The last logs and finished calls of a process, for a console and for tests. Clones look into the same.
///
/// It holds the last 10,000 logs, but no more than 8 MiB of them ([`Init::keep_logs`](super::Init::keep_logs) changes that), and looks into the ring of the
/// recorder for the calls. Nothing outlives the process.
///
/// ```
/// use gusset_sidecar::{Sidecar, telemetry::{self, LogQuery, TraceQuery}};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let sidecar = Sidecar::new("orders");
/// let (dispatch, telemetry) = telemetry::init("orders").sidecar(&sidecar).build()?;
/// let _default = tracing::dispatcher::set_default(&dispatch);
/// let work = async {
///     tracing::warn!(order = 7, "no stock");
///     Err::<(), _>("no stock")
/// };
/// let _ = sidecar.intercept("createOrder", work).await;
///
/// let failed = telemetry.store().traces(&TraceQuery::new().failed());
/// assert_eq!(failed[0].root.as_deref(), Some("createOrder"));
/// let logs = telemetry.store().logs(&LogQuery::new().trace(failed[0].trace_id));
/// assert_eq!(&*logs[0].message, "no stock");
/// # Ok::<(), telemetry::InitError>(())
/// # }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Store {
    logs: Arc<LogRing>,
    recorder: Option<Recorder>,
    followers: Arc<Followers>,
}

/// Who reads along.
#[derive(Debug, Default)]
struct Followers {
    count: AtomicUsize,
    closed: AtomicBool,
}

/// A trace in a line. Serialises as JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TraceSummary {
    /// The trace.
    #[serde(serialize_with = "as_text")]
    pub trace_id: TraceId,
    /// Name of the span that has no parent; none if that is not over yet, is gone, or is in another process.
    pub root: Option<String>,
    /// Name of the span that began first: that of the trace where there is no root here.
    pub first: String,
    /// The services that took part, in the order of their first span.
    #[serde(serialize_with = "as_texts")]
    pub services: Vec<Arc<str>>,
    /// When the first span began, in nanoseconds since 1970.
    pub start_unix_nanos: u64,
    /// From then to the end of the last span that is over.
    pub duration_nanos: u64,
    /// How many spans there are.
    pub spans: usize,
    /// How many of them failed.
    pub failures: usize,
}

/// What a [`Store`] holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct StoreStats {
    /// Logs that are here.
    pub logs: usize,
    /// About how many bytes they take.
    pub log_bytes: usize,
    /// Logs that made room for younger ones.
    pub logs_overwritten: u64,
    /// Finished calls that made room for younger ones.
    pub spans_overwritten: u64,
}

/// How many logs or calls are looked at under one lock, or copied at a time.
const STEP: usize = 256;

impl Store {
    pub(super) fn new(logs: Arc<LogRing>, recorder: Option<Recorder>) -> Self {
        Self { logs, recorder, followers: Arc::default() }
    }

    /// One that looks into this recorder, and has no logs: for a process with several.
    #[must_use]
    pub fn of(recorder: &Recorder) -> Self {
        Self::new(Arc::new(LogRing::new(0, 0)), Some(recorder.clone()))
    }

    /// The logs that the query wants, the youngest first.
    #[must_use]
    pub fn logs(&self, query: &LogQuery) -> Vec<Arc<Log>> {
        let mut found = Vec::new();
        let mut before = query.before.unwrap_or(u64::MAX);
        while found.len() < query.limit {
            let step = self.logs.before(before, STEP);
            let Some(last) = step.last() else { break };
            before = last.number;
            let room = query.limit - found.len();
            found.extend(step.into_iter().filter(|log| query.wants(log)).take(room));
        }
        found
    }

    /// The traces that the query wants, the youngest first.
    #[must_use]
    pub fn traces(&self, query: &TraceQuery) -> Vec<TraceSummary> {
        let mut traces: HashMap<TraceId, Found> = HashMap::new();
        self.each_record(|record| {
            traces
                .entry(record.trace_id)
                .or_insert_with(|| Found::new(&record))
                .add(&record, query);
        });
        let mut found: Vec<_> =
            traces.into_values().filter_map(|found| found.wanted(query)).collect();
        found.sort_by_key(|trace| (std::cmp::Reverse(trace.start_unix_nanos), trace.trace_id));
        found.truncate(query.limit);
        found
    }

    /// The finished calls of one trace, by their start.
    #[must_use]
    pub fn trace(&self, id: TraceId) -> Vec<Record> {
        self.recorder.as_ref().map(|recorder| recorder.trace(id)).unwrap_or_default()
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        let (logged, logs, log_bytes) = self.logs.counts();
        let recorder = self.recorder.as_ref().map(|recorder| recorder.stats().overwritten);
        StoreStats {
            logs,
            log_bytes,
            logs_overwritten: logged - logs as u64,
            spans_overwritten: recorder.unwrap_or(0),
        }
    }

    /// A service that answers these questions over HTTP.
    #[must_use]
    pub fn service(&self) -> StoreService {
        StoreService::new(self.clone())
    }

    /// Ends the answers of those who follow, within a second, and refuses new ones: a server that drains waits for no end that never comes.
    pub fn close(&self) {
        self.followers.closed.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// All records, the oldest first, a few at a time.
    fn each_record(&self, mut visit: impl FnMut(Record)) {
        let Some(recorder) = &self.recorder else { return };
        let mut cursor = Cursor::default();
        // Others write meanwhile, and may write faster.
        let most = recorder.stats().capacity.div_ceil(STEP);
        for _ in 0..=most {
            let records = recorder.read(&mut cursor, STEP);
            if records.is_empty() {
                return;
            }
            records.into_iter().for_each(&mut visit);
        }
    }
}

/// A trace while its spans come in.
struct Found {
    summary: TraceSummary,
    end: u64,
    /// By first span.
    services: Vec<(u64, Arc<str>)>,
    of_service: bool,
    has_text: bool,
}

impl Found {
    fn new(record: &Record) -> Self {
        let summary = TraceSummary {
            trace_id: record.trace_id,
            root: None,
            first: String::new(),
            services: Vec::new(),
            start_unix_nanos: u64::MAX,
            duration_nanos: 0,
            spans: 0,
            failures: 0,
        };
        Self { summary, end: 0, services: Vec::new(), of_service: false, has_text: false }
    }

    fn add(&mut self, record: &Record, query: &TraceQuery) {
        let start = record.start_unix_nanos;
        let nanos = u64::try_from(record.duration.as_nanos()).unwrap_or(u64::MAX);
        self.end = self.end.max(start.saturating_add(nanos));
        let summary = &mut self.summary;
        if start < summary.start_unix_nanos {
            (summary.start_unix_nanos, summary.first) = (start, record.name().into_owned());
        }
        summary.spans += 1;
        summary.failures += usize::from(record.is_failure());
        if record.parent_id.is_none() {
            summary.root = Some(record.name().into_owned());
        }
        match self.services.iter_mut().find(|(_, service)| *service == record.service) {
            Some((first, _)) => *first = start.min(*first),
            None => self.services.push((start, record.service.clone())),
        }
        self.of_service |= query.is_of_service(record);
        self.has_text |= query.has_text(record);
    }

    fn wanted(mut self, query: &TraceQuery) -> Option<TraceSummary> {
        self.services.sort();
        self.summary.services = self.services.into_iter().map(|(_, service)| service).collect();
        self.summary.duration_nanos = self.end - self.summary.start_unix_nanos;
        (self.of_service && self.has_text && query.wants(&self.summary)).then_some(self.summary)
    }
}

fn as_text<T: std::fmt::Display, S: serde::Serializer>(
    value: &T,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.collect_str(value)
}

fn as_texts<S: serde::Serializer>(texts: &[Arc<str>], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(texts.iter().map(|text| &**text))
}

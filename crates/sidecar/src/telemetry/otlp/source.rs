//! What there is to export, in batches. Nothing is kept here beside a batch: spans wait in the recorder's ring, logs in theirs, and metrics add up.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{logs, metrics, proto::Message, resource::of_resource, spans};
use crate::{
    Cursor, End, Metrics, Record, Recorder, SpanKind,
    telemetry::{log::LogRing, resource::Resource},
};

/// Most items of one request, as in the OpenTelemetry SDKs.
const BATCH: usize = 512;
/// Most bytes, about: gRPC servers refuse messages of more than 4 MiB.
const BATCH_BYTES: usize = 1 << 20;

/// One request.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    pub(super) message: Bytes,
    /// How many spans, logs or figures are in it.
    pub(super) items: u64,
    /// Whether a later one says the same and more.
    pub(super) cumulative: bool,
}

pub(super) trait Source: Send {
    /// The next batch. `again` says that there was one before in this round.
    fn next(&mut self, again: bool) -> Option<Batch>;

    /// How many items were overwritten before they were read.
    fn missed(&self) -> u64;
}

/// The finished calls of a recorder.
pub(super) struct Spans {
    pub(super) recorder: Recorder,
    pub(super) resource: Arc<Resource>,
    /// What this process is called in its program. The operator may call it otherwise.
    pub(super) service: Arc<str>,
    pub(super) slow: Duration,
    pub(super) cursor: Cursor,
    /// Read and not yet in a batch: less than one batch.
    pub(super) read: VecDeque<Record>,
}

impl Spans {
    pub(super) fn wants(&self, record: &Record) -> bool {
        record.sampled
            || record.end != End::Complete
            || record.is_failure()
            || record.duration >= self.slow
    }
}

impl Spans {
    /// What handlers did within calls that are exported though their trace is not sampled. A look through the whole ring, so one for all of them.
    fn inside(&self, wanted: &[Record]) -> Vec<Record> {
        let served = |record: &&Record| {
            let came_in = matches!(record.kind, SpanKind::Server | SpanKind::Consumer);
            !record.sampled && (came_in || record.parent_id.is_none())
        };
        let calls: Vec<_> = wanted.iter().filter(served).cloned().collect();
        if calls.is_empty() {
            return Vec::new();
        }
        let mut inside = self.recorder.within(&calls);
        // Those that are exported for their own sake come by themselves.
        inside.retain(|record| !self.wants(record));
        inside
    }
}

impl Source for Spans {
    fn next(&mut self, _: bool) -> Option<Batch> {
        while self.read.is_empty() {
            let records = self.recorder.read(&mut self.cursor, BATCH);
            if records.is_empty() {
                return None;
            }
            let wanted: Vec<_> = records.into_iter().filter(|record| self.wants(record)).collect();
            self.read.extend(self.inside(&wanted));
            self.read.extend(wanted);
        }
        // Several services of one process may share a ring, and the service is an attribute of the resource.
        let mut by_service: BTreeMap<Arc<str>, Message> = BTreeMap::new();
        let (mut items, mut bytes) = (0, 0);
        while bytes < BATCH_BYTES {
            let Some(record) = self.read.pop_front() else { break };
            let service = if record.service == self.service {
                self.resource.service.clone()
            } else {
                record.service.clone()
            };
            let to = by_service.entry(service).or_default();
            let before = to.len();
            to.message(2, |span| spans::write(span, &record));
            bytes += to.len() - before;
            items += 1;
        }
        let mut request = Message::default();
        for (service, spans) in by_service {
            of_resource(&mut request, &self.resource, &service, spans.as_slice());
        }
        Some(Batch { message: request.into_bytes().into(), items, cumulative: false })
    }

    fn missed(&self) -> u64 {
        self.cursor.missed()
    }
}

/// What was logged.
pub(super) struct Logs {
    pub(super) ring: Arc<LogRing>,
    pub(super) resource: Arc<Resource>,
    pub(super) next: u64,
    pub(super) missed: u64,
}

impl Source for Logs {
    fn next(&mut self, _: bool) -> Option<Batch> {
        let from = self.next;
        let (logs, missed) = self.ring.read(&mut self.next, BATCH);
        self.missed += missed;
        let mut records = Message::default();
        let mut items = 0;
        for log in &logs {
            records.message(2, |record| logs::write(record, log));
            items += 1;
            if records.len() >= BATCH_BYTES {
                // The rest is read again.
                self.next = from + missed + items;
                break;
            }
        }
        let mut request = Message::default();
        of_resource(&mut request, &self.resource, &self.resource.service, records.as_slice());
        let message = request.into_bytes().into();
        (items > 0).then_some(Batch { message, items, cumulative: false })
    }

    fn missed(&self) -> u64 {
        self.missed
    }
}

/// What a registry counts.
pub(super) struct Figures {
    pub(super) metrics: Metrics,
    pub(super) resource: Arc<Resource>,
    /// The rest of this reading.
    pub(super) read: VecDeque<Batch>,
}

impl Source for Figures {
    fn next(&mut self, again: bool) -> Option<Batch> {
        if !again {
            self.read = self.collect();
        }
        self.read.pop_front()
    }

    fn missed(&self) -> u64 {
        0
    }
}

impl Figures {
    fn collect(&self) -> VecDeque<Batch> {
        let collected = self.metrics.collect();
        let times = metrics::Times::of(&collected);
        let (mut batches, mut scope, mut items) = (VecDeque::new(), Message::default(), 0);
        for family in &collected.families {
            // Parts of a family may come in several messages.
            for points in family.points.chunks(BATCH) {
                scope.message(2, |metric| metrics::write(metric, family, points, times));
                items += points.len() as u64;
                if scope.len() >= BATCH_BYTES {
                    batches.push_back(self.batch(&std::mem::take(&mut scope), items));
                    items = 0;
                }
            }
        }
        if items > 0 {
            batches.push_back(self.batch(&scope, items));
        }
        batches
    }

    fn batch(&self, scope: &Message, items: u64) -> Batch {
        let mut request = Message::default();
        of_resource(&mut request, &self.resource, &self.resource.service, scope.as_slice());
        Batch { message: request.into_bytes().into(), items, cumulative: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ratio, Sidecar, telemetry::environment::Environment};

    fn resource() -> Arc<Resource> {
        Arc::new(Resource::new("s".into(), &[], &Environment::of([("", "")])).unwrap())
    }

    fn spans_of(recorder: &Recorder) -> Spans {
        Spans {
            recorder: recorder.clone(),
            resource: resource(),
            service: "s".into(),
            slow: Duration::from_secs(1),
            cursor: Cursor::default(),
            read: VecDeque::new(),
        }
    }

    fn record(sampled: bool) -> Record {
        let recorder = Recorder::new("s");
        let sidecar = Sidecar::with_recorder(recorder.clone());
        let sidecar = sidecar.sample(if sampled { Ratio::ALL } else { Ratio::NONE });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(sidecar.intercept("work", async { Ok::<_, String>(()) })).unwrap();
        recorder.recent(1).remove(0)
    }

    #[test]
    fn unsampled_calls_are_exported_only_if_they_failed_or_were_slow() {
        let spans = spans_of(&Recorder::new("s"));
        let sampled = record(true);
        assert!(spans.wants(&sampled));
        let plain = record(false);
        assert!(!spans.wants(&plain));
        assert!(spans.wants(&Record { duration: Duration::from_secs(1), ..plain.clone() }));
        assert!(spans.wants(&Record { status: Some(500), ..plain.clone() }));
        assert!(spans.wants(&Record { end: End::Cancelled, ..plain }));
    }

    #[test]
    fn no_batch_is_larger_than_a_collector_takes() {
        let recorder = Recorder::new("s");
        let text = "x".repeat(256);
        let tag = || (format!("k{text}").into(), text.clone().into());
        let large = Record { tags: (0..16).map(|_| tag()).collect(), ..record(true) };
        for _ in 0..BATCH {
            recorder.record(large.clone());
        }
        let mut spans = spans_of(&recorder);
        let batches: Vec<_> = std::iter::from_fn(|| spans.next(false)).collect();
        assert!(batches.len() > 1);
        assert!(batches.iter().all(|batch| batch.message.len() < 2 * BATCH_BYTES));
        assert_eq!(batches.iter().map(|batch| batch.items).sum::<u64>(), BATCH as u64);

        let ring = Arc::new(LogRing::new(2 * BATCH, usize::MAX));
        for n in 0..2 * BATCH {
            let mut log = crate::telemetry::log::tests::log(&n.to_string());
            log.message = "x".repeat(8 << 10).into();
            ring.push(log);
        }
        let mut logs = Logs { ring, resource: resource(), next: 0, missed: 0 };
        let batches: Vec<_> = std::iter::from_fn(|| logs.next(false)).collect();
        assert!(batches.len() > 4);
        assert!(batches.iter().all(|batch| batch.message.len() < 2 * BATCH_BYTES));
        assert_eq!(batches.iter().map(|batch| batch.items).sum::<u64>(), 2 * BATCH as u64);
    }
}

#[cfg(feature = "otlp")]
use std::collections::HashMap;
use std::{
    fmt,
    num::NonZeroU16,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use gusset_call::{Clock, TraceContext, TraceId};

use super::{
    record::{MAX_TAGS, MAX_TEXT, Text, beginning, cut},
    ring::{Kept, More, Ring},
};
use crate::{End, Record, Route, SpanKind, metrics::series::Protocol, names::MethodName};

/// Keeps the last finished calls of a process. Clones share one ring.
///
/// It holds at most [`capacity`](Self::with_capacity) records and 32 more for each processor, 144 bytes each plus the texts of errors, paths and tags
/// (at most 256 bytes each, and 16 tags); a new record replaces the oldest, and [`RecorderStats::overwritten`] counts
/// that. Each thread writes into a buffer of its own, and meets others only with every 32nd record.
///
/// ```
/// use gusset_sidecar::{Recorder, Sidecar};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let sidecar = Sidecar::new("orders");
/// sidecar.intercept("createOrder", async { Ok::<_, std::io::Error>(()) }).await.unwrap();
///
/// let record = &sidecar.recorder().recent(10)[0];
/// assert_eq!(&*record.operation, "createOrder");
/// assert_eq!(sidecar.recorder().trace(record.trace_id), [record.clone()]);
/// # });
/// ```
#[derive(Clone)]
pub struct Recorder {
    service: Arc<str>,
    /// Where that is among the services.
    number: u16,
    shared: Arc<Shared>,
}

struct Shared {
    ring: Ring,
    /// Whose calls are kept. Services are named by the program, so there are only so many.
    services: Mutex<Vec<Arc<str>>>,
    clock: Clock,
    /// When the clock began, in nanoseconds since 1970. Records are placed on the wall by what the monotonic clock says has passed
    /// since, so that their order in one process survives a clock that is set back.
    epoch: u64,
}

/// What a recorder holds and held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecorderStats {
    /// Calls recorded since it was made.
    pub recorded: u64,
    /// How many of them made room for younger ones.
    pub overwritten: u64,
    /// How many it can hold.
    pub capacity: usize,
}

/// Where a reader of all records stands; see [`Recorder::read`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    next: u64,
    missed: u64,
}

impl Cursor {
    /// How many records were overwritten before this reader came to them.
    #[must_use]
    pub const fn missed(&self) -> u64 {
        self.missed
    }
}

impl Recorder {
    /// How many records [`Recorder::new`] keeps: with 20 spans an order, the last 500 orders, in about 1.5 MB.
    pub const CAPACITY: usize = 10_000;

    /// Keeps the last 10,000 calls of the service with this name.
    pub fn new(service: impl Into<Arc<str>>) -> Self {
        Self::with_capacity(service, Self::CAPACITY)
    }

    /// Keeps the last `capacity` calls; 0 keeps none, and calls then cost nothing here. The memory for the slots is
    /// taken at once.
    pub fn with_capacity(service: impl Into<Arc<str>>, capacity: usize) -> Self {
        let service = service.into();
        let shared = Shared {
            ring: Ring::new(capacity),
            services: Mutex::new(vec![service.clone()]),
            clock: Clock::new(),
            epoch: nanos(since_unix_epoch()),
        };
        Self { service, number: 0, shared: Arc::new(shared) }
    }

    /// The same ring for another service in the same process, so that one query shows a call through all of them.
    #[must_use]
    pub fn for_service(&self, service: impl Into<Arc<str>>) -> Self {
        let service = service.into();
        Self { number: self.number_of(&service), service, shared: self.shared.clone() }
    }

    /// Name of the service whose calls these are.
    #[must_use]
    pub const fn service(&self) -> &Arc<str> {
        &self.service
    }

    /// A finished piece of work of this service that is no call of a layer, such as a message that was handled: it took `duration` and ends now. What else is known is set on it before it is
    /// [recorded](Self::record); as it is, it is a first attempt that was complete.
    pub fn finished(
        &self,
        trace: TraceContext,
        kind: SpanKind,
        operation: impl Into<Route>,
        duration: Duration,
    ) -> Record {
        Record {
            trace_id: trace.trace_id(),
            span_id: trace.span_id(),
            parent_id: None,
            kind,
            service: self.service.clone(),
            operation: operation.into(),
            method: MethodName::NONE.as_str(),
            peer: None,
            attempt: 1,
            start_unix_nanos: self.unix_nanos(self.now()).saturating_sub(nanos(duration)),
            duration,
            status: None,
            grpc_status: None,
            end: End::Complete,
            error: None,
            sampled: trace.is_sampled(),
            tags: Vec::new(),
            path: None,
            protocol: Protocol::default(),
        }
    }

    /// Keeps a finished call. The layers do this; other crates may add work of their own, made by [`finished`](Self::finished). Tags after the 16th are dropped, and texts after 256 bytes cut.
    pub fn record(&self, record: Record) {
        if self.is_off() {
            return;
        }
        let own = Arc::ptr_eq(&record.service, &self.service);
        let service = if own { self.number } else { self.number_of(&record.service) };
        let method = MethodName::named(record.method);
        let unnamed = *record.operation == *method.as_str();
        self.keep(Kept {
            trace_id: record.trace_id,
            span_id: record.span_id,
            parent_id: record.parent_id,
            start_unix_nanos: record.start_unix_nanos,
            nanos: nanos(record.duration),
            route: (!unnamed).then_some(record.operation),
            peer: record.peer,
            more: More::bounded(record.error, record.tags),
            path: record.path.as_deref().map(|path| Box::from(beginning(path))),
            service,
            attempt: u16::try_from(record.attempt).unwrap_or(u16::MAX),
            status: record.status.and_then(NonZeroU16::new),
            grpc_status: record.grpc_status,
            method,
            protocol: record.protocol,
            kind: record.kind,
            end: record.end,
            sampled: record.sampled,
        });
    }

    /// The finished calls of one trace that are still there, by their start.
    #[must_use]
    pub fn trace(&self, id: TraceId) -> Vec<Record> {
        let found = self.shared.ring.youngest(usize::MAX, |record| record.trace_id == id);
        let mut found = self.expand(found);
        found.sort_by_key(|record| (record.start_unix_nanos, record.duration));
        found
    }

    /// The last `limit` finished calls, the youngest first.
    #[must_use]
    pub fn recent(&self, limit: usize) -> Vec<Record> {
        self.expand(self.shared.ring.youngest(limit, |_| true))
    }

    /// Up to `limit` records that were kept after those the cursor has seen, about in the order in which they ended. Each reader has a cursor
    /// of its own, starting at [`Cursor::default`], and misses what was overwritten meanwhile.
    #[must_use]
    pub fn read(&self, cursor: &mut Cursor, limit: usize) -> Vec<Record> {
        let (first, found) = self.shared.ring.from(cursor.next, limit);
        cursor.missed += first - cursor.next;
        cursor.next = first + found.len() as u64;
        self.expand(found)
    }

    /// The unsampled work beside calls that ended within one of these calls of the same trace and service.
    #[cfg(feature = "otlp")]
    pub(crate) fn within(&self, calls: &[Record]) -> Vec<Record> {
        let mut of_trace: HashMap<TraceId, Vec<&Record>> = HashMap::new();
        for call in calls {
            of_trace.entry(call.trace_id).or_default().push(call);
        }
        let is_in = |record: &Kept, call: &Record| {
            let end = call.start_unix_nanos.saturating_add(nanos(call.duration));
            record.start_unix_nanos >= call.start_unix_nanos && record.ended() <= end
        };
        let mut found = self.expand(self.shared.ring.youngest(usize::MAX, |record| {
            let inside = record.kind == SpanKind::Internal && !record.sampled;
            let calls = inside.then(|| of_trace.get(&record.trace_id)).flatten();
            calls.is_some_and(|calls| calls.iter().any(|call| is_in(record, call)))
        }));
        found.retain(|record| {
            let calls = of_trace.get(&record.trace_id);
            calls.is_some_and(|calls| calls.iter().any(|call| call.service == record.service))
        });
        found
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> RecorderStats {
        let (recorded, capacity) = (self.shared.ring.pushed(), self.shared.ring.capacity());
        RecorderStats { recorded, overwritten: recorded.saturating_sub(capacity as u64), capacity }
    }

    /// Nanoseconds on the recorder's clock.
    pub(crate) fn now(&self) -> u64 {
        self.shared.clock.nanos()
    }

    /// Nanoseconds since 1970 at a time of the recorder's clock.
    pub(crate) fn unix_nanos(&self, at: u64) -> u64 {
        self.shared.epoch.saturating_add(at)
    }

    pub(crate) fn is_off(&self) -> bool {
        self.shared.ring.capacity() == 0
    }

    pub(crate) const fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn keep(&self, record: Kept) {
        self.shared.ring.push(record);
    }

    fn services(&self) -> MutexGuard<'_, Vec<Arc<str>>> {
        self.shared.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number_of(&self, service: &Arc<str>) -> u16 {
        let mut services = self.services();
        let number = services.iter().position(|known| known == service);
        let number = number.unwrap_or_else(|| {
            services.push(service.clone());
            services.len() - 1
        });
        u16::try_from(number).unwrap_or_default()
    }

    fn expand(&self, kept: Vec<Kept>) -> Vec<Record> {
        let services = self.services().clone();
        let service =
            |number: u16| services.get(usize::from(number)).unwrap_or(&self.service).clone();
        kept.into_iter().map(|kept| Record::of(service(kept.service), kept)).collect()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("service", &self.service)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl More {
    /// So that a record has a greatest size, whoever made it.
    fn bounded(error: Option<Box<str>>, mut tags: Vec<(Text, Text)>) -> Option<Box<Self>> {
        if error.is_none() && tags.is_empty() {
            return None;
        }
        tags.truncate(MAX_TAGS);
        for (key, value) in &mut tags {
            for text in [key, value] {
                *text = cut(std::mem::take(text));
            }
        }
        let error = error.map(|error| match error.len() {
            0..=MAX_TEXT => error,
            _ => cut(String::from(error).into()).into(),
        });
        Some(Box::new(Self { error, tags }))
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "the one place that ties records to the wall clock")]
fn since_unix_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::record::tests::record;
    use std::thread;

    fn numbers(records: &[Record]) -> Vec<u64> {
        records.iter().map(|record| record.start_unix_nanos).collect()
    }

    #[test]
    fn at_its_bound_the_oldest_makes_room() {
        let recorder = Recorder::with_capacity("s", 3);
        for n in 1..=5 {
            recorder.record(record(n));
        }
        assert_eq!(numbers(&recorder.recent(10)), [5, 4, 3]);
        assert_eq!(numbers(&recorder.recent(2)), [5, 4]);
        let stats = RecorderStats { recorded: 5, overwritten: 2, capacity: 3 };
        assert_eq!(recorder.stats(), stats);
    }

    #[test]
    fn a_trace_is_found_in_order_of_start() {
        let recorder = Recorder::new("s");
        for n in [3, 1, 2] {
            recorder.record(record(n));
        }
        let id = record(1).trace_id;
        assert_eq!(numbers(&recorder.trace(id)), [1, 2, 3]);
        let other = gusset_call::TraceContext::new_root().trace_id();
        assert!(recorder.trace(other).is_empty());
    }

    #[test]
    fn a_reader_sees_every_record_once_and_counts_what_it_missed() {
        let recorder = Recorder::with_capacity("s", 4);
        let mut cursor = Cursor::default();
        (1..=3).for_each(|n| recorder.record(record(n)));
        assert_eq!(numbers(&recorder.read(&mut cursor, 2)), [1, 2]);
        assert_eq!(numbers(&recorder.read(&mut cursor, 9)), [3]);
        assert!(recorder.read(&mut cursor, 9).is_empty());
        (4..=10).for_each(|n| recorder.record(record(n)));
        assert_eq!(numbers(&recorder.read(&mut cursor, 9)), [7, 8, 9, 10]);
        assert_eq!(cursor.missed(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn work_of_others_is_placed_by_its_end_and_bounded() {
        let recorder = Recorder::new("s");
        let trace = TraceContext::new_root().with_sampled(false);
        let began = recorder.unix_nanos(recorder.now());
        tokio::time::advance(Duration::from_secs(3)).await;
        let span = Duration::from_secs(2);
        let mut record = recorder.finished(trace, SpanKind::Consumer, "process x", span);
        assert_eq!(record.start_unix_nanos, began + 1_000_000_000);
        assert_eq!((record.span_id, record.sampled), (trace.span_id(), false));
        let long = "é".repeat(200);
        record.tags = vec![(long.clone().into(), long.clone().into()); 20];
        record.error = Some(long.into());
        recorder.record(record);
        let kept = recorder.recent(1).remove(0);
        assert_eq!((kept.tags.len(), kept.error.unwrap().len()), (16, 256));
        assert!(kept.tags.iter().all(|(key, value)| (key.len(), value.len()) == (256, 256)));
    }

    #[test]
    fn without_capacity_nothing_is_kept() {
        let recorder = Recorder::with_capacity("s", 0);
        recorder.record(record(1));
        assert!(recorder.recent(1).is_empty());
        assert!(recorder.read(&mut Cursor::default(), 1).is_empty());
    }

    #[test]
    fn many_writers_and_a_reader_lose_nothing_unaccounted() {
        let recorder = Recorder::with_capacity("s", 64);
        let mut cursor = Cursor::default();
        let mut seen = 0;
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5_000).for_each(|n| recorder.record(record(n))));
            }
            for _ in 0..1_000 {
                seen += recorder.read(&mut cursor, 100).len() as u64;
            }
        });
        seen += recorder.read(&mut cursor, usize::MAX).len() as u64;
        assert_eq!(seen + cursor.missed(), 20_000);
    }

    #[tokio::test(start_paused = true)]
    async fn starts_follow_the_monotonic_clock() {
        let recorder = Recorder::new("s");
        let now = recorder.unix_nanos(recorder.now());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(recorder.unix_nanos(recorder.now()) - now, 2_000_000_000);
    }

    #[test]
    fn a_record_comes_back_as_it_was_whatever_its_service() {
        let recorder = Recorder::new("s");
        let mut full = record(1);
        full.parent_id = Some(full.span_id);
        full.peer = Some("payments:80".parse().unwrap());
        (full.status, full.grpc_status) = (None, Some(14));
        (full.path, full.protocol.grpc) = (Some("/a.B/C".into()), true);
        (full.error, full.tags) = (Some("e".into()), vec![("k".into(), "v".into())]);
        let bare = Record { method: "", service: "s".into(), operation: "".into(), ..record(2) };
        let unnamed = Record { operation: "GET".into(), ..record(3) };
        for record in [&full, &bare, &unnamed] {
            recorder.record(record.clone());
            assert_eq!(recorder.recent(1)[0], *record);
        }
        assert_eq!(recorder.trace(full.trace_id).len(), 3);
    }

    #[test]
    fn the_youngest_come_first_though_their_buffer_was_full_earlier() {
        let recorder = Recorder::with_capacity("s", 1_000);
        // Another thread has another buffer, where there are two processors.
        thread::scope(|scope| {
            drop(scope.spawn(|| (0..31).for_each(|n| recorder.record(record(n)))))
        });
        (100..132).for_each(|n| recorder.record(record(n)));
        assert_eq!(numbers(&recorder.recent(3)), [131, 130, 129]);
        assert_eq!(recorder.recent(100).len(), 63);
    }
}

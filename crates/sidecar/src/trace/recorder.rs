use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Acquire, Relaxed},
        },
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use gusset_call::{TraceContext, TraceId};
use tokio::time::Instant;

use super::span::{MAX_TAGS, MAX_TEXT, cut};
use crate::{End, Record, Route, SpanKind};

/// Keeps the last finished calls of a process. Clones share one ring.
///
/// It holds at most [`capacity`](Self::with_capacity) records, about 300 bytes each plus the text of errors and tags
/// (at most 256 bytes a record and 16 tags); a new record replaces the oldest, and [`RecorderStats::overwritten`] counts
/// that. Writers meet only where the ring has gone round between them.
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
    ring: Arc<Ring>,
}

struct Ring {
    /// Number of the record that will be written next. Numbers begin at 0 and never return.
    head: AtomicU64,
    slots: Box<[Mutex<Option<Slot>>]>,
    /// One moment on both clocks. Records are placed on the wall by what the monotonic clock says has passed
    /// since, so that their order in one process survives a clock that is set back.
    epoch: (Instant, Duration),
}

struct Slot {
    number: u64,
    record: Record,
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
    /// How many records [`Recorder::new`] keeps: with 20 spans an order, the last 500 orders, in about 3 MB.
    pub const CAPACITY: usize = 10_000;

    /// Keeps the last 10,000 calls of the service with this name.
    pub fn new(service: impl Into<Arc<str>>) -> Self {
        Self::with_capacity(service, Self::CAPACITY)
    }

    /// Keeps the last `capacity` calls; 0 keeps none, and calls then cost nothing here. The memory for the slots is
    /// taken at once.
    pub fn with_capacity(service: impl Into<Arc<str>>, capacity: usize) -> Self {
        let ring = Ring {
            head: AtomicU64::new(0),
            slots: std::iter::repeat_with(|| Mutex::new(None)).take(capacity).collect(),
            epoch: (Instant::now(), since_unix_epoch()),
        };
        Self { service: service.into(), ring: Arc::new(ring) }
    }

    /// The same ring for another service in the same process, so that one query shows a call through all of them.
    #[must_use]
    pub fn for_service(&self, service: impl Into<Arc<str>>) -> Self {
        Self { service: service.into(), ring: self.ring.clone() }
    }

    /// Name of the service whose calls these are.
    #[must_use]
    pub fn service(&self) -> &Arc<str> {
        &self.service
    }

    /// A record of this service for something that took `duration` and is over now, not kept yet. The end is complete, the attempt is the first, and all that may be absent is;
    /// change what is different, and give it to [`record`](Self::record).
    ///
    /// ```
    /// use gusset_call::TraceContext;
    /// use gusset_sidecar::{Recorder, SpanKind};
    /// use std::time::Duration;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let recorder = Recorder::new("orders");
    /// let (cause, trace) = (TraceContext::new_root(), TraceContext::new_root());
    /// let mut sent = recorder.finished(trace, SpanKind::Producer, "publish order.created", Duration::from_millis(2));
    /// sent.parent_id = Some(cause.span_id());
    /// sent.tags.push(("messaging.system".into(), "nats".into()));
    /// recorder.record(sent);
    /// assert_eq!(recorder.recent(1)[0].name(), "publish order.created");
    /// # });
    /// ```
    pub fn finished(
        &self,
        trace: TraceContext,
        kind: SpanKind,
        operation: impl Into<Route>,
        duration: Duration,
    ) -> Record {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Record {
            trace_id: trace.trace_id(),
            span_id: trace.span_id(),
            parent_id: None,
            kind,
            service: self.service.clone(),
            operation: operation.into(),
            method: "",
            peer: None,
            attempt: 1,
            start_unix_nanos: self.unix_nanos(Instant::now()).saturating_sub(nanos),
            duration,
            status: None,
            grpc_status: None,
            end: End::Complete,
            error: None,
            sampled: trace.is_sampled(),
            tags: Vec::new(),
        }
    }

    /// Keeps a finished call. The layers do this; other crates may add work of their own, made by [`finished`](Self::finished). Tags after the 16th are dropped, and texts after 256 bytes cut.
    pub fn record(&self, mut record: Record) {
        if self.is_off() {
            return;
        }
        bound(&mut record);
        let number = self.ring.head.fetch_add(1, Acquire);
        let mut slot = self.slot(number);
        // A writer that slept for a whole round must not undo a younger record.
        if slot.as_ref().is_none_or(|present| present.number < number) {
            let replaced = slot.replace(Slot { number, record });
            drop(slot);
            drop(replaced);
        }
    }

    /// The finished calls of one trace that are still there, by their start.
    #[must_use]
    pub fn trace(&self, id: TraceId) -> Vec<Record> {
        let mut found = self.select(usize::MAX, |record| record.trace_id == id);
        found.sort_by_key(|record| (record.start_unix_nanos, record.duration));
        found
    }

    /// The last `limit` finished calls, the youngest first.
    #[must_use]
    pub fn recent(&self, limit: usize) -> Vec<Record> {
        self.select(limit, |_| true)
    }

    /// Up to `limit` records that finished after those the cursor has seen, the oldest first. Each reader has a cursor
    /// of its own, starting at [`Cursor::default`], and misses what was overwritten meanwhile.
    #[must_use]
    pub fn read(&self, cursor: &mut Cursor, limit: usize) -> Vec<Record> {
        let head = self.ring.head.load(Acquire);
        let oldest = head.saturating_sub(self.ring.slots.len() as u64);
        if cursor.next < oldest {
            cursor.missed += oldest - cursor.next;
            cursor.next = oldest;
        }
        let mut records = Vec::new();
        while cursor.next < head && records.len() < limit {
            match &*self.slot(cursor.next) {
                Some(slot) if slot.number == cursor.next => records.push(slot.record.clone()),
                Some(slot) if slot.number > cursor.next => cursor.missed += 1,
                // Its writer has the number and is about to fill the slot; what follows is read the next time.
                _ => break,
            }
            cursor.next += 1;
        }
        records
    }

    /// Counts.
    #[must_use]
    pub fn stats(&self) -> RecorderStats {
        let recorded = self.ring.head.load(Relaxed);
        let capacity = self.ring.slots.len();
        RecorderStats { recorded, overwritten: recorded.saturating_sub(capacity as u64), capacity }
    }

    /// Nanoseconds since 1970 at `instant`.
    pub(crate) fn unix_nanos(&self, instant: Instant) -> u64 {
        let (epoch, wall) = self.ring.epoch;
        let since = wall
            .saturating_add(instant.saturating_duration_since(epoch))
            .saturating_sub(epoch.saturating_duration_since(instant));
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    pub(crate) fn is_off(&self) -> bool {
        self.ring.slots.is_empty()
    }

    fn slot(&self, number: u64) -> MutexGuard<'_, Option<Slot>> {
        let index = number % self.ring.slots.len() as u64;
        #[expect(clippy::cast_possible_truncation, reason = "less than the number of slots")]
        let slot = &self.ring.slots[index as usize];
        slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn select(&self, limit: usize, wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
        let head = self.ring.head.load(Acquire);
        let oldest = head.saturating_sub(self.ring.slots.len() as u64);
        (oldest..head)
            .rev()
            .filter_map(|number| match &*self.slot(number) {
                Some(slot) if slot.number == number && wanted(&slot.record) => {
                    Some(slot.record.clone())
                }
                _ => None,
            })
            .take(limit)
            .collect()
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

/// So that a record has a greatest size, whoever made it.
fn bound(record: &mut Record) {
    record.tags.truncate(MAX_TAGS);
    for (key, value) in &mut record.tags {
        for text in [key, value] {
            *text = cut(std::mem::take(text));
        }
    }
    if let Some(error) = record.error.take_if(|error| error.len() > MAX_TEXT) {
        record.error = Some(cut(String::from(error).into()).into());
    }
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
        let began = recorder.unix_nanos(Instant::now());
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
        let now = Instant::now();
        let later = recorder.unix_nanos(now + Duration::from_secs(2));
        assert_eq!(later - recorder.unix_nanos(now), 2_000_000_000);
    }
}

//! The last finished calls, kept in little memory and with little work: threads fill small buffers of their own, which move into
//! the ring as a whole.

use std::{
    num::NonZeroU16,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use gusset_call::{SpanId, TraceId};
use http::uri::Authority;

use super::record::Text;
use crate::{End, Route, SpanKind, metrics::series::Protocol, names::MethodName};

/// A finished call as it is kept: little more than two cache lines, and nothing that a usual call allocates.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) trace_id: TraceId,
    pub(crate) span_id: SpanId,
    pub(crate) parent_id: Option<SpanId>,
    pub(crate) start_unix_nanos: u64,
    pub(crate) nanos: u64,
    pub(crate) route: Option<Route>,
    pub(crate) peer: Option<Authority>,
    pub(crate) more: Option<Box<More>>,
    /// Few have one: see [`Record::path`](crate::Record::path).
    pub(crate) path: Option<Box<str>>,
    /// Index of the recorder's service.
    pub(crate) service: u16,
    /// Nobody tries more often.
    pub(crate) attempt: u16,
    pub(crate) status: Option<NonZeroU16>,
    pub(crate) grpc_status: Option<u8>,
    pub(crate) method: MethodName,
    pub(crate) protocol: Protocol,
    pub(crate) kind: SpanKind,
    pub(crate) end: End,
    pub(crate) sampled: bool,
}

const _: () =
    assert!(size_of::<Kept>() <= 144, "the recorder's documentation says how much a record takes");

/// What few calls have.
#[derive(Clone, Debug, Default)]
pub(crate) struct More {
    pub(crate) error: Option<Box<str>>,
    pub(crate) tags: Vec<(Text, Text)>,
}

impl Kept {
    pub(crate) const fn ended(&self) -> u64 {
        self.start_unix_nanos.saturating_add(self.nanos)
    }
}

/// Most records of a buffer: the ring's lock is taken once for so many.
const BATCH: usize = 32;

/// How many records a reader looks at before it lets go of the ring's lock.
const CHUNK: u64 = 64;

#[derive(Debug)]
pub(crate) struct Ring {
    capacity: usize,
    buffers: Box<[Buffer]>,
    last: Mutex<Last>,
}

/// Of one thread, or of several where there are more threads than processors. In a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Buffer(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<Kept>,
    /// How many have been here.
    pushed: u64,
}

/// Grows to the capacity, and then overwrites the oldest.
#[derive(Debug, Default)]
struct Last {
    slots: Vec<Kept>,
    /// Number of the record that comes next. Numbers begin at 0 and never return.
    next: u64,
}

impl Last {
    fn oldest(&self) -> u64 {
        self.next - self.slots.len() as u64
    }

    fn get(&self, number: u64) -> Option<&Kept> {
        let present = self.oldest() <= number && number < self.next;
        // Less than the number of slots.
        present.then(|| self.slots.get((number % self.slots.len() as u64) as usize)).flatten()
    }
}

impl Ring {
    pub(crate) fn new(capacity: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let buffers = if capacity == 0 { 0 } else { threads.clamp(1, 64) };
        let slots = Vec::with_capacity(capacity);
        Self {
            capacity,
            buffers: std::iter::repeat_with(Buffer::default).take(buffers).collect(),
            last: Mutex::new(Last { slots, next: 0 }),
        }
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn push(&self, record: Kept) {
        let Some(buffer) = self.buffers.get(number_of_thread() % self.buffers.len().max(1)) else {
            return;
        };
        let mut waiting = lock(&buffer.0);
        waiting.pushed += 1;
        let records = &mut waiting.records;
        if records.capacity() == 0 {
            records.reserve_exact(BATCH);
        }
        records.push(record);
        if records.len() >= BATCH.min(self.capacity) {
            let mut full = std::mem::take(records);
            drop(waiting);
            self.append(&mut full);
            // What made room is dropped here, outside of all locks. The memory is used again.
            full.clear();
            let records = &mut lock(&buffer.0).records;
            if records.capacity() == 0 {
                *records = full;
            }
        }
    }

    /// Moves records into the ring, and leaves those in `batch` that made room.
    fn append(&self, batch: &mut Vec<Kept>) {
        let mut last = lock(&self.last);
        let Last { slots, next } = &mut *last;
        let room = batch.len().min(self.capacity - slots.len());
        slots.extend(batch.drain(..room));
        *next += room as u64;
        for record in batch {
            std::mem::swap(record, &mut slots[(*next % self.capacity as u64) as usize]);
            *next += 1;
        }
    }

    /// Empties the buffers into the ring.
    fn collect(&self) {
        let mut all = Vec::new();
        for buffer in &self.buffers {
            all.append(&mut lock(&buffer.0).records);
        }
        all.sort_by_key(Kept::ended);
        self.append(&mut all);
    }

    /// How many were ever pushed; never less than before.
    pub(crate) fn pushed(&self) -> u64 {
        self.buffers.iter().map(|buffer| lock(&buffer.0).pushed).sum()
    }

    /// Up to `limit` of those that `wanted` chooses, the last to end first.
    pub(crate) fn youngest(&self, limit: usize, wanted: impl Fn(&Kept) -> bool) -> Vec<Kept> {
        self.collect();
        let mut found = Vec::new();
        // A buffer may have come into the ring before another with older records; no further than all buffers together.
        let mut slack = (self.buffers.len() * BATCH) as u64;
        let mut before = lock(&self.last).next;
        while slack > 0 && before > 0 {
            let last = lock(&self.last);
            let oldest = last.oldest().max(before.saturating_sub(CHUNK));
            if oldest >= before {
                break;
            }
            let chunk = (oldest..before).rev().filter_map(|number| last.get(number));
            found.extend(chunk.filter(|record| wanted(record)).cloned());
            drop(last);
            if found.len() >= limit {
                slack = slack.saturating_sub(before - oldest);
            }
            before = oldest;
        }
        found.sort_by_key(|record| std::cmp::Reverse(record.ended()));
        found.truncate(limit);
        found
    }

    /// Up to `limit` records from number `next` on, and the number of the first of them.
    pub(crate) fn from(&self, next: u64, limit: usize) -> (u64, Vec<Kept>) {
        self.collect();
        let mut first = next;
        let mut found = Vec::new();
        while found.len() < limit {
            let last = lock(&self.last);
            if found.is_empty() {
                first = first.max(last.oldest());
            }
            let begin = first + found.len() as u64;
            let end = last.next.min(begin + CHUNK.min((limit - found.len()) as u64));
            let before = found.len();
            // Should the ring have come round meanwhile, it ends here.
            found.extend((begin..end).map_while(|number| last.get(number)).cloned());
            if found.len() == before {
                break;
            }
        }
        (first, found)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads are counted, so that as many as there are processors meet in no buffer.
fn number_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: usize = NEXT.fetch_add(1, Relaxed));
    // A thread that ends has none any more.
    NUMBER.try_with(|number| *number).unwrap_or_default()
}

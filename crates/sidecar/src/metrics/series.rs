//! The table of series: one per combination of labels, found without a lock, bounded.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{
            AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use super::histogram::Histogram;
use crate::{Route, SpanKind, names::MethodName, watched::End};

/// What tells one series from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key<'a> {
    pub(crate) kind: SpanKind,
    pub(crate) method: MethodName,
    pub(crate) route: Option<&'a str>,
    /// 0 where there was no answer.
    pub(crate) status: u16,
    /// One of the 17 that gRPC defines.
    pub(crate) grpc_status: Option<u8>,
    pub(crate) end: End,
}

#[derive(Debug)]
pub(crate) struct Series {
    kind: SpanKind,
    method: MethodName,
    route: Option<Route>,
    status: u16,
    grpc_status: Option<u8>,
    end: End,
    pub(crate) histogram: Histogram,
}

impl Series {
    pub(crate) fn labels(&self) -> Key<'_> {
        Key {
            kind: self.kind,
            method: self.method,
            route: self.route.as_deref(),
            status: self.status,
            grpc_status: self.grpc_status,
            end: self.end,
        }
    }
}

/// Most series that can be asked for.
const MOST: usize = 1 << 20;

/// Open addressing over cells that are written once: a reader sees a whole series or none, and nothing is ever moved or
/// removed. Twice as many cells as series, so that a search ends soon.
#[derive(Debug)]
pub(crate) struct Table {
    cells: Box<[OnceLock<Box<Series>>]>,
    hasher: RandomState,
    taken: AtomicUsize,
    /// Held while a series is made, which is never more often than there may be series, races aside.
    inserting: Mutex<()>,
    max: usize,
}

impl Table {
    pub(crate) fn new(max: usize) -> Self {
        let max = max.min(MOST);
        let cells = (2 * max).next_power_of_two();
        Self {
            cells: std::iter::repeat_with(OnceLock::new).take(cells).collect(),
            hasher: RandomState::new(),
            taken: AtomicUsize::new(0),
            inserting: Mutex::new(()),
            max,
        }
    }

    /// The series of `labels`, made if there is room for one more.
    pub(crate) fn get(&self, labels: &Key<'_>, route: Option<&Route>) -> Option<&Series> {
        let mask = self.cells.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "a hash loses nothing by it")]
        let start = self.hasher.hash_one(labels) as usize;
        for step in 0..self.cells.len() {
            let cell = &self.cells[(start.wrapping_add(step)) & mask];
            let series = match cell.get() {
                Some(series) => series,
                None => self.insert(cell, labels, route)?,
            };
            if series.labels() == *labels {
                return Some(series);
            }
        }
        None
    }

    /// Fills an empty cell, unless there is no more room. Somebody else may fill it first, perhaps with another series.
    fn insert<'a>(
        &self,
        cell: &'a OnceLock<Box<Series>>,
        labels: &Key<'_>,
        route: Option<&Route>,
    ) -> Option<&'a Series> {
        if self.taken.load(Acquire) >= self.max {
            // A cell is filled before it is counted: seen full, all of them are there.
            return cell.get().map(|series| &**series);
        }
        let _one_by_one = self.inserting.lock().unwrap_or_else(PoisonError::into_inner);
        if cell.get().is_none() {
            if self.taken.load(Relaxed) >= self.max {
                return None;
            }
            let series = cell.get_or_init(|| Box::new(new_series(labels, route)));
            self.taken.fetch_add(1, Release);
            return Some(series);
        }
        cell.get().map(|series| &**series)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Series> {
        self.cells.iter().filter_map(|cell| cell.get().map(|series| &**series))
    }
}

fn new_series(labels: &Key<'_>, route: Option<&Route>) -> Series {
    Series {
        kind: labels.kind,
        method: labels.method,
        route: route.cloned(),
        status: labels.status,
        grpc_status: labels.grpc_status,
        end: labels.end,
        histogram: Histogram::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{thread, time::Duration};

    fn labels(status: u16) -> Key<'static> {
        Key {
            kind: SpanKind::Server,
            method: MethodName::NONE,
            route: None,
            status,
            grpc_status: None,
            end: End::Complete,
        }
    }

    #[test]
    fn there_are_never_more_series_than_allowed() {
        let table = Table::new(10);
        let made = (0..1_000).filter(|n| table.get(&labels(*n), None).is_some()).count();
        assert_eq!(made, 10);
        assert_eq!(table.iter().count(), 10);
        assert!(table.get(&labels(3), None).is_some(), "the old ones still count");
    }

    #[test]
    fn no_room_at_all_is_no_series_at_all_and_no_room_is_endless() {
        assert!(Table::new(0).get(&labels(1), None).is_none());
        assert_eq!(Table::new(usize::MAX).cells.len(), 2 * MOST);
    }

    #[test]
    fn threads_that_meet_share_one_series() {
        let table = Table::new(100);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    // Exactly as many as there is room for, met in the same order by all.
                    for n in 0..10_000 {
                        let series = table.get(&labels(n % 100), None).unwrap();
                        series.histogram.record(Duration::ZERO);
                    }
                });
            }
        });
        assert_eq!(table.iter().count(), 100);
        assert!(table.iter().all(|series| series.histogram.read().count() == 400));
    }
}

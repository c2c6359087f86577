//! The table of series: one per combination of labels, found without a lock, bounded.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::histogram::Histogram;
use crate::{Route, SpanKind, names::MethodName, watched::End};

/// What tells one series from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Labels<'a> {
    pub(crate) kind: SpanKind,
    pub(crate) method: MethodName,
    pub(crate) route: Option<&'a str>,
    /// 0 where there was no answer.
    pub(crate) status: u16,
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
    pub(crate) fn labels(&self) -> Labels<'_> {
        Labels {
            kind: self.kind,
            method: self.method,
            route: self.route.as_deref(),
            status: self.status,
            grpc_status: self.grpc_status,
            end: self.end,
        }
    }
}

/// Open addressing over cells that are written once: a reader sees a whole series or none, and nothing is ever moved or
/// removed. Twice as many cells as series, so that a search ends soon.
#[derive(Debug)]
pub(crate) struct Table {
    cells: Box<[OnceLock<Box<Series>>]>,
    hasher: RandomState,
    taken: AtomicUsize,
    max: usize,
}

impl Table {
    pub(crate) fn new(max: usize) -> Self {
        let cells = max.saturating_mul(2).next_power_of_two();
        Self {
            cells: std::iter::repeat_with(OnceLock::new).take(cells).collect(),
            hasher: RandomState::new(),
            taken: AtomicUsize::new(0),
            max,
        }
    }

    /// The series of `labels`, made if there is room for one more.
    pub(crate) fn get(&self, labels: &Labels<'_>, route: Option<&Route>) -> Option<&Series> {
        let mask = self.cells.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "a hash loses nothing by it")]
        let start = self.hasher.hash_one(labels) as usize;
        for step in 0..self.cells.len() {
            let cell = &self.cells[(start.wrapping_add(step)) & mask];
            let series = match cell.get() {
                Some(series) => series,
                None => {
                    if self.taken.fetch_add(1, Relaxed) >= self.max {
                        self.taken.fetch_sub(1, Relaxed);
                        return None;
                    }
                    let mut made = false;
                    let series = cell.get_or_init(|| {
                        made = true;
                        Box::new(new_series(labels, route))
                    });
                    if !made {
                        // Somebody else took this cell at the same moment, perhaps for the same labels.
                        self.taken.fetch_sub(1, Relaxed);
                    }
                    series
                }
            };
            if series.labels() == *labels {
                return Some(series);
            }
        }
        None
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Series> {
        self.cells.iter().filter_map(|cell| cell.get().map(|series| &**series))
    }
}

fn new_series(labels: &Labels<'_>, route: Option<&Route>) -> Series {
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

    fn labels(status: u16) -> Labels<'static> {
        Labels {
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
    fn no_room_at_all_is_no_series_at_all() {
        assert!(Table::new(0).get(&labels(1), None).is_none());
    }

    #[test]
    fn threads_that_meet_share_one_series() {
        let table = Table::new(100);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
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

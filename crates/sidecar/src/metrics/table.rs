//! A set that only grows, to a bound: found without a lock, each member written once.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{
        AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// Most members that can be asked for.
const MOST: usize = 1 << 20;

/// Open addressing over cells that are written once: a reader sees a whole member or none, and nothing is ever moved or
/// removed. Twice as many cells as members, so that a search ends soon.
#[derive(Debug)]
pub(crate) struct Table<V> {
    cells: Box<[OnceLock<Box<V>>]>,
    taken: AtomicUsize,
    /// Held while a member is made, which is never more often than there may be members, races aside.
    inserting: Mutex<()>,
    max: usize,
}

impl<V> Table<V> {
    pub(crate) fn new(max: usize) -> Self {
        let max = max.min(MOST);
        let cells = (2 * max).next_power_of_two();
        Self {
            cells: std::iter::repeat_with(OnceLock::new).take(cells).collect(),
            taken: AtomicUsize::new(0),
            inserting: Mutex::new(()),
            max,
        }
    }

    /// The member with this hash that `is` knows, made if there is room for one more. `make` runs under a lock of those who make.
    #[inline]
    pub(crate) fn get(
        &self,
        hash: u64,
        is: impl Fn(&V) -> bool,
        make: impl Fn() -> V,
    ) -> Option<&V> {
        for cell in self.cells_of(hash) {
            let member = match cell.get() {
                Some(member) => member,
                None => self.insert(cell, &make)?,
            };
            if is(member) {
                return Some(member);
            }
        }
        None
    }

    /// The member with this hash that `is` knows, if it is there.
    pub(crate) fn find(&self, hash: u64, is: impl Fn(&V) -> bool) -> Option<&V> {
        let members = self.cells_of(hash).map_while(|cell| cell.get());
        members.map(|member| &**member).find(|member| is(member))
    }

    fn cells_of(&self, hash: u64) -> impl Iterator<Item = &OnceLock<Box<V>>> {
        let mask = self.cells.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "a hash loses nothing by it")]
        let start = hash as usize;
        (0..=mask).map(move |step| &self.cells[start.wrapping_add(step) & mask])
    }

    /// Fills an empty cell, unless there is no more room. Somebody else may fill it first, perhaps with another member.
    #[cold]
    fn insert<'a>(&self, cell: &'a OnceLock<Box<V>>, make: impl Fn() -> V) -> Option<&'a V> {
        if self.taken.load(Acquire) >= self.max {
            // A cell is filled before it is counted: seen full, all of them are there.
            return cell.get().map(|member| &**member);
        }
        let _one_by_one = self.inserting.lock().unwrap_or_else(PoisonError::into_inner);
        if cell.get().is_none() {
            if self.taken.load(Relaxed) >= self.max {
                return None;
            }
            let member = cell.get_or_init(|| Box::new(make()));
            self.taken.fetch_add(1, Release);
            return Some(member);
        }
        cell.get().map(|member| &**member)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &V> {
        self.cells.iter().filter_map(|cell| cell.get().map(|member| &**member))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    fn get(table: &Table<u64>, number: u64) -> Option<&u64> {
        // Many of one hash, so that they have to be searched for.
        table.get(number / 8, |member| *member == number, || number)
    }

    #[test]
    fn there_are_never_more_members_than_allowed() {
        let table = Table::new(10);
        assert_eq!((0..1_000).filter(|n| get(&table, *n).is_some()).count(), 10);
        assert_eq!(table.iter().count(), 10);
        assert_eq!(get(&table, 3), Some(&3), "the old ones are still found");
        assert_eq!(table.find(0, |member| *member == 3), Some(&3));
        assert_eq!(table.find(0, |member| *member == 11), None);
    }

    #[test]
    fn no_room_at_all_is_no_member_at_all_and_no_room_is_endless() {
        assert!(get(&Table::new(0), 1).is_none());
        assert_eq!(Table::<u64>::new(usize::MAX).cells.len(), 2 * MOST);
    }

    #[test]
    fn threads_that_meet_share_one_member() {
        let table = Table::new(100);
        let meet = || {
            let found = (0..10_000).map(|n| get(&table, n % 100).unwrap());
            found.map(|member| std::ptr::from_ref(member) as usize).collect::<Vec<_>>()
        };
        let found = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(meet)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(table.iter().count(), 100);
        assert!(found.iter().all(|places| *places == found[0]));
    }
}

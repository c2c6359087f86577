//! Which groups' handlers wait for which other groups, so that none waits for itself.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::shared::Shared;

/// Arrows between groups, each with the number of handlers that wait along it. Without a circle at any time. Only handlers
/// that do wait come here; there are at most as many as the concurrency of all subscriptions.
#[derive(Debug, Default)]
pub(crate) struct Waits(Mutex<HashMap<(u64, u64), usize>>);

/// One handler's wait; ends when dropped.
#[derive(Debug)]
pub(crate) struct Arrow {
    shared: Arc<Shared>,
    ends: (u64, u64),
}

impl Arrow {
    /// None if the wait would close a circle.
    pub(crate) fn new(shared: &Arc<Shared>, from: u64, to: u64) -> Option<Self> {
        shared.waits.enter(from, to).then(|| Self { shared: shared.clone(), ends: (from, to) })
    }
}

impl Drop for Arrow {
    fn drop(&mut self) {
        self.shared.waits.leave(self.ends);
    }
}

impl Waits {
    fn enter(&self, from: u64, to: u64) -> bool {
        let mut arrows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if leads(&arrows, to, from) {
            return false;
        }
        *arrows.entry((from, to)).or_default() += 1;
        true
    }

    fn leave(&self, ends: (u64, u64)) {
        let mut arrows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = arrows.get_mut(&ends) {
            *count -= 1;
            if *count == 0 {
                arrows.remove(&ends);
            }
        }
    }
}

/// Whether a way leads from `start` to `end`.
fn leads(arrows: &HashMap<(u64, u64), usize>, start: u64, end: u64) -> bool {
    let (mut seen, mut next) = (vec![start], 0);
    while let Some(&at) = seen.get(next) {
        if at == end {
            return true;
        }
        for &(from, to) in arrows.keys() {
            if from == at && !seen.contains(&to) {
                seen.push(to);
            }
        }
        next += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_that_would_close_a_circle_is_refused() {
        let waits = Waits::default();
        assert!(!waits.enter(1, 1));
        assert!(waits.enter(1, 2) && waits.enter(1, 2) && waits.enter(2, 3) && waits.enter(1, 3));
        assert!(!waits.enter(3, 1) && !waits.enter(2, 1));
        waits.leave((2, 3));
        waits.leave((1, 3));
        assert!(waits.enter(3, 1));
        waits.leave((1, 2));
        assert!(!waits.enter(2, 3), "1 still waits for 2 once, 3 for 1");
        waits.leave((1, 2));
        assert!(waits.enter(2, 3));
    }
}

//! What is ready to be delivered, by the numbers of its slots.

use std::collections::VecDeque;

use crate::Priority;

/// Two lines. The high one goes first, but after each [`PATIENCE`] of it one of the other goes, so that none waits for ever.
#[derive(Debug, Default)]
pub(crate) struct Line {
    high: VecDeque<u32>,
    normal: VecDeque<u32>,
    pub(super) high_in_a_row: u32,
}

/// Of high priority, before one that is not: eight ninths of the work are left to what is urgent.
const PATIENCE: u32 = 8;

impl Line {
    pub(crate) fn len(&self) -> usize {
        self.high.len() + self.normal.len()
    }

    const fn line(&mut self, priority: Priority) -> &mut VecDeque<u32> {
        match priority {
            Priority::High => &mut self.high,
            Priority::Normal => &mut self.normal,
        }
    }

    /// Who is next, of each priority.
    pub(crate) fn fronts(&self) -> impl Iterator<Item = u32> {
        [self.high.front(), self.normal.front()].into_iter().flatten().copied()
    }

    /// Those that will be taken next, or about those.
    pub(crate) fn next(&self, most: usize) -> impl Iterator<Item = u32> {
        let (high, normal) = (self.high.iter().take(most), self.normal.iter().take(most));
        high.chain(normal).copied()
    }

    pub(crate) fn push(&mut self, slot: u32, priority: Priority) {
        self.line(priority).push_back(slot);
    }

    pub(crate) fn put_back(&mut self, slot: u32, priority: Priority) {
        self.line(priority).push_front(slot);
    }

    pub(crate) fn pop(&mut self) -> Option<u32> {
        if !self.high.is_empty() && (self.high_in_a_row < PATIENCE || self.normal.is_empty()) {
            self.high_in_a_row = (self.high_in_a_row + 1).min(PATIENCE);
            return self.high.pop_front();
        }
        self.high_in_a_row = 0;
        self.normal.pop_front()
    }

    /// Takes out one that is next, of either priority.
    pub(crate) fn pop_this(&mut self, slot: u32) {
        for line in [&mut self.high, &mut self.normal] {
            if line.front() == Some(&slot) {
                line.pop_front();
            }
        }
    }

    pub(crate) fn pop_least(&mut self) -> Option<u32> {
        self.normal.pop_front().or_else(|| self.high.pop_front())
    }
}

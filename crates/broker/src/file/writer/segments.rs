//! How segments come and go.

use std::io;

use super::{Active, Folder, Head, Log, Sealed, Writer};
use crate::file::{homes::Key, state::State};
use crate::memory::scribe::Event;

/// So much of an old segment goes into a frame beside its events, or as much as these if they are more: what a publish waits longer for.
pub(super) const MOVED_AT_ONCE: usize = 256 << 10;

/// The oldest segment on its way into the present one.
#[derive(Debug)]
pub(super) struct Moving {
    segment: u64,
    keys: Vec<Key>,
    pub(super) next: usize,
}

impl Writer {
    pub(super) fn begin_segment_or_go_on(&mut self, log: &Log) {
        // The one before is on the disk when another is begun.
        if !self.heed_sync(log, 0) || !self.written.is_empty() {
            return;
        }
        let Err(error) = self.begin_segment(log) else { return };
        // The present one can become longer, until there is room.
        if !std::mem::replace(&mut self.cramped, true) {
            tracing::warn!(%error, dir = %self.folder.path().display(), "no new segment; the present one goes on");
        }
    }

    /// Nothing is being synced.
    pub(super) fn begin_segment(&mut self, log: &Log) -> io::Result<()> {
        let head = Head::new(self.active.number + 1, self.active.synced);
        let preamble = self.state.preamble(self.begins);
        let (file, length) = self.folder.create(head, preamble.into_iter())?;
        self.sealed.push_back(Sealed { number: self.active.number, length: self.active.synced });
        self.active = Active::new(head, file, length);
        self.moved = 0;
        self.state.at(head.number);
        self.cramped = false;
        log.begin_file(length);
        Ok(())
    }

    /// Whether there is something to do if nothing happens.
    pub(super) fn has_chores(&self) -> bool {
        self.written.is_empty()
            && (self.moving.is_some() || self.first_needed() > self.state.begins())
    }

    /// The oldest segment where something lives.
    pub(super) fn first_needed(&self) -> u64 {
        let needed = |sealed: &&Sealed| self.state.live_in(sealed.number).0 > 0;
        self.sealed.iter().find(needed).map_or(self.active.number, |sealed| sealed.number)
    }

    /// When more is on the disk: removes what that has made useless, and looks what is next.
    pub(super) fn tidy(&mut self) {
        while self.sealed.front().is_some_and(|oldest| oldest.number < self.begins) {
            if let Some(oldest) = self.sealed.pop_front() {
                remove(&self.folder, oldest.number);
            }
        }
        if self.moving.as_ref().is_some_and(|moving| moving.next == moving.keys.len()) {
            self.moving = None;
        }
        if self.moving.is_none() && self.is_worth_while() {
            if let Some(oldest) = self.sealed.front() {
                let (segment, next) = (oldest.number, 0);
                let keys = self.state.take_keys(segment);
                self.moving = Some(Moving { segment, keys, next });
            }
        }
    }

    /// Whether to empty the oldest segment: it is nearly empty, or all together are much longer than what must be in them.
    fn is_worth_while(&self) -> bool {
        let Some(oldest) = self.sealed.front() else { return false };
        let (live, bytes) = self.state.live_in(oldest.number);
        if live == 0 {
            return false;
        }
        // Many small files are as bad as a long one.
        let footprint = |length: u64| length.max(self.segment_bytes / 16);
        let lengths = self.sealed.iter().map(|sealed| footprint(sealed.length)).sum::<u64>();
        bytes <= oldest.length / 4
            || lengths + self.active.length > 2 * self.state.bytes() + 4 * self.segment_bytes
    }

    /// Writes what still lives in the segment that is emptied to the present one, until the frame is so long.
    pub(super) fn move_some(&mut self, until: usize) {
        let Some(mut moving) = self.moving.take() else { return };
        while self.frame.len() < until {
            let Some(keys) = moving.keys.get(moving.next..).filter(|keys| !keys.is_empty()) else {
                break;
            };
            let (event, count) = self.state.survivor(keys, moving.segment);
            moving.next += count;
            if let Some(event) = event {
                self.add(&event);
                // At least.
                self.moved = self.active.length + self.frame.len() as u64;
            }
        }
        self.moving = Some(moving);
    }
}

pub(super) fn remove(folder: &Folder, segment: u64) {
    if let Err(error) = folder.remove(segment) {
        // It is not read any more, and removed when the directory is opened again.
        tracing::warn!(%error, segment, dir = %folder.path().display(), "segment not removed");
    }
}

/// All that lives in what was before segments.
pub(super) fn survivors(state: &mut State) -> Vec<Event> {
    let (keys, mut next, mut events) = (state.take_keys(0), 0, Vec::new());
    while next < keys.len() {
        let (event, count) = state.survivor(&keys[next..], 0);
        next += count;
        events.extend(event);
    }
    events
}

//! The thread that writes: takes what has gathered while it was at the disk, writes it as one frame, syncs it, and tells whoever waits. Beside that
//! it empties the oldest segment, a little with each frame.

use std::{
    collections::VecDeque, fs::File, io, io::Write as _, mem::take, slice, sync::Arc,
    time::Duration,
};

use super::{
    folder::{AT_ONCE, Folder, Found},
    frame::{Frame, Head},
    homes::Key,
    lock::Lock,
    log::Log,
    state::State,
};
use crate::memory::scribe::Event;

/// So much of an old segment goes into a frame beside its events, or as much as these if they are more: what a publish waits longer for.
const MOVED_AT_ONCE: usize = 256 << 10;
/// Before what could not be written is tried again.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Writer {
    folder: Folder,
    /// As the disk is, and the frame that is being written.
    state: State,
    active: Active,
    /// The oldest first.
    sealed: VecDeque<Sealed>,
    moving: Option<Moving>,
    frame: Frame,
    segment_bytes: u64,
    /// A new segment could not be begun; told once.
    cramped: bool,
}

/// The segment that is written.
#[derive(Debug)]
struct Active {
    number: u64,
    file: File,
    salt: u64,
    /// Of what it began with.
    fresh: u64,
    /// Up to here the file is as it should be.
    length: u64,
    /// A sync failed: what the system still has of what is behind `length` is unknown, and a second sync would not tell.
    unsound: bool,
}

#[derive(Debug)]
struct Sealed {
    number: u64,
    length: u64,
}

/// The oldest segment on its way into the present one.
#[derive(Debug)]
struct Moving {
    segment: u64,
    keys: Vec<Key>,
    next: usize,
}

/// Gives the directory free and tells that nothing is written any more, also after a panic in the drop of a foreign payload.
struct Ending {
    log: Arc<Log>,
    lock: Option<Lock>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        drop(self.lock.take());
        self.log.tell_ended();
    }
}

impl Writer {
    /// Begins a segment behind those that were found. `renumbered` tells the ids that groups have from now on.
    pub(super) fn new(
        folder: Folder,
        mut state: State,
        found: Found,
        renumbered: Event,
        segment_bytes: u64,
    ) -> io::Result<Self> {
        let before = found.segments.last().copied();
        let number = before.map_or(1, |(number, _)| number + 1);
        let head = Head::new(number, before.map_or(0, |(_, length)| length));
        let mut sealed: VecDeque<_> = found
            .segments
            .iter()
            .map(|(number, length)| Sealed { number: *number, length: *length })
            .collect();
        while sealed.front().is_some_and(|oldest| state.live_in(oldest.number).0 == 0) {
            sealed.pop_front();
        }
        let begins = sealed.front().map_or(number, |oldest| oldest.number);
        let mut events = vec![renumbered];
        events.extend(state.preamble(begins));
        if found.format == Some(1) {
            // What there was before segments lives in number 0.
            events.extend(survivors(&mut state));
        }
        let (file, length) = folder.create(head, events.iter().cloned())?;
        state.at(number);
        events.iter().for_each(|event| state.apply(event));
        if found.format != Some(super::frame::FORMAT) {
            folder.mark()?;
        }
        let old = found.segments.iter().map(|(number, _)| *number).filter(|old| *old < begins);
        for useless in old.chain(found.useless).filter(|useless| *useless != number) {
            remove(&folder, useless);
        }
        let (salt, unsound) = (head.salt, false);
        let active = Active { number, file, salt, fresh: length, length, unsound };
        let (moving, frame) = (None, Frame::new());
        Ok(Self { folder, state, active, sealed, moving, frame, segment_bytes, cramped: false })
    }

    /// Until the log ends.
    pub(super) fn run(mut self, log: &Arc<Log>, lock: Lock) {
        let _ending = Ending { log: log.clone(), lock: Some(lock) };
        self.tidy();
        let mut spare = Vec::new();
        while let Some(batch) = log.next(take(&mut spare), self.has_chores()) {
            let (mut events, mut upto) = (batch.events.iter(), batch.upto);
            upto -= batch.events.len() as u64;
            loop {
                upto += self.fill(&mut events);
                if !self.frame.is_empty() {
                    if !self.write(log, upto) {
                        return;
                    }
                    log.tell_synced(upto, self.state.bytes());
                }
                self.tidy();
                if events.as_slice().is_empty() {
                    break;
                }
            }
            spare = batch.events;
            spare.clear();
        }
    }

    /// Makes a frame of as many events as go into one, and of what is moved beside them. How many events that were.
    fn fill(&mut self, events: &mut slice::Iter<'_, Event>) -> u64 {
        if self.active.length - self.active.fresh >= self.segment_bytes {
            self.begin_segment_or_go_on();
        }
        self.frame.clear();
        let before = events.as_slice().len();
        while self.frame.len() < AT_ONCE {
            let Some(event) = events.next() else { break };
            self.add(event);
        }
        let taken = before - events.as_slice().len();
        self.move_some(self.frame.len().max(MOVED_AT_ONCE) + self.frame.len());
        // True together with what else is in this frame.
        let begins = self.first_needed();
        if begins > self.state.begins() {
            self.add(&Event::Begins(begins));
        }
        taken as u64
    }

    fn add(&mut self, event: &Event) {
        self.frame.push(event);
        self.state.apply(event);
    }

    /// Tries until it is on the disk. False if it is not, and the end has come.
    fn write(&mut self, log: &Log, upto: u64) -> bool {
        let mut troubled = false;
        while let Err(error) = self.append(log, upto) {
            if !troubled {
                tracing::error!(%error, dir = %self.folder.path().display(), "log cannot be written");
            }
            troubled = true;
            log.tell_trouble(&error);
            if self.active.unsound && self.begin_segment().is_ok() {
                continue;
            }
            if !log.pause(PAUSE) {
                return false;
            }
        }
        if troubled {
            tracing::info!(dir = %self.folder.path().display(), "log is written again");
        }
        true
    }

    fn append(&mut self, log: &Log, upto: u64) -> io::Result<()> {
        let active = &mut self.active;
        #[cfg(test)]
        if log.is_filled() {
            active.file = File::options().write(true).open("/dev/full")?;
        }
        if active.unsound {
            return Err(io::Error::other("an earlier sync failed"));
        }
        let bytes = self.frame.seal(active.salt);
        if let Err(error) = active.file.write_all(bytes) {
            // A part of it may be there. If that cannot be taken back, only a new file helps. The file is opened for appending.
            active.unsound = active.file.set_len(active.length).is_err();
            return Err(error);
        }
        log.tell_written(upto);
        if let Err(error) = active.file.sync_data() {
            active.unsound = true;
            return Err(error);
        }
        active.length += bytes.len() as u64;
        Ok(())
    }

    fn begin_segment_or_go_on(&mut self) {
        let Err(error) = self.begin_segment() else { return };
        // The present one can become longer, until there is room.
        if !std::mem::replace(&mut self.cramped, true) {
            tracing::warn!(%error, dir = %self.folder.path().display(), "no new segment; the present one goes on");
        }
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        let head = Head::new(self.active.number + 1, self.active.length);
        let preamble = self.state.preamble(self.state.begins());
        let (file, length) = self.folder.create(head, preamble.into_iter())?;
        self.sealed.push_back(Sealed { number: self.active.number, length: self.active.length });
        let (number, salt, unsound) = (head.number, head.salt, false);
        self.active = Active { number, file, salt, fresh: length, length, unsound };
        self.state.at(number);
        self.cramped = false;
        Ok(())
    }

    /// Whether there is something to do if nothing happens.
    fn has_chores(&self) -> bool {
        self.moving.is_some() || self.first_needed() > self.state.begins()
    }

    /// The oldest segment where something lives.
    fn first_needed(&self) -> u64 {
        let needed = |sealed: &&Sealed| self.state.live_in(sealed.number).0 > 0;
        self.sealed.iter().find(needed).map_or(self.active.number, |sealed| sealed.number)
    }

    /// When all frames are on the disk: removes what that has made useless, and looks what is next.
    fn tidy(&mut self) {
        while self.sealed.front().is_some_and(|oldest| oldest.number < self.state.begins()) {
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
    fn move_some(&mut self, until: usize) {
        let Some(mut moving) = self.moving.take() else { return };
        while self.frame.len() < until {
            let Some(keys) = moving.keys.get(moving.next..).filter(|keys| !keys.is_empty()) else {
                break;
            };
            let (event, count) = self.state.survivor(keys, moving.segment);
            moving.next += count;
            event.iter().for_each(|event| self.add(event));
        }
        self.moving = Some(moving);
    }
}

fn remove(folder: &Folder, segment: u64) {
    if let Err(error) = folder.remove(segment) {
        // It is not read any more, and removed when the directory is opened again.
        tracing::warn!(%error, segment, dir = %folder.path().display(), "segment not removed");
    }
}

/// All that lives in what was before segments.
fn survivors(state: &mut State) -> Vec<Event> {
    let (keys, mut next, mut events) = (state.take_keys(0), 0, Vec::new());
    while next < keys.len() {
        let (event, count) = state.survivor(&keys[next..], 0);
        next += count;
        events.extend(event);
    }
    events
}

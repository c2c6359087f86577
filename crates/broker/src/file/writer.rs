//! The thread that writes: takes what has gathered, writes it as one frame, and tells whoever waits for that. The frame is kept until another thread has
//! synced it: if it cannot, all that was not synced is written again, to a new segment. Beside that this empties the oldest segment, a little with each sync.

mod active;
mod segments;

use std::{collections::VecDeque, io, mem::take, slice, sync::Arc, time::Duration};

use self::{
    active::{Active, Written},
    segments::{MOVED_AT_ONCE, Moving, remove, survivors},
};
use super::{
    folder::{AT_ONCE, Folder, Found},
    frame::{Frame, Head},
    lock::Lock,
    log::{Log, Unsynced},
    state::State,
};
use crate::memory::scribe::Event;

/// So many bytes may be written and not synced.
const MOST_UNSYNCED: u64 = 4 << 20;
/// Emptied frames that are kept for the next.
const SPARE: usize = 4;
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
    /// Up to here the active file has what was moved.
    moved: u64,
    frame: Frame,
    spare: Vec<Frame>,
    /// In the active file and perhaps not on the disk, the oldest first.
    written: VecDeque<Written>,
    /// The oldest segment that is needed, by what is on the disk.
    begins: u64,
    segment_bytes: u64,
    /// A new segment could not be begun; told once.
    cramped: bool,
}

#[derive(Debug)]
struct Sealed {
    number: u64,
    length: u64,
}

/// Gives the directory free and tells that nothing is written any more, also after a panic in the drop of a foreign payload.
struct Ending {
    log: Arc<Log>,
    lock: Option<Lock>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.log.end_syncs();
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
        Ok(Self {
            folder,
            state,
            active: Active::new(head, file, length),
            sealed,
            moving: None,
            moved: 0,
            frame: Frame::new(),
            spare: Vec::new(),
            written: VecDeque::new(),
            begins,
            segment_bytes,
            cramped: false,
        })
    }

    /// Until the log ends.
    pub(super) fn run(mut self, log: &Arc<Log>, lock: Lock) {
        let _ending = Ending { log: log.clone(), lock: Some(lock) };
        log.begin_file(self.active.synced);
        self.tidy();
        let mut spare = Vec::new();
        while let Some(batch) = log.next(take(&mut spare), self.active.synced, self.has_chores()) {
            let (mut events, mut upto) = (batch.events.iter(), batch.before);
            loop {
                if !self.heed_sync(log, MOST_UNSYNCED) {
                    return;
                }
                upto += self.fill(log, &mut events);
                if !self.frame.is_empty() && !self.write(log, upto) {
                    return;
                }
                if events.as_slice().is_empty() {
                    break;
                }
            }
            spare = batch.events;
            spare.clear();
        }
        self.heed_sync(log, 0);
    }

    /// Waits until no more than `most` bytes are not on the disk, and takes note of what is. False at the end, if something cannot be synced.
    fn heed_sync(&mut self, log: &Log, most: u64) -> bool {
        let (synced, failed) = log.wait_for_sync(self.active.length, most);
        self.take_note(synced);
        self.tidy();
        match failed {
            None => true,
            Some(error) => {
                self.active.unsound = true;
                self.go_through(log, Some(error), Self::renew)
            }
        }
    }

    /// So much of the active file is on the disk.
    fn take_note(&mut self, synced: u64) {
        self.active.synced = self.active.synced.max(synced);
        while self.written.front().is_some_and(|first| first.end <= self.active.synced) {
            let Some(first) = self.written.pop_front() else { break };
            self.begins = first.begins;
            if self.spare.len() < SPARE {
                self.spare.push(first.frame);
            }
        }
    }

    /// Makes a frame of as many events as go into one, and of what is moved beside them. How many events that were.
    fn fill(&mut self, log: &Log, events: &mut slice::Iter<'_, Event>) -> u64 {
        if self.active.length - self.active.fresh >= self.segment_bytes {
            self.begin_segment_or_go_on(log);
        }
        self.frame.clear();
        let before = events.as_slice().len();
        while self.frame.len() < AT_ONCE {
            let Some(event) = events.next() else { break };
            self.add(event);
        }
        let taken = before - events.as_slice().len();
        if self.moved <= self.active.synced {
            self.move_some(self.frame.len().max(MOVED_AT_ONCE) + self.frame.len());
        }
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

    /// Tries until the frame is in the file. False if it is not, and the end has come.
    fn write(&mut self, log: &Log, upto: u64) -> bool {
        self.go_through(log, None, |writer, log| writer.append(log, upto))
    }

    /// Tries until it is done, and tells whoever waits that it is not yet.
    fn go_through(
        &mut self,
        log: &Log,
        error: Option<io::Error>,
        mut step: impl FnMut(&mut Self, &Log) -> io::Result<()>,
    ) -> bool {
        let Some(error) = error.or_else(|| step(self, log).err()) else { return true };
        let dir = self.folder.path().to_owned();
        tracing::error!(%error, dir = %dir.display(), "log cannot be written");
        let mut error = error;
        loop {
            log.tell_trouble(&error);
            let mended = self.active.unsound && self.renew(log).is_ok();
            if !mended && !log.pause(PAUSE) {
                return false;
            }
            match step(self, log) {
                Ok(()) => break,
                Err(another) => error = another,
            }
        }
        tracing::info!(dir = %dir.display(), "log is written again");
        true
    }

    fn append(&mut self, log: &Log, upto: u64) -> io::Result<()> {
        let active = &mut self.active;
        #[cfg(test)]
        if log.is_filled() {
            active.file = std::fs::File::options().write(true).open("/dev/full")?.into();
        }
        active.append(&mut self.frame)?;
        log.written.tell(upto);
        let frame = std::mem::replace(&mut self.frame, self.spare.pop().unwrap_or_default());
        let (begins, live) = (self.state.begins(), self.state.bytes());
        self.written.push_back(Written { frame, end: active.length, upto, begins, live });
        self.ask_for_sync(log);
        Ok(())
    }

    /// Has all synced that is in the active file.
    fn ask_for_sync(&self, log: &Log) {
        let Some(Written { upto, live, .. }) = self.written.back() else { return };
        let (file, length) = (self.active.file.clone(), self.active.length);
        log.sync(Unsynced { file, length, upto: *upto, live: *live });
    }

    /// A file that is unsound counts up to what is on the disk. The rest is written again, behind it.
    fn renew(&mut self, log: &Log) -> io::Result<()> {
        if !self.active.unsound {
            return Ok(());
        }
        // Whatever comes of it: what it told before this is known.
        let (synced, _) = log.wait_for_sync(self.active.length, 0);
        self.take_note(synced);
        self.active.length = self.active.synced;
        self.begin_segment(log)?;
        // Where it is in the file before says nothing any more.
        self.written.iter_mut().for_each(|written| written.end = u64::MAX);
        for written in &mut self.written {
            if let Err(error) = self.active.append(&mut written.frame) {
                self.active.unsound = true;
                return Err(error);
            }
            written.end = self.active.length;
        }
        self.moved = self.active.length;
        self.ask_for_sync(log);
        Ok(())
    }
}

/// The thread that syncs, until the log says that nothing is to be synced any more.
pub(super) fn sync(log: &Log) {
    /// Also after a panic in a waker.
    struct Ending<'l>(&'l Log);
    impl Drop for Ending<'_> {
        fn drop(&mut self) {
            self.0.end_syncs();
        }
    }
    let ending = Ending(log);
    while let Some(unsynced) = ending.0.next_sync() {
        #[cfg(test)]
        if log.is_kept_from_syncing() {
            log.tell_sync(&unsynced, Err(io::Error::other("a test wants it so")));
            continue;
        }
        log.tell_sync(&unsynced, unsynced.file.sync_data());
    }
}

//! The thread that writes: takes what has gathered while it was at the disk, writes it as one frame, syncs it, and tells whoever waits.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    mem::take,
    path::{Path, PathBuf},
    slice,
    sync::Arc,
    time::Duration,
};

use super::{
    FileError, codec,
    frame::{frame, head},
    lock::Lock,
    log::Log,
    state::State,
};
use crate::memory::scribe::Event;

/// A log that is this much longer than twice what must be in it is written anew.
const SLACK: u64 = 64 << 20;
/// A frame ends with the event that reaches so many bytes.
const AT_ONCE: usize = 8 << 20;
/// Before what could not be written is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// Name of the log in its directory.
pub(super) const LOG: &str = "log";
const NEW: &str = "log.new";

#[derive(Debug)]
pub(super) struct Writer {
    dir: PathBuf,
    state: State,
    file: File,
    salt: u64,
    /// Up to here the file is as it should be.
    length: u64,
    /// Its length when it was written anew.
    fresh: u64,
    /// A sync failed: what the system still has of this file is unknown, and a second sync would not tell.
    unsound: bool,
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
    /// Writes what `state` says to a new log in place of the present one.
    pub(super) fn new(dir: &Path, state: State) -> Result<Self, FileError> {
        let (file, salt, length) = rewrite(dir, &state).map_err(FileError::io(dir))?;
        let dir = dir.to_owned();
        Ok(Self { dir, state, file, salt, length, fresh: length, unsound: false })
    }

    /// Until the log ends.
    pub(super) fn run(mut self, log: &Arc<Log>, lock: Lock) {
        let _ending = Ending { log: log.clone(), lock: Some(lock) };
        let mut spare = Vec::new();
        while let Some(batch) = log.next(take(&mut spare)) {
            let (mut events, mut upto) = (batch.events.iter(), batch.upto);
            upto -= batch.events.len() as u64;
            while !events.as_slice().is_empty() {
                let before = events.as_slice().len();
                let frame = self.frame(&mut events);
                upto += (before - events.as_slice().len()) as u64;
                if !self.write(log, &frame, upto) {
                    return;
                }
                log.tell_synced(upto, self.state.bytes());
            }
            spare = batch.events;
            spare.clear();
            if self.is_long() {
                // If there is no room for both, the old one goes on.
                if let Err(error) = self.rewrite() {
                    tracing::warn!(%error, dir = %self.dir.display(), "log not written anew");
                    self.fresh = self.length;
                }
            }
        }
    }

    /// Of as many events as go into one.
    fn frame(&mut self, events: &mut slice::Iter<'_, Event>) -> Vec<u8> {
        frame(self.salt, |out| {
            while out.len() < AT_ONCE {
                let Some(event) = events.next() else { return };
                codec::write(out, event);
                self.state.apply(event);
            }
        })
    }

    /// Tries until it is on the disk. False if it is not, and the end has come.
    fn write(&mut self, log: &Log, frame: &[u8], upto: u64) -> bool {
        let mut troubled = false;
        while let Err(error) = self.append(log, frame, upto) {
            if !troubled {
                tracing::error!(%error, dir = %self.dir.display(), "log cannot be written");
            }
            troubled = true;
            log.tell_trouble(&error);
            // What is done need not be written again: that may be the room that is missing.
            let helps = self.unsound || self.length > 2 * self.state.bytes();
            if helps && self.rewrite().is_ok() {
                break;
            }
            if !log.pause(PAUSE) {
                return false;
            }
        }
        if troubled {
            tracing::info!(dir = %self.dir.display(), "log is written again");
        }
        log.tell_written(upto);
        true
    }

    fn append(&mut self, log: &Log, bytes: &[u8], upto: u64) -> io::Result<()> {
        #[cfg(test)]
        if log.is_filled() {
            self.file = File::options().write(true).open("/dev/full")?;
        }
        if self.unsound {
            return Err(io::Error::other("an earlier sync failed"));
        }
        if let Err(error) = self.file.write_all(bytes) {
            // A part of it may be there. If that cannot be taken back, only a new file helps.
            self.unsound = self.back().is_err();
            return Err(error);
        }
        log.tell_written(upto);
        if let Err(error) = self.file.sync_data() {
            self.unsound = true;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Back to the end of what is known to be there. The file is opened for appending.
    fn back(&self) -> io::Result<()> {
        self.file.set_len(self.length)
    }

    fn is_long(&self) -> bool {
        self.length > 2 * self.state.bytes() + SLACK && self.length > self.fresh + SLACK
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let (file, salt, length) = rewrite(&self.dir, &self.state)?;
        (self.file, self.salt, self.length, self.fresh) = (file, salt, length, length);
        self.unsound = false;
        Ok(())
    }
}

/// A new log, on the disk under its name when this returns. Before that, the old one is.
fn rewrite(dir: &Path, state: &State) -> io::Result<(File, u64, u64)> {
    let new = dir.join(NEW);
    let result = write_new(&new, state).and_then(|written| {
        fs::rename(&new, dir.join(LOG))?;
        // So that the name is on the disk as well.
        File::open(dir)?.sync_all()?;
        Ok(written)
    });
    if result.is_err() {
        let _ = fs::remove_file(&new);
    }
    result
}

fn write_new(path: &Path, state: &State) -> io::Result<(File, u64, u64)> {
    let _ = fs::remove_file(path);
    let mut file = File::options().append(true).create_new(true).open(path)?;
    let salt = rand::random();
    let first = head(salt);
    file.write_all(&first)?;
    let (mut events, mut length) = (state.events().into_iter().peekable(), first.len());
    while events.peek().is_some() {
        let bytes = frame(salt, |out| {
            while out.len() < AT_ONCE {
                let Some(event) = events.next() else { return };
                codec::write(out, &event);
            }
        });
        file.write_all(&bytes)?;
        length += bytes.len();
    }
    file.sync_all()?;
    Ok((file, salt, length as u64))
}

//! The segment that is written, and what is in it.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::Arc,
};

use super::{Frame, Head};

/// The segment that is written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) number: u64,
    pub(super) file: Arc<File>,
    pub(super) salt: u64,
    /// Of what it began with.
    pub(super) fresh: u64,
    /// Up to here the file is as it should be.
    pub(super) length: u64,
    /// Up to here it is on the disk.
    pub(super) synced: u64,
    /// What is behind `synced` is unknown: a sync failed, and a second one would not tell; or what was written in part could not be taken back.
    pub(super) unsound: bool,
}

/// A frame in the active file.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) frame: Frame,
    /// Where it ends.
    pub(super) end: u64,
    /// Events with these.
    pub(super) upto: u64,
    pub(super) begins: u64,
    pub(super) live: u64,
}

impl Active {
    pub(super) const fn new(head: Head, file: Arc<File>, length: u64) -> Self {
        let Head { number, salt, .. } = head;
        Self { number, file, salt, fresh: length, length, synced: length, unsound: false }
    }

    pub(super) fn append(&mut self, frame: &mut Frame) -> io::Result<()> {
        if self.unsound {
            return Err(io::Error::other("an earlier write or sync failed"));
        }
        let bytes = frame.seal(self.salt, self.synced);
        if let Err(error) = (&*self.file).write_all(bytes) {
            // A part of it may be there. If that cannot be taken back, only a new file helps. The file is opened for appending.
            self.unsound = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(())
    }
}

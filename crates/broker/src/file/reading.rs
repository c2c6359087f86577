//! Reading a file of the log, one frame at a time.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use super::{
    FileError, decode,
    frame::{self, FRAME, HEAD, Head},
};
use crate::memory::scribe::Event;

/// Where what counts of a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Here; all before is as it was written.
    At(u64),
    /// Where the file ends, or before what a crash has torn off.
    Open,
}

#[derive(Debug)]
pub(super) struct Reading {
    path: PathBuf,
    file: BufReader<File>,
    length: u64,
    pub(super) head: Head,
    pub(super) format: u32,
    offset: u64,
}

impl Reading {
    pub(super) fn open(path: PathBuf) -> Result<Self, FileError> {
        let begin = || {
            let mut file = File::open(&path)?;
            let mut bytes = Vec::with_capacity(HEAD);
            file.by_ref().take(HEAD as u64).read_to_end(&mut bytes)?;
            Ok((file.metadata()?.len(), file, bytes))
        };
        let (length, mut file, bytes) = begin().map_err(FileError::io(&path))?;
        let (head, offset, format) = Head::read(&path, &bytes)?;
        let offset = offset as u64;
        file.seek(SeekFrom::Start(offset)).map_err(FileError::io(&path))?;
        Ok(Self {
            path,
            file: BufReader::with_capacity(1 << 16, file),
            length,
            head,
            format,
            offset,
        })
    }

    /// Whether there is one frame and nothing else: what a segment begins with.
    pub(super) fn is_bare(&mut self) -> io::Result<bool> {
        let mut events = Vec::new();
        let whole = self.frame(self.length, &mut events)?;
        self.file.seek(SeekFrom::Start(self.offset))?;
        Ok(whole && self.offset + (FRAME + events.len()) as u64 == self.length)
    }

    /// Hands over the events in their order. Up to where the file counts, and whether something was torn off behind that: nobody was told that it
    /// was written.
    pub(super) fn replay(
        mut self,
        end: End,
        mut each: impl FnMut(Event),
    ) -> Result<(u64, bool), FileError> {
        let limit = match end {
            End::At(length) => length.min(self.length),
            End::Open => self.length,
        };
        let mut events = Vec::new();
        while self.offset < limit {
            if !self.frame(limit, &mut events).map_err(FileError::io(&self.path))? {
                let torn = end == End::Open && self.is_torn().map_err(FileError::io(&self.path))?;
                return if torn { Ok((self.offset, true)) } else { Err(self.damaged()) };
            }
            decode::read(&events).ok_or_else(|| self.damaged())?.into_iter().for_each(&mut each);
            self.offset += (FRAME + events.len()) as u64;
        }
        match end {
            End::At(length) if self.offset != length => Err(self.damaged()),
            _ => Ok((self.offset, false)),
        }
    }

    /// Reads the events of the next frame; false if it is not as it was written.
    fn frame(&mut self, limit: u64, events: &mut Vec<u8>) -> io::Result<bool> {
        let Some(left) = (limit - self.offset).checked_sub(FRAME as u64) else { return Ok(false) };
        let mut head = [0; FRAME];
        self.file.read_exact(&mut head)?;
        let Some((length, sum)) = frame::announced(self.head.salt, &head) else { return Ok(false) };
        if length as u64 > left {
            return Ok(false);
        }
        events.clear();
        events.shrink_to(1 << 20);
        events.resize(length, 0);
        self.file.read_exact(events)?;
        Ok(crc32fast::hash(events) == sum)
    }

    /// Whether no frame is behind one that is not whole: then that was the last, and not finished.
    fn is_torn(&mut self) -> io::Result<bool> {
        self.file.seek(SeekFrom::Start(self.offset + 1))?;
        let mut rest = Vec::new();
        self.file.read_to_end(&mut rest)?;
        Ok((0..rest.len()).all(|later| !frame::is_whole(self.head.salt, &rest[later..])))
    }

    fn damaged(&self) -> FileError {
        FileError::Damaged { path: self.path.clone(), offset: self.offset }
    }
}

//! Reading a file of the log, one frame at a time.

use std::{
    fs::File,
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use super::{
    FileError, decode,
    frame::{Announced, FRAME, HEAD, Head, OLD_FRAME},
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
        let end = self.frame(self.length, &mut Vec::new())?;
        self.file.seek(SeekFrom::Start(self.offset))?;
        Ok(end == Some(self.length))
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
            let next = self.frame(limit, &mut events).map_err(FileError::io(&self.path))?;
            let Some(next) = next else {
                let torn = end == End::Open && self.is_torn().map_err(FileError::io(&self.path))?;
                return if torn { Ok((self.offset, true)) } else { Err(self.damaged()) };
            };
            decode::read(&events).ok_or_else(|| self.damaged())?.into_iter().for_each(&mut each);
            self.offset = next;
        }
        match end {
            End::At(length) if self.offset != length => Err(self.damaged()),
            _ => Ok((self.offset, false)),
        }
    }

    /// Reads the events of the next frame; where it ends, if it is as it was written.
    fn frame(&mut self, limit: u64, events: &mut Vec<u8>) -> io::Result<Option<u64>> {
        let mut head = Vec::with_capacity(FRAME);
        for length in [OLD_FRAME, FRAME] {
            let more = (length - head.len()) as u64;
            self.file.by_ref().take(more).read_to_end(&mut head)?;
            if let Some(announced) = Announced::read(self.head.salt, &head) {
                return self.events(announced, limit, events);
            }
        }
        Ok(None)
    }

    fn events(
        &mut self,
        announced: Announced,
        limit: u64,
        events: &mut Vec<u8>,
    ) -> io::Result<Option<u64>> {
        let end = self.offset + (announced.begins + announced.length) as u64;
        if end > limit {
            return Ok(None);
        }
        events.clear();
        events.shrink_to(1 << 20);
        events.resize(announced.length, 0);
        self.file.read_exact(events)?;
        Ok((crc32fast::hash(events) == announced.sum).then_some(end))
    }

    /// Whether a crash may have torn what is here: no frame behind it was begun when this was on the disk. Then nobody was told that those were.
    fn is_torn(&mut self) -> io::Result<bool> {
        self.file.seek(SeekFrom::Start(self.offset + 1))?;
        let mut rest = Vec::new();
        self.file.read_to_end(&mut rest)?;
        let mut later = (0..rest.len()).filter_map(|at| {
            let rest = &rest[at..];
            rest.starts_with(b"GBF").then(|| Announced::of_whole(self.head.salt, rest)).flatten()
        });
        Ok(later.all(|frame| frame.synced.is_some_and(|synced| synced <= self.offset)))
    }

    fn damaged(&self) -> FileError {
        FileError::Damaged { path: self.path.clone(), offset: self.offset }
    }
}

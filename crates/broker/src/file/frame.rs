//! What the files of a log look like.
//!
//! ```text
//! log              = head with number 0: says the format, and nothing else
//! log.0000000001   = head, frames; a segment
//! head   = "gusset broker\n\0\0", format u32, number u64, length of the segment before u64, salt u64, checksum u32 of what is before it
//! frame  = "GBF2", length u32, checksum u32 of the events, synced u64, checksum u32 of the salt and the 20 bytes before it; events
//! ```
//!
//! A frame is what was written at once, and is there as a whole or not at all. `synced` tells how much of the file was on the disk before: the machine
//! may tear any frame behind that when it stops, and with the first that is torn go all behind it. The segment before is on the disk as a whole when
//! one is begun; how long it is, the head of the new one says. So only the last one may be torn. The salt is other for each file: no payload can
//! pass for a frame. The first frame of a segment has all groups in it.
//!
//! Before format 3, frames were "GBF1" without `synced`: each was begun when the one before was on the disk. The first format was one file, `log`,
//! whose head had neither number nor length.

use std::path::Path;

use super::{FileError, encode};
use crate::memory::scribe::Event;

/// Version of the format that is written. This and those before it are read.
pub(super) const FORMAT: u32 = 3;
const NAME: &[u8; 16] = b"gusset broker\n\0\0";
/// Of this format, the longest.
pub(super) const HEAD: usize = NAME.len() + 4 + 3 * 8 + 4;
const MARK: &[u8; 4] = b"GBF2";
const OLD_MARK: &[u8; 4] = b"GBF1";
/// What is before the events of a frame.
pub(super) const FRAME: usize = 24;
/// In the formats before.
pub(super) const OLD_FRAME: usize = 16;

/// The beginning of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u64,
    /// So much of the segment before counts.
    pub(super) before: u64,
    pub(super) salt: u64,
}

impl Head {
    pub(super) fn new(number: u64, before: u64) -> Self {
        Self { number, before, salt: rand::random() }
    }

    pub(super) fn bytes(self) -> Vec<u8> {
        let mut head = NAME.to_vec();
        head.extend(FORMAT.to_le_bytes());
        [self.number, self.before, self.salt].iter().for_each(|n| head.extend(n.to_le_bytes()));
        head.extend(crc32fast::hash(&head).to_le_bytes());
        head
    }

    /// What `bytes` begin with, how long that is, and its format. A file comes into its place by a rename, so its head cannot be torn.
    pub(super) fn read(path: &Path, bytes: &[u8]) -> Result<(Self, usize, u32), FileError> {
        let damaged = || FileError::Damaged { path: path.to_owned(), offset: 0 };
        let after = bytes.strip_prefix(NAME).ok_or_else(damaged)?;
        let format = number(after).ok_or_else(damaged)?;
        if format > FORMAT {
            let path = path.to_owned();
            return Err(FileError::Newer { path, format, understood: FORMAT });
        }
        let fields = match format {
            1 => 1,
            2 | 3 => 3,
            _ => return Err(damaged()),
        };
        let end = NAME.len() + 4 + fields * 8;
        let (head, sum) = bytes.split_at_checked(end).ok_or_else(damaged)?;
        if number(sum) != Some(crc32fast::hash(head)) {
            return Err(damaged());
        }
        let long = |n: usize| head[20 + 8 * n..28 + 8 * n].try_into().map(u64::from_le_bytes);
        let read = || match fields {
            1 => Ok(Self { number: 0, before: 0, salt: long(0)? }),
            _ => Ok(Self { number: long(0)?, before: long(1)?, salt: long(2)? }),
        };
        let head = read().map_err(|_: std::array::TryFromSliceError| damaged())?;
        Ok((head, end + 4, format))
    }
}

/// What is written at once.
#[derive(Debug)]
pub(super) struct Frame(Vec<u8>);

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

impl Frame {
    pub(super) fn new() -> Self {
        Self(vec![0; FRAME])
    }

    pub(super) fn clear(&mut self) {
        self.0.truncate(FRAME);
        // What one large message needed is not kept for the small ones after it.
        self.0.shrink_to(1 << 20);
    }

    pub(super) fn push(&mut self, event: &Event) {
        encode::write(&mut self.0, event);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.len() == FRAME
    }

    /// As it goes into the file with this salt, of which so much is on the disk.
    pub(super) fn seal(&mut self, salt: u64, synced: u64) -> &[u8] {
        let (head, events) = self.0.split_at_mut(FRAME);
        head[..4].copy_from_slice(MARK);
        // The writer bounds what it writes at once, and the engine what a message has.
        let length = u32::try_from(events.len()).unwrap_or(u32::MAX);
        head[4..8].copy_from_slice(&length.to_le_bytes());
        head[8..12].copy_from_slice(&crc32fast::hash(events).to_le_bytes());
        head[12..20].copy_from_slice(&synced.to_le_bytes());
        let sum = mark_sum(salt, &head[..20]);
        head[20..].copy_from_slice(&sum.to_le_bytes());
        &self.0
    }
}

/// What the beginning of a frame says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Announced {
    /// How long the beginning is, and the events behind it.
    pub(super) begins: usize,
    pub(super) length: usize,
    pub(super) sum: u32,
    /// So much of the file was on the disk before; none: all.
    pub(super) synced: Option<u64>,
}

impl Announced {
    /// If `bytes` begin as a frame of the file with this salt does.
    pub(super) fn read(salt: u64, bytes: &[u8]) -> Option<Self> {
        let begins = match bytes.get(..4)? {
            mark if mark == MARK => FRAME,
            mark if mark == OLD_MARK => OLD_FRAME,
            _ => return None,
        };
        let (head, sum) = bytes.get(..begins)?.split_at(begins - 4);
        if number(sum)? != mark_sum(salt, head) {
            return None;
        }
        let synced = head.get(12..20).and_then(|n| Some(u64::from_le_bytes(n.try_into().ok()?)));
        let length = usize::try_from(number(&head[4..])?).ok()?;
        Some(Self { begins, length, sum: number(&head[8..])?, synced })
    }

    /// The same for a whole frame as it was written.
    pub(super) fn of_whole(salt: u64, bytes: &[u8]) -> Option<Self> {
        let announced = Self::read(salt, bytes)?;
        let events = bytes[announced.begins..].get(..announced.length)?;
        (crc32fast::hash(events) == announced.sum).then_some(announced)
    }
}

fn mark_sum(salt: u64, head: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&salt.to_le_bytes());
    sum.update(head);
    sum.finalize()
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4)?.try_into().ok().map(u32::from_le_bytes)
}

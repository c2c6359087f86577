//! What a log file looks like.
//!
//! ```text
//! file   = "gusset broker\n\0\0", format u32, salt u64, checksum u32 of what is before it
//! frame  = "GBF1", length u32, checksum u32 of the events, checksum u32 of the salt and the 12 bytes before it; events
//! ```
//!
//! A frame is what was written and synced at once, and is there as a whole or not at all. The next is begun only when the one before is on the
//! disk. So only the last may be torn. The salt is other for each file: no payload can pass for a frame.

use std::path::Path;

use super::{FileError, codec};
use crate::memory::scribe::Event;

/// Version of the format that is written. This and none other is read so far.
pub(super) const FORMAT: u32 = 1;
const NAME: &[u8; 16] = b"gusset broker\n\0\0";
const HEAD: usize = NAME.len() + 4 + 8 + 4;
const MARK: &[u8; 4] = b"GBF1";
const FRAME: usize = 16;

/// The beginning of a file.
pub(super) fn head(salt: u64) -> Vec<u8> {
    let mut head = NAME.to_vec();
    head.extend(FORMAT.to_le_bytes());
    head.extend(salt.to_le_bytes());
    head.extend(crc32fast::hash(&head).to_le_bytes());
    head
}

/// Makes a frame of the events that `write` adds.
pub(super) fn frame(salt: u64, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = vec![0; FRAME];
    write(&mut frame);
    let (head, events) = frame.split_at_mut(FRAME);
    head[..4].copy_from_slice(MARK);
    // The writer bounds what it writes at once, and `Policy::max_bytes` what a message has.
    let length = u32::try_from(events.len()).unwrap_or(u32::MAX);
    head[4..8].copy_from_slice(&length.to_le_bytes());
    head[8..12].copy_from_slice(&crc32fast::hash(events).to_le_bytes());
    let sum = mark_sum(salt, &head[..12]);
    head[12..].copy_from_slice(&sum.to_le_bytes());
    frame
}

/// Hands over the events of each frame in their order. Whether the last was torn off by a crash: nobody was told that it was written.
pub(super) fn replay(
    path: &Path,
    bytes: &[u8],
    mut each: impl FnMut(Event),
) -> Result<bool, FileError> {
    let damaged =
        |offset: usize| FileError::Damaged { path: path.to_owned(), offset: offset as u64 };
    let salt = check_head(path, bytes)?;
    let mut offset = HEAD;
    while offset < bytes.len() {
        let Some(events) = whole(salt, &bytes[offset..]) else {
            let torn =
                (offset + 1..bytes.len()).all(|later| whole(salt, &bytes[later..]).is_none());
            return if torn { Ok(true) } else { Err(damaged(offset)) };
        };
        for event in codec::read(events).ok_or_else(|| damaged(offset))? {
            each(event);
        }
        offset += FRAME + events.len();
    }
    Ok(false)
}

/// The salt. A file comes into its place by a rename, so its head cannot be torn.
fn check_head(path: &Path, bytes: &[u8]) -> Result<u64, FileError> {
    let damaged = || FileError::Damaged { path: path.to_owned(), offset: 0 };
    let after = bytes.strip_prefix(NAME).ok_or_else(damaged)?;
    let format = number(after).ok_or_else(damaged)?;
    if format > FORMAT {
        let path = path.to_owned();
        return Err(FileError::Newer { path, format, understood: FORMAT });
    }
    let (head, _) = bytes.split_at_checked(HEAD).ok_or_else(damaged)?;
    let salt = head[20..28].try_into().map(u64::from_le_bytes).map_err(|_| damaged())?;
    if format == 0 || number(&head[28..]) != Some(crc32fast::hash(&head[..28])) {
        return Err(damaged());
    }
    Ok(salt)
}

/// The events of the frame with which `bytes` begin, if it is as it was written.
fn whole(salt: u64, bytes: &[u8]) -> Option<&[u8]> {
    let (head, after) = bytes.split_at_checked(FRAME)?;
    if !head.starts_with(MARK) || number(&head[12..])? != mark_sum(salt, &head[..12]) {
        return None;
    }
    let events = after.get(..usize::try_from(number(&head[4..])?).ok()?)?;
    (crc32fast::hash(events) == number(&head[8..])?).then_some(events)
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

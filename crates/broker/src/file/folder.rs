//! The files of a log in their directory.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    FileError,
    frame::{Frame, Head},
    reading::{End, Reading},
    state::State,
};
use crate::memory::scribe::Event;

/// Says the format, and that here is a broker.
const LOG: &str = "log";
const NEW: &str = "log.new";
/// A frame ends with the event that reaches so many bytes.
pub(super) const AT_ONCE: usize = 8 << 20;

#[derive(Clone, Debug)]
pub(super) struct Folder(PathBuf);

/// Files that were read.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Numbers and lengths, the oldest first, without gaps.
    pub(super) segments: Vec<(u64, u64)>,
    /// Left over by a crash, and not needed.
    pub(super) useless: Vec<u64>,
    pub(super) format: Option<u32>,
}

impl Folder {
    pub(super) fn new(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn has_broker(&self) -> bool {
        self.0.join(LOG).exists()
    }

    pub(super) fn segment(&self, number: u64) -> PathBuf {
        self.0.join(format!("{LOG}.{number:010}"))
    }

    /// Everything that is written here, one frame at a time.
    pub(super) fn replay(&self, state: &mut State) -> Result<Found, FileError> {
        let format = match Reading::open(self.0.join(LOG)) {
            Ok(reading) if reading.format == 1 => return self.replay_first(reading, state),
            Ok(reading) => Some(reading.format),
            Err(FileError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let numbers = self.numbers().map_err(FileError::io(&self.0))?;
        // Unlinked files may come back in any order when the machine stops; what is needed has no gap.
        let gap = numbers.windows(2).rposition(|pair| pair[0] + 1 != pair[1]);
        let (useless, numbers) = numbers.split_at(gap.map_or(0, |gap| gap + 1));
        let Some(first) = numbers.first() else {
            let path = self.segment(1);
            return if format.is_some() {
                Err(FileError::Missing { path })
            } else {
                Ok(Found::default())
            };
        };
        let (mut heads, mut is_bare) = (Vec::with_capacity(numbers.len()), false);
        for number in numbers {
            let path = self.segment(*number);
            let mut reading = Reading::open(path.clone())?;
            if reading.head.number != *number {
                return Err(FileError::Damaged { path, offset: 0 });
            }
            heads.push(reading.head);
            if heads.len() == numbers.len() && heads.len() > 1 {
                is_bare = reading.is_bare().map_err(FileError::io(&path))?;
            }
        }
        // Nothing has happened since it was begun: the next takes its place, or each look at a directory would leave a file.
        let (numbers, bare) = numbers.split_at(numbers.len() - usize::from(is_bare));
        let mut segments = Vec::with_capacity(numbers.len());
        for (at, number) in numbers.iter().enumerate() {
            let end = heads.get(at + 1).map_or(End::Open, |next| End::At(next.before));
            segments.push((*number, self.replay_one(*number, end, state)?));
        }
        for number in bare {
            let begins = |event: Event| {
                if matches!(event, Event::Begins(_)) {
                    state.apply(&event);
                }
            };
            Reading::open(self.segment(*number))?.replay(End::Open, begins)?;
        }
        if *first > state.begins() {
            return Err(FileError::Missing { path: self.segment(first - 1) });
        }
        Ok(Found { segments, useless: useless.to_vec(), format })
    }

    fn replay_one(&self, number: u64, end: End, state: &mut State) -> Result<u64, FileError> {
        let path = self.segment(number);
        state.at(number);
        let (length, torn) = Reading::open(path.clone())?.replay(end, |e| state.apply(&e))?;
        if torn {
            let path = path.display();
            tracing::warn!(%path, length, "a write that a crash cut short was left out");
        }
        Ok(length)
    }

    /// The first format. Segments beside it are of a move to this one that a crash cut short: nothing was acknowledged in them.
    fn replay_first(&self, reading: Reading, state: &mut State) -> Result<Found, FileError> {
        state.at(0);
        let (_, torn) = reading.replay(End::Open, |event| state.apply(&event))?;
        if torn {
            let dir = self.0.display();
            tracing::warn!(%dir, "a write that a crash cut short was left out");
        }
        let useless = self.numbers().map_err(FileError::io(&self.0))?;
        Ok(Found { useless, format: Some(1), ..Found::default() })
    }

    fn numbers(&self) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for file in fs::read_dir(&self.0)? {
            let name = file?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("log."));
            numbers.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// A new segment that begins with these events, on the disk under its name when this returns.
    pub(super) fn create(
        &self,
        head: Head,
        events: impl Iterator<Item = Event>,
    ) -> io::Result<(Arc<File>, u64)> {
        let (file, length) = self.place(&self.segment(head.number), head, events)?;
        Ok((file.into(), length))
    }

    /// From here on, this is a broker of the present format.
    pub(super) fn mark(&self) -> io::Result<()> {
        self.place(&self.0.join(LOG), Head::new(0, 0), std::iter::empty()).map(drop)
    }

    pub(super) fn remove(&self, number: u64) -> io::Result<()> {
        fs::remove_file(self.segment(number))
    }

    fn place(
        &self,
        path: &Path,
        head: Head,
        events: impl Iterator<Item = Event>,
    ) -> io::Result<(File, u64)> {
        let new = self.0.join(NEW);
        let _ = fs::remove_file(&new);
        let result = write_new(&new, head, events).and_then(|written| {
            fs::rename(&new, path)?;
            // So that the name is on the disk as well.
            File::open(&self.0)?.sync_all()?;
            Ok(written)
        });
        if result.is_err() {
            let _ = fs::remove_file(&new);
        }
        result
    }
}

fn write_new(
    path: &Path,
    head: Head,
    events: impl Iterator<Item = Event>,
) -> io::Result<(File, u64)> {
    let mut file = File::options().append(true).create_new(true).open(path)?;
    let first = head.bytes();
    file.write_all(&first)?;
    let (mut events, mut length, mut frame) = (events.peekable(), first.len(), Frame::new());
    while events.peek().is_some() {
        frame.clear();
        while let Some(event) = events.next_if(|_| frame.len() < AT_ONCE) {
            frame.push(&event);
        }
        file.write_all(frame.seal(head.salt, 0))?;
        length += frame.len();
    }
    file.sync_all()?;
    Ok((file, length as u64))
}

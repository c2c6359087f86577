//! What can be told of files without reading them.

use std::{fs, path::Path, time::SystemTime};

/// When each of some files was written, and how long it is; nothing of one that is not there. The length tells what was written within one tick of the file system's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamps(Vec<Option<(SystemTime, u64)>>);

impl Stamps {
    /// Looks at them. It blocks.
    #[must_use]
    pub fn of<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Self {
        let stamp = |file: P| {
            let data = fs::metadata(file).ok()?;
            Some((data.modified().ok()?, data.len()))
        };
        Self(files.into_iter().map(stamp).collect())
    }

    /// These, and then others that are looked at now: files that are known by what stood in the first.
    #[must_use]
    pub fn and<P: AsRef<Path>>(mut self, files: impl IntoIterator<Item = P>) -> Self {
        self.0.extend(Self::of(files).0);
        self
    }
}

/// Tells that files are others than those that were read, and that whoever writes them has written all: when two looks in a row see the same.
#[cfg(feature = "config")]
#[derive(Debug, Default)]
pub struct Changes {
    seen: Stamps,
    /// What was seen by the last look, if it was something else.
    changing: Option<Stamps>,
}

#[cfg(feature = "config")]
impl Changes {
    /// These are read, or cannot be read: they are no change any more.
    pub fn read(&mut self, stamps: Stamps) {
        *self = Self { seen: stamps, changing: None };
    }

    /// Whether to read them now; `stamps` is what is there at this look.
    #[must_use]
    pub fn are_settled(&mut self, stamps: Stamps) -> bool {
        if stamps == self.seen {
            self.changing = None;
            return false;
        }
        let settled = self.changing.as_ref() == Some(&stamps);
        self.changing = Some(stamps);
        settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_within_one_tick_of_the_clock_differs_by_its_length() {
        let file = std::env::temp_dir().join(format!("gusset-stamps-{}", std::process::id()));
        let written = |text: &str| {
            fs::write(&file, text).unwrap();
            let then = SystemTime::UNIX_EPOCH;
            fs::File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
            Stamps::of([&file])
        };
        let (half, whole, again) = (written("half"), written("and all"), written("and all"));
        fs::remove_file(&file).unwrap();
        assert_ne!(half, whole);
        assert_eq!(whole, again);
        assert_ne!(whole, Stamps::of([&file]), "it is not there");
    }

    #[cfg(feature = "config")]
    #[test]
    fn a_change_is_read_when_two_looks_have_seen_the_same() {
        let one = |length| Stamps(vec![Some((SystemTime::UNIX_EPOCH, length))]);
        let mut changes = Changes::default();
        changes.read(one(1));
        assert!(!changes.are_settled(one(1)));
        assert!(!changes.are_settled(one(2)));
        assert!(!changes.are_settled(one(3)), "it is still written");
        assert!(changes.are_settled(one(3)));
        changes.read(one(3));
        assert!(!changes.are_settled(one(3)));
        assert!(!changes.are_settled(one(4)));
        assert!(!changes.are_settled(one(3)), "it is as it was");
        assert!(!changes.are_settled(one(4)));
    }
}

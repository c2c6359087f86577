//! The file that makes writes of the key-value store durable: a line for each batch of them, and none of it ever changed in place.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::kv::{Change, Pair};
use crate::{
    file::{SnapshotError, write},
    hash_key,
};

/// Version of the format that is written. This and none other is read so far.
const FORMAT: u32 = 1;
/// A log that is this much longer than twice what is in it is written anew.
const SLACK: u64 = 4 << 20;
/// Pairs in a line of a log that is written anew.
const AT_ONCE: usize = 256;

#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// How long it was when it was written anew.
    fresh: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Put { key: Arc<str>, value: String, flags: u64, created: u64, modified: u64 },
    Delete { key: Arc<str>, index: u64 },
    DeleteUnder { prefix: Arc<str>, index: u64 },
}

/// What a log comes to.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    pub(super) pairs: BTreeMap<Arc<str>, Arc<Pair>>,
    /// The highest index in it.
    pub(super) index: u64,
    /// Whether its end was torn off by a crash. Nobody was told that it was done.
    pub(super) torn: bool,
}

impl Log {
    /// Writes it anew, in place of what is there.
    pub(super) fn create(
        path: PathBuf,
        pairs: impl Iterator<Item = Arc<Pair>>,
    ) -> io::Result<Self> {
        let mut bytes = serde_json::to_vec(&Header { format: FORMAT })?;
        bytes.push(b'\n');
        let changes: Vec<_> = pairs.map(Change::Put).collect();
        for changes in changes.chunks(AT_ONCE) {
            line(&mut bytes, changes)?;
        }
        let file = write(&path, &bytes)?;
        let length = bytes.len() as u64;
        Ok(Self { path, file, bytes: length, fresh: length })
    }

    /// Adds the changes as one line, on the disk when it returns. After an error the log may hold anything, and has to be made anew.
    pub(super) fn append(&mut self, changes: &[Change]) -> io::Result<()> {
        let mut bytes = Vec::new();
        line(&mut bytes, changes)?;
        self.file.write_all(&bytes)?;
        self.file.sync_data()?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(super) const fn is_long(&self) -> bool {
        self.bytes > 2 * self.fresh + SLACK
    }

    /// One whose file is full from now on.
    #[cfg(test)]
    pub(super) fn fill(&mut self) {
        if let Ok(full) = File::options().write(true).open("/dev/full") {
            self.file = full;
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// A hash, a blank, and JSON: a batch is there as a whole or not at all.
fn line(bytes: &mut Vec<u8>, changes: &[Change]) -> io::Result<()> {
    let records: Vec<_> = changes.iter().map(Record::of).collect();
    let json = serde_json::to_vec(&records)?;
    write!(bytes, "{:016x} ", hash_key(&json))?;
    bytes.extend_from_slice(&json);
    bytes.push(b'\n');
    Ok(())
}

impl Record {
    fn of(change: &Change) -> Self {
        match change.clone() {
            Change::Put(pair) => Self::Put {
                key: pair.key.clone(),
                value: STANDARD.encode(&pair.value),
                flags: pair.flags,
                created: pair.created,
                modified: pair.modified,
            },
            Change::Delete(key, index) => Self::Delete { key, index },
            Change::DeleteUnder(prefix, index) => Self::DeleteUnder { prefix, index },
        }
    }
}

/// Reads it; what is missing is empty.
pub(super) fn load(path: &Path) -> Result<Replayed, SnapshotError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Replayed::default()),
        Err(source) => return Err(SnapshotError::Io { path: path.to_owned(), source }),
    };
    read(path, &bytes)
}

fn read(path: &Path, bytes: &[u8]) -> Result<Replayed, SnapshotError> {
    let damaged = |place: usize| SnapshotError::Damaged { path: path.to_owned(), line: place + 1 };
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').enumerate().peekable();
    let header = lines.next().and_then(|(_, line)| serde_json::from_slice::<Header>(line).ok());
    // It came by a rename, so its beginning cannot be torn.
    let Header { format } = header.ok_or_else(|| damaged(0))?;
    if format > FORMAT {
        let (path, understood) = (path.to_owned(), FORMAT);
        return Err(SnapshotError::Newer { path, format, understood });
    }
    let mut replayed = Replayed::default();
    while let Some((place, line)) = lines.next() {
        match whole(line) {
            Some(json) => {
                let records: Vec<Record> =
                    serde_json::from_slice(json).map_err(|_| damaged(place))?;
                for record in records {
                    replayed.take(record).ok_or_else(|| damaged(place))?;
                }
            }
            None if lines.peek().is_none() => replayed.torn = true,
            None => return Err(damaged(place)),
        }
    }
    Ok(replayed)
}

/// The JSON of a line that is as it was written.
fn whole(line: &[u8]) -> Option<&[u8]> {
    let (hash, json) = line.strip_suffix(b"\n")?.split_at_checked(17)?;
    (format!("{:016x} ", hash_key(json)).as_bytes() == hash).then_some(json)
}

impl Replayed {
    fn take(&mut self, record: Record) -> Option<()> {
        let index = match record {
            Record::Put { key, value, flags, created, modified } => {
                let value = STANDARD.decode(value).ok()?.into();
                let pair = Pair { key: key.clone(), value, flags, created, modified };
                self.pairs.insert(key, Arc::new(pair));
                modified
            }
            Record::Delete { key, index } => {
                self.pairs.remove(&key);
                index
            }
            Record::DeleteUnder { prefix, index } => {
                self.pairs.retain(|key, _| !key.starts_with(&*prefix));
                index
            }
        };
        self.index = self.index.max(index);
        Some(())
    }
}

/// Whatever it is, it is read or refused; and so it is where each of its lines says the hash that it has.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(log: &[u8]) {
    let _ = read(Path::new("kv.log"), log);
    let mut sealed = Vec::new();
    for (at, line) in log.split(|byte| *byte == b'\n').enumerate() {
        if at > 0 {
            let json = line.get(17..).unwrap_or_default();
            let _ = write!(sealed, "{:016x} ", hash_key(json));
            sealed.extend_from_slice(json);
        } else {
            sealed.extend_from_slice(line);
        }
        sealed.push(b'\n');
    }
    if let Ok(whole) = read(Path::new("kv.log"), &sealed) {
        assert!(!whole.torn);
        // Torn anywhere, it says less and never another thing.
        let torn = read(Path::new("kv.log"), &sealed[..sealed.len() - 1]);
        assert!(torn.is_ok_and(|torn| torn.index <= whole.index));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(key: &str, index: u64) -> Change {
        let (key, value) = (key.into(), vec![0, 255, b'\n'].into());
        Change::Put(Arc::new(Pair { key, value, flags: 7, created: 1, modified: index }))
    }

    fn changes() -> Vec<Vec<Change>> {
        vec![
            vec![put("a/1", 2), put("a/2", 3)],
            vec![put("b\n", 4), Change::Delete("a/1".into(), 5)],
            vec![Change::DeleteUnder("a/".into(), 6)],
            vec![put("a/1", 7)],
        ]
    }

    /// The keys after so many batches.
    fn keys(batches: usize) -> &'static [&'static str] {
        [&[][..], &["a/1", "a/2"], &["a/2", "b\n"], &["b\n"], &["a/1", "b\n"]][batches]
    }

    fn file() -> (PathBuf, Vec<u8>, Vec<usize>) {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gusset-kv-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        let mut log = Log::create(path.clone(), std::iter::empty()).unwrap();
        let mut ends = vec![fs::read(&path).unwrap().len()];
        for batch in changes() {
            log.append(&batch).unwrap();
            ends.push(fs::read(&path).unwrap().len());
        }
        let bytes = fs::read(&path).unwrap();
        (path, bytes, ends)
    }

    #[test]
    fn whatever_a_crash_leaves_of_the_log_holds_each_batch_as_a_whole() {
        let (path, bytes, ends) = file();
        for length in ends[0]..=bytes.len() {
            // What the system had not written may be missing, or be zeros.
            for zeros in [0, 20] {
                let mut left = bytes[..length].to_vec();
                left.extend(std::iter::repeat_n(0, zeros));
                fs::write(&path, &left).unwrap();
                let replayed = load(&path).unwrap();
                let batches = ends.iter().filter(|end| **end <= length).count() - 1;
                let found: Vec<_> = replayed.pairs.keys().map(|key| &**key).collect();
                assert_eq!(found, keys(batches), "{length} bytes");
                assert_eq!(replayed.torn, zeros > 0 || !ends.contains(&length));
            }
        }
        let _ = fs::remove_file(path);
    }

    #[test]
    fn what_comes_back_is_what_was_written() {
        let (path, ..) = file();
        let replayed = load(&path).unwrap();
        let pair = &replayed.pairs["a/1"];
        assert_eq!((&*pair.value, pair.flags), (&[0, 255, b'\n'][..], 7));
        assert_eq!((pair.created, pair.modified, replayed.index), (1, 7, 7));
        let again = Log::create(path.clone(), replayed.pairs.into_values()).unwrap();
        assert!(!again.is_long());
        assert_eq!(load(&path).unwrap().pairs.len(), 2);
        let _ = fs::remove_file(path);
    }

    proptest! {
        #[test]
        fn a_byte_that_changed_before_the_last_batch_is_never_taken(
            place in 0..1_000_usize, bit in 0..8_u8,
        ) {
            let (path, mut bytes, ends) = file();
            // Without the end of line in front of it, which makes it part of the one before.
            let last = ends[ends.len() - 2] - 1;
            let place = ends[0] + place % (last - ends[0]);
            bytes[place] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            let loaded = load(&path);
            let _ = fs::remove_file(&path);
            prop_assert!(matches!(loaded, Err(SnapshotError::Damaged { .. })), "{loaded:?}");
        }
    }

    #[test]
    fn a_later_format_is_refused_and_left_alone() {
        let (path, ..) = file();
        fs::write(&path, "{\"format\":2,\"more\":[]}\nwhatever\n").unwrap();
        let error = load(&path).unwrap_err();
        assert!(matches!(error, SnapshotError::Newer { format: 2, understood: 1, .. }));
        assert!(fs::read(&path).unwrap().starts_with(b"{\"format\":2"));
        fs::write(&path, "no log\n").unwrap();
        assert!(matches!(load(&path).unwrap_err(), SnapshotError::Damaged { line: 1, .. }));
        let _ = fs::remove_file(path);
    }
}

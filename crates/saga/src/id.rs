use std::{
    cmp::Ordering,
    fmt,
    hash::{BuildHasher, Hash, Hasher},
    str::FromStr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use foldhash::fast::RandomState;
use rand::Rng;
use serde::{Deserialize, Serialize, Serializer};

/// Identifier of one saga: 1 to 128 visible ASCII characters, so that it can stand in a header, a path and a log line.
///
/// Whoever starts a saga chooses it; the same id never runs twice while the store remembers it. What identifies the
/// request (an order number, an `Idempotency-Key`) makes a good one.
///
/// ```
/// use gusset_saga::SagaId;
///
/// let order: SagaId = "order-4711".parse()?;
/// assert_eq!(order.as_str(), "order-4711");
/// assert!("two words".parse::<SagaId>().is_err());
/// # Ok::<(), gusset_saga::InvalidName>(())
/// ```
#[derive(Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct SagaId {
    /// Of the text, with keys that nobody outside of the process can guess: ids are looked up far more often than they are made.
    digest: u64,
    text: Text,
}

#[derive(Clone)]
enum Text {
    /// Up to as many bytes as a UUID and a bit more: a copy is a copy, and neither an allocation nor a count that processors share.
    Short {
        length: u8,
        bytes: [u8; SagaId::SHORT],
    },
    Long(Arc<str>),
}

impl SagaId {
    const SHORT: usize = 38;

    /// A new UUID, version 7: ids that were made later sort later.
    #[must_use]
    pub fn random() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the time is part of the id")]
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::random_at(since_1970.as_millis() as u64)
    }

    /// The same, where it is known how late it is, in milliseconds since 1970.
    pub(crate) fn random_at(now: u64) -> Self {
        let mut text = uuid::Uuid::encode_buffer();
        Self::of(next(now).hyphenated().encode_lower(&mut text))
    }

    fn of(text: &str) -> Self {
        static KEYS: OnceLock<RandomState> = OnceLock::new();
        let digest = KEYS.get_or_init(RandomState::default).hash_one(text);
        let mut bytes = [0; Self::SHORT];
        let text = match bytes.get_mut(..text.len()) {
            Some(room) => {
                room.copy_from_slice(text.as_bytes());
                Text::Short { length: text.len() as u8, bytes }
            }
            None => Text::Long(text.into()),
        };
        Self { digest, text }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // What was copied in was a text.
        std::str::from_utf8(self.bytes()).unwrap_or_default()
    }

    fn bytes(&self) -> &[u8] {
        match &self.text {
            Text::Short { length, bytes } => &bytes[..usize::from(*length)],
            Text::Long(text) => text.as_bytes(),
        }
    }
}

impl PartialEq for SagaId {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest && self.bytes() == other.bytes()
    }
}

impl Eq for SagaId {}

impl PartialOrd for SagaId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SagaId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl Hash for SagaId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}

impl Serialize for SagaId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl FromStr for SagaId {
    type Err = InvalidName;

    fn from_str(id: &str) -> Result<Self, InvalidName> {
        check_name(id)?;
        Ok(Self::of(id))
    }
}

impl TryFrom<String> for SagaId {
    type Error = InvalidName;

    fn try_from(id: String) -> Result<Self, InvalidName> {
        id.parse()
    }
}

impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// As RFC 9562 has it in section 6.2, method 1: behind the milliseconds a counter of 12 bits, which borrows from the next millisecond where it is not enough,
/// and 62 random bits. Made here, because a thread's own generator costs a tenth of asking the system.
fn next(now: u64) -> uuid::Uuid {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = now << 12;
    let following = |last: u64| now.max(last.saturating_add(1));
    let last = LAST.fetch_update(Relaxed, Relaxed, |last| Some(following(last)));
    let number = following(last.unwrap_or_else(|last| last));
    let mut rest = [0; 10];
    rand::rng().fill_bytes(&mut rest[2..]);
    rest[..2].copy_from_slice(&(number as u16).to_be_bytes());
    uuid::Builder::from_unix_timestamp_millis(number >> 12, &rest).into_uuid()
}

/// Longest id or name, in bytes.
const LONGEST: usize = 128;

pub(crate) fn check_name(name: &str) -> Result<(), InvalidName> {
    let fits = (1..=LONGEST).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err(InvalidName(name.chars().take(LONGEST).collect()))
}

/// An id or name that is not 1 to 128 visible ASCII characters (of a step: without `/`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name: 1 to 128 visible ASCII characters, in steps without '/'")]
pub struct InvalidName(pub(crate) String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_differ_and_sort_by_time() {
        let ids: Vec<_> = (0..1_000).map(|_| SagaId::random()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] < pair[1]));
        let id: uuid::Uuid = ids[0].as_str().parse().unwrap();
        assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
    }

    #[test]
    fn random_ids_of_many_threads_differ() {
        let make = || (0..10_000).map(|_| SagaId::random()).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| std::thread::spawn(make)).collect();
        let made: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let different: std::collections::HashSet<_> = made.iter().collect();
        assert_eq!(different.len(), 40_000);
    }

    #[test]
    fn short_and_long_ids_equal_sort_and_are_written_as_their_texts() {
        let texts: Vec<String> = (1..=128).map(|length| "y".repeat(length)).collect();
        let ids: Vec<SagaId> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert!(ids.is_sorted() && size_of::<SagaId>() == 48);
        for (id, text) in ids.iter().zip(&texts) {
            assert_eq!((id.as_str(), id.to_string()), (&**text, text.clone()));
            let json = serde_json::to_string(id).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<SagaId>(&json).unwrap(), *id);
        }
        let different: std::collections::HashSet<_> = ids.iter().chain(&ids).collect();
        assert_eq!(different.len(), 128);
        assert!(ids[127] < "z".parse().unwrap());
    }

    #[test]
    fn what_cannot_stand_in_a_header_is_no_id() {
        for bad in ["", " ", "a b", "a\n", "ü", &"x".repeat(129)] {
            assert!(bad.parse::<SagaId>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(128).parse::<SagaId>().is_ok());
        assert!(serde_json::from_str::<SagaId>("\"a b\"").is_err());
    }
}

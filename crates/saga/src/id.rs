use std::{
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use rand::Rng;
use serde::{Deserialize, Serialize};

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
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct SagaId(Arc<str>);

impl SagaId {
    /// A new UUID, version 7: ids that were made later sort later.
    #[must_use]
    pub fn random() -> Self {
        let mut text = uuid::Uuid::encode_buffer();
        Self(next().hyphenated().encode_lower(&mut text)[..].into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SagaId {
    type Err = InvalidName;

    fn from_str(id: &str) -> Result<Self, InvalidName> {
        check_name(id)?;
        Ok(Self(id.into()))
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
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As RFC 9562 has it in section 6.2, method 1: behind the milliseconds a counter of 12 bits, which borrows from the next millisecond where it is not enough,
/// and 62 random bits. Made here, because a thread's own generator costs a tenth of asking the system.
fn next() -> uuid::Uuid {
    static LAST: AtomicU64 = AtomicU64::new(0);
    #[expect(clippy::disallowed_methods, reason = "the time is part of the id")]
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = (since_1970.as_millis() as u64) << 12;
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
    fn what_cannot_stand_in_a_header_is_no_id() {
        for bad in ["", " ", "a b", "a\n", "ü", &"x".repeat(129)] {
            assert!(bad.parse::<SagaId>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(128).parse::<SagaId>().is_ok());
        assert!(serde_json::from_str::<SagaId>("\"a b\"").is_err());
    }
}

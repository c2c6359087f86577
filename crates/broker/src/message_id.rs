use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use uuid::{Uuid, Variant, Version};

use crate::wall::wall_clock;

/// Unique id of a message: a UUID of version 7. Ids made by one process grow strictly with time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Uuid);

impl MessageId {
    /// The id with this value, of whatever version.
    #[must_use]
    pub const fn new(id: Uuid) -> Self {
        Self(id)
    }

    /// The id that this text always has, for messages that have an id of another kind elsewhere: a UUID of version 5, the SHA-1 of the text in a name space of
    /// this crate.
    ///
    /// ```
    /// use gusset_broker::MessageId;
    ///
    /// assert_eq!(MessageId::named("saga 7, message 2"), MessageId::named("saga 7, message 2"));
    /// assert_ne!(MessageId::named("saga 7, message 2"), MessageId::named("saga 7, message 3"));
    /// ```
    #[must_use]
    pub fn named(text: &str) -> Self {
        /// Drawn once; another would make other ids of the same texts.
        const SPACE: Uuid = Uuid::from_u128(0x8a5d_7c1e_42b9_4f06_9d3a_61c0_f2e7_b854);
        Self(Uuid::new_v5(&SPACE, text.as_bytes()))
    }

    /// The value.
    #[must_use]
    pub const fn get(self) -> Uuid {
        self.0
    }

    /// Written by hand because `Uuid::now_v7` keeps its counter under a lock that all threads share. This is method 3
    /// of RFC 9562, section 6.2: the 12 bits after the milliseconds are the fraction of the millisecond.
    pub(crate) fn next() -> (Self, SystemTime) {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let at = wall_clock();
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = ticks(since);
        let mut last = LAST.load(Relaxed);
        let ticks = loop {
            let next = now.max(last + 1);
            match LAST.compare_exchange_weak(last, next, Relaxed, Relaxed) {
                Ok(_) => break next,
                Err(seen) => last = seen,
            }
        };
        let random = u128::from(rand::random::<u64>());
        let bits = u128::from(ticks >> 12) << 80 | u128::from(ticks & 0xfff) << 64 | random;
        let mut builder = uuid::Builder::from_u128(bits);
        builder.set_version(Version::SortRand).set_variant(Variant::RFC4122);
        (Self(builder.into_uuid()), at)
    }
}

/// In 1/4096 of a millisecond, which fits until the year 10889, as the 48 bits of milliseconds do.
fn ticks(since: Duration) -> u64 {
    let fraction = u64::from(since.subsec_nanos()) << 12;
    since.as_secs().saturating_mul(1_000 << 12).saturating_add(fraction / 1_000_000)
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MessageId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn ids_grow_and_are_uuids_of_version_7_that_tell_the_time() {
        let mut last = MessageId::next().0;
        for _ in 0..10_000 {
            let (id, at) = MessageId::next();
            assert!(id > last);
            last = id;
            assert_eq!((id.get().get_version_num(), id.get().get_variant()), (7, Variant::RFC4122));
            let (secs, _) = id.get().get_timestamp().unwrap().to_unix();
            let clock = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            assert!(secs.abs_diff(clock) <= 10, "{secs} {clock}");
        }
        assert_eq!(last.to_string().parse::<MessageId>().unwrap(), last);
    }

    #[test]
    fn ids_of_several_threads_differ() {
        let threads: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| [(); 5_000].map(|()| MessageId::next().0).to_vec()))
            .collect();
        let ids: HashSet<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        assert_eq!(ids.len(), 20_000);
    }

    #[test]
    fn a_name_has_the_same_id_in_every_process() {
        let id = MessageId::named("order 7");
        assert_eq!(id.to_string(), "c15fe3cc-54f8-5930-a14a-527197ca824f");
        assert_eq!((id.get().get_version_num(), id.get().get_variant()), (5, Variant::RFC4122));
    }

    proptest! {
        #[test]
        fn ticks_never_go_back_and_never_overflow(a: u64, b: u64, nanos in 0u32..1_000_000_000) {
            let (early, late) = (a.min(b), a.max(b));
            prop_assert!(ticks(Duration::new(early, nanos)) <= ticks(Duration::new(late, nanos)));
        }
    }
}

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use uuid::{Uuid, Variant, Version};

use crate::wall::wall_nanos;

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
    ///
    /// Also when that was, as [`wall_nanos`] says it.
    pub(crate) fn next() -> (Self, u64) {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let at = wall_nanos();
        let now = ticks(at);
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

/// In 1/4096 of a millisecond.
const fn ticks(nanos: u64) -> u64 {
    const MILLI: u64 = 1_000_000;
    ((nanos / MILLI) << 12) + ((nanos % MILLI) << 12) / MILLI
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
            let clock = at / 1_000_000_000;
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
        fn ticks_never_go_back_and_are_those_of_their_millisecond(a: u64, b: u64) {
            prop_assert!(ticks(a.min(b)) <= ticks(a.max(b)));
            prop_assert_eq!(ticks(a) >> 12, a / 1_000_000);
        }
    }
}

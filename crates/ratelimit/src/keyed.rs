use std::{
    borrow::Borrow,
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher, Hash},
    marker::PhantomData,
    num::NonZeroUsize,
    sync::Arc,
};

use gusset_call::Limited;
use tokio::time::Instant;

use crate::{
    Denied, Level, Quota, Stats,
    gcra::{Gcra, Now},
    stats::Counters,
    table::Table,
};

/// One bucket per key, in memory that never grows. Clones share the buckets.
///
/// ```
/// use std::{net::IpAddr, num::NonZeroUsize};
/// use gusset_ratelimit::{Keyed, Quota};
///
/// let clients = Keyed::<IpAddr>::new(Quota::per_minute(100).burst(1), NonZeroUsize::new(10_000).unwrap());
/// let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
/// assert!(clients.check(&one).is_ok());
/// assert!(clients.check(&one).is_err());
/// assert!(clients.check(&other).is_ok());
/// ```
///
/// # Memory
///
/// 16 bytes per key of `capacity`, taken at once and for good; keys themselves are not kept, however long they are. Only a key
/// whose bucket is not full takes a place; the place of any other is free without anything being swept.
///
/// When so many buckets are not full that a new key finds none of its 14 places free, the bucket among those that would be full soonest
/// makes room: its key begins anew with a full one, and [`live_evictions`](Self::live_evictions) counts it. With `capacity`
/// such keys at once that happens to not one in a million, with half as many again to one in 200. Beyond, as in a flood of
/// made-up keys, it is above all those that make room for each other, for a key that used its bucket once is full again long before one
/// that emptied it. With a burst of 1, where there is no such difference, the older one makes room.
///
/// # Keys that share a bucket
///
/// A key is known by two places and a tag of 23 bits, all from one hash that is seeded anew for each limiter (SipHash), so
/// nobody can choose keys that collide. A new key meets a stranger's bucket for its own with a probability of 14 places taken over
/// 2²³, one in 600,000, at the worst, and of about one in a million at `capacity`. The two then draw from one bucket, which may refuse one of them too soon, or
/// let it start anew, until the bucket is full again. Do not use it where even that is too often.
pub struct Keyed<K: ?Sized> {
    shared: Arc<Shared>,
    key: PhantomData<fn(&K)>,
}

struct Shared {
    quota: Quota,
    gcra: Gcra,
    table: Table,
    hasher: RandomState,
    epoch: Instant,
    counters: Counters,
}

impl<K: Hash + ?Sized> Keyed<K> {
    /// The same quota for every key; `capacity` is how many keys it must be able to keep apart at once, above
    /// all those that are at their limit.
    #[must_use]
    pub fn new(quota: Quota, capacity: NonZeroUsize) -> Self {
        let gcra = Gcra::new(quota, Table::BURST_BITS);
        let shared = Shared {
            quota,
            gcra,
            table: Table::new(gcra, capacity.get()),
            hasher: RandomState::new(),
            epoch: Instant::now(),
            counters: Counters::default(),
        };
        Self { shared: Arc::new(shared), key: PhantomData }
    }

    /// Takes one token of `key`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Limited`] if there is none. Nothing is taken then.
    pub fn check<Q>(&self, key: &Q) -> Result<Level, Limited>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.check_n(key, 1).map_err(|denied| self.shared.gcra.single(denied))
    }

    /// Takes `cost` tokens of `key`, all or none; a cost of 0 takes nothing and is never refused.
    ///
    /// # Errors
    ///
    /// [`Denied::Limited`] if there are not as many now, [`Denied::TooCostly`] if there never will be. Nothing is
    /// taken then.
    pub fn check_n<Q>(&self, key: &Q, cost: u32) -> Result<Level, Denied>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let now = self.shared.now();
        let result = self.shared.take(self.shared.hasher.hash_one(key), cost, now);
        self.shared.counters.count(result.is_ok());
        result
    }

    /// How full the bucket of `key` is. Takes nothing.
    #[must_use]
    pub fn peek<Q>(&self, key: &Q) -> Level
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let now = self.shared.now();
        let full_at = self.shared.table.full_at(self.shared.hasher.hash_one(key), now);
        self.shared.gcra.level(full_at, now)
    }
}

impl<K: ?Sized> Keyed<K> {
    /// What the limiter allows each key.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.shared.quota
    }

    /// How many calls were allowed and refused, of all keys together.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counters.stats()
    }

    /// How many keys were forgotten before their buckets were full again, for want of room. If it grows, `capacity` is too small
    /// or someone makes up keys.
    #[must_use]
    pub fn live_evictions(&self) -> u64 {
        self.shared.table.live_evictions()
    }
}

impl Shared {
    fn now(&self) -> Now {
        self.gcra.now(self.epoch.elapsed())
    }

    fn take(&self, hash: u64, cost: u32, now: Now) -> Result<Level, Denied> {
        let cost = self.gcra.cost(cost).map_err(Denied::TooCostly)?;
        if cost == 0 {
            // Nothing to remember, so nobody has to make room for it.
            return Ok(self.gcra.level(self.table.full_at(hash, now), now));
        }
        match self.table.take(hash, cost, now) {
            Ok(full_at) => Ok(self.gcra.level(full_at, now)),
            Err(allowed_at) => Err(Denied::Limited(self.gcra.limited(allowed_at, now))),
        }
    }
}

impl<K: ?Sized> Clone for Keyed<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), key: PhantomData }
    }
}

impl<K: ?Sized> fmt::Debug for Keyed<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyed").field("quota", &self.shared.quota).finish_non_exhaustive()
    }
}

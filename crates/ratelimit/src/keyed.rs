use std::{borrow::Borrow, fmt, hash::Hash, marker::PhantomData, num::NonZeroUsize, sync::Arc};

use gusset_call::{Clock, Limited};

use crate::{
    Charge, Denied, Level, Quota, Refused, Stats,
    gcra::Unmet,
    hashing::Hashing,
    stats::Counters,
    table::{Home, Table},
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
/// such keys at once that happens to about three in a million, with a quarter more to one in 4,000, with half as many again to one in 100. Beyond, as in a flood of
/// made-up keys, it is above all those that make room for each other, for a key that used its bucket once is full again long before one
/// that emptied it. With a burst of 1, where there is no such difference, the older one makes room.
///
/// # Keys that share a bucket
///
/// A key is known by two places and a tag of 23 bits, all from one hash, by folded multiplication under 128 bits that are drawn for each limiter
/// from the operating system. Whoever does not know those cannot choose keys that collide. It is not a cryptographic hash, which would
/// cost as much as all the rest: somebody who could ask for millions of keys and tell from the answers which of them share a bucket
/// might, in theory, learn something of the seeds. Against such a one use [`ExactKeyed`](crate::ExactKeyed), where a collision costs time but
/// never shares a bucket.
///
/// A new key meets a stranger's bucket for its own with a probability of 14 places taken over
/// 2²³, one in 600,000, at the worst, and of about one in a million at `capacity`. The two then draw from one bucket, which may refuse one of them too soon, or
/// let it start anew, until the bucket is full again. Do not use it where even that is too often.
pub struct Keyed<K: ?Sized> {
    shared: Arc<Shared>,
    key: PhantomData<fn(&K)>,
}

struct Shared {
    table: Table,
    hashing: Hashing,
    clock: Clock,
    counters: Counters,
}

impl<K: ?Sized> Keyed<K> {
    /// The same quota for every key; `capacity` is how many keys it must be able to keep apart at once, above
    /// all those that are at their limit.
    #[must_use]
    pub fn new(quota: Quota, capacity: NonZeroUsize) -> Self {
        let shared = Shared {
            table: Table::new(quota, capacity.get()),
            hashing: Hashing::new(),
            clock: Clock::new(),
            counters: Counters::default(),
        };
        Self { shared: Arc::new(shared), key: PhantomData }
    }

    /// Refuses a new key that finds no room, rather than forgetting another: for where a limit must hold though the world ends. Whoever
    /// floods the table then keeps out those who come for the first time, until the flood's own buckets are full again.
    #[must_use]
    pub fn refuse_new_keys(self) -> Self {
        self.shared.table.refuse_new();
        self
    }
}

impl<K: Hash + ?Sized> Keyed<K> {
    /// Takes one token of `key`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Limited`] if there is none. Nothing is taken then.
    #[inline(always)]
    pub fn check<Q>(&self, key: &Q) -> Result<Level, Limited>
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        let home = self.shared.table.home(self.shared.hashing.of(key));
        let nanos = self.shared.clock.nanos();
        match self.shared.take_now(&home, 1, nanos) {
            Some(level) => Ok(level),
            None => self.shared.check(&home, 1).map_err(|refused| self.shared.limited(refused)),
        }
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
        let home = self.shared.table.home(self.shared.hashing.of(key));
        let nanos = self.shared.clock.nanos();
        match self.shared.take_now(&home, cost, nanos) {
            Some(level) => Ok(level),
            None => Ok(self.shared.check(&home, cost)?),
        }
    }

    /// How full the bucket of `key` is. Takes nothing.
    #[must_use]
    pub fn peek<Q>(&self, key: &Q) -> Level
    where
        K: Borrow<Q>,
        Q: Hash + ?Sized,
    {
        self.shared.look(self.shared.hashing.of(key))
    }
}

impl<K: Hash + ?Sized> Charge<K> for Keyed<K> {
    fn charge(&self, key: &K, cost: u32) -> Result<Option<Level>, Refused> {
        match cost {
            1 => Ok(Some(self.check(key)?)),
            cost => Ok(Some(self.check_n(key, cost).map_err(|denied| self.refused(denied))?)),
        }
    }

    fn test(&self, key: &K, cost: u32) -> Result<Option<Level>, Refused> {
        let home = self.shared.table.home(self.shared.hashing.of(key));
        match self.shared.table.test(&home, cost, &|| self.shared.clock.nanos()) {
            Ok((era, full_at)) => Ok(Some(era.gcra.level(full_at, era.now))),
            Err(unmet) => Err(self.refused(unmet.into())),
        }
    }

    fn give_back(&self, key: &K, cost: u32) {
        let home = self.shared.table.home(self.shared.hashing.of(key));
        self.shared.table.give_back(&home, cost, &|| self.shared.clock.nanos());
        self.shared.counters.count_given_back();
    }

    fn count_refused(&self, _: &K) {
        self.shared.counters.count_refused();
    }

    fn quota(&self) -> Option<Quota> {
        Some(self.quota())
    }

    fn changes(&self) -> u64 {
        self.changes()
    }
}

impl<K: ?Sized> Keyed<K> {
    fn refused(&self, denied: Denied) -> Refused {
        denied.under(|| self.quota())
    }
}

impl<K: ?Sized> Keyed<K> {
    /// What the limiter allows each key.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.shared.table.quota()
    }

    /// How often the quota was changed.
    pub(crate) fn changes(&self) -> u64 {
        self.shared.table.changes()
    }

    /// Allows each key something else from now on. Spent tokens stay spent, as in
    /// [`RateLimiter::set_quota`](crate::RateLimiter::set_quota). Visits all lines of the table, about a nanosecond for each byte of it, while
    /// callers go on.
    pub fn set_quota(&self, quota: Quota) {
        self.shared.table.set_quota(quota, &|| self.shared.clock.nanos());
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

    /// How many calls were refused because their keys were new and found no room; see [`refuse_new_keys`](Self::refuse_new_keys).
    #[must_use]
    pub fn refused_new_keys(&self) -> u64 {
        self.shared.table.refused_new()
    }
}

impl Shared {
    #[inline(always)]
    fn take_now(&self, home: &Home<'_>, cost: u32, nanos: u64) -> Option<Level> {
        let level = self.table.take_now(home, cost, nanos);
        if level.is_some() {
            self.counters.count_allowed();
        }
        level
    }

    #[inline(never)]
    fn check(&self, home: &Home<'_>, cost: u32) -> Result<Level, Unmet> {
        let clock = &|| self.clock.nanos();
        let result = match cost {
            // Nothing to remember, so nobody has to make room for it.
            0 => Ok(self.table.look(home, clock)),
            _ => self.table.take(home, cost, clock),
        };
        match &result {
            Ok(_) => self.counters.count_allowed(),
            Err(_) => self.counters.count_refused(),
        }
        result.map(|(era, full_at)| era.gcra.level(full_at, era.now))
    }

    fn look(&self, hash: u64) -> Level {
        let home = self.table.home(hash);
        let (era, full_at) = self.table.look(&home, &|| self.clock.nanos());
        era.gcra.level(full_at, era.now)
    }

    /// The refusal of a single token, which is too costly only for a quota that allows nothing.
    #[cold]
    fn limited(&self, refused: Unmet) -> Limited {
        match refused.into() {
            Denied::Limited(limited) => limited,
            Denied::TooCostly(_) => Limited::new(self.table.quota().per),
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
        f.debug_struct("Keyed").field("quota", &self.quota()).finish_non_exhaustive()
    }
}

use std::{
    borrow::Borrow,
    fmt,
    hash::Hash,
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use gusset_call::{Clock, Limited};

use crate::{
    Charge, Denied, Level, Quota, Refused, Stats,
    gcra::{Gcra, Unmet},
    hashing::Hashing,
    shard::{Newcomer, Shard, Taken, Wanted},
    stats::Counters,
};

/// One bucket per key, where two keys never share one: the keys are kept. Clones share the buckets.
///
/// ```
/// use std::num::NonZeroUsize;
/// use gusset_ratelimit::{ExactKeyed, Quota};
///
/// let tenants = ExactKeyed::<String>::new(Quota::per_second(1), NonZeroUsize::new(1_000).unwrap());
/// assert!(tenants.check("ann").is_ok());
/// assert!(tenants.check("ann").is_err());
/// assert!(tenants.check("bob").is_ok());
/// ```
///
/// Prefer [`Keyed`](crate::Keyed) unless one in a million is too many: it is smaller, has no lock, and says the same.
///
/// # Memory
///
/// Of fixed size, taken at once: room for `capacity` keys and a quarter more, in up to 64 shards, each half to three quarters full at most. That is 1.7 to
/// 3.4 slots for each key of `capacity`, each as large as a key and 16 to 24 bytes, and besides what keys own themselves. A
/// full bucket is as good as none; each new key frees up to two of those, so nothing is ever swept.
///
/// Keys spread over the shards by chance, so one shard may have no room left while as many as `capacity` are held, or a little
/// sooner. With several times the capacity that is needed, that hardly happens. When a shard has no room left, a new key looks at 256 slots of it for a full bucket, which is all of them in a limiter of up to 127 keys. If it finds none, it
/// takes the place of the one among them that would be full soonest, and
/// [`live_evictions`](Self::live_evictions) counts it. Or it is refused, see [`refuse_new_keys`](Self::refuse_new_keys).
///
/// # Locks
///
/// Each shard has one, held for a short time that does not depend on the number of keys. Keys are hashed, cloned and dropped outside; they are compared
/// inside.
pub struct ExactKeyed<K> {
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    shards: Box<[Mutex<Shard<K>>]>,
    quota: Mutex<Quota>,
    /// Held while the shards are gone through, by those who change the quota only.
    changing: Mutex<()>,
    hashing: Hashing,
    clock: Clock,
    counters: Counters,
    refuse_new: AtomicBool,
    /// How often the quota was changed.
    changes: AtomicU64,
    live_evictions: AtomicU64,
    refused_new: AtomicU64,
}

impl<K> ExactKeyed<K> {
    /// Ticks of a burst fit into so many bits.
    const BURST_BITS: u32 = 62;

    const MOST_SHARDS: usize = 64;

    /// The same quota for every key; `capacity` is about how many keys that are not at rest it can hold at once: choose it with room to spare, for keys spread unevenly.
    #[must_use]
    pub fn new(quota: Quota, capacity: NonZeroUsize) -> Self {
        let capacity = capacity.get();
        let shards = (capacity / 64).next_power_of_two().min(Self::MOST_SHARDS);
        // Keys are spread unevenly; a quarter is five times the deviation of a shard of 400.
        let most = capacity.div_ceil(shards);
        let most = most + if shards > 1 { most / 4 + 8 } else { 0 };
        let gcra = Gcra::new(quota, Self::BURST_BITS);
        let shared = Shared {
            shards: (0..shards).map(|_| Mutex::new(Shard::new(gcra, most))).collect(),
            quota: Mutex::new(quota),
            changing: Mutex::new(()),
            hashing: Hashing::new(),
            clock: Clock::new(),
            counters: Counters::default(),
            refuse_new: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            live_evictions: AtomicU64::new(0),
            refused_new: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Refuses a new key that finds no room, rather than forgetting another. It may be refused while a full bucket stands where it has not looked; the
    /// next one looks on from there.
    #[must_use]
    pub fn refuse_new_keys(self) -> Self {
        self.shared.refuse_new.store(true, Relaxed);
        self
    }

    /// What the limiter allows each key.
    #[must_use]
    pub fn quota(&self) -> Quota {
        *lock(&self.shared.quota)
    }

    /// Allows each key something else from now on. Spent tokens stay spent, as in
    /// [`RateLimiter::set_quota`](crate::RateLimiter::set_quota). Each shard is locked while its keys are gone through, one after the other.
    pub fn set_quota(&self, quota: Quota) {
        let _alone = lock(&self.shared.changing);
        *lock(&self.shared.quota) = quota;
        self.shared.changes.fetch_add(1, Release);
        let gcra = Gcra::new(quota, Self::BURST_BITS);
        for shard in &self.shared.shards {
            lock(shard).set_gcra(gcra, self.shared.clock.nanos());
        }
    }

    /// How many calls were allowed and refused, of all keys together.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counters.stats()
    }

    /// How many keys are held, those with full buckets that nobody has needed the place of among them.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.shared.shards.iter().map(|shard| lock(shard).used()).sum()
    }

    /// How many keys were forgotten before their buckets were full again, for want of room.
    #[must_use]
    pub fn live_evictions(&self) -> u64 {
        self.shared.live_evictions.load(Relaxed)
    }

    /// How many calls were refused because their keys were new and found no room.
    #[must_use]
    pub fn refused_new_keys(&self) -> u64 {
        self.shared.refused_new.load(Relaxed)
    }
}

impl<K: Hash + Eq> ExactKeyed<K> {
    /// Takes one token of `key`, if there is one.
    ///
    /// # Errors
    ///
    /// [`Limited`] if there is none. Nothing is taken then.
    pub fn check<Q>(&self, key: &Q) -> Result<Level, Limited>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        self.shared.take(key, 1).map_err(|unmet| match unmet.into() {
            Denied::Limited(limited) => limited,
            Denied::TooCostly(_) => Limited::new(self.quota().per),
        })
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
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        Ok(self.shared.take(key, cost)?)
    }

    /// How full the bucket of `key` is. Takes nothing.
    #[must_use]
    pub fn peek<Q>(&self, key: &Q) -> Level
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let (shard, wanted) = self.shared.find(key);
        let shard = lock(shard);
        let (gcra, now, full_at) = shard.look(&wanted, self.shared.clock.nanos());
        gcra.level(full_at, now)
    }
}

impl<K: Hash + Eq> Shared<K> {
    fn find<'a, Q>(&'a self, key: &'a Q) -> (&'a Mutex<Shard<K>>, Wanted<impl Fn(&K) -> bool + 'a>)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hashing.of(key);
        // The upper bits; a shard uses the lower ones.
        let shard = &self.shards[(hash >> 58) as usize & (self.shards.len() - 1)];
        (shard, Wanted { hash, is: move |other: &K| other.borrow() == key })
    }

    fn take<Q>(&self, key: &Q, cost: u32) -> Result<Level, Unmet>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let (shard, wanted) = self.find(key);
        // Inside of the lock, or a caller that sleeps in between would take it for a clock that went back.
        let attempt = |newcomer: &mut Option<_>| {
            lock(shard).take(&wanted, newcomer, cost, self.clock.nanos())
        };
        let mut taken = attempt(&mut None);
        if let Taken::New = taken {
            let refuse_if_full = self.refuse_new.load(Relaxed);
            let mut newcomer = Some(Newcomer { key: key.to_owned(), refuse_if_full });
            taken = attempt(&mut newcomer);
        }
        let result = match taken {
            Taken::Done(gcra, now, full_at) => Ok(gcra.level(full_at, now)),
            Taken::Made(gcra, now, full_at, gone) => {
                self.live_evictions.fetch_add(gone.live.into(), Relaxed);
                drop(gone.keys);
                Ok(gcra.level(full_at, now))
            }
            Taken::Unmet(unmet) => Err(unmet),
            Taken::NoRoom(unmet) => {
                self.refused_new.fetch_add(1, Relaxed);
                Err(unmet)
            }
            // Not of one that was at hand.
            Taken::New => return self.take(key, cost),
        };
        self.counters.count(result.is_ok());
        result
    }
}

impl<K: Hash + Eq + Clone> Charge<K> for ExactKeyed<K> {
    fn charge(&self, key: &K, cost: u32) -> Result<Option<Level>, Refused> {
        Ok(Some(self.check_n(key, cost).map_err(|denied| denied.under(|| self.quota()))?))
    }

    fn test(&self, key: &K, cost: u32) -> Result<Option<Level>, Refused> {
        let (shard, wanted) = self.shared.find(key);
        let (gcra, now, full_at) = lock(shard).look(&wanted, self.shared.clock.nanos());
        let tested = match gcra.cost(cost) {
            Err(costly) => Err(Unmet::TooCostly(costly)),
            Ok(cost) => {
                gcra.take(full_at, cost, now, now.tick).map_err(|at| Unmet::Until(gcra, now, at))
            }
        };
        match tested {
            Ok(_) => Ok(Some(gcra.level(full_at, now))),
            Err(unmet) => Err(Denied::from(unmet).under(|| self.quota())),
        }
    }

    fn give_back(&self, key: &K, cost: u32) {
        let (shard, wanted) = self.shared.find(key);
        lock(shard).give_back(&wanted, cost);
        self.shared.counters.count_given_back();
    }

    fn count_refused(&self, _: &K) {
        self.shared.counters.count_refused();
    }

    fn quota(&self) -> Option<Quota> {
        Some(self.quota())
    }

    fn changes(&self) -> u64 {
        self.shared.changes.load(Acquire)
    }
}

/// Nothing is half changed where a key's comparison may panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K> Clone for ExactKeyed<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K> fmt::Debug for ExactKeyed<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExactKeyed")
            .field("quota", &self.quota())
            .field("keys", &self.keys())
            .finish_non_exhaustive()
    }
}

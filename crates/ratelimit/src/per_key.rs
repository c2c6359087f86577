use std::{
    fmt,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    Charge, Extract, Greedy, Keyed, Level, Limit, Quota, RateLimiter, Refused, Stats, WithoutKey,
    limit::NO_KEY, stats::Counters,
};

/// One bucket for each key found in the requests. Clones share the buckets.
pub struct PerKey<K, X> {
    keyed: Keyed<K>,
    extract: X,
    keyless: Keyless,
    /// How many changes of the keys' quota the bucket of those without a key has followed.
    followed: Arc<AtomicU64>,
    noted: Option<Noted<K>>,
}

/// Where refused keys are noted, and how they are shown.
type Noted<K> = (Greedy, fn(&Greedy, &K));

/// [`WithoutKey`], with what it needs.
#[derive(Clone, Debug)]
enum Keyless {
    ShareOne(RateLimiter),
    Pass(Arc<Counters>),
    Refuse(Arc<Counters>),
}

impl<K, X> PerKey<K, X> {
    /// The key of a request is what `extract` finds in it; requests without one share one bucket.
    #[must_use]
    pub fn new(keyed: Keyed<K>, extract: X) -> Self {
        let followed = Arc::new(AtomicU64::new(keyed.changes()));
        let keyless = Keyless::ShareOne(RateLimiter::new(keyed.quota()));
        Self { keyless, followed, keyed, extract, noted: None }
    }

    /// How many requests had no key, and were allowed or refused; of all clones together.
    ///
    /// If it grows with all requests, no key is ever found: on a server, the peer's address may be missing in the extensions.
    #[must_use]
    pub fn stats_without_key(&self) -> Stats {
        match &self.keyless {
            Keyless::ShareOne(shared) => shared.stats(),
            Keyless::Pass(counters) | Keyless::Refuse(counters) => counters.stats(),
        }
    }

    /// Gives the bucket of those without a key the quota of those with one, if that has changed.
    fn follow(&self, shared: &RateLimiter) {
        let mut changes = self.keyed.changes();
        if self.followed.load(Relaxed) != changes && self.followed.swap(changes, Relaxed) != changes
        {
            // Again, if it has changed meanwhile: whoever follows that change may have been faster.
            loop {
                shared.set_quota(self.keyed.quota());
                let changed = std::mem::replace(&mut changes, self.keyed.changes());
                if changed == changes {
                    return;
                }
            }
        }
    }

    pub(crate) fn without_key(mut self, policy: WithoutKey) -> Self {
        self.keyless = match policy {
            WithoutKey::ShareOne => Keyless::ShareOne(RateLimiter::new(self.keyed.quota())),
            WithoutKey::Pass => Keyless::Pass(Arc::default()),
            WithoutKey::Refuse => Keyless::Refuse(Arc::default()),
        };
        self
    }
}

impl<K: fmt::Display, X> PerKey<K, X> {
    pub(crate) fn note_refused(mut self, greedy: &Greedy) -> Self {
        self.noted = Some((greedy.clone(), |greedy, key| greedy.note(key)));
        self
    }
}

impl<K: Hash, X> PerKey<K, X> {
    #[inline]
    fn admit_key(&self, key: &K, cost: u32) -> Result<Option<Level>, Refused> {
        if cost == 1 {
            return Ok(Some(self.keyed.check(key)?));
        }
        match self.keyed.check_n(key, cost) {
            Err(denied) if denied.is_for_now() => Ok(Some(self.keyed.check(key)?)),
            result => result.map(Some).map_err(Refused::from),
        }
    }

    #[cold]
    fn note(&self, key: &K) {
        if let Some((greedy, note)) = &self.noted {
            note(greedy, key);
        }
    }
}

impl<K, X, Req> Limit<Req> for PerKey<K, X>
where
    K: Hash,
    X: Extract<Req, Key = K>,
{
    fn admit(&self, request: &Req, cost: u32) -> Result<Option<Level>, Refused> {
        match (self.extract.extract(request), &self.keyless) {
            (Some(key), _) => {
                let admitted = self.admit_key(&key, cost);
                if admitted.is_err() {
                    self.note(&key);
                }
                admitted
            }
            (None, Keyless::ShareOne(shared)) => {
                self.follow(shared);
                shared.admit(request, cost)
            }
            (None, Keyless::Pass(counters)) => {
                counters.count_allowed();
                Ok(None)
            }
            (None, Keyless::Refuse(counters)) => {
                counters.count_refused();
                Err(NO_KEY.into())
            }
        }
    }

    fn peek(&self, request: &Req) -> Option<Level> {
        match (self.extract.extract(request), &self.keyless) {
            (Some(key), _) => Some(self.keyed.peek(&key)),
            (None, Keyless::ShareOne(shared)) => Some(shared.peek()),
            (None, Keyless::Pass(_) | Keyless::Refuse(_)) => None,
        }
    }

    fn changes(&self) -> u64 {
        self.keyed.changes()
    }

    fn quota(&self) -> Option<Quota> {
        Some(self.keyed.quota())
    }
}

impl<K, X, Req> Charge<Req> for PerKey<K, X>
where
    K: Hash,
    X: Extract<Req, Key = K>,
{
    fn charge(&self, request: &Req, cost: u32) -> Result<Option<Level>, Refused> {
        self.admit(request, cost)
    }

    fn test(&self, request: &Req, cost: u32) -> Result<Option<Level>, Refused> {
        match (self.extract.extract(request), &self.keyless) {
            (Some(key), _) => self.keyed.test(&key, cost),
            (None, Keyless::ShareOne(shared)) => {
                self.follow(shared);
                shared.test(request, cost)
            }
            (None, Keyless::Pass(_)) => Ok(None),
            (None, Keyless::Refuse(_)) => Err(NO_KEY.into()),
        }
    }

    fn give_back(&self, request: &Req, cost: u32) {
        match (self.extract.extract(request), &self.keyless) {
            (Some(key), _) => self.keyed.give_back(&key, cost),
            (None, Keyless::ShareOne(shared)) => shared.give_back(request, cost),
            (None, Keyless::Pass(counters)) => counters.count_given_back(),
            (None, Keyless::Refuse(_)) => {}
        }
    }

    fn level(&self, request: &Req) -> Option<Level> {
        self.peek(request)
    }

    fn count_refused(&self, request: &Req) {
        match (self.extract.extract(request), &self.keyless) {
            (Some(key), _) => {
                self.keyed.count_refused(&key);
                self.note(&key);
            }
            (None, Keyless::ShareOne(shared)) => shared.count_refused(request),
            (None, Keyless::Pass(counters) | Keyless::Refuse(counters)) => counters.count_refused(),
        }
    }

    fn quota(&self) -> Option<Quota> {
        Some(self.keyed.quota())
    }

    fn changes(&self) -> u64 {
        self.keyed.changes()
    }
}

impl<K, X: Clone> Clone for PerKey<K, X> {
    fn clone(&self) -> Self {
        Self {
            keyed: self.keyed.clone(),
            extract: self.extract.clone(),
            keyless: self.keyless.clone(),
            followed: self.followed.clone(),
            noted: self.noted.clone(),
        }
    }
}

impl<K, X> fmt::Debug for PerKey<K, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerKey")
            .field("keyed", &self.keyed)
            .field("keyless", &self.keyless)
            .finish_non_exhaustive()
    }
}

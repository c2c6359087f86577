use std::{
    error::Error,
    fmt,
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use gusset_call::{BoxError, Inadmissible, Limited};

use crate::{Charge, Denied, Extract, Keyed, Level, Quota, RateLimiter, WithoutKey};

/// Decides about requests.
pub trait Limit<Req> {
    /// Takes `cost` tokens for `request`. Runs on the path of every call; it does not wait.
    ///
    /// # Errors
    ///
    /// [`Refused`] if they are not given. `Ok(None)` lets the request pass without a bucket.
    fn admit(&self, request: &Req, cost: u32) -> Result<Option<Level>, Refused>;

    /// What `request` costs. Default 1.
    fn cost(&self, request: &Req) -> u32 {
        let _ = request;
        1
    }

    /// How full the bucket of `request` is; `None` if it has none. Takes nothing.
    fn peek(&self, request: &Req) -> Option<Level>;

    /// How often the quota was changed. Runs on the path of every call whose client is told of the quota. Default 0: never.
    fn changes(&self) -> u64 {
        0
    }

    /// The quota as it is now, asked for when it has changed. Default `None`: it stays as it was.
    fn quota(&self) -> Option<Quota> {
        None
    }
}

impl<Req> Limit<Req> for RateLimiter {
    fn admit(&self, _: &Req, cost: u32) -> Result<Option<Level>, Refused> {
        match cost {
            1 => Ok(Some(self.check()?)),
            cost => match self.check_n(cost) {
                Err(denied) if denied.is_for_now() => Ok(Some(self.check()?)),
                result => result.map(Some).map_err(Refused::from),
            },
        }
    }

    fn peek(&self, _: &Req) -> Option<Level> {
        Some(self.peek())
    }

    fn changes(&self) -> u64 {
        self.changes()
    }

    fn quota(&self) -> Option<Quota> {
        Some(self.quota())
    }
}

/// Why a request was not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// There are not enough tokens now. The refusal says when there will be.
    Limited(Limited),
    /// There never will be.
    Inadmissible(Inadmissible),
}

impl Refused {
    /// The refusal itself, as callers of services find it.
    pub(crate) fn into_error(self) -> BoxError {
        match self {
            Self::Limited(limited) => limited.into(),
            Self::Inadmissible(inadmissible) => inadmissible.into(),
        }
    }
}

impl From<Limited> for Refused {
    fn from(limited: Limited) -> Self {
        Self::Limited(limited)
    }
}

impl From<Inadmissible> for Refused {
    fn from(inadmissible: Inadmissible) -> Self {
        Self::Inadmissible(inadmissible)
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Limited(limited) => Self::Limited(limited),
            Denied::TooCostly(_) => Self::Inadmissible(TOO_COSTLY),
        }
    }
}

impl Denied {
    /// The same, where no cost is wrong if nothing is allowed at all.
    pub(crate) fn under(self, quota: Quota) -> Refused {
        if self.is_for_now() { Limited::new(quota.per).into() } else { self.into() }
    }

    /// Nothing is allowed, so it is not the cost that is wrong: one token is refused as well, and says when to come back.
    pub(crate) fn is_for_now(&self) -> bool {
        matches!(self, Self::TooCostly(costly) if costly.burst() == 0)
    }
}

pub(crate) const TOO_COSTLY: Inadmissible =
    Inadmissible::new("the call costs more than is ever allowed at once");
pub(crate) const NO_KEY: Inadmissible =
    Inadmissible::new("the call lacks what callers are told apart by");

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limited(limited) => limited.fmt(f),
            Self::Inadmissible(inadmissible) => inadmissible.fmt(f),
        }
    }
}

impl Error for Refused {
    /// The refusal, so that `gusset_call::refusal_in` finds it.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Limited(limited) => Some(limited),
            Self::Inadmissible(inadmissible) => Some(inadmissible),
        }
    }
}

/// One bucket for each key found in the requests. Clones share the buckets.
pub struct PerKey<K, X> {
    keyed: Keyed<K>,
    extract: X,
    keyless: Keyless,
    /// How many changes of the keys' quota the bucket of those without a key has followed.
    followed: Arc<AtomicU64>,
}

/// [`WithoutKey`], with what it needs.
#[derive(Clone, Debug)]
enum Keyless {
    ShareOne(RateLimiter),
    Pass,
    Refuse,
}

impl<K, X> PerKey<K, X> {
    /// The key of a request is what `extract` finds in it; requests without one share one bucket.
    #[must_use]
    pub fn new(keyed: Keyed<K>, extract: X) -> Self {
        let followed = Arc::new(AtomicU64::new(keyed.changes()));
        let keyless = Keyless::ShareOne(RateLimiter::new(keyed.quota()));
        Self { keyless, followed, keyed, extract }
    }

    /// Gives the bucket of those without a key the quota of those with one, if that has changed.
    fn follow(&self, shared: &RateLimiter) {
        let changes = self.keyed.changes();
        if self.followed.load(Relaxed) != changes && self.followed.swap(changes, Relaxed) != changes
        {
            shared.set_quota(self.keyed.quota());
        }
    }

    pub(crate) fn without_key(mut self, policy: WithoutKey) -> Self {
        self.keyless = match policy {
            WithoutKey::ShareOne => Keyless::ShareOne(RateLimiter::new(self.keyed.quota())),
            WithoutKey::Pass => Keyless::Pass,
            WithoutKey::Refuse => Keyless::Refuse,
        };
        self
    }
}

impl<K, X, Req> Limit<Req> for PerKey<K, X>
where
    K: Hash,
    X: Extract<Req, Key = K>,
{
    fn admit(&self, request: &Req, cost: u32) -> Result<Option<Level>, Refused> {
        match (self.extract.extract(request), &self.keyless) {
            (Some(key), _) if cost == 1 => Ok(Some(self.keyed.check(&key)?)),
            (Some(key), _) => match self.keyed.check_n(&key, cost) {
                Err(denied) if denied.is_for_now() => Ok(Some(self.keyed.check(&key)?)),
                result => result.map(Some).map_err(Refused::from),
            },
            (None, Keyless::ShareOne(shared)) => {
                self.follow(shared);
                shared.admit(request, cost)
            }
            (None, Keyless::Pass) => Ok(None),
            (None, Keyless::Refuse) => Err(NO_KEY.into()),
        }
    }

    fn peek(&self, request: &Req) -> Option<Level> {
        match (self.extract.extract(request), &self.keyless) {
            (Some(key), _) => Some(self.keyed.peek(&key)),
            (None, Keyless::ShareOne(shared)) => Some(shared.peek()),
            (None, Keyless::Pass | Keyless::Refuse) => None,
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
            (None, Keyless::Pass) => Ok(None),
            (None, Keyless::Refuse) => Err(NO_KEY.into()),
        }
    }

    fn give_back(&self, request: &Req, cost: u32) {
        match (self.extract.extract(request), &self.keyless) {
            (Some(key), _) => self.keyed.give_back(&key, cost),
            (None, Keyless::ShareOne(shared)) => shared.give_back(request, cost),
            (None, Keyless::Pass | Keyless::Refuse) => {}
        }
    }
}

impl<K, X: Clone> Clone for PerKey<K, X> {
    fn clone(&self) -> Self {
        Self {
            keyed: self.keyed.clone(),
            extract: self.extract.clone(),
            keyless: self.keyless.clone(),
            followed: self.followed.clone(),
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

/// A limit in which requests cost what a closure says. Clones share the limit.
#[derive(Clone)]
pub struct Weighed<L, C> {
    limit: L,
    cost: C,
}

impl<L, C> Weighed<L, C> {
    pub(crate) const fn new(limit: L, cost: C) -> Self {
        Self { limit, cost }
    }
}

impl<L, C, Req> Limit<Req> for Weighed<L, C>
where
    L: Limit<Req>,
    C: Fn(&Req) -> u32,
{
    fn admit(&self, request: &Req, cost: u32) -> Result<Option<Level>, Refused> {
        self.limit.admit(request, cost)
    }

    fn cost(&self, request: &Req) -> u32 {
        (self.cost)(request)
    }

    fn peek(&self, request: &Req) -> Option<Level> {
        self.limit.peek(request)
    }

    fn changes(&self) -> u64 {
        self.limit.changes()
    }

    fn quota(&self) -> Option<Quota> {
        self.limit.quota()
    }
}

impl<L: fmt::Debug, C> fmt::Debug for Weighed<L, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weighed").field("limit", &self.limit).finish_non_exhaustive()
    }
}

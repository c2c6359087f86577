use std::{error::Error, fmt, hash::Hash};

use gusset_call::{BoxError, Inadmissible, Limited};

use crate::{Denied, Keyed, Level, RateLimiter};

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
    /// Nothing is allowed, so it is not the cost that is wrong: one token is refused as well, and says when to come back.
    fn is_for_now(&self) -> bool {
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

/// Finds the key of a request. Closures `|&Request| -> Option<Key>` do, and so do tuples of two or three extractors.
///
/// The key of a tuple is the tuple of their keys. If one of them finds none, there is none at all: the request is treated by
/// [`WithoutKey`], as it would be if the others had found none either.
pub trait Extract<Req> {
    /// What tells callers apart.
    type Key;

    /// The key of `request`, if it has one. Runs on the path of every call, under no lock.
    fn extract(&self, request: &Req) -> Option<Self::Key>;
}

impl<F, Req, K> Extract<Req> for F
where
    F: Fn(&Req) -> Option<K>,
{
    type Key = K;

    fn extract(&self, request: &Req) -> Option<K> {
        self(request)
    }
}

impl<Req, A, B> Extract<Req> for (A, B)
where
    A: Extract<Req>,
    B: Extract<Req>,
{
    type Key = (A::Key, B::Key);

    fn extract(&self, request: &Req) -> Option<Self::Key> {
        Some((self.0.extract(request)?, self.1.extract(request)?))
    }
}

impl<Req, A, B, C> Extract<Req> for (A, B, C)
where
    A: Extract<Req>,
    B: Extract<Req>,
    C: Extract<Req>,
{
    type Key = (A::Key, B::Key, C::Key);

    fn extract(&self, request: &Req) -> Option<Self::Key> {
        Some((self.0.extract(request)?, self.1.extract(request)?, self.2.extract(request)?))
    }
}

/// What becomes of requests in which there is no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WithoutKey {
    /// They share one bucket of the same quota, which no key can reach.
    #[default]
    ShareOne,
    /// They pass without limit; for where something outside vouches for them.
    Pass,
    /// They are refused with [`Inadmissible`](gusset_call::Inadmissible), which over HTTP is 403 and has no time to come back, for
    /// time does not mend them. Mind that it refuses everybody if the key is missing by a mistake of the server's own, such as a
    /// peer address that nobody put into the extensions.
    Refuse,
}

/// One bucket for each key found in the requests. Clones share the buckets.
pub struct PerKey<K, X> {
    keyed: Keyed<K>,
    extract: X,
    keyless: Keyless,
}

/// [`WithoutKey`], with what it needs.
#[derive(Clone, Debug)]
enum Keyless {
    ShareOne(RateLimiter),
    Pass,
    Refuse,
}

impl<K, X> PerKey<K, X> {
    pub(crate) fn new(keyed: Keyed<K>, extract: X) -> Self {
        Self { keyless: Keyless::ShareOne(RateLimiter::new(keyed.quota())), keyed, extract }
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
            (None, Keyless::ShareOne(shared)) => shared.admit(request, cost),
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
}

impl<K, X: Clone> Clone for PerKey<K, X> {
    fn clone(&self) -> Self {
        Self {
            keyed: self.keyed.clone(),
            extract: self.extract.clone(),
            keyless: self.keyless.clone(),
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
}

impl<L: fmt::Debug, C> fmt::Debug for Weighed<L, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Weighed").field("limit", &self.limit).finish_non_exhaustive()
    }
}

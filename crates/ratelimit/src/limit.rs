use std::{fmt, hash::Hash};

use gusset_call::Limited;

use crate::{Keyed, Level, RateLimiter};

/// Decides about requests.
pub trait Limit<Req> {
    /// Takes a token for `request`. Runs on the path of every call; it does not wait.
    ///
    /// # Errors
    ///
    /// [`Limited`] if there is none. `Ok(None)` lets the request pass without a bucket.
    fn admit(&self, request: &Req) -> Result<Option<Level>, Limited>;
}

impl<Req> Limit<Req> for RateLimiter {
    fn admit(&self, _: &Req) -> Result<Option<Level>, Limited> {
        self.check().map(Some)
    }
}

/// Finds the key of a request. Closures `|&Request| -> Option<Key>` do.
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

/// What becomes of requests in which there is no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WithoutKey {
    /// They share one bucket of the same quota, which no key can reach.
    #[default]
    ShareOne,
    /// They pass without limit; for where something outside vouches for them.
    Pass,
}

/// One bucket for each key found in the requests. Clones share the buckets.
pub struct PerKey<K, X> {
    keyed: Keyed<K>,
    extract: X,
    /// For requests without a key.
    shared: Option<RateLimiter>,
}

impl<K, X> PerKey<K, X> {
    pub(crate) fn new(keyed: Keyed<K>, extract: X) -> Self {
        Self { shared: Some(RateLimiter::new(keyed.quota())), keyed, extract }
    }

    pub(crate) fn without_key(mut self, policy: WithoutKey) -> Self {
        self.shared = match policy {
            WithoutKey::ShareOne => Some(RateLimiter::new(self.keyed.quota())),
            WithoutKey::Pass => None,
        };
        self
    }
}

impl<K, X, Req> Limit<Req> for PerKey<K, X>
where
    K: Hash,
    X: Extract<Req, Key = K>,
{
    fn admit(&self, request: &Req) -> Result<Option<Level>, Limited> {
        match (self.extract.extract(request), &self.shared) {
            (Some(key), _) => self.keyed.check(&key).map(Some),
            (None, Some(shared)) => shared.check().map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl<K, X: Clone> Clone for PerKey<K, X> {
    fn clone(&self) -> Self {
        Self {
            keyed: self.keyed.clone(),
            extract: self.extract.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<K, X> fmt::Debug for PerKey<K, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerKey")
            .field("keyed", &self.keyed)
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

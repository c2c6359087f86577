use std::{error::Error, fmt, sync::Arc};

use tower_layer::Layer;

use crate::{Level, Limit, Quota, RateLimit, Refused};

/// A limit that can give back what it charged, so that [`AllOf`] can join it with others.
pub trait Charge<K: ?Sized> {
    /// Takes `cost` tokens for `key`, all or none. `Ok(None)` is a pass without a bucket.
    ///
    /// # Errors
    ///
    /// [`Refused`] if they are not given. Nothing is taken then.
    fn charge(&self, key: &K, cost: u32) -> Result<Option<Level>, Refused>;

    /// What [`charge`](Self::charge) would say at this moment. Takes nothing.
    ///
    /// # Errors
    ///
    /// [`Refused`] if they would not be given.
    fn test(&self, key: &K, cost: u32) -> Result<Option<Level>, Refused>;

    /// Puts back what was just charged, as if it had never been taken.
    fn give_back(&self, key: &K, cost: u32);

    /// How full the bucket of `key` is; `None` if it has none. Takes nothing. Default: what [`test`](Self::test) says of a cost of 0.
    fn level(&self, key: &K) -> Option<Level> {
        self.test(key, 0).ok().flatten()
    }

    /// [`test`](Self::test) has refused a call for good, which is to be counted. Default: it is not.
    fn count_refused(&self, key: &K) {
        let _ = key;
    }

    /// The quota as it is now, which HTTP clients are told. Default `None`: they are not told of this limit.
    fn quota(&self) -> Option<Quota> {
        None
    }

    /// How often the quota was changed. Runs on the path of every call whose client is told of the quota. Default 0: never.
    fn changes(&self) -> u64 {
        0
    }
}

/// Several limits on the same thing, charged all or none. Clones share them.
///
/// ```
/// use std::{net::IpAddr, num::NonZeroUsize};
/// use gusset_ratelimit::{AllOf, Keyed, Quota, RateLimiter};
///
/// let clients = NonZeroUsize::new(10_000).unwrap();
/// let limits = AllOf::<IpAddr>::new()
///     .and("second", Keyed::<IpAddr>::new(Quota::per_second(10), clients))
///     .and("hour", Keyed::<IpAddr>::new(Quota::per_hour(12), clients))
///     .and("everybody", RateLimiter::new(Quota::per_second(5_000)));
///
/// let client = "192.0.2.1".parse().unwrap();
/// for _ in 0..10 {
///     limits.check(&client).unwrap();
/// }
/// assert_eq!(limits.check(&client).unwrap_err().limit(), "second");
/// ```
///
/// It is also a [`Layer`], and a [`Limit`] of requests: [`PerKey::new`](crate::PerKey::new) makes a limit of a [`Keyed`](crate::Keyed) one and of what finds the key in the
/// request. With the feature `http`, the layer that `headers` makes of it tells clients of each of its limits.
///
/// # All or none
///
/// All limits are asked first, without taking anything; so what one of them refuses was charged to none. Then all are charged. If one of them
/// has been emptied in between, by another thread, the others get back what they gave. For that moment, of less than a microsecond, a third
/// thread may see those tokens missing, and even be refused because of them. No token is ever lost by it, but one for which somebody
/// queued in that same moment; [`RateLimiter::wasted`](crate::RateLimiter::wasted) counts it.
///
/// A refused call is counted by one limit only, the one that is named. No memory per call, and no lock but in that rare case.
pub struct AllOf<K: ?Sized> {
    pub(crate) parts: Arc<Vec<Part<K>>>,
}

pub(crate) struct Part<K: ?Sized> {
    pub(crate) name: Arc<str>,
    pub(crate) limit: Arc<dyn Charge<K> + Send + Sync>,
}

impl<K: ?Sized> AllOf<K> {
    /// No limit yet, which allows all.
    #[must_use]
    pub fn new() -> Self {
        Self { parts: Arc::default() }
    }

    /// And this one. Put first what refuses most: a refusal asks no further than to find the longest wait.
    #[must_use]
    pub fn and<L>(mut self, name: &str, limit: L) -> Self
    where
        L: Charge<K> + Send + Sync + 'static,
    {
        let part = Part { name: name.into(), limit: Arc::new(limit) };
        Arc::make_mut(&mut self.parts).push(part);
        self
    }

    /// Takes one token of each limit.
    ///
    /// # Errors
    ///
    /// [`Exceeded`], with the limit that refuses for the longest time. Nothing is taken then.
    pub fn check(&self, key: &K) -> Result<Option<Level>, Exceeded> {
        self.check_n(key, 1)
    }

    /// Takes `cost` tokens of each limit. Gives the level of the one that has the fewest left; none if there is no limit.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    pub fn check_n(&self, key: &K, cost: u32) -> Result<Option<Level>, Exceeded> {
        let mut least = None;
        self.charge(key, cost, |_, level| least = fewer(least, Some(level)))?;
        Ok(least)
    }

    /// Takes `cost` tokens of each limit, and says by its index which has which level then.
    pub(crate) fn charge(
        &self,
        key: &K,
        cost: u32,
        mut each: impl FnMut(usize, Level),
    ) -> Result<(), Exceeded> {
        if let Some((part, refused)) = self.test(key, cost) {
            part.limit.count_refused(key);
            return Err(part.exceeded(refused));
        }
        for (index, part) in self.parts.iter().enumerate() {
            match part.limit.charge(key, cost) {
                Ok(Some(level)) => each(index, level),
                Ok(None) => {}
                Err(refused) => {
                    for charged in &self.parts[..index] {
                        charged.limit.give_back(key, cost);
                    }
                    // The one that refused has counted it.
                    let (part, refused) = self.test(key, cost).unwrap_or((part, refused));
                    return Err(part.exceeded(refused));
                }
            }
        }
        Ok(())
    }

    /// The level of the limit that has the fewest tokens left. Takes nothing.
    #[must_use]
    pub fn peek(&self, key: &K) -> Option<Level> {
        self.parts.iter().fold(None, |least, part| fewer(least, part.peek(key)))
    }

    /// The limit that would refuse for the longest time.
    fn test(&self, key: &K, cost: u32) -> Option<(&Part<K>, Refused)> {
        let refusals = self
            .parts
            .iter()
            .filter_map(|part| part.limit.test(key, cost).err().map(|refused| (part, refused)));
        refusals.max_by_key(|(_, refused)| match refused {
            Refused::Limited(limited) => limited.retry_after(),
            Refused::Inadmissible(_) => Some(std::time::Duration::MAX),
        })
    }
}

impl<K: ?Sized> Part<K> {
    pub(crate) fn peek(&self, key: &K) -> Option<Level> {
        self.limit.level(key)
    }

    fn exceeded(&self, refused: Refused) -> Exceeded {
        Exceeded { limit: self.name.clone(), refused }
    }
}

fn fewer(one: Option<Level>, other: Option<Level>) -> Option<Level> {
    match (one, other) {
        (Some(one), Some(other)) if one.remaining() <= other.remaining() => Some(one),
        (one, None) => one,
        (_, other) => other,
    }
}

impl<Req> Limit<Req> for AllOf<Req> {
    fn admit(&self, request: &Req, cost: u32) -> Result<Option<Level>, Refused> {
        self.check_n(request, cost).map_err(|exceeded| exceeded.refused)
    }

    fn peek(&self, request: &Req) -> Option<Level> {
        self.peek(request)
    }
}

impl<S, Req> Layer<S> for AllOf<Req> {
    type Service = RateLimit<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimit::new(inner, self.clone())
    }
}

impl<K: ?Sized> Default for AllOf<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: ?Sized> Clone for AllOf<K> {
    fn clone(&self) -> Self {
        Self { parts: self.parts.clone() }
    }
}

impl<K: ?Sized> Clone for Part<K> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), limit: self.limit.clone() }
    }
}

impl<K: ?Sized> fmt::Debug for AllOf<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.parts.iter().map(|part| &part.name)).finish()
    }
}

/// One of several limits refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exceeded {
    pub(crate) limit: Arc<str>,
    pub(crate) refused: Refused,
}

impl Exceeded {
    /// The name of the limit that refuses, of several the one that does so for the longest time.
    #[must_use]
    pub fn limit(&self) -> &str {
        &self.limit
    }

    /// Its refusal.
    #[must_use]
    pub const fn refused(&self) -> &Refused {
        &self.refused
    }
}

impl fmt::Display for Exceeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit {}", self.limit)
    }
}

impl Error for Exceeded {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.refused)
    }
}

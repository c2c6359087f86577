//! What a client may on one route.

use std::{fmt, net::IpAddr, num::NonZeroUsize, sync::Arc};
#[cfg(feature = "redis")]
use std::{future::Future, pin::Pin, time::Duration};

use gusset_call::{Limited, QuotaPolicy, ServiceLimit};
use gusset_ratelimit::{Greedy, Keyed, Quota, Stats, network};
#[cfg(feature = "redis")]
use gusset_ratelimit::{RedisDenied, RedisLimiter, WireKey};

use crate::{Client, answer::Answer};

/// How clients are told apart.
#[derive(Clone, Default)]
pub(crate) enum KeyOf {
    /// By the subject if it is known, and else by the address.
    #[default]
    Client,
    #[cfg(feature = "config")]
    Address,
    /// By the first line of this field.
    #[cfg(feature = "config")]
    Field(http::HeaderName),
    /// Not at all.
    #[cfg(feature = "config")]
    All,
    Custom(Arc<Custom>),
}

type Custom = dyn Fn(&Client<'_>) -> String + Send + Sync;

/// A client as a limit knows it. The variants keep an address and a subject of the same letters apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Subject(Arc<str>),
    Address(IpAddr),
    Custom(String),
    /// Nothing is known: all such requests share a bucket.
    Nobody,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject(subject) => f.write_str(subject),
            Self::Address(address) => address.fmt(f),
            Self::Custom(key) => f.write_str(key),
            Self::Nobody => f.write_str("(unknown)"),
        }
    }
}

impl KeyOf {
    /// What a field holds may be a secret, which nobody is to read off a page.
    const fn may_be_shown(&self) -> bool {
        #[cfg(feature = "config")]
        if let Self::Field(_) = self {
            return false;
        }
        true
    }

    pub(crate) fn new(key: impl Fn(&Client<'_>) -> String + Send + Sync + 'static) -> Self {
        Self::Custom(Arc::new(key))
    }

    pub(crate) fn key(&self, client: &Client<'_>) -> Key {
        let address = || client.address.map_or(Key::Nobody, |it| Key::Address(network(it)));
        match self {
            Self::Client => match client.identity {
                Some(identity) => Key::Subject(identity.quota_key().clone()),
                None => address(),
            },
            #[cfg(feature = "config")]
            Self::Address => address(),
            #[cfg(feature = "config")]
            Self::Field(name) => match client.head.headers.get(name) {
                Some(line) => Key::Custom(String::from_utf8_lossy(line.as_bytes()).into_owned()),
                None => Key::Nobody,
            },
            #[cfg(feature = "config")]
            Self::All => Key::Nobody,
            Self::Custom(key) => Key::Custom(key(client)),
        }
    }
}

impl fmt::Debug for KeyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("subject or address"),
            #[cfg(feature = "config")]
            Self::Address => f.write_str("address"),
            #[cfg(feature = "config")]
            Self::Field(name) => write!(f, "field {name}"),
            #[cfg(feature = "config")]
            Self::All => f.write_str("all"),
            Self::Custom(_) => f.write_str("custom"),
        }
    }
}

/// How much each client may on several routes together ([`Route::quota_in_common`](crate::Route::quota_in_common)), be they of one gateway or of the one that takes its place. Clones are one.
///
/// ```
/// use gusset_gateway::{CommonQuota, Route};
/// use gusset_ratelimit::Quota;
///
/// let quota = CommonQuota::new(Quota::per_minute(100));
/// let routes = ["/orders", "/orders/{*rest}"].map(|path| Route::new(path).to("orders").quota_in_common(quota.clone()));
/// # drop(routes);
/// ```
///
/// # Memory
///
/// As that of a route's own quota, once: 16 bytes for each of 10,000 clients.
#[derive(Clone, Debug)]
pub struct CommonQuota(pub(crate) Limit);

impl CommonQuota {
    /// For each client, as [`Route::quota`](crate::Route::quota) tells them apart.
    #[must_use]
    pub fn new(quota: Quota) -> Self {
        Self(Limit::new(quota, KeyOf::default()))
    }

    /// The same, where `key` tells clients apart, as for [`Route::quota_by`](crate::Route::quota_by).
    #[must_use]
    pub fn by(quota: Quota, key: impl Fn(&Client<'_>) -> String + Send + Sync + 'static) -> Self {
        Self(Limit::new(quota, KeyOf::new(key)))
    }
}

/// The buckets of one route, or of several.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    buckets: Buckets,
    pub(crate) key_of: KeyOf,
    policy: QuotaPolicy,
    greedy: Greedy,
}

/// How the quota of a route is used, since the gateway was built.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouteLimit {
    /// The route's path, as it was given.
    pub path: Arc<str>,
    /// The route's host, if it has one.
    pub host: Option<Arc<str>>,
    /// What each client is allowed.
    pub quota: Quota,
    /// Requests that this gateway let through, and refused.
    pub stats: Stats,
    /// Clients that began anew because there was no room; 0 where Redis has the buckets.
    pub evictions: u64,
    /// Which clients were refused most, as the quota tells them apart; nobody where it does by a field, which may be a secret.
    pub greedy: Greedy,
}

#[derive(Clone, Debug)]
enum Buckets {
    Here(Keyed<Key>),
    #[cfg(feature = "redis")]
    InRedis(RedisLimiter),
}

/// Whether a client may go on.
pub(crate) enum Checked {
    Now(Result<(), Answer>),
    #[cfg(feature = "redis")]
    Later(Pin<Box<dyn Future<Output = Result<(), Answer>> + Send>>),
}

impl Limit {
    /// How many clients a route keeps apart; 16 bytes each.
    const CLIENTS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(9_999);

    pub(crate) fn new(quota: Quota, key_of: KeyOf) -> Self {
        let policy = quota.policy("default");
        let buckets = Buckets::Here(Keyed::new(quota, Self::CLIENTS));
        Self { buckets, key_of, policy, greedy: Greedy::new() }
    }

    /// With the buckets of `limiter`.
    #[cfg(feature = "redis")]
    pub(crate) fn in_redis(limiter: RedisLimiter, key_of: KeyOf) -> Self {
        let policy = limiter.quota().policy("default");
        Self { buckets: Buckets::InRedis(limiter), key_of, policy, greedy: Greedy::new() }
    }

    /// How it stands, on the route with this path and host.
    pub(crate) fn read(&self, path: Arc<str>, host: Option<Arc<str>>) -> RouteLimit {
        let (quota, stats, evictions) = match &self.buckets {
            Buckets::Here(buckets) => (buckets.quota(), buckets.stats(), buckets.live_evictions()),
            #[cfg(feature = "redis")]
            Buckets::InRedis(limiter) => (limiter.quota(), limiter.stats(), 0),
        };
        RouteLimit { path, host, quota, stats, evictions, greedy: self.greedy.clone() }
    }

    /// Takes a token of `key`. The refusal tells the client of the quota.
    pub(crate) fn check(&self, key: Key) -> Checked {
        match &self.buckets {
            Buckets::Here(buckets) => {
                let checked = buckets.check(&key).map(drop);
                Checked::Now(checked.map_err(|limited| {
                    if self.key_of.may_be_shown() {
                        self.greedy.note(&key);
                    }
                    told(limited, self.policy.clone())
                }))
            }
            #[cfg(feature = "redis")]
            Buckets::InRedis(limiter) => {
                let (limiter, policy) = (limiter.clone(), self.policy.clone());
                let greedy = self.key_of.may_be_shown().then(|| self.greedy.clone());
                Checked::Later(Box::pin(async move {
                    match limiter.check(&key).await {
                        Ok(_) => Ok(()),
                        Err(RedisDenied::Limited(limited)) => {
                            greedy.iter().for_each(|greedy| greedy.note(&key));
                            Err(told(limited, policy))
                        }
                        Err(RedisDenied::Away(away)) => {
                            Err(Answer::Unavailable { retry_after: away.retry_after(), why: None })
                        }
                        // No bucket ever holds one token.
                        Err(_) => Err(Answer::Limited(Limited::new(Duration::MAX))),
                    }
                }))
            }
        }
    }
}

fn told(limited: Limited, policy: QuotaPolicy) -> Answer {
    let wait = limited.retry_after().unwrap_or_default();
    let limit = ServiceLimit::new(policy, 0).within(wait).exceeded();
    Answer::Limited(limited.with_limits([limit]))
}

/// Each kind begins with a letter of its own.
#[cfg(feature = "redis")]
impl WireKey for Key {
    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Self::Subject(subject) => {
                to.extend_from_slice(b"s:");
                subject.write(to);
            }
            Self::Address(address) => {
                to.extend_from_slice(b"a:");
                address.write(to);
            }
            Self::Custom(key) => {
                to.extend_from_slice(b"k:");
                key.write(to);
            }
            Self::Nobody => to.extend_from_slice(b"n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(key_of: &KeyOf, address: Option<&str>, subject: Option<&str>) -> Key {
        let head = http::Request::new(()).into_parts().0;
        let address = address.map(|address| address.parse().unwrap());
        let identity = subject.map(crate::Identity::new);
        key_of.key(&Client { address, subject, identity: identity.as_ref(), head: &head })
    }

    #[test]
    fn a_subject_is_the_client_wherever_it_comes_from() {
        let default = KeyOf::default();
        assert_eq!(
            key(&default, Some("1.2.3.4"), Some("alice")),
            key(&default, Some("5.6.7.8"), Some("alice"))
        );
        assert_ne!(key(&default, Some("1.2.3.4"), None), key(&default, None, Some("1.2.3.4")));
    }

    #[test]
    fn who_is_refused_most_is_known_but_not_by_what_may_be_a_secret() {
        let quota = Quota::per_minute(1).burst(1);
        let ask = |key_of| {
            let limit = Limit::new(quota, key_of);
            for _ in 0..3 {
                let _ = limit.check(Key::Custom("k3y".into()));
            }
            limit.read("/a".into(), None)
        };
        let read = ask(KeyOf::new(|_| String::new()));
        assert_eq!((read.stats.allowed, read.stats.refused), (1, 2));
        assert_eq!((&*read.greedy.top(9)[0].key, read.greedy.top(9)[0].refused), ("k3y", 2));
        #[cfg(feature = "config")]
        assert!(ask(KeyOf::Field(http::header::COOKIE)).greedy.top(9).is_empty());
    }

    #[test]
    fn an_ipv6_customer_is_one_client() {
        let default = KeyOf::default();
        let one = key(&default, Some("2001:db8:0:7::1"), None);
        assert_eq!(one, key(&default, Some("2001:db8:0:7:ffff::2"), None));
        assert_ne!(one, key(&default, Some("2001:db8:0:8::1"), None));
        assert_eq!(key(&default, None, None), Key::Nobody);
    }
}

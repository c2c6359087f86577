use std::{fmt, sync::Arc};

use gusset_call::Overloaded;

use crate::{Denied, Keyed, Quota, Stats, stats::Counters};

use super::{
    decided::{Decided, Judge, RedisDenied},
    key::{Prefix, WireKey},
    meter::Meter,
    server::RedisServer,
    when_away::{WhenAway, share_of},
};

/// One bucket per key, shared by all processes that ask the same Redis server. Clones share everything.
///
/// ```no_run
/// use gusset_ratelimit::{Quota, RedisLimiter, RedisServer, WhenAway};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let redis = RedisServer::new("redis://127.0.0.1")?;
/// let logins = RedisLimiter::new(&redis, "logins", Quota::per_minute(5));
/// let orders = RedisLimiter::new(&redis, "orders", Quota::per_second(50)).when_away(WhenAway::Open);
///
/// logins.check("ann@example.org").await?;
/// orders.check_n(&4711_u64, 3).await?;
/// # Ok(())
/// # }
/// ```
///
/// # How long it takes
///
/// One round trip, and never more than [`RedisPolicy::call_within`](crate::RedisPolicy::call_within). While the server is
/// [away](crate::RedisState::Away) no time at all: only one call at a time, and that ever more rarely, tries whether it is back.
///
/// # What is exact, and what is not
///
/// Exact are the tokens that the server gave, in any span of its own time. What is asked and not heard in
/// time may be taken and given to nobody. A server that is restarted empty has forgotten all buckets, which then begin
/// full; one that takes over from another may have missed the last tokens, and one that is
/// allowed to evict keys with an expiry gives new buckets to those it evicts. While it is away, each process gives its share. So
/// this bounds load; it is no ledger.
///
/// # What stands in Redis
///
/// So that other programs can take part, in any language. The `1` is the format's version; another format will have another, and
/// never touch these keys.
///
/// | | |
/// |---|---|
/// | key | `gusset:rl:1:<name>:{<key>}` |
/// | key of what has none | `gusset:rl:1:<name>` |
/// | `<name>` | the limiter's, all but letters, digits and `-._~/` percent-encoded |
/// | `<key>` | see `WireKey`; `#` and 64 hexadecimal digits of SHA-256 if it is longer than 128 bytes or begins with `#` |
/// | value | the time at which the bucket is full again: Unix time in microseconds, a point, nine digits, as `1790000000000000.000000000` |
/// | expiry | when the bucket is full, within 2 ms |
/// | script | `src/redis/take.lua`; its head says what it is given and answers |
///
/// The braces are a hash tag: in a cluster behind a proxy, all buckets of one caller are in one place, and callers are spread. Numbers
/// stay below 2⁵³ until the year 2155 because periods and bursts of more than 50 years count as 50 years. An access list needs
/// `+evalsha +script|load +get +set +time ~gusset:rl:1:*`.
///
/// # Cancellation
///
/// Dropping the future of a check leaves open whether the tokens were taken: the server may have heard the question. The
/// same holds for a check that waited in vain. If then this process decides, tokens are taken twice: in Redis and here. All such
/// doubts make the limit stricter, by the cost of one call each.
#[derive(Clone)]
pub struct RedisLimiter(Arc<Shared>);

struct Shared {
    server: RedisServer,
    name: Arc<str>,
    prefix: Prefix,
    quota: Quota,
    meter: Meter,
    when_away: WhenAway,
    /// Present if this process decides.
    local: Option<Keyed<[u8]>>,
    counters: Counters,
    /// Allowed and refused without Redis.
    alone: Counters,
}

impl RedisLimiter {
    /// The same quota for every key. Limiters of one `name` share their buckets, wherever they are; bytes that are no letters, digits or
    /// one of `-._~/` stand in Redis percent-encoded. If they have different quotas, each call counts by its own.
    #[must_use]
    pub fn new(server: &RedisServer, name: &str, quota: Quota) -> Self {
        Self::build(server, name.into(), quota, WhenAway::default())
    }

    /// Who decides while Redis does not answer. Default: this process, as if it were the only one.
    ///
    /// Gives a limiter that counts from zero, so it is for the time before the first call.
    #[must_use]
    pub fn when_away(self, policy: WhenAway) -> Self {
        Self::build(&self.0.server, self.0.name.clone(), self.0.quota, policy)
    }

    fn build(server: &RedisServer, name: Arc<str>, quota: Quota, when_away: WhenAway) -> Self {
        let local = match when_away {
            WhenAway::Local { instances, capacity } => {
                Some(Keyed::new(share_of(quota, instances), capacity))
            }
            WhenAway::Open | WhenAway::Closed => None,
        };
        Self(Arc::new(Shared {
            server: server.clone(),
            prefix: Prefix::new(&name),
            name,
            quota,
            meter: Meter::new(quota),
            when_away,
            local,
            counters: Counters::default(),
            alone: Counters::default(),
        }))
    }

    /// Takes one token of `key`, if there is one.
    ///
    /// # Errors
    ///
    /// [`RedisDenied`]; nothing is taken then.
    pub async fn check<K: WireKey + ?Sized>(&self, key: &K) -> Result<Decided, RedisDenied> {
        self.check_n(key, 1).await
    }

    /// Takes `cost` tokens of `key`, all or none; a cost of 0 takes nothing and only looks.
    ///
    /// # Errors
    ///
    /// [`RedisDenied`]; nothing is taken then.
    pub async fn check_n<K: WireKey + ?Sized>(
        &self,
        key: &K,
        cost: u32,
    ) -> Result<Decided, RedisDenied> {
        let bucket = self.0.prefix.bucket(key);
        self.0.check(&bucket, cost).await
    }

    /// Takes `cost` tokens of `key`, or of the bucket of those that have none.
    pub(crate) fn check_owned<K: WireKey>(
        &self,
        key: Option<K>,
    ) -> impl Future<Output = Result<Decided, RedisDenied>> + Send + 'static + use<K> {
        let shared = self.0.clone();
        let bucket = match key {
            Some(key) => shared.prefix.bucket(&key),
            None => shared.prefix.shared_bucket(),
        };
        async move { shared.check(&bucket, 1).await }
    }

    /// What the limiter allows each key.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.0.quota
    }

    /// How many calls were allowed and refused by this limiter, of all keys together and whoever decided.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.0.counters.stats()
    }

    /// How many of those were decided without Redis.
    #[must_use]
    pub fn stats_without_redis(&self) -> Stats {
        self.0.alone.stats()
    }

    /// The server that it asks.
    #[must_use]
    pub fn server(&self) -> &RedisServer {
        &self.0.server
    }
}

impl Shared {
    async fn check(&self, bucket: &[u8], cost: u32) -> Result<Decided, RedisDenied> {
        let decided = match self.meter.take(cost) {
            // It is not the cost that is wrong.
            Err(costly) if costly.burst() == 0 => Err(RedisDenied::Limited(self.meter.never())),
            Err(costly) => Err(RedisDenied::TooCostly(costly)),
            Ok(take) => match self.server.ask(bucket, take).await {
                Some(answer) => match self.meter.verdict(cost, answer) {
                    Ok(level) => Ok(Decided { level: Some(level), by: Judge::Redis }),
                    Err(limited) => Err(RedisDenied::Limited(limited)),
                },
                None => {
                    let decided = self.decide_alone(bucket, cost);
                    self.alone.count(decided.is_ok());
                    decided
                }
            },
        };
        self.counters.count(decided.is_ok());
        decided
    }

    fn decide_alone(&self, bucket: &[u8], cost: u32) -> Result<Decided, RedisDenied> {
        let Some(local) = &self.local else {
            return match self.when_away {
                WhenAway::Open => Ok(Decided { level: None, by: Judge::Nobody }),
                _ => Err(self.away()),
            };
        };
        match local.check_n(bucket, cost) {
            Ok(level) => Ok(Decided { level: Some(level), by: Judge::ThisProcess }),
            Err(Denied::Limited(limited)) => Err(RedisDenied::Limited(limited)),
            // More than the share ever holds, but not more than the quota does.
            Err(Denied::TooCostly(_)) => Err(self.away()),
        }
    }

    fn away(&self) -> RedisDenied {
        let retry_after = self.server.away_for().max(self.server.policy().call_within);
        let what = format!("the store of rate limit {}", self.name);
        RedisDenied::Away(Overloaded::new(what).with_retry_after(retry_after))
    }
}

impl fmt::Debug for RedisLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLimiter")
            .field("name", &self.0.name)
            .field("quota", &self.0.quota)
            .field("when_away", &self.0.when_away)
            .field("server", &self.0.server)
            .finish_non_exhaustive()
    }
}

use std::{hash::Hash, sync::Arc};

use gusset_gateway::RouteLimit;
use gusset_ratelimit::{ConcurrencyLimiter, ExactKeyed, Greedy, Keyed, Quota, RateLimiter};
use serde_json::{Value, json};

use crate::{Sources, millis};

/// A limit that tells how it stands. Implement it for one of your own, or to add the keys that were refused most often.
pub trait ReadLimit: Send + Sync + 'static {
    /// How it stands now. Asked once a second while somebody looks.
    fn read(&self) -> LimitReading;
}

/// How a limit stands. Counts are since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitReading {
    /// How much is allowed, of a limit of rate.
    pub quota: Option<Quota>,
    /// What is left of the bucket, where there is only one.
    pub remaining: Option<u32>,
    /// Callers that wait for their turn.
    pub waiting: u64,
    /// Calls under way and how many there may be, of a limit of concurrency.
    pub places: Option<(u32, u32)>,
    /// Calls that were let through.
    pub allowed: u64,
    /// Calls that were refused.
    pub refused: u64,
    /// Keys that are known, where they are counted.
    pub keys: Option<u64>,
    /// Keys that began anew because there was no room.
    pub evictions: u64,
    /// The keys that were refused most often, and how often. At most 20 are shown.
    pub top: Vec<(Arc<str>, u64)>,
}

impl LimitReading {
    /// One that has counted so much.
    #[must_use]
    pub fn new(allowed: u64, refused: u64) -> Self {
        Self { allowed, refused, ..Self::default() }
    }

    /// With the keys that were refused most.
    #[must_use]
    pub fn greedy(mut self, greedy: &Greedy) -> Self {
        self.top = greedy.top(TOP).into_iter().map(|key| (key.key.into(), key.refused)).collect();
        self
    }
}

impl ReadLimit for RateLimiter {
    fn read(&self) -> LimitReading {
        let stats = self.stats();
        LimitReading {
            quota: Some(self.quota()),
            remaining: Some(self.peek().remaining()),
            waiting: self.waiting() as u64,
            ..LimitReading::new(stats.allowed, stats.refused)
        }
    }
}

impl<K: ?Sized + 'static> ReadLimit for Keyed<K> {
    fn read(&self) -> LimitReading {
        let stats = self.stats();
        LimitReading {
            quota: Some(self.quota()),
            evictions: self.live_evictions(),
            ..LimitReading::new(stats.allowed, stats.refused)
        }
    }
}

impl<K: Hash + Eq + Send + Sync + 'static> ReadLimit for ExactKeyed<K> {
    fn read(&self) -> LimitReading {
        let stats = self.stats();
        LimitReading {
            quota: Some(self.quota()),
            keys: Some(self.keys() as u64),
            evictions: self.live_evictions(),
            ..LimitReading::new(stats.allowed, stats.refused)
        }
    }
}

/// With the keys that were [noted](Greedy::note), or that [`RateLimitLayer::note_refused`](gusset_ratelimit::RateLimitLayer::note_refused) noted.
impl<L: ReadLimit> ReadLimit for (L, Greedy) {
    fn read(&self) -> LimitReading {
        self.0.read().greedy(&self.1)
    }
}

impl ReadLimit for ConcurrencyLimiter {
    fn read(&self) -> LimitReading {
        let stats = self.stats();
        let refused = stats.normal.refused + stats.low.refused;
        LimitReading {
            places: Some((self.in_flight(), self.limit())),
            ..LimitReading::new(stats.normal.ended + stats.low.ended, refused)
        }
    }
}

/// What each client may on a route of a gateway.
fn of_route(limit: &RouteLimit) -> LimitReading {
    LimitReading {
        quota: Some(limit.quota),
        evictions: limit.evictions,
        ..LimitReading::new(limit.stats.allowed, limit.stats.refused)
    }
    .greedy(&limit.greedy)
}

/// Most keys of a limit that are shown.
const TOP: usize = 20;

pub(crate) fn page(sources: &Sources) -> Value {
    let own = sources.limits.iter().map(|(name, limit)| (name.to_string(), limit.read()));
    let of_routes = sources.gateways.iter().flat_map(|(name, gateway)| {
        let limits = gateway.current().limits().into_iter();
        limits.map(move |limit| {
            let host = limit.host.as_deref().unwrap_or_default();
            (format!("{name} {host}{}", limit.path), of_route(&limit))
        })
    });
    let limits = own.chain(of_routes).map(|(name, reading)| {
        let quota = reading.quota.map(|quota| {
            json!({ "tokens": quota.tokens(), "period_ms": millis(quota.period()), "burst": quota.capacity() })
        });
        let top = reading.top.iter().take(TOP).map(|(key, n)| json!({ "key": &**key, "refused": n }));
        json!({
            "name": name,
            "quota": quota,
            "remaining": reading.remaining,
            "waiting": reading.waiting,
            "in_flight": reading.places.map(|places| places.0),
            "places": reading.places.map(|places| places.1),
            "allowed": reading.allowed,
            "refused": reading.refused,
            "keys": reading.keys,
            "evictions": reading.evictions,
            "top": top.collect::<Vec<_>>(),
        })
    });
    json!({ "limits": limits.collect::<Vec<_>>() })
}

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset_breaker::Circuit;
use gusset_registry::{Endpoint, Instance};
use http::StatusCode;

use crate::Upstream;

/// What became of the requests of one route, since the gateway was built.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RouteStats {
    /// The route's name, if it has one ([`Route::name`](crate::Route::name)).
    pub name: Option<Arc<str>>,
    /// The route's path, as it was given.
    pub path: Arc<str>,
    /// The route's host, if it has one.
    pub host: Option<Arc<str>>,
    /// Where it leads; empty if the gateway answers itself.
    pub upstreams: Vec<Upstream>,
    /// The calls that each request becomes, on a route with a [`FanOut`](crate::FanOut).
    #[cfg(feature = "compose")]
    pub branches: Vec<crate::BranchStats>,
    /// Answers by the first digit of their status: 1xx in place 0, 5xx in place 4. Requests whose client left before are in none.
    pub answers: [u64; 5],
    /// Those among the answers that the gateway gave without asking the upstream: 401, 403, 413, 429.
    pub refused: u64,
    /// The time until the heads of all answers, summed up; the distribution is in the gateway's metrics.
    pub latency: Duration,
}

impl RouteStats {
    /// How many requests were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.answers.iter().sum()
    }

    /// The average time until the head of an answer; zero where there was none.
    #[must_use]
    pub fn mean_latency(&self) -> Duration {
        let nanos = self.latency.as_nanos() / u128::from(self.answered().max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    answers: [AtomicU64; 5],
    refused: AtomicU64,
    nanos: AtomicU64,
}

impl Counters {
    pub(crate) fn answered(&self, status: StatusCode, span: Duration) {
        let class = usize::from(status.as_u16() / 100);
        if let Some(answers) = self.answers.get(class.wrapping_sub(1)) {
            answers.fetch_add(1, Relaxed);
        }
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Relaxed);
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(crate) fn read(
        &self,
        path: Arc<str>,
        host: Option<Arc<str>>,
        upstreams: Vec<Upstream>,
    ) -> RouteStats {
        RouteStats {
            name: None,
            path,
            host,
            upstreams,
            #[cfg(feature = "compose")]
            branches: Vec::new(),
            answers: std::array::from_fn(|class| self.answers[class].load(Relaxed)),
            refused: self.refused.load(Relaxed),
            latency: Duration::from_nanos(self.nanos.load(Relaxed)),
        }
    }
}

/// One healthy instance, and its circuit.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Breaker {
    /// The upstream it is an instance of.
    pub upstream: Upstream,
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its circuit, to look at or to force open.
    pub circuit: Circuit,
    /// How it fares: requests under way, failures, its share.
    pub endpoint: Endpoint,
}

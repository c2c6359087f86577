//! What gateways share by a Redis server.

use std::num::NonZeroU32;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use gusset_ratelimit::{Quota, RedisLimiter, RedisPolicy, RedisServer, WhenAway};

use crate::{
    AnswersInRedis, Idempotency,
    config::file::{Away, RedisSection},
    limit::{KeyOf, Limit},
};

/// The server of a file.
#[derive(Clone)]
pub(in crate::config) struct Redis {
    server: RedisServer,
    answers: AnswersInRedis,
    name: String,
    when_away: WhenAway,
}

impl Redis {
    /// A task connects, if there is a runtime for it: the first requests would wait in vain for a quota, and a core's own runtime is no place for what all of them share.
    pub(super) fn new(section: &RedisSection) -> Result<Self, String> {
        let url = section.url.value.0.expose();
        let name = section.name.clone().unwrap_or_else(|| "gateway".into());
        let mut policy = RedisPolicy::default();
        if let Some(span) = section.wait {
            policy = policy.call_within(span.0);
        }
        let server = RedisServer::with_policy(url, policy).map_err(|error| error.to_string())?;
        if let Ok(runtime) = Handle::try_current() {
            let server = server.clone();
            runtime.spawn(async move { drop(server.connect().await) });
        }
        let answers = AnswersInRedis::new(url, &name).map_err(|error| error.to_string())?;
        let when_away = match section.away {
            Away::Local => WhenAway::local(section.gateways.unwrap_or(NonZeroU32::MIN)),
            Away::Open => WhenAway::Open,
            Away::Closed => WhenAway::Closed,
        };
        Ok(Self { server, answers, name, when_away })
    }

    /// The quota of a route, by the same buckets wherever a route of this name is.
    pub(super) fn limit(&self, route: &str, quota: Quota, key_of: KeyOf) -> Limit {
        let name = format!("{}/{route}", self.name);
        let limiter = RedisLimiter::new(&self.server, &name, quota).when_away(self.when_away);
        Limit::in_redis(limiter, key_of)
    }

    /// For operators.
    pub(in crate::config) fn shown(&self) -> Value {
        let (quotas, answers) = (self.server.stats(), self.answers.stats());
        json!({
            "quotas": {
                "state": self.server.state().to_string(),
                "asked": quotas.asked,
                "unanswered": quotas.timeouts + quotas.errors + quotas.skipped,
            },
            "answers": { "failures": answers.failures, "unkept": answers.unkept },
        })
    }

    pub(super) fn once(&self) -> Idempotency {
        Idempotency::by(self.answers.clone())
    }
}

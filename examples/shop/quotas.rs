//! Where the gateway counts what its clients may.

use std::io;

use gusset::{gateway::Route, ratelimit::Quota};

use crate::Ground;

/// Here, or in a Redis that all gateways of a shop ask.
///
/// While that does not answer, each gateway goes on by itself: a client begins anew there, and has its quota at each of them. Nobody is refused for it, and nobody may what he likes. A quota is there
/// to bound load; no order and no money depends on it.
#[derive(Clone, Debug)]
pub struct Quotas(At);

#[derive(Clone, Debug)]
enum At {
    Here,
    #[cfg(feature = "redis")]
    Redis(gusset::ratelimit::RedisServer),
}

impl Quotas {
    /// Those of this shop. Spawns a task that connects.
    ///
    /// # Errors
    ///
    /// If the address is none, or the feature `redis` is missing.
    pub fn of(ground: &Ground) -> io::Result<Self> {
        ground.redis.as_deref().map_or(Ok(Self(At::Here)), Self::shared)
    }

    #[cfg(feature = "redis")]
    fn shared(url: &str) -> io::Result<Self> {
        let server = gusset::ratelimit::RedisServer::new(url).map_err(io::Error::other)?;
        let connecting = server.clone();
        tokio::spawn(async move { drop(connecting.connect().await) });
        Ok(Self(At::Redis(server)))
    }

    #[cfg(not(feature = "redis"))]
    fn shared(_: &str) -> io::Result<Self> {
        let how = "quotas in Redis need --features redis before the name of the example";
        Err(io::Error::new(io::ErrorKind::Unsupported, how))
    }

    /// Gives each client of the route so much; routes of one name have their own each.
    #[cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "here it needs no name"))]
    pub(crate) fn limit(&self, route: Route, name: &str, quota: Quota) -> Route {
        match &self.0 {
            At::Here => route.quota(quota),
            #[cfg(feature = "redis")]
            At::Redis(server) => {
                use std::num::NonZeroU32;

                use gusset::ratelimit::{RedisLimiter, WhenAway};
                // A shop is taken to have one gateway: while Redis is away it may as much as all together.
                const GATEWAYS: NonZeroU32 = NonZeroU32::MIN;
                let limiter = RedisLimiter::new(server, &format!("shop/{name}"), quota);
                route.shared_quota(limiter.when_away(WhenAway::local(GATEWAYS)))
            }
        }
    }
}

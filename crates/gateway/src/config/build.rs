//! From what stands in the file to a gateway.

mod composed;
#[cfg_attr(not(feature = "redis"), path = "build/no_redis.rs")]
mod redis;
mod route;
mod senders;
mod traffic;
mod upstreams;

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use gusset_ratelimit::ConcurrencyLimiter;
use gusset_registry::{MemoryRegistry, Registry};

pub(super) use redis::Redis;

use super::{
    Config, ConfigError, ConfigErrors, Place, Resources,
    file::{DefaultsSection, ShedSection},
    gateway::{Described, DescribedSplit, Kept, KeptRoute},
    made::{breaker, cors, fleet, registry},
};
use crate::{
    BuildError, Builder, Descriptors, Gateway, Split, Upstream, UpstreamPolicy, builder::Fault,
    transport::Pool,
};

/// A gateway while it is built.
pub(super) struct Building<'c> {
    config: &'c Config,
    resources: &'c Resources,
    kept: &'c mut Kept,
    defaults: DefaultsSection,
    upstreams: HashMap<&'c str, Upstream>,
    described: HashMap<Upstream, Described>,
    policies: HashMap<Upstream, UpstreamPolicy>,
    /// Read once for all routes; `None` if they cannot be.
    descriptors: HashMap<PathBuf, Option<Descriptors>>,
    routes: HashMap<String, KeptRoute>,
    redis: Option<Redis>,
    /// Those that have names; `None` for one that cannot be.
    splits: HashMap<&'c str, Option<(DescribedSplit, Split)>>,
    /// Names of routes.
    names: HashSet<&'c str>,
    errors: Vec<ConfigError>,
}

impl<'c> Building<'c> {
    pub(super) fn new(config: &'c Config, resources: &'c Resources, kept: &'c mut Kept) -> Self {
        let defaults = config.file.defaults.clone().unwrap_or_default();
        Self {
            config,
            resources,
            kept,
            defaults,
            upstreams: HashMap::new(),
            described: HashMap::new(),
            policies: HashMap::new(),
            descriptors: HashMap::new(),
            routes: HashMap::new(),
            redis: None,
            splits: HashMap::new(),
            names: HashSet::new(),
            errors: Vec::new(),
        }
    }

    pub(super) fn gateway(mut self) -> Result<Gateway, ConfigErrors> {
        let registry = self.registry();
        self.upstreams(registry.is_some());
        self.redis = self.redis();
        self.splits();
        let registry = registry.unwrap_or_else(|| Arc::new(MemoryRegistry::default()));
        let pool = self.kept.pool.get_or_insert_with(Pool::new).clone();
        let mut builder = self.common(Builder::new(registry)).pool(pool);
        for (upstream, policy) in self.policies.drain() {
            builder = builder.upstream(upstream, policy);
        }
        for (upstream, described) in &self.described {
            match self.kept.upstreams.get(upstream) {
                Some((before, shared)) if before == described => {
                    builder = builder.known(upstream.clone(), shared.clone());
                }
                _ => {}
            }
        }
        let found = self.errors.len();
        builder = self.senders(builder);
        let senders_are_wrong = self.errors.len() > found;
        let mut places = Vec::new();
        let config = self.config;
        for section in &config.file.routes {
            let place = section.path.as_ref().map_or(&section.place, |path| &path.place);
            for route in self.routes(section) {
                builder = builder.route(route);
                places.push(place.clone());
            }
        }
        // Also if errors were found: there may be more.
        let built = builder.compile();
        if let Err(faults) = &built {
            // That nothing tells who sends is no news then.
            let is_news = |fault: &&Fault| {
                !(senders_are_wrong && matches!(fault.error, BuildError::NoAuthenticate { .. }))
            };
            let errors = faults
                .iter()
                .filter(is_news)
                .map(|fault| self.place_of(fault, &places).error(fault.error.reason()));
            let errors: Vec<_> = errors.collect();
            self.errors.extend(errors);
        }
        ConfigErrors::check(self.errors)?;
        let gateway = built.map_err(|_| unplaced().error("it cannot be built"))?;
        let of_gateway = |(upstream, described): (Upstream, Described)| {
            let shared = gateway.shared.upstreams.get(&upstream)?.clone();
            Some((upstream, (described, shared)))
        };
        self.kept.upstreams = self.described.into_iter().filter_map(of_gateway).collect();
        let (upstreams, routes) = (&self.upstreams, &self.routes);
        self.kept
            .budgets
            .retain(|name, _| upstreams.contains_key(name.as_str()) || routes.contains_key(name));
        self.kept.routes = self.routes;
        let of_name = |(name, split): (&str, Option<_>)| Some((name.to_owned(), split?));
        self.kept.splits = self.splits.into_iter().filter_map(of_name).collect();
        Ok(gateway)
    }

    /// Where what is wrong was said; `places` are those of the routes.
    fn place_of(&self, fault: &Fault, places: &[Place]) -> Place {
        if let Some(place) = fault.route.and_then(|number| places.get(number)) {
            return place.clone();
        }
        let cors = self.defaults.cors.as_ref().map(|cors| &cors.place);
        cors.or(places.first()).cloned().unwrap_or_else(unplaced)
    }

    fn registry(&mut self) -> Option<Arc<dyn Registry>> {
        if let Some(registry) = &self.resources.registry {
            return Some(registry.clone());
        }
        let section = self.config.file.registry.as_ref()?;
        match &self.kept.registry {
            Some((before, registry)) if before == section => Some(registry.clone()),
            _ => match registry(section) {
                Ok(registry) => {
                    self.kept.registry = Some((section.clone(), registry.clone()));
                    Some(registry)
                }
                Err(reason) => {
                    self.errors.push(section.place.error(reason));
                    // Services are not wrong because of it.
                    Some(Arc::new(MemoryRegistry::default()))
                }
            },
        }
    }

    fn redis(&mut self) -> Option<Redis> {
        let Some(section) = &self.config.file.redis else {
            self.kept.redis = None;
            return None;
        };
        let redis = match &self.kept.redis {
            Some((before, redis)) if before == section => redis.clone(),
            _ => match Redis::new(section) {
                Ok(redis) => redis,
                Err(reason) => {
                    self.errors.push(section.place.error(reason));
                    return None;
                }
            },
        };
        self.kept.redis = Some((section.clone(), redis.clone()));
        Some(redis)
    }

    /// The server by which something here is shared; where there is none, that is told.
    fn shared_by(&mut self, place: &Place) -> Option<Redis> {
        // One that is there and wrong has its own error.
        if self.config.file.redis.is_none() {
            self.errors.push(place.error("there is no Redis to share it by; add [redis]"));
        }
        self.redis.clone()
    }

    fn common(&mut self, mut builder: Builder) -> Builder {
        builder = builder.metrics(self.resources.metrics.clone());
        if let Some(recorder) = &self.resources.recorder {
            builder = builder.recorder(recorder.clone());
        }
        if let Some(log) = &self.resources.access_log {
            builder = builder.access_log(log.clone());
        }
        if let Some(server) = &self.config.file.server {
            builder = builder.trusted_proxies(server.trusted_proxies.iter().copied());
        }
        if let Some(section) = &self.defaults.cors {
            builder = builder.cors(cors(section));
        }
        if let Some(section) = &self.defaults.breaker {
            builder = builder.breaker(breaker(section));
        }
        if let Some(pick) = &self.defaults.pick {
            builder = builder.pick(pick.picker());
        }
        if let Some(zone) = &self.defaults.zone {
            builder = builder.among(fleet(zone));
        }
        self.kept.shed = self.defaults.shed.clone().map(|section| self.shed(section));
        match &self.kept.shed {
            Some((_, limiter)) => builder.shed_by(limiter.clone()),
            None => builder,
        }
    }

    /// With what is under way, if it is described alike.
    fn shed(&self, section: ShedSection) -> (ShedSection, ConcurrencyLimiter) {
        match &self.kept.shed {
            Some((before, limiter)) if *before == section => (section, limiter.clone()),
            _ => {
                let limiter = ConcurrencyLimiter::new("gateway", section.0);
                (section, limiter)
            }
        }
    }
}

fn unplaced() -> Place {
    Place { file: "gateway".into(), line: 0, column: 0, field: String::new() }
}

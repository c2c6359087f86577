//! From what stands in the file to a gateway.

use std::{collections::HashMap, sync::Arc};

use gusset_ratelimit::Quota;
use gusset_registry::{MemoryRegistry, Registry};

use super::{
    Config, ConfigError, ConfigErrors, Resources,
    file::{DefaultsSection, Leads, QuotaBy, QuotaSection, RouteSection, UpstreamSection},
    gateway::{Described, Kept, KeptRoute},
    made::{api_keys, breaker, cors, jwt, remote, retry_policy, transport},
    nearest,
    value::Placed,
};
use crate::{
    Builder, ByCertificate, Gateway, Idempotency, IdentityHeaders, Route, Upstream, UpstreamPolicy,
    builder::Fault,
    limit::{KeyOf, Limit},
    transport::Pool,
};

/// A gateway while it is built.
pub(super) struct Building<'c> {
    config: &'c Config,
    resources: &'c Resources,
    kept: &'c mut Kept,
    defaults: DefaultsSection,
    upstreams: HashMap<&'c str, (Upstream, &'c UpstreamSection)>,
    described: HashMap<Upstream, Described>,
    policies: HashMap<Upstream, UpstreamPolicy>,
    routes: HashMap<String, KeptRoute>,
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
            routes: HashMap::new(),
            errors: Vec::new(),
        }
    }

    pub(super) fn gateway(mut self) -> Result<Gateway, ConfigErrors> {
        let registry = self.registry();
        self.upstreams(registry.is_some());
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
        builder = self.senders(builder);
        let config = self.config;
        let mut places = Vec::new();
        for section in &config.file.routes {
            if let Some(route) = self.route(section) {
                builder = builder.route(route);
                places.push(&section.path.place);
            }
        }
        // Also if errors were found: there may be more.
        let built = builder.compile();
        let place = |fault: &Fault| match fault.route.and_then(|number| places.get(number)) {
            Some(place) => (*place).clone(),
            None => self.config.file.defaults.as_ref().and_then(|d| d.cors.as_ref()).map_or_else(
                || places.first().map_or_else(unplaced, |place| (*place).clone()),
                |cors| cors.place.clone(),
            ),
        };
        if let Err(faults) = &built {
            let errors = faults.iter().map(|fault| place(fault).error(fault.error.reason()));
            self.errors.extend(errors);
        }
        ConfigErrors::check(self.errors)?;
        let gateway = built.map_err(|_| unplaced().error("it cannot be built"))?;
        let of_gateway = |(upstream, described): (Upstream, Described)| {
            let shared = gateway.shared.upstreams.get(&upstream)?.clone();
            Some((upstream, (described, shared)))
        };
        self.kept.upstreams = self.described.into_iter().filter_map(of_gateway).collect();
        self.kept.routes = self.routes;
        Ok(gateway)
    }

    fn registry(&mut self) -> Option<Arc<dyn Registry>> {
        if let Some(registry) = &self.resources.registry {
            return Some(registry.clone());
        }
        let section = self.config.file.registry.as_ref()?;
        match &self.kept.registry {
            Some((before, registry)) if before == section => Some(registry.clone()),
            _ => match remote(section) {
                Ok(registry) => {
                    self.kept.registry = Some((section.clone(), registry.clone()));
                    Some(registry)
                }
                Err(reason) => {
                    self.errors.push(section.url.place.error(reason));
                    // Services are not wrong because of it.
                    Some(Arc::new(MemoryRegistry::default()))
                }
            },
        }
    }

    fn upstreams(&mut self, has_registry: bool) {
        for named in &self.config.file.upstreams {
            let section = &named.value;
            let upstream = match &section.service {
                Some(service) => {
                    if !has_registry {
                        let error = "there is no registry to find it in; add [registry], or write addresses";
                        self.errors.push(service.place.error(error));
                    }
                    Upstream::service(service.value.as_str())
                }
                None if section.addresses.is_empty() => {
                    self.errors.push(named.place.error("it has no address"));
                    continue;
                }
                None => Upstream::fixed(section.addresses.iter().copied()),
            };
            let policy = self.policy(section);
            self.policies.insert(upstream.clone(), policy);
            let described = Described {
                section: section.clone(),
                breaker: self.defaults.breaker.clone(),
                pick: self.defaults.pick.clone(),
                registry: section.service.as_ref().and(self.config.file.registry.clone()),
            };
            let before = self.described.insert(upstream.clone(), described.clone());
            if before.is_some_and(|before| before != described) {
                let error = "an earlier upstream leads to the same place and says other things of it; make them one";
                self.errors.push(named.place.error(error));
            }
            self.upstreams.insert(&named.name, (upstream, section));
        }
    }

    /// How an upstream is called.
    fn policy(&mut self, section: &UpstreamSection) -> UpstreamPolicy {
        let mut policy = UpstreamPolicy::new();
        if let Some(pick) = &section.pick {
            policy = policy.pick(pick.picker());
        }
        if let Some(section) = &section.breaker {
            policy = policy.breaker(breaker(section));
        }
        match transport(section) {
            Ok(transport) => policy.transport(transport),
            Err(error) => {
                self.errors.push(error);
                policy
            }
        }
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
        if let Some(section) = &self.config.file.identity_headers {
            let mut names = IdentityHeaders::new();
            if let Some(name) = &section.subject {
                names = names.subject(name.clone());
            }
            if let Some(name) = &section.scopes {
                names = names.scopes(name.clone());
            }
            if let Some(name) = &section.roles {
                names = names.roles(name.clone());
            }
            builder = builder.identity_headers(names);
        }
        builder
    }

    fn senders(&mut self, mut builder: Builder) -> Builder {
        let file = &self.config.file;
        let mut tokens = Vec::new();
        for section in &file.jwt {
            let before = self.kept.jwt.iter().find(|(before, _)| before == section);
            let made = before.map_or_else(|| jwt(section), |(_, jwt)| Ok(jwt.clone()));
            match made {
                Ok(jwt) => {
                    builder = builder.authenticate(jwt.clone());
                    tokens.push((section.clone(), jwt));
                }
                Err(error) => self.errors.push(error),
            }
        }
        self.kept.jwt = tokens;
        if let Some(section) = &file.api_keys {
            let made = match &self.kept.api_keys {
                Some((before, keys)) if before == section => Ok(keys.clone()),
                _ => api_keys(section),
            };
            match made {
                Ok(keys) => {
                    builder = builder.authenticate(keys.clone());
                    self.kept.api_keys = Some((section.clone(), keys));
                }
                Err(error) => self.errors.push(error),
            }
        }
        if let Some(section) = &file.certificates {
            builder = builder.authenticate(match &section.trust_domain {
                Some(domain) => ByCertificate::trust_domain(domain.as_str()),
                None => ByCertificate::new(),
            });
        }
        builder
    }

    fn route(&mut self, section: &RouteSection) -> Option<Route> {
        let mut route = self.leading(Route::new(&section.path.value), section)?;
        for condition in &section.when {
            route = route.when(condition.0.clone());
        }
        if let Some(rank) = section.rank {
            route = route.rank(rank);
        }
        if let Some(host) = &section.host_header {
            route = route.host_header(host);
        }
        if let Some(edits) = &section.request_headers {
            route = route.request_headers(edits.edits());
        }
        if let Some(edits) = &section.answer_headers {
            route = route.answer_headers(edits.edits());
        }
        if let Some(host) = &section.host {
            route = route.host(host);
        }
        if let Some(methods) = &section.methods {
            route = route.methods(methods.iter().cloned());
        }
        if let Some(prefix) = &section.strip_prefix {
            route = route.strip_prefix(prefix);
        }
        if let Some(path) = &section.rewrite {
            route = route.rewrite(path);
        }
        if let Some(span) = section.timeout.or(self.defaults.timeout) {
            route = route.timeout(span.0);
        }
        if let Some(size) = section.body_limit.or(self.defaults.body_limit) {
            route = route.body_limit(size.0);
        }
        if let Some(section) = &section.cors {
            route = route.cors(cors(section));
        }
        route = self.going_on(route, section);
        route = route.upgrades(section.upgrades.iter().map(String::as_str));
        Some(self.once(demanding(route, section), section))
    }

    /// To whom it leads.
    fn leading(&mut self, route: Route, section: &RouteSection) -> Option<Route> {
        let name = match &section.leads {
            Leads::To(name) => name,
            Leads::Redirect(to) => return Some(route.redirect(to.0.clone())),
            Leads::Answer(answer) => return Some(route.answer(answer.0.clone())),
        };
        let Some((upstream, to)) = self.upstreams.get(name.value.as_str()) else {
            self.no_upstream(name);
            return None;
        };
        let route = route.to(upstream.clone());
        let retry = section.retry.as_ref().or(to.retry.as_ref()).or(self.defaults.retry.as_ref());
        let Some(retry) = retry else { return Some(route) };
        let budget = self.kept.budgets.entry(name.value.clone()).or_default();
        Some(route.retry(retry_policy(retry).budget(budget.clone())))
    }

    /// With its quota, and with what was counted before.
    fn going_on(&mut self, route: Route, section: &RouteSection) -> Route {
        let RouteSection { path, host, methods, when, .. } = section;
        let key = format!("{:?} {host:?} {methods:?} {when:?}", path.value);
        let mut kept = self.kept.routes.get(&key).cloned().unwrap_or_default();
        let mut route = route.counted_by(kept.counters.clone());
        kept.limit = match (&section.quota, kept.limit) {
            (Some(quota), Some((before, limit))) if before == *quota => Some((before, limit)),
            (Some(quota), _) => self.limit(quota).map(|limit| (quota.clone(), limit)),
            (None, _) => None,
        };
        if let Some((_, limit)) = &kept.limit {
            route = route.limited_by(limit.clone());
        }
        self.routes.insert(key, kept);
        route
    }

    fn limit(&mut self, section: &QuotaSection) -> Option<Limit> {
        let burst = section.burst.map_or(section.rate.tokens, std::num::NonZero::get);
        match Quota::checked(section.rate.tokens, section.rate.per, burst) {
            Ok(quota) => Some(Limit::new(
                quota,
                match &section.by {
                    QuotaBy::Client | QuotaBy::Subject => KeyOf::Client,
                    QuotaBy::Address => KeyOf::Address,
                    QuotaBy::All => KeyOf::All,
                    QuotaBy::Header(name) => KeyOf::Field(name.clone()),
                },
            )),
            Err(error) => {
                self.errors.push(section.place.error(error.to_string()));
                None
            }
        }
    }

    /// With what it makes of `Idempotency-Key`.
    fn once(&self, route: Route, section: &RouteSection) -> Route {
        let Some(section) = &section.idempotency else { return route };
        let mut policy = Idempotency::by(self.kept.answers.clone());
        if section.required {
            policy = policy.required();
        }
        if section.keep_server_errors {
            policy = policy.keep_server_errors();
        }
        if let Some(span) = section.keep {
            policy = policy.keep(span);
        }
        if let Some(size) = section.max_body {
            policy = policy.max_body(size.in_memory());
        }
        route.idempotency(policy)
    }

    fn no_upstream(&mut self, to: &Placed<String>) {
        // One that is there and wrong has its own error.
        let name = to.value.as_str();
        let names = || self.config.file.upstreams.iter().map(|named| named.name.as_str());
        if names().any(|known| known == name) {
            return;
        }
        let reason = match nearest(name, names()) {
            Some(known) => format!("there is no upstream {name:?}; {known:?} is meant?"),
            None => format!("there is no upstream {name:?}; add [upstreams.{name}]"),
        };
        self.errors.push(to.place.error(reason));
    }
}

/// With what it asks of its senders.
fn demanding(mut route: Route, section: &RouteSection) -> Route {
    let sender = &section.sender;
    if sender.authenticated {
        route = route.authenticated();
    }
    if !sender.scopes.is_empty() {
        route = route.scopes(sender.scopes.iter().map(String::as_str));
    }
    if let Some(scopes) = &sender.any_scope {
        route = route.any_scope(scopes.iter().map(String::as_str));
    }
    if !sender.roles.is_empty() {
        route = route.roles(sender.roles.iter().map(String::as_str));
    }
    if let Some(roles) = &sender.any_role {
        route = route.any_role(roles.iter().map(String::as_str));
    }
    if sender.keep_credentials {
        route = route.keep_credentials();
    }
    route
}

fn unplaced() -> super::Place {
    super::Place { file: "gateway".into(), line: 0, column: 0, field: String::new() }
}

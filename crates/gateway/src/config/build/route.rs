use gusset_ratelimit::Quota;

use super::Building;
use crate::{
    Idempotency, Route,
    config::{
        file::{Leads, QuotaBy, QuotaSection, RouteSection, SplitField},
        gateway::KeptRoute,
        made::{cors, retry_policy},
    },
    limit::{KeyOf, Limit},
};

impl<'c> Building<'c> {
    /// A section is one route, or one for each annotation of a service.
    pub(super) fn routes(&mut self, section: &'c RouteSection) -> Vec<Route> {
        let bare = self.bare(section);
        bare.into_iter().filter_map(|route| self.route(matching(route, section), section)).collect()
    }

    fn route(&mut self, route: Route, section: &'c RouteSection) -> Option<Route> {
        // All that tells routes apart.
        let Route { path, host, methods, .. } = &route;
        let key = format!("{path:?} {host:?} {methods:?} {:?}", section.when);
        let mut kept = self.kept.routes.get(&key).cloned().unwrap_or_default();
        if !matches!(section.leads, Leads::Split(SplitField::Own(_))) {
            // One that comes back later begins as the file says.
            kept.split = None;
        }
        let route = self.called(route, section);
        let mut route = self.leading(route, section, &mut kept)?;
        if let Some(retry) = &section.retry {
            let name = match &section.leads {
                Leads::To(upstream) => &upstream.value,
                _ => &key,
            };
            route = route.retry(retry_policy(retry).budget(self.kept.budget(name)));
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
        route = route.counted_by(kept.counters.clone());
        route = self.limited(route, section, &mut kept);
        route = self.bounded(route, section, &mut kept)?;
        self.routes.insert(key, kept);
        route = route.upgrades(section.upgrades.iter().map(String::as_str));
        if section.grpc_web {
            route = route.grpc_web();
        }
        self.once(demanding(changing(route, section), section), section)
    }

    /// With its name, which is no other's.
    fn called(&mut self, route: Route, section: &'c RouteSection) -> Route {
        let Some(name) = &section.name else { return route };
        if !self.names.insert(&name.value) {
            self.errors.push(name.place.error("an earlier route has this name already"));
        }
        route.name(name.value.as_str())
    }

    /// To whom it leads.
    fn leading(
        &mut self,
        route: Route,
        section: &'c RouteSection,
        kept: &mut KeptRoute,
    ) -> Option<Route> {
        Some(match &section.leads {
            Leads::To(name) => route.to(self.upstream(name)?),
            Leads::Split(split) => route.split(self.split(split, &section.traffic, kept)?),
            Leads::FanOut(section) => route.fan_out(self.fan_out(section)?),
            Leads::Redirect(to) => route.redirect(to.0.clone()),
            Leads::Answer(answer) => route.answer(answer.0.clone()),
        })
    }

    /// With its quota, and with what was counted before.
    fn limited(&mut self, route: Route, section: &RouteSection, kept: &mut KeptRoute) -> Route {
        kept.limit = section.quota.as_ref().and_then(|quota| {
            if quota.shared && section.name.is_none() && !section.when.is_empty() {
                let error = "another route may have this path and other conditions; give this one a name to share by";
                self.errors.push(quota.place.error(error));
                return None;
            }
            let redis = self.config.file.redis.clone().filter(|_| quota.shared);
            let described = (quota.clone(), redis);
            match kept.limit.take() {
                Some((before, limit)) if before == described => Some((before, limit)),
                _ => self.limit(quota, &name_of(&route, section)).map(|limit| (described, limit)),
            }
        });
        match &kept.limit {
            Some((_, limit)) => route.limited_by(limit.clone()),
            None => route,
        }
    }

    fn limit(&mut self, section: &QuotaSection, route: &str) -> Option<Limit> {
        let burst = section.burst.map_or(section.rate.tokens, std::num::NonZero::get);
        let quota = match Quota::checked(section.rate.tokens, section.rate.per, burst) {
            Ok(quota) => quota,
            Err(error) => {
                self.errors.push(section.place.error(error.to_string()));
                return None;
            }
        };
        let key_of = match &section.by {
            QuotaBy::Client | QuotaBy::Subject => KeyOf::Client,
            QuotaBy::Address => KeyOf::Address,
            QuotaBy::All => KeyOf::All,
            QuotaBy::Header(name) => KeyOf::Field(name.clone()),
        };
        Some(match section.shared {
            true => self.shared_by(&section.place)?.limit(route, quota, key_of),
            false => Limit::new(quota, key_of),
        })
    }

    /// With what it makes of `Idempotency-Key`.
    fn once(&mut self, route: Route, section: &RouteSection) -> Option<Route> {
        let Some(section) = &section.idempotency else { return Some(route) };
        let mut policy = match section.shared {
            true => self.shared_by(&section.place)?.once(),
            false => Idempotency::by(self.kept.answers.clone()),
        };
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
        Some(route.idempotency(policy))
    }
}

/// What it is called where gateways of several files, and of several versions, must mean the same by it.
fn name_of(route: &Route, section: &RouteSection) -> String {
    if let Some(name) = &section.name {
        return name.value.clone();
    }
    let methods = section.methods.iter().flatten().map(|method| method.as_str());
    let methods: Vec<_> = methods.collect();
    let host = route.host.as_deref().unwrap_or_default();
    format!("{} {host}{}", methods.join(","), route.path)
}

/// With which requests it takes.
fn matching(mut route: Route, section: &RouteSection) -> Route {
    if let Some(host) = &section.host {
        route = route.host(host);
    }
    if let Some(methods) = &section.methods {
        route = route.methods(methods.iter().cloned());
    }
    for condition in &section.when {
        route = route.when(condition.0.clone());
    }
    match section.rank {
        Some(rank) => route.rank(rank),
        None => route,
    }
}

/// With what it changes in heads.
fn changing(mut route: Route, section: &RouteSection) -> Route {
    if let Some(host) = &section.host_header {
        route = route.host_header(host);
    }
    if let Some(edits) = &section.request_headers {
        route = route.request_headers(edits.edits());
    }
    if let Some(edits) = &section.answer_headers {
        route = route.answer_headers(edits.edits());
    }
    if let Some(prefix) = &section.strip_prefix {
        route = route.strip_prefix(prefix);
    }
    match &section.rewrite {
        Some(path) => route.rewrite(path),
        None => route,
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

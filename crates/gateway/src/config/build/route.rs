use gusset_ratelimit::Quota;

use super::Building;
use crate::{
    Idempotency, Route,
    config::{
        file::{Leads, QuotaBy, QuotaSection, RouteSection},
        gateway::KeptRoute,
        made::{cors, retry_policy},
    },
    limit::{KeyOf, Limit},
};

impl Building<'_> {
    /// A section is one route, or one for each annotation of a service.
    pub(super) fn routes(&mut self, section: &RouteSection) -> Vec<Route> {
        let bare = self.bare(section);
        bare.into_iter().filter_map(|route| self.route(matching(route, section), section)).collect()
    }

    fn route(&mut self, route: Route, section: &RouteSection) -> Option<Route> {
        // All that tells routes apart.
        let Route { path, host, methods, .. } = &route;
        let key = format!("{path:?} {host:?} {methods:?} {:?}", section.when);
        let mut kept = self.kept.routes.get(&key).cloned().unwrap_or_default();
        if !matches!(section.leads, Leads::Split(_)) {
            // One that comes back later begins as the file says.
            kept.split = None;
        }
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
        route = self.limited(route.counted_by(kept.counters.clone()), section, &mut kept);
        route = self.bounded(route, section, &mut kept)?;
        self.routes.insert(key, kept);
        route = route.upgrades(section.upgrades.iter().map(String::as_str));
        Some(self.once(demanding(changing(route, section), section), section))
    }

    /// To whom it leads.
    fn leading(
        &mut self,
        route: Route,
        section: &RouteSection,
        kept: &mut KeptRoute,
    ) -> Option<Route> {
        Some(match &section.leads {
            Leads::To(name) => route.to(self.upstream(name)?),
            Leads::Split(variants) => route.split(self.split(variants, &section.traffic, kept)?),
            Leads::FanOut(section) => route.fan_out(self.fan_out(section)?),
            Leads::Redirect(to) => route.redirect(to.0.clone()),
            Leads::Answer(answer) => route.answer(answer.0.clone()),
        })
    }

    /// With its quota, and with what was counted before.
    fn limited(&mut self, route: Route, section: &RouteSection, kept: &mut KeptRoute) -> Route {
        kept.limit = match (&section.quota, kept.limit.take()) {
            (Some(quota), Some((before, limit))) if before == *quota => Some((before, limit)),
            (Some(quota), _) => self.limit(quota).map(|limit| (quota.clone(), limit)),
            (None, _) => None,
        };
        match &kept.limit {
            Some((_, limit)) => route.limited_by(limit.clone()),
            None => route,
        }
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

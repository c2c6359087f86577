//! What a route asks of its requests.

use std::sync::Arc;

use gusset_ratelimit::ConcurrencyLimiter;

use super::BuildError;
use crate::{
    Cors, HeaderEdits, Route,
    cors::Policy as CorsPolicy,
    front::{Answers, Gate, GateEdits, OncePer, Sender},
    host::is_host,
    identity::Requirement,
    limit::{KeyOf, Limit},
    routes::{Leads, NewPath, Pattern, Rewrite, Template},
    traffic::Places,
};
pub(super) fn compiled(cors: &Cors) -> Result<Arc<CorsPolicy>, String> {
    cors.compile().map(Arc::new)
}

pub(super) fn gate(
    route: &Route,
    pattern: &Pattern,
    cors: Option<&Arc<CorsPolicy>>,
    shed: Option<&ConcurrencyLimiter>,
) -> Result<Gate, BuildError> {
    let places = Places {
        gateway: shed.cloned(),
        route: route.places.clone().or_else(|| Places::of_route(route.in_flight)),
        priority: route.priority,
    };
    let rewrite = match &route.new_path {
        NewPath::Same => Ok(Rewrite::Keep),
        NewPath::Without(prefix) => Rewrite::strip_prefix(&route.path, prefix),
        NewPath::Like(new) => Rewrite::template(pattern, new),
    };
    let new = |(quota, key_of): &(_, KeyOf)| Limit::new(*quota, key_of.clone());
    let limit = route.limit.clone().or_else(|| route.quota.as_ref().map(new));
    let wrong = |reason: String| BuildError::path(&route.path, reason);
    let own_cors = route.cors.as_ref().map(compiled).transpose().map_err(wrong)?;
    let sender = |requires: &Requirement| Sender {
        requires: requires.clone(),
        keeps_credentials: route.keeps_credentials,
    };
    Ok(Gate {
        rewrite: rewrite.map_err(wrong)?,
        edits: edits(route, pattern).map_err(wrong)?,
        answers: answers(route, pattern).map_err(wrong)?,
        split: route.leads.split().cloned(),
        places,
        limit,
        body_limit: route.body_limit,
        sender: route.requires.as_ref().map(sender),
        cors: own_cors.or_else(|| cors.cloned()),
        upgrades: route.upgrades.clone(),
        grpc_web: route.grpc_web,
        once: route.idempotency.clone().map(|policy| OncePer {
            policy,
            route: format!("{} {}", route.host.as_deref().unwrap_or_default(), route.path),
            limit: route.timeout,
        }),
    })
}

/// What a route changes in heads, if it does.
fn edits(route: &Route, pattern: &Pattern) -> Result<Option<Box<GateEdits>>, String> {
    let none = HeaderEdits::new();
    if route.new_host.is_none() && route.request_headers == none && route.answer_headers == none {
        return Ok(None);
    }
    let host = route.new_host.as_ref().map(|host| Template::parse(host, pattern)).transpose()?;
    let literal = host.as_ref().and_then(Template::literal);
    if let Some(host) = literal.filter(|host| !is_host(host)) {
        return Err(format!("{host:?} is no host"));
    }
    let request = route.request_headers.compile(pattern)?;
    let answer = route.answer_headers.compile(pattern)?;
    Ok(Some(Box::new(GateEdits { host, request, answer })))
}

/// How a route answers without an upstream, if it does.
fn answers(route: &Route, pattern: &Pattern) -> Result<Option<Box<Answers>>, String> {
    Ok(match &route.leads {
        Leads::Redirect(redirect) => Some(Box::new(Answers::Moved(redirect.compile(pattern)?))),
        Leads::Answer(answer) => match answer.mistake() {
            Some(mistake) => return Err(mistake),
            None => Some(Box::new(Answers::Always(Box::new(answer.0.clone())))),
        },
        Leads::Nowhere | Leads::To(_) | Leads::Split(_) => None,
    })
}

//! From routes to what the gateway has of each.

use std::{collections::HashMap, sync::Arc};

use gusset_ratelimit::ConcurrencyLimiter;
use gusset_sidecar::RetryPolicy;

use super::{BuildError, gate::gate};
use crate::{
    Route, Upstream,
    cors::Policy as CorsPolicy,
    forward::{Target, Way},
    front::Gate,
    identity::Requirement,
    path::{BadPath, normalise},
    routes::{Entry, Leads, Methods, Pattern, Table, is_host_pattern},
    traffic::{Mirror, Mirroring, Split},
    upstream::{self, Setup},
};
/// What routes are made with, and what they share.
pub(super) struct Parts {
    pub(super) setup: Setup,
    pub(super) cors: Option<Arc<CorsPolicy>>,
    pub(super) shed: Option<ConcurrencyLimiter>,
    pub(super) upstreams: HashMap<Upstream, upstream::Shared>,
    pub(super) table: Table,
}

impl Parts {
    pub(super) fn add(
        &mut self,
        number: usize,
        route: Route,
        can_authenticate: bool,
    ) -> Result<(Gate, Target), BuildError> {
        checked(&route, can_authenticate)?;
        let wrong = |reason: String| BuildError::path(&route.path, reason);
        let pattern = Pattern::parse(&route.path).map_err(wrong)?;
        let entry = entry(&route, number).map_err(wrong)?;
        let inserted = self.table.insert(route.host.as_deref(), &pattern, entry);
        inserted.map_err(|_| BuildError::Taken { path: route.path.clone() })?;
        let gate = gate(&route, &pattern, self.cors.as_ref(), self.shed.as_ref())?;
        let mut make_caller = |to: &Upstream, limit| {
            let new = || upstream::Shared::new(to, &self.setup);
            let upstream = self.upstreams.entry(to.clone()).or_insert_with(new);
            upstream.caller(limit, route.retry.clone(), route.hedge.clone())
        };
        if route.grpc_web && route.composition.is_some() {
            return Err(wrong(TWO_ANSWERS.into()));
        }
        let composed = route.composition.as_ref();
        let composed = composed.map(|to| to.compile(&route, &mut make_caller)).transpose();
        let composed = composed.map_err(wrong)?;
        let mut ways = Vec::new();
        for upstream in leads_to(&route)? {
            let caller = make_caller(&upstream, route.timeout);
            ways.push((upstream, caller));
        }
        let way = |(upstream, caller): (Upstream, _)| {
            let new = || upstream::Shared::new(&upstream, &self.setup);
            let shared = self.upstreams.entry(upstream.clone()).or_insert_with(new).clone();
            Way { upstream, caller, shared }
        };
        let ways: Vec<_> = ways.into_iter().map(way).collect();
        let mirror = match &route.mirror {
            Some(_) if ways.is_empty() => return Err(wrong(NOTHING_TO_MIRROR.into())),
            Some(mirror) => {
                let new = || upstream::Shared::new(mirror.upstream(), &self.setup);
                let upstream = self.upstreams.entry(mirror.upstream().clone()).or_insert_with(new);
                let caller =
                    upstream.caller(route.timeout, Some(RetryPolicy::default().retries(0)), None);
                Some(Mirroring::new(mirror.clone(), caller, route.timeout))
            }
            None => None,
        };
        let (path, named): (Arc<str>, _) = (route.path.into(), route.name.map(Arc::<str>::from));
        let target = Target {
            name: named.as_ref().unwrap_or(&path).clone().into(),
            named,
            path,
            host: route.host.map(Into::into),
            ways,
            split: route.leads.split().cloned(),
            mirror,
            composed,
            counters: route.counters.unwrap_or_default(),
        };
        Ok((gate, target))
    }
}

const TWO_ANSWERS: &str = "it makes JSON of its answers, so there is no gRPC-Web to be made";
const NOTHING_TO_MIRROR: &str = "it asks no upstream of its own, so there is nothing to mirror";

/// Whether a route makes sense.
fn checked(route: &Route, can_authenticate: bool) -> Result<(), BuildError> {
    if route.requires.is_some() && !can_authenticate {
        return Err(BuildError::NoAuthenticate { path: route.path.clone() });
    }
    let mistake = route.requires.as_ref().and_then(Requirement::mistake);
    let mistake = mistake.or_else(|| route.leads.split().and_then(Split::mistake));
    let mistake = mistake.or_else(|| route.mirror.as_ref().and_then(Mirror::mistake));
    if let Some(reason) = mistake.or_else(|| matches_nothing(route)) {
        return Err(BuildError::path(&route.path, reason));
    }
    Ok(())
}

/// The upstreams of a route; none if the gateway answers itself.
fn leads_to(route: &Route) -> Result<Vec<Upstream>, BuildError> {
    let upstreams = match &route.leads {
        Leads::To(upstream) => vec![upstream.clone()],
        Leads::Split(split) => split.upstreams(),
        Leads::Redirect(_) | Leads::Answer(_) => return Ok(Vec::new()),
        Leads::Nowhere if route.composition.is_some() => return Ok(Vec::new()),
        Leads::Nowhere => Vec::new(),
    };
    if upstreams.is_empty() || !upstreams.iter().all(Upstream::leads_somewhere) {
        return Err(BuildError::NoUpstream { path: route.path.clone() });
    }
    Ok(upstreams)
}

/// What the table knows of a route.
fn entry(route: &Route, number: usize) -> Result<Entry, String> {
    let conditions = route.conditions.iter().map(|condition| condition.compile());
    let (methods, rank) = (route.methods.clone(), route.rank);
    Ok(Entry { methods, conditions: conditions.collect::<Result<_, _>>()?, rank, number })
}

/// Why no request would ever take the route as it is written.
fn matches_nothing(route: &Route) -> Option<String> {
    let path = route.path.as_str();
    let old_style = |segment: &str| segment.starts_with([':', '*']) && segment.len() > 1;
    if !path.starts_with('/') {
        return Some(format!("it must begin with a slash: /{path}"));
    }
    if path.split('/').any(old_style) {
        return Some("a parameter is written {name}, the rest of a path {*name}".into());
    }
    if let Some(host) = route.host.as_ref().filter(|host| !is_host_pattern(host)) {
        return Some(format!("{host:?} is no host: a name, an address, or *. and a name"));
    }
    match normalise(path) {
        Ok(normal) if normal != path => {
            return Some(format!("no request has such a path; in normal form it is {normal}"));
        }
        Err(BadPath::Encoding) => {
            return Some(
                "a percent sign is written %25, for two hexadecimal digits follow one".into(),
            );
        }
        Err(_) => {
            let reason =
                "requests with such a path are refused, for servers read it in different ways";
            return Some(reason.into());
        }
        Ok(_) => {}
    }
    matches!(&route.methods, Methods::These(these) if these.is_empty())
        .then(|| "it takes no method at all; without methods(…) it takes all".into())
}

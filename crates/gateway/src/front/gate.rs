//! What one route makes of a request.

use std::{net::IpAddr, sync::Arc, time::Duration};

use gusset_ratelimit::network;
use gusset_registry::hash_key;
use http::{HeaderValue, Uri, header, request::Parts, uri::PathAndQuery};

use super::Aim;
use crate::{
    Client, Idempotency, Identity,
    answer::Answer,
    cors::Policy,
    host::{host_line, is_host},
    idempotency::{KeyFault, Once},
    identity::Requirement,
    limit::{Checked, Limit},
    path::BadPath,
    routes::{Captures, Edits, Filled, Given, HostAs, Moved, Rewrite, Template, View},
    traffic::{Places, Split, SplitKey},
};
/// What a route asks of its requests, and what it makes of them.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) rewrite: Rewrite,
    pub(crate) edits: Option<Box<GateEdits>>,
    pub(crate) split: Option<Split>,
    pub(crate) places: Places,
    /// `None` where an upstream is asked.
    pub(crate) answers: Option<Box<Answers>>,
    pub(crate) limit: Option<Limit>,
    pub(crate) body_limit: u64,
    /// `None` where it may be anybody.
    pub(crate) sender: Option<Sender>,
    pub(crate) cors: Option<Arc<Policy>>,
    pub(crate) upgrades: Vec<Box<str>>,
    /// Whether its upstream has no gRPC-Web of its own.
    pub(crate) grpc_web: bool,
    pub(crate) once: Option<OncePer>,
}

/// What a route changes in heads; most change nothing.
#[derive(Clone, Debug)]
pub(crate) struct GateEdits {
    pub(crate) host: Option<Template>,
    pub(crate) request: Edits,
    pub(crate) answer: Edits,
}

/// How a route answers without an upstream.
#[derive(Clone, Debug)]
pub(crate) enum Answers {
    Always(Box<Given>),
    Moved(Moved),
}

/// What a route makes of `Idempotency-Key`.
#[derive(Clone, Debug)]
pub(crate) struct OncePer {
    pub(crate) policy: Idempotency,
    /// What tells its keys from those of others in the same store.
    pub(crate) route: String,
    pub(crate) limit: Duration,
}

/// What a route asks of its senders.
#[derive(Clone, Debug)]
pub(crate) struct Sender {
    pub(crate) requires: Requirement,
    pub(crate) keeps_credentials: bool,
}

/// What a route makes of a request before it looks who sent it.
pub(super) struct Found {
    pub(super) number: usize,
    pub(super) aim: Aim,
    pub(super) host: HeaderValue,
    pub(super) host_as: Option<HostAs>,
    pub(super) request: Option<Filled>,
    pub(super) answer: Option<Filled>,
    pub(super) key: Option<SplitKey>,
}

impl Gate {
    pub(super) fn found(&self, number: usize, view: &View<'_>) -> Result<Found, Answer> {
        let aim = match self.answers.as_deref() {
            None => Aim::Upstream(self.target(view.path, view.captures, &view.head.uri)?),
            Some(Answers::Always(given)) => Aim::Own(given.clone()),
            Some(Answers::Moved(moved)) => {
                let given = moved.answer(view).ok_or(Answer::BadPath(BadPath::Ambiguous))?;
                Aim::Own(Box::new(given))
            }
        };
        let host = match host_line(&view.head.headers) {
            // Nearly always: it shares the memory of the line.
            Some(line) if line == view.host => line.clone(),
            _ => HeaderValue::try_from(view.host).map_err(|_| Answer::BadHost)?,
        };
        let edits = self.edits.as_deref();
        let request = edits.map(|edits| edits.request.fill(view));
        let mut answer = edits.map(|edits| edits.answer.fill(view));
        let split = self.split.as_ref();
        let (key, cookie) = split.map_or((None, None), |split| split.key(&view.head.headers));
        if let Some(cookie) = cookie {
            answer.get_or_insert_default().add(header::SET_COOKIE, cookie);
        }
        let host_as = self.host_as(view)?;
        Ok(Found { number, aim, host, host_as, request, answer, key })
    }

    /// Who sends it, where that says which variant it gets.
    pub(super) fn sender_key(
        &self,
        sender: Option<&Identity>,
        from: Option<IpAddr>,
    ) -> Option<SplitKey> {
        self.split.as_ref().filter(|split| split.keeps_senders())?;
        Some(SplitKey(match sender {
            Some(identity) => hash_key(&**identity.quota_key()),
            None => match network(from?) {
                IpAddr::V4(address) => hash_key(address.octets()),
                IpAddr::V6(address) => hash_key(address.octets()),
            },
        }))
    }

    fn target(&self, path: &str, captures: &Captures, uri: &Uri) -> Result<Uri, Answer> {
        let new = self.rewrite.apply(path, captures);
        new.and_then(|new| target(uri, &new)).map_err(Answer::BadPath)
    }

    /// The `Host` that the upstream is to see, if the route says so.
    fn host_as(&self, view: &View<'_>) -> Result<Option<HostAs>, Answer> {
        let template = self.edits.as_deref().and_then(|edits| edits.host.as_ref());
        let Some(host) = template.map(|template| template.fill(view)) else { return Ok(None) };
        let value = is_host(&host).then(|| HeaderValue::try_from(host).ok()).flatten();
        value.map(|value| Some(HostAs(value))).ok_or(Answer::BadHost)
    }

    pub(super) fn once(
        &self,
        head: &Parts,
        identity: Option<&Identity>,
        address: Option<IpAddr>,
    ) -> Result<Option<Once>, KeyFault> {
        let Some(OncePer { policy, route, limit }) = &self.once else { return Ok(None) };
        let keyed = policy.keyed(route, head, identity, address)?;
        Ok(keyed.map(|keyed| Once { policy: policy.clone(), keyed, limit: *limit }))
    }

    pub(super) fn check(
        &self,
        address: Option<IpAddr>,
        identity: Option<&Identity>,
        head: &Parts,
    ) -> Checked {
        let Some(limit) = &self.limit else { return Checked::Now(Ok(())) };
        let subject = identity.map(Identity::subject);
        let key = limit.key_of.key(&Client { address, subject, identity, head });
        limit.check(key)
    }
}

/// `path` with the query of `uri`, in the form that a server is asked in.
fn target(uri: &Uri, path: &str) -> Result<Uri, BadPath> {
    // A target without a path, as `http://shop?x`, is not written as one.
    let same = |target: &&PathAndQuery| target.path() == path && target.as_str().starts_with('/');
    if let Some(target) = uri.path_and_query().filter(same) {
        return Ok(target.clone().into());
    }
    let target = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    target.map(Uri::from).map_err(|_| BadPath::Encoding)
}

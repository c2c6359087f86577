//! From a request to the call of an upstream, or to the gateway's own answer.

use std::{net::IpAddr, sync::Arc};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Request, Uri, request::Parts, uri::PathAndQuery,
};
use http_body::Body;

use crate::{
    AuthError, Authenticate, Client, Identity,
    answer::Answer,
    body::RequestBody,
    client::{Origin, Proxies},
    headers::{
        add_via, is_forwarding, is_ours, join_cookies, reads, remove_hop_by_hop, remove_where,
    },
    host::host_of,
    limit::Limit,
    path::{BadPath, normalise},
    rewrite::Rewrite,
    table::{Lookup, Table},
};

/// Tells upstreams who sent a request. Only the gateway sets it.
const SUBJECT: HeaderName = HeaderName::from_static("x-gusset-subject");

/// Everything that is decided before an upstream is called, none of which waits.
pub(crate) struct Front {
    pub(crate) table: Table,
    pub(crate) gates: Vec<Gate>,
    pub(crate) authenticate: Option<Arc<dyn Authenticate>>,
    pub(crate) trusted: Proxies,
}

/// What a route asks of its requests, and what it makes of them.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) rewrite: Rewrite,
    pub(crate) limit: Option<Limit>,
    pub(crate) body_limit: u64,
    pub(crate) authenticated: bool,
}

/// A request that the gateway answers itself, of the route with this number if one was found.
pub(crate) type Refused = (Option<usize>, Answer);

impl Front {
    /// Removes what the sender may not say. It comes before all else, for the layers around the gateway read some of it.
    pub(crate) fn distrust<B>(&self, request: &mut Request<B>) {
        if !self.origin(request.headers(), request.extensions()).trusted {
            remove_where(request.headers_mut(), is_for_the_trusted);
        }
        remove_where(request.headers_mut(), |name| reads(name, SUBJECT.as_str()));
    }

    fn origin(&self, headers: &HeaderMap, extensions: &Extensions) -> Origin {
        Origin::of(headers, extensions, &self.trusted)
    }

    /// The number of the request's route, and the request as its upstream shall see it. [`distrust`](Self::distrust) comes
    /// first.
    pub(crate) fn admit<B>(
        &self,
        request: Request<B>,
    ) -> Result<(usize, Request<RequestBody>), Refused>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut head, body) = request.into_parts();
        let Located { number, target, host } = self.locate(&head).map_err(|a| (None, a))?;
        let of_route = |answer| (Some(number), answer);
        let gate = &self.gates[number];
        let origin = self.origin(&head.headers, &head.extensions);
        let identity = self.identify(gate, &head).map_err(of_route)?;
        let subject = identity.as_ref().map(subject_line).transpose().map_err(of_route)?;
        gate.check(origin.client, identity.as_ref(), &head).map_err(of_route)?;
        if body.size_hint().lower() > gate.body_limit {
            return Err(of_route(Answer::TooLarge { limit: gate.body_limit }));
        }

        head.uri = target;
        remove_hop_by_hop(&mut head.headers);
        join_cookies(&mut head.headers);
        origin.describe(&mut head.headers, &host);
        add_via(&mut head.headers, head.version);
        if let Some(subject) = subject {
            head.headers.insert(SUBJECT, subject);
        }
        let body = RequestBody::new(body, gate.body_limit);
        if let Some(upload) = body.upload() {
            head.extensions.insert(upload.clone());
        }
        Ok((number, Request::from_parts(head, body)))
    }

    fn locate(&self, head: &Parts) -> Result<Located, Answer> {
        let host = host_of(&head.uri, &head.headers).ok_or(Answer::BadHost)?;
        let path = normalise(head.uri.path()).map_err(Answer::BadPath)?;
        match self.table.find(host, &path, &head.method) {
            Lookup::Found(number, params) => {
                let new_path = self.gates[number].rewrite.apply(&path, &params);
                Ok(Located {
                    number,
                    target: target(&head.uri, &new_path).map_err(Answer::BadPath)?,
                    host: HeaderValue::try_from(host).map_err(|_| Answer::BadHost)?,
                })
            }
            Lookup::WrongMethod(allowed) => Err(Answer::WrongMethod(allowed)),
            Lookup::Unknown => Err(Answer::NotFound),
        }
    }

    fn identify(&self, gate: &Gate, head: &Parts) -> Result<Option<Identity>, Answer> {
        match &self.authenticate {
            _ if !gate.authenticated => Ok(None),
            Some(authenticate) => {
                authenticate.authenticate(head).map(Some).map_err(Answer::Unauthorized)
            }
            // A gateway is not built like that.
            None => Err(Answer::Unauthorized(AuthError::Missing)),
        }
    }
}

/// Where a request is to go.
struct Located {
    /// Of the route.
    number: usize,
    /// What the upstream is asked for.
    target: Uri,
    /// The host that the client asked.
    host: HeaderValue,
}

impl Gate {
    fn check(
        &self,
        address: Option<IpAddr>,
        identity: Option<&Identity>,
        head: &Parts,
    ) -> Result<(), Answer> {
        let Some(limit) = &self.limit else { return Ok(()) };
        let subject = identity.map(Identity::shared_subject);
        let client = Client { address, subject: subject.map(|subject| &**subject), head };
        let key = limit.key_of.key(&client, subject);
        limit.check(&key).map_err(Answer::Limited)
    }
}

/// `path` with the query of `uri`, in the form that a server is asked in.
fn target(uri: &Uri, path: &str) -> Result<Uri, BadPath> {
    let same = |target: &&PathAndQuery| target.path() == path;
    if let Some(target) = uri.path_and_query().filter(same) {
        return Ok(target.clone().into());
    }
    let target = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    target.map(Uri::from).map_err(|_| BadPath::Encoding)
}

/// Fields that are believed further in: the way a request came, what the family says to itself, and timeouts, for an instance that
/// lets one pass counts as failing.
fn is_for_the_trusted(name: &HeaderName) -> bool {
    const TIMEOUTS: [&str; 3] =
        ["grpc-timeout", "x-request-timeout-ms", "x-envoy-expected-rq-timeout-ms"];
    is_forwarding(name) || is_ours(name) || TIMEOUTS.iter().any(|timeout| reads(name, timeout))
}

fn subject_line(identity: &Identity) -> Result<HeaderValue, Answer> {
    HeaderValue::from_bytes(identity.subject().as_bytes())
        .map_err(|_| Answer::Unauthorized(AuthError::Invalid))
}

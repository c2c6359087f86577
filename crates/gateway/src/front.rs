//! From a request to the call of an upstream, or to the gateway's own answer.

use std::{future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, request::Parts,
    uri::PathAndQuery,
};
use http_body::Body;

use crate::{
    AuthError, Authenticate, Authenticating, Client, Idempotency, Identity, IdentityHeaders,
    answer::Answer,
    body::RequestBody,
    client::{Origin, Proxies},
    cors::{self, Grant, Policy},
    headers::{
        add_via, has_coding, is_disguised, is_forwarding, is_ours, join_cookies, reads,
        remove_hop_by_hop, remove_where,
    },
    host::host_of,
    idempotency::{KeyFault, Once},
    identity::{Denied, Requirement},
    limit::Limit,
    path::{BadPath, normalise},
    routes::{Lookup, Rewrite, Table},
    transport::Wanted,
};

/// Everything that is decided before an upstream is called. Only an [`Authenticate`] may wait.
pub(crate) struct Front {
    pub(crate) table: Table,
    pub(crate) gates: Vec<Gate>,
    pub(crate) authenticate: Vec<Arc<dyn Authenticate>>,
    pub(crate) identity_headers: IdentityHeaders,
    /// Of requests without a route.
    pub(crate) cors: Option<Arc<Policy>>,
    pub(crate) trusted: Proxies,
}

/// What a route asks of its requests, and what it makes of them.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) rewrite: Rewrite,
    pub(crate) limit: Option<Limit>,
    pub(crate) body_limit: u64,
    /// `None` where it may be anybody.
    pub(crate) sender: Option<Sender>,
    pub(crate) cors: Option<Arc<Policy>>,
    pub(crate) upgrades: Vec<Box<str>>,
    pub(crate) once: Option<OncePer>,
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

/// A request whose route is known.
pub(crate) struct Arrival {
    /// Of the route.
    number: usize,
    head: Parts,
    body: RequestBody,
    /// What the upstream is to be asked for.
    target: Uri,
    /// The host that the client asked.
    host: HeaderValue,
    origin: Origin,
}

/// What becomes of a request.
pub(crate) enum Admission {
    /// It goes to the upstream, as it shall see it.
    Admitted(Request<RequestBody>),
    /// The same, but no more than once.
    Once(Box<Once>, Request<RequestBody>),
    /// Its sender must be found out first; then [`Front::enter`] decides.
    Waiting(Box<Waiting>),
    /// The gateway answers itself.
    Refused(Answer),
}

pub(crate) struct Waiting {
    pub(crate) arrival: Arrival,
    pub(crate) identity: Pin<Box<dyn Future<Output = Result<Identity, AuthError>> + Send>>,
    /// Who said that it takes longer.
    pub(crate) by: usize,
}

impl Front {
    /// Removes what the sender may not say. It comes before all else, for the layers around the gateway read some of it.
    pub(crate) fn distrust<B>(&self, request: &mut Request<B>) {
        let trusted = self.origin(request.headers(), request.extensions()).trusted;
        remove_where(request.headers_mut(), |name| {
            self.identity_headers.contain(name)
                || is_disguised(name)
                || (!trusted && is_for_the_trusted(name))
        });
    }

    fn origin(&self, headers: &HeaderMap, extensions: &Extensions) -> Origin {
        Origin::of(headers, extensions, &self.trusted)
    }

    /// What becomes of a request, what web pages are told of it, and the number of its route if it has one.
    /// [`distrust`](Self::distrust) comes first.
    pub(crate) fn admit<B>(&self, request: Request<B>) -> (Option<usize>, Option<Grant>, Admission)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let (number, located) = match self.locate(&head) {
            Located::Route { number, target, host } => (Some(number), Ok((number, target, host))),
            Located::Preflight(number, method) => (Some(number), Err(Err(method))),
            Located::Nowhere(answer) => (None, Err(Ok(answer))),
        };
        let policy = match number {
            Some(number) => self.gates[number].cors.as_ref(),
            None => self.cors.as_ref(),
        };
        let grant = policy.map(|policy| Grant::of(policy, &head.headers));
        let admission = match (located, &grant) {
            (Ok((number, target, host)), _) => {
                let body = RequestBody::new(body, self.gates[number].body_limit);
                let origin = self.origin(&head.headers, &head.extensions);
                self.arrive(Arrival { number, head, body, target, host, origin })
            }
            (Err(Err(method)), Some(grant)) => {
                Admission::Refused(Answer::Preflight(grant.preflight(&method, &head.headers)))
            }
            (Err(Ok(answer)), _) => Admission::Refused(answer),
            // Preflights are told apart only where there is a policy.
            (Err(Err(_)), None) => Admission::Refused(Answer::NotFound),
        };
        (number, grant, admission)
    }

    fn arrive(&self, arrival: Arrival) -> Admission {
        if self.gates[arrival.number].sender.is_none() {
            return self.pass(arrival, None);
        }
        for (by, way) in self.authenticate.iter().enumerate() {
            match way.authenticate(&arrival.head) {
                Authenticating::Done(Err(AuthError::Missing)) => {}
                Authenticating::Done(result) => return self.enter(arrival, result, by),
                Authenticating::Later(identity) => {
                    return Admission::Waiting(Box::new(Waiting { arrival, identity, by }));
                }
            }
        }
        let schemes = self.authenticate.iter().filter_map(|way| way.challenge());
        Admission::Refused(Answer::Denied(Denied::new(AuthError::Missing, schemes, None)))
    }

    /// Goes on with what the way of this number has found out.
    pub(crate) fn enter(
        &self,
        arrival: Arrival,
        result: Result<Identity, AuthError>,
        by: usize,
    ) -> Admission {
        let scheme = self.authenticate.get(by).and_then(|way| way.challenge());
        let denied = |error, scope: Option<&str>| {
            Admission::Refused(Answer::Denied(Denied::new(error, scheme, scope)))
        };
        let identity = match result {
            Ok(identity) => identity,
            Err(error) => return denied(error, None),
        };
        let sender = self.gates[arrival.number].sender.as_ref();
        match sender.map_or(Ok(()), |sender| sender.requires.check(&identity)) {
            Ok(()) => self.pass(arrival, Some(&identity)),
            Err(scope) => denied(AuthError::Forbidden, Some(&scope)),
        }
    }

    /// The rest of the way, for a sender who may.
    fn pass(&self, arrival: Arrival, identity: Option<&Identity>) -> Admission {
        let Arrival { number, mut head, body, target, host, origin } = arrival;
        let gate = &self.gates[number];
        if let Err(answer) = gate.check(origin.client, identity, &head) {
            return Admission::Refused(answer);
        }
        if body.size_hint().lower() > gate.body_limit {
            return Admission::Refused(Answer::TooLarge { limit: gate.body_limit });
        }

        let once = match gate.once(&head, identity, origin.client) {
            Ok(once) => once,
            Err(fault) => return Admission::Refused(Answer::Key(fault)),
        };

        head.uri = target;
        let wanted = Wanted::of(&mut head, body.is_end_stream(), &gate.upgrades);
        remove_hop_by_hop(&mut head.headers);
        if let Some(wanted) = wanted {
            head.extensions.insert(wanted);
        }
        join_cookies(&mut head.headers);
        origin.describe(&mut head.headers, &host);
        add_via(&mut head.headers, head.version);
        if gate.sender.as_ref().is_some_and(|sender| !sender.keeps_credentials) {
            for way in &self.authenticate {
                way.withhold(&mut head);
            }
        }
        if let Some(identity) = identity {
            if self.identity_headers.tell(identity, &mut head).is_err() {
                let schemes = self.authenticate.iter().filter_map(|way| way.challenge());
                let denied = Denied::new(AuthError::Invalid, schemes, None);
                return Admission::Refused(Answer::Denied(denied));
            }
        }
        if let Some(upload) = body.upload() {
            head.extensions.insert(upload.clone());
        }
        let request = Request::from_parts(head, body);
        match once {
            None => Admission::Admitted(request),
            Some(once) => Admission::Once(Box::new(once), request),
        }
    }

    fn locate(&self, head: &Parts) -> Located {
        if has_coding(&head.headers) {
            return Located::Nowhere(Answer::Coding);
        }
        let Some(host) = host_of(&head.uri, &head.headers) else {
            return Located::Nowhere(Answer::BadHost);
        };
        let path = match normalise(head.uri.path()) {
            Ok(path) => path,
            Err(bad) => return Located::Nowhere(Answer::BadPath(bad)),
        };
        if let Some(method) = cors::asked_method(&head.method, &head.headers) {
            if let Lookup::Found(number, _) = self.table.find(host, &path, &method) {
                if self.gates[number].cors.is_some() {
                    return Located::Preflight(number, method);
                }
            }
        }
        match self.table.find(host, &path, &head.method) {
            Lookup::Found(number, params) => {
                let new_path = self.gates[number].rewrite.apply(&path, &params);
                match (target(&head.uri, &new_path), HeaderValue::try_from(host)) {
                    (Ok(target), Ok(host)) => Located::Route { number, target, host },
                    (Err(bad), _) => Located::Nowhere(Answer::BadPath(bad)),
                    (_, Err(_)) => Located::Nowhere(Answer::BadHost),
                }
            }
            Lookup::WrongMethod(allowed) => Located::Nowhere(Answer::WrongMethod(allowed)),
            Lookup::Unknown => Located::Nowhere(Answer::NotFound),
        }
    }
}

/// Where a request is to go.
enum Located {
    Route {
        number: usize,
        target: Uri,
        host: HeaderValue,
    },
    /// It asks whether a page may use the route of this number with this method.
    Preflight(usize, Method),
    Nowhere(Answer),
}

impl Gate {
    fn once(
        &self,
        head: &Parts,
        identity: Option<&Identity>,
        address: Option<IpAddr>,
    ) -> Result<Option<Once>, KeyFault> {
        let Some(OncePer { policy, route, limit }) = &self.once else { return Ok(None) };
        let keyed = policy.keyed(route, head, identity, address)?;
        Ok(keyed.map(|keyed| Once { policy: policy.clone(), keyed, limit: *limit }))
    }

    fn check(
        &self,
        address: Option<IpAddr>,
        identity: Option<&Identity>,
        head: &Parts,
    ) -> Result<(), Answer> {
        let Some(limit) = &self.limit else { return Ok(()) };
        let subject = identity.map(Identity::subject);
        let key = limit.key_of.key(&Client { address, subject, identity, head });
        limit.check(&key).map_err(Answer::Limited)
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

/// Fields that are believed further in: the way a request came, what the family says to itself, the number of an attempt, which would keep it from being
/// retried, and timeouts, for an instance that lets one pass counts as failing.
fn is_for_the_trusted(name: &HeaderName) -> bool {
    const BELIEVED: [&str; 4] = [
        "grpc-previous-rpc-attempts",
        "grpc-timeout",
        "x-envoy-expected-rq-timeout-ms",
        "x-request-timeout-ms",
    ];
    is_forwarding(name) || is_ours(name) || BELIEVED.iter().any(|field| reads(name, field))
}

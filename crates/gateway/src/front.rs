//! From a request to the call of an upstream, or to the gateway's own answer.

use std::{borrow::Cow, future::Future, net::IpAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use gusset_call::BoxError;
use gusset_ratelimit::network;
use gusset_registry::hash_key;
use http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header, request::Parts,
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
    host::{host_of, is_host},
    idempotency::{KeyFault, Once},
    identity::{Denied, Requirement},
    limit::Limit,
    path::{BadPath, normalise},
    routes::{
        Asked, Captures, Edits, Filled, Given, HostAs, Lookup, Moved, Rewrite, Table, Template,
        View,
    },
    traffic::{Held, Places, Split, SplitKey},
    transport::{Expects, Wanted},
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
    /// Whether all senders may say whatever they say, and how.
    pub(crate) between_services: bool,
}

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

/// A request whose route is known.
pub(crate) struct Arrival {
    /// Of the route.
    number: usize,
    head: Parts,
    body: RequestBody,
    aim: Aim,
    /// The host that the client asked.
    host: HeaderValue,
    origin: Origin,
    edits: Option<Filled>,
    key: Option<SplitKey>,
}

/// What a request is to lead to.
enum Aim {
    /// An upstream, which is to be asked for this.
    Upstream(Uri),
    Own(Box<Given>),
}

/// What becomes of a request, and of its answer.
pub(crate) struct Admitted {
    /// The number of its route, if it has one.
    pub(crate) route: Option<usize>,
    /// What web pages are told of it.
    pub(crate) grant: Option<Grant>,
    /// What is changed in the fields of the answer.
    pub(crate) edits: Option<Filled>,
    /// The places that it has.
    pub(crate) held: Held,
    pub(crate) admission: Admission,
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
        if self.between_services {
            return;
        }
        let trusted = self.origin(request.headers(), request.extensions()).trusted;
        remove_where(request.headers_mut(), |name| {
            self.identity_headers.contain(name)
                || is_disguised(name)
                || (!trusted && is_for_the_trusted(name))
        });
    }

    pub(crate) fn origin(&self, headers: &HeaderMap, extensions: &Extensions) -> Origin {
        Origin::of(headers, extensions, &self.trusted)
    }

    /// What becomes of a request. [`distrust`](Self::distrust) comes first.
    pub(crate) fn admit<B>(&self, request: Request<B>) -> Admitted
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut head, body) = request.into_parts();
        let origin = self.origin(&head.headers, &head.extensions);
        let located = self.locate(&head, &origin);
        let route = match &located {
            Located::Route(found) => Some(found.number),
            Located::Preflight(number, _) => Some(*number),
            Located::Nowhere(number, _) => *number,
        };
        let policy = match route {
            Some(number) => self.gates[number].cors.as_ref(),
            None => self.cors.as_ref(),
        };
        let grant = policy.map(|policy| Grant::of(policy, &head.headers));
        let (mut edits, mut held) = (None, Held::default());
        let admission = match (located, &grant) {
            (Located::Route(found), _) => {
                let Found { number, aim, host, host_as, request, answer, key } = found;
                edits = answer;
                if let Aim::Upstream(_) = aim {
                    match self.gates[number].places.take() {
                        Some(places) => held = places,
                        None => {
                            let admission = Admission::Refused(Answer::Overloaded);
                            return Admitted { route, grant, edits, held, admission };
                        }
                    }
                }
                if let Some(host_as) = host_as {
                    head.extensions.insert(host_as);
                }
                let body = RequestBody::new(body, self.gates[number].body_limit);
                let edits = request;
                self.arrive(Arrival { number, head, body, aim, host, origin, edits, key })
            }
            (Located::Preflight(_, method), Some(grant)) => {
                Admission::Refused(Answer::Preflight(grant.preflight(&method, &head.headers)))
            }
            (Located::Nowhere(_, answer), _) => Admission::Refused(answer),
            // Preflights are told apart only where there is a policy.
            (Located::Preflight(..), None) => Admission::Refused(Answer::NotFound),
        };
        Admitted { route, grant, edits, held, admission }
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
        let Arrival { number, mut head, body, aim, host, origin, edits, key } = arrival;
        let gate = &self.gates[number];
        if let Err(answer) = gate.check(origin.client, identity, &head) {
            return Admission::Refused(answer);
        }
        if body.size_hint().lower() > gate.body_limit {
            return Admission::Refused(Answer::TooLarge { limit: gate.body_limit });
        }
        let target = match aim {
            Aim::Upstream(target) => target,
            Aim::Own(given) => return Admission::Refused(Answer::Given(given)),
        };

        let once = match gate.once(&head, identity, origin.client) {
            Ok(once) => once,
            Err(fault) => return Admission::Refused(Answer::Key(fault)),
        };

        head.uri = target;
        let wanted = Wanted::of(&mut head, body.is_end_stream(), &gate.upgrades);
        if !body.is_end_stream() && asks_first(&head.headers) {
            head.extensions.insert(Expects);
        }
        remove_hop_by_hop(&mut head.headers);
        if let Some(wanted) = wanted {
            head.extensions.insert(wanted);
        }
        if let Some(key) = key.or_else(|| gate.sender_key(identity, origin.client)) {
            head.extensions.insert(key);
        }
        join_cookies(&mut head.headers);
        if self.between_services {
            head.extensions.insert(HostAs(host.clone()));
        } else {
            origin.describe(&mut head.headers, &host);
        }
        // For upstreams that are told it; HTTP/2 has it elsewhere.
        head.headers.insert(header::HOST, host);
        add_via(&mut head.headers, head.version);
        if gate.sender.as_ref().is_some_and(|sender| !sender.keeps_credentials) {
            for way in &self.authenticate {
                way.withhold(&mut head);
            }
        }
        if let Some(edits) = edits {
            edits.apply(&mut head.headers);
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

    /// The path that is matched, and forwarded.
    fn path_of<'r>(&self, uri: &'r Uri) -> Result<Cow<'r, str>, BadPath> {
        match uri.path() {
            path if self.between_services && path.starts_with('/') => Ok(Cow::Borrowed(path)),
            path => normalise(path),
        }
    }

    fn locate(&self, head: &Parts, origin: &Origin) -> Located {
        if has_coding(&head.headers) {
            return Located::Nowhere(None, Answer::Coding);
        }
        let Some(host) = host_of(&head.uri, &head.headers) else {
            return Located::Nowhere(None, Answer::BadHost);
        };
        let path = match self.path_of(&head.uri) {
            Ok(path) => path,
            Err(bad) => return Located::Nowhere(None, Answer::BadPath(bad)),
        };
        let (headers, query) = (Some(&head.headers), head.uri.query());
        let asked = Asked { host, path: &path, method: &head.method, query, headers };
        if let Some(method) = cors::asked_method(&head.method, &head.headers) {
            let asked = Asked { method: &method, headers: None, ..asked };
            if let Lookup::Found(number, _) = self.table.find(&asked) {
                if self.gates[number].cors.is_some() {
                    return Located::Preflight(number, method);
                }
            }
        }
        match self.table.find(&asked) {
            Lookup::Found(number, captures) => {
                let view = View { head, host, path: &path, captures: &captures, origin };
                match self.gates[number].found(number, &view) {
                    Ok(found) => Located::Route(found),
                    Err(answer) => Located::Nowhere(Some(number), answer),
                }
            }
            Lookup::WrongMethod(allowed) => Located::Nowhere(None, Answer::WrongMethod(allowed)),
            Lookup::Unknown => Located::Nowhere(None, Answer::NotFound),
        }
    }
}

/// Whether a client sends its body only to who wants it.
fn asks_first(headers: &HeaderMap) -> bool {
    let expects = headers.get(header::EXPECT);
    expects.is_some_and(|expects| expects.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Where a request is to go.
enum Located {
    Route(Found),
    /// It asks whether a page may use the route of this number with this method.
    Preflight(usize, Method),
    /// It may have a route, and still make no sense there.
    Nowhere(Option<usize>, Answer),
}

/// What a route makes of a request before it looks who sent it.
struct Found {
    number: usize,
    aim: Aim,
    host: HeaderValue,
    host_as: Option<HostAs>,
    request: Option<Filled>,
    answer: Option<Filled>,
    key: Option<SplitKey>,
}

impl Gate {
    fn found(&self, number: usize, view: &View<'_>) -> Result<Found, Answer> {
        let aim = match self.answers.as_deref() {
            None => Aim::Upstream(self.target(view.path, view.captures, &view.head.uri)?),
            Some(Answers::Always(given)) => Aim::Own(given.clone()),
            Some(Answers::Moved(moved)) => {
                let given = moved.answer(view).ok_or(Answer::BadPath(BadPath::Ambiguous))?;
                Aim::Own(Box::new(given))
            }
        };
        let host = HeaderValue::try_from(view.host).map_err(|_| Answer::BadHost)?;
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
    fn sender_key(&self, sender: Option<&Identity>, from: Option<IpAddr>) -> Option<SplitKey> {
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

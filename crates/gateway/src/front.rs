//! From a request to the call of an upstream, or to the gateway's own answer.

mod gate;
mod locate;

use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use gusset_call::BoxError;
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Request, Uri, header, request::Parts};
use http_body::Body;

use self::{gate::Found, locate::Located};
pub(crate) use gate::{Answers, Gate, GateEdits, OncePer, Sender};

use crate::{
    AuthError, Authenticate, Authenticating, Identity, IdentityHeaders,
    answer::Answer,
    body::RequestBody,
    client::{Origin, Proxies},
    cors::{Grant, Policy},
    grpc_web::GrpcWeb,
    headers::{
        add_via, is_disguised, is_forwarding, is_ours, join_cookies, reads, remove_hop_by_hop,
        remove_where,
    },
    host::host_line,
    idempotency::Once,
    identity::Denied,
    limit::Checked,
    routes::{Filled, Given, HostAs, Table},
    traffic::{Held, SplitKey},
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
    web: Option<GrpcWeb>,
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
    /// What its client speaks, and its upstream does not.
    pub(crate) web: Option<GrpcWeb>,
    pub(crate) admission: Admission,
}

/// What becomes of a request.
pub(crate) enum Admission {
    /// It goes to the upstream, as it shall see it.
    Admitted(Request<RequestBody>),
    /// The same, but no more than once.
    Once(Box<Once>, Request<RequestBody>),
    /// Something must be found out first; then [`Front::resume`] decides.
    Waiting(Box<Waiting>),
    /// The gateway answers itself.
    Refused(Answer),
}

pub(crate) struct Waiting {
    pub(crate) arrival: Arrival,
    pub(crate) told: Pin<Box<dyn Future<Output = Told> + Send>>,
}

/// What was waited for.
pub(crate) enum Told {
    /// Who sends, by the way of this number.
    Sender(Result<Identity, AuthError>, usize),
    /// Whether the client may so much, and who sends.
    #[cfg(feature = "redis")]
    Quota(Result<(), Answer>, Option<Identity>),
}

impl Front {
    /// Removes what the sender may not say. It comes before all else, for the layers around the gateway read some of it.
    pub(crate) fn distrust<B>(&self, request: &mut Request<B>) {
        if self.between_services {
            return;
        }
        let trusted = self.trusted.sent(request.extensions());
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
        let (mut edits, mut held, mut web) = (None, Held::default(), None);
        let admission = match (located, &grant) {
            (Located::Route(found), _) => {
                let Found { number, aim, host, host_as, request, answer, key } = found;
                edits = answer;
                if let Aim::Upstream(_) = aim {
                    match self.gates[number].places.take() {
                        Some(places) => held = places,
                        None => {
                            let admission = Admission::Refused(Answer::Overloaded);
                            return Admitted { route, grant, edits, held, web, admission };
                        }
                    }
                }
                if let Some(host_as) = host_as {
                    head.extensions.insert(host_as);
                }
                let body = RequestBody::new(body, self.gates[number].body_limit);
                web = self.gates[number].grpc_web.then(|| GrpcWeb::of(&head)).flatten();
                let edits = request;
                self.arrive(Arrival { number, head, body, aim, host, origin, edits, key, web })
            }
            (Located::Preflight(_, method), Some(grant)) => {
                Admission::Refused(Answer::Preflight(grant.preflight(&method, &head.headers)))
            }
            (Located::Nowhere(_, answer), _) => Admission::Refused(answer),
            // Preflights are told apart only where there is a policy.
            (Located::Preflight(..), None) => Admission::Refused(Answer::NotFound),
        };
        Admitted { route, grant, edits, held, web, admission }
    }

    fn arrive(&self, arrival: Arrival) -> Admission {
        if self.gates[arrival.number].sender.is_none() {
            return self.count(arrival, None);
        }
        for (by, way) in self.authenticate.iter().enumerate() {
            match way.authenticate(&arrival.head) {
                Authenticating::Done(Err(AuthError::Missing)) => {}
                Authenticating::Done(result) => return self.enter(arrival, result, by),
                Authenticating::Later(identity) => {
                    let told = Box::pin(async move { Told::Sender(identity.await, by) });
                    return Admission::Waiting(Box::new(Waiting { arrival, told }));
                }
            }
        }
        let schemes = self.authenticate.iter().filter_map(|way| way.challenge());
        Admission::Refused(Answer::Denied(Denied::new(AuthError::Missing, schemes, None)))
    }

    /// Goes on with what was found out.
    pub(crate) fn resume(&self, arrival: Arrival, told: Told) -> Admission {
        match told {
            Told::Sender(result, by) => self.enter(arrival, result, by),
            #[cfg(feature = "redis")]
            Told::Quota(Ok(()), identity) => self.pass(arrival, identity.as_ref()),
            #[cfg(feature = "redis")]
            Told::Quota(Err(answer), _) => Admission::Refused(answer),
        }
    }

    /// Goes on with what the way of this number has found out.
    fn enter(&self, arrival: Arrival, result: Result<Identity, AuthError>, by: usize) -> Admission {
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
            Ok(()) => self.count(arrival, Some(identity)),
            Err(scope) => denied(AuthError::Forbidden, Some(&scope)),
        }
    }

    /// Takes it from the quota of a sender who may.
    fn count(&self, arrival: Arrival, identity: Option<Identity>) -> Admission {
        let gate = &self.gates[arrival.number];
        match gate.check(arrival.origin.client, identity.as_ref(), &arrival.head) {
            Checked::Now(Ok(())) => self.pass(arrival, identity.as_ref()),
            Checked::Now(Err(answer)) => Admission::Refused(answer),
            #[cfg(feature = "redis")]
            Checked::Later(checked) => {
                let told = Box::pin(async move { Told::Quota(checked.await, identity) });
                Admission::Waiting(Box::new(Waiting { arrival, told }))
            }
        }
    }

    /// The rest of the way.
    fn pass(&self, arrival: Arrival, identity: Option<&Identity>) -> Admission {
        let Arrival { number, mut head, body, aim, host, origin, edits, key, web } = arrival;
        let gate = &self.gates[number];
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
        let body = match web {
            Some(web) => web.request(&mut head, body),
            None => body,
        };
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
        if host_line(&head.headers) != Some(&host) {
            head.headers.insert(header::HOST, host);
        }
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
        Origin::forget(&mut head.extensions);
        if let Some(upload) = body.upload() {
            head.extensions.insert(upload.clone());
        }
        let request = Request::from_parts(head, body);
        match once {
            None => Admission::Admitted(request),
            Some(once) => Admission::Once(Box::new(once), request),
        }
    }
}

/// Whether a client sends its body only to who wants it.
fn asks_first(headers: &HeaderMap) -> bool {
    let expects = headers.get(header::EXPECT);
    expects.is_some_and(|expects| expects.as_bytes().eq_ignore_ascii_case(b"100-continue"))
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
    // Most fields begin in another way, and this is asked of every one.
    matches!(name.as_str().as_bytes().first(), Some(b'f' | b'g' | b'x'))
        && (is_forwarding(name) || is_ours(name) || BELIEVED.iter().any(|field| reads(name, field)))
}

//! The gateway without what observes it.

use std::{
    collections::HashMap,
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use gusset_call::{BoxError, Deadline};
use gusset_registry::{Http, Protocol};
use gusset_sidecar::{ActiveSpan, Metrics, PeekedBody, Watched};
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body;
use http_body_util::{Either, Full};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::util::Oneshot;
use tower_service::Service;

use crate::{
    AccessLog, Upstream,
    access_log::{Entry, Logged},
    answer::Answer,
    body::{AttemptBody, RequestBody},
    compose::{Answering, Composed},
    cors::Grant,
    dialect::Dialect,
    front::{Admission, Admitted, Front, Waiting},
    headers::{add_via, remove_hop_by_hop},
    idempotency::{Gathered, Run},
    routes::Filled,
    spare,
    stats::Counters,
    traffic::{Held, Mirroring, Outcome, Placed, Split},
    transport::{AnswerBody, Switched},
    upstream::{self, Caller},
};

pub(crate) type UpstreamBody = PeekedBody<Watched<AnswerBody<AttemptBody>, ActiveSpan>>;

/// The body of any answer.
pub(crate) type Answered = Logged<Placed<AnyBody>>;

/// The upstream's body, or that of a problem.
pub(crate) type AnyBody =
    Either<UpstreamBody, Either<Full<Bytes>, Either<Gathered<UpstreamBody>, MadeBody>>>;

/// A stream that a composition makes.
pub(crate) type MadeBody = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// The present, by the clock that decisions are made by.
fn now() -> Instant {
    Deadline::now().instant()
}

/// What all clones of a gateway share.
pub(crate) struct Shared {
    pub(crate) front: Front,
    /// In the order of the front's gates.
    pub(crate) targets: Vec<Target>,
    pub(crate) upstreams: HashMap<Upstream, upstream::Shared>,
    pub(crate) metrics: Metrics,
    pub(crate) access_log: Option<AccessLog>,
}

/// Where a route leads.
pub(crate) struct Target {
    /// What it is called if not by its path.
    pub(crate) named: Option<Arc<str>>,
    /// What it is called in metrics and traces.
    pub(crate) name: gusset_sidecar::Route,
    pub(crate) path: Arc<str>,
    pub(crate) host: Option<Arc<str>>,
    /// None where the gateway answers itself.
    pub(crate) ways: Vec<Way>,
    /// What chooses among several.
    pub(crate) split: Option<Split>,
    /// Where copies of its requests go.
    pub(crate) mirror: Option<Mirroring>,
    /// What it does instead of passing on.
    pub(crate) composed: Option<Composed>,
    pub(crate) counters: Arc<Counters>,
}

/// One of the upstreams of a route.
pub(crate) struct Way {
    pub(crate) upstream: Upstream,
    pub(crate) caller: Caller,
    pub(crate) shared: upstream::Shared,
}

/// Admits requests and calls the upstreams, or answers itself.
#[derive(Clone)]
pub(crate) struct Forward(pub(crate) Arc<Shared>);

impl<B> Service<Request<B>> for Forward
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Answered>;
    type Error = Infallible;
    type Future = ForwardFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> ForwardFuture {
        let started = now();
        let dialect = Dialect::of(request.method(), request.headers());
        let entry = self.0.entry(&request);
        let Admitted { route, grant, edits, held, admission } = self.0.front.admit(request);
        let (state, way) = self.0.state(route, admission);
        let shared = self.0.clone();
        ForwardFuture { state, shared, route, way, grant, edits, held, dialect, started, entry }
    }
}

pin_project! {
    /// Future of [`Forward`].
    pub(crate) struct ForwardFuture {
        #[pin]
        state: State,
        shared: Arc<Shared>,
        route: Option<usize>,
        way: usize,
        grant: Option<Grant>,
        edits: Option<Filled>,
        held: Held,
        dialect: Dialect,
        started: Instant,
        entry: Option<Box<Entry>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State {
        Calling { #[pin] call: <Caller as Service<Request<RequestBody>>>::Future },
        // For upstreams that are not ready at once.
        Readying { call: Pin<Box<Oneshot<Caller, Request<RequestBody>>>> },
        Composing { run: Answering },
        Waiting { waiting: Option<Box<Waiting>> },
        Once { run: Run<Result<Response<Gathered<UpstreamBody>>, Answer>> },
        Refused { answer: Option<Answer> },
    }
}

impl State {
    /// The call is made here, if it can be: what waits for its first poll has to be moved there.
    fn calling(mut caller: Caller, request: Request<RequestBody>) -> Self {
        let mut cx = Context::from_waker(Waker::noop());
        match Service::<Request<RequestBody>>::poll_ready(&mut caller, &mut cx) {
            Poll::Ready(Ok(())) => Self::Calling { call: caller.call(request) },
            // It is asked again, with a waker that wakes.
            _ => Self::Readying { call: Box::pin(Oneshot::new(caller, request)) },
        }
    }
}

impl Future for ForwardFuture {
    type Output = Result<Response<Answered>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let mut asked = true;
        let outcome = loop {
            let next = match this.state.as_mut().project() {
                StateProj::Calling { call } => {
                    let called = (*this.route, *this.way, *this.started);
                    break this.shared.called(called, ready!(call.poll(cx)));
                }
                StateProj::Readying { call } => {
                    let called = (*this.route, *this.way, *this.started);
                    break this.shared.called(called, ready!(call.as_mut().poll(cx)));
                }
                StateProj::Composing { run } => break ready!(run.as_mut().poll(cx)),
                StateProj::Once { run } => {
                    let result = ready!(Pin::new(run).poll(cx));
                    if let (Err(Answer::Key(_)), Some(route)) = (&result, *this.route) {
                        this.shared.targets[route].counters.refused();
                    }
                    let body = |body| Either::Right(Either::Right(Either::Left(body)));
                    break result.map(|response| response.map(body));
                }
                StateProj::Waiting { waiting } => {
                    let Some(polled) = waiting.as_mut() else { return Poll::Pending };
                    let told = ready!(polled.told.as_mut().poll(cx));
                    let Some(Waiting { arrival, .. }) = waiting.take().map(|w| *w) else {
                        return Poll::Pending;
                    };
                    let admission = this.shared.front.resume(arrival, told);
                    let (state, way) = this.shared.state(*this.route, admission);
                    *this.way = way;
                    state
                }
                StateProj::Refused { answer } => match answer.take() {
                    Some(answer) => {
                        asked = false;
                        break Err(answer);
                    }
                    // Polled again after it was ready, which only a broken caller does.
                    None => return Poll::Pending,
                },
            };
            this.state.set(next);
        };
        let (status, mut response) = match outcome {
            Ok(response) => (response.status(), response),
            Err(answer) => {
                let (status, told) = (answer.status(), this.dialect.tell(answer));
                (status, told.map(|body| Either::Right(Either::Left(body))))
            }
        };
        this.shared.count(*this.route, *this.started, status, &mut response);
        if let Some(edits) = this.edits.take() {
            edits.apply(response.headers_mut());
        }
        if let Some(grant) = this.grant {
            match response.body() {
                Either::Right(Either::Left(_)) => grant.say(response.headers_mut()),
                _ => grant.replace(response.headers_mut()),
            }
        }
        let place = this.held.answered(asked.then_some(status));
        let mut entry = this.entry.take();
        if let Some(entry) = &mut entry {
            let route = this.shared.target(*this.route).map(|target| target.called().clone());
            entry.answered(response.status(), route);
        }
        Poll::Ready(Ok(response.map(|body| Logged::new(Placed::new(body, place), entry))))
    }
}

impl Target {
    /// Its name, or its path.
    pub(crate) fn called(&self) -> &Arc<str> {
        self.named.as_ref().unwrap_or(&self.path)
    }

    /// Which way a request goes.
    fn choose(&self, admission: &Admission) -> usize {
        let (Some(split), Admission::Admitted(request) | Admission::Once(_, request)) =
            (&self.split, admission)
        else {
            return 0;
        };
        let has_instances = |way: usize| self.ways[way].shared.has_instances();
        split.choose(request.extensions().get().copied(), has_instances)
    }
}

impl Shared {
    /// What will be the line of this request, if there is a log.
    fn entry<B>(&self, request: &Request<B>) -> Option<Box<Entry>> {
        let log = self.access_log.as_ref()?;
        let from = self.front.origin(request.headers(), request.extensions());
        Some(Entry::new(log, request, from.client))
    }

    /// How a request goes on, of the route with this number if it has one, and which way.
    fn state(self: &Arc<Self>, route: Option<usize>, mut admission: Admission) -> (State, usize) {
        let target = self.target(route);
        let way = target.map_or(0, |target| target.choose(&admission));
        let mirror = target.and_then(|target| target.mirror.as_ref());
        if let (Some(mirror), Admission::Admitted(request)) = (mirror, &mut admission) {
            mirror.copy(request);
        }
        (self.state_by(route, way, admission), way)
    }

    fn state_by(self: &Arc<Self>, route: Option<usize>, at: usize, admission: Admission) -> State {
        let target = self.target(route);
        let way = target.and_then(|target| target.ways.get(at));
        let composed = target.and_then(|target| target.composed.as_ref());
        match (admission, way) {
            (Admission::Admitted(request), way) => match (composed, way) {
                (Some(composed), way) => {
                    State::Composing { run: composed.answer(way.map(|way| &way.caller), request) }
                }
                (None, Some(way)) => State::calling(way.caller.clone(), request),
                (None, None) => State::Refused { answer: Some(Answer::NotFound) },
            },
            (Admission::Once(once, request), Some(way)) => {
                let (head, body) = request.into_parts();
                let (shared, caller) = (self.clone(), way.caller.clone());
                let run = once.answer(body, move |body| async move {
                    let started = Instant::now();
                    let called = Oneshot::new(caller, Request::from_parts(head, body)).await;
                    let called = called.map_err(|error| shared.explain(route, &error));
                    shared.judge(route, at, started, &called);
                    called.and_then(passed_back)
                });
                State::Once { run: Run::new(run) }
            }
            // None is admitted without a way.
            (Admission::Once(..), None) => State::Refused { answer: Some(Answer::NotFound) },
            (Admission::Waiting(waiting), _) => State::Waiting { waiting: Some(waiting) },
            (Admission::Refused(answer), _) => {
                if let Some(target) = target.filter(|_| answer.is_refusal()) {
                    target.counters.refused();
                }
                State::Refused { answer: Some(answer) }
            }
        }
    }

    fn target(&self, route: Option<usize>) -> Option<&Target> {
        route.and_then(|number| self.targets.get(number))
    }

    /// What became of the call of an upstream.
    fn called(
        &self,
        (route, way, started): (Option<usize>, usize, Instant),
        result: Result<Response<UpstreamBody>, BoxError>,
    ) -> Result<Response<AnyBody>, Answer> {
        let result = result.map_err(|error| self.explain(route, &error));
        self.judge(route, way, started, &result);
        result.and_then(passed_back).map(|response| response.map(Either::Left))
    }

    /// Tells the split of a route, if it has one, how the call of a way ended.
    fn judge<B>(
        &self,
        route: Option<usize>,
        way: usize,
        started: Instant,
        result: &Result<Response<B>, Answer>,
    ) {
        let Some(split) = self.target(route).and_then(|target| target.split.as_ref()) else {
            return;
        };
        let failed = match result {
            // It knows what failures of gRPC are as well.
            Ok(response) => Protocol::<Request<()>, _>::is_failure(&Http, response),
            Err(answer) => match answer.status().as_u16() {
                502..=504 => true,
                // The client's fault says nothing of the variant.
                _ => return,
            },
        };
        let outcome = if failed { Outcome::Failed } else { Outcome::Served };
        split.record(way, outcome, started.elapsed());
    }

    /// The log says what the client is not told.
    fn explain(&self, route: Option<usize>, error: &BoxError) -> Answer {
        let limit = route.and_then(|number| self.front.gates.get(number)).map(|g| g.body_limit);
        let answer = Answer::to_error(error, limit.unwrap_or_default());
        let path = self.target(route).map(|target| &**target.called());
        let cause = &**error as &dyn std::error::Error;
        if answer == Answer::BadGateway {
            tracing::warn!(route = path, error = cause, "upstream failed");
        } else {
            tracing::debug!(route = path, error = cause, "call ended without an answer");
        }
        answer
    }

    fn count(
        &self,
        route: Option<usize>,
        started: Instant,
        status: StatusCode,
        response: &mut Response<AnyBody>,
    ) {
        if let Some(target) = self.target(route) {
            target.counters.answered(status, now() - started);
            if response.extensions().is_empty() {
                *response.extensions_mut() = spare::extensions();
            }
            response.extensions_mut().insert(target.name.clone());
        }
    }
}

/// An upstream's answer as one of the gateway's.
pub(crate) fn passed_back(
    mut response: Response<UpstreamBody>,
) -> Result<Response<UpstreamBody>, Answer> {
    let switched = response.extensions_mut().remove::<Switched>();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && switched.is_none() {
        return Err(Answer::BadGateway);
    }
    let version = response.version();
    remove_hop_by_hop(response.headers_mut());
    if let Some(Switched(protocol)) = switched {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    add_via(response.headers_mut(), version);
    // An intermediary speaks its own version, and not that of an instance which may be older (RFC 9110, 2.5).
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

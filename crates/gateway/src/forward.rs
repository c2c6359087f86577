//! The gateway without what observes it.

mod answered;
mod shared;

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
use gusset_sidecar::{ActiveSpan, Metrics, PeekedBody, Watched};
use http::{Request, Response};
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
    grpc_web::{self, GrpcWeb},
    idempotency::{Gathered, Run},
    routes::Filled,
    stats::Counters,
    traffic::{Held, Mirroring, Placed, Split},
    transport::AnswerBody,
    upstream::{self, Caller},
};

#[cfg(feature = "compose")]
pub(crate) use answered::passed_back;
use answered::translated;

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
        let Admitted { route, grant, edits, held, web, admission } = self.0.front.admit(request);
        let (state, way) = self.0.state(route, admission);
        let shared = self.0.clone();
        ForwardFuture {
            state,
            shared,
            route,
            way,
            grant,
            edits,
            held,
            web,
            dialect,
            started,
            entry,
        }
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
        web: Option<GrpcWeb>,
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
            Ok(response) => (response.status(), translated(*this.web, response)),
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
            if this.dialect.is_grpc_web() {
                grpc_web::expose(grant, response.headers_mut());
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

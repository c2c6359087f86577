//! How requests go on, and what becomes of them.

use std::sync::Arc;

use gusset_call::BoxError;
use gusset_registry::{Http, Protocol};
use http::{Request, Response, StatusCode};
use http_body_util::Either;
use tokio::time::Instant;
use tower::util::Oneshot;

use super::{AnyBody, Shared, State, Target, UpstreamBody, answered::passed_back, now};
use crate::{
    access_log::Entry, answer::Answer, front::Admission, idempotency::Run, spare, traffic::Outcome,
};

impl Shared {
    /// What will be the line of this request, if there is a log.
    pub(super) fn entry<B>(&self, request: &Request<B>) -> Option<Box<Entry>> {
        let log = self.access_log.as_ref()?;
        let from = self.front.origin(request.headers(), request.extensions());
        Some(Entry::new(log, request, from.client))
    }

    /// How a request goes on, of the route with this number if it has one, and which way.
    pub(super) fn state(
        self: &Arc<Self>,
        route: Option<usize>,
        mut admission: Admission,
    ) -> (State, usize) {
        let target = self.target(route);
        let way = target.map_or(0, |target| target.choose(&admission));
        let mirror = target.and_then(|target| target.mirror.as_ref());
        if let (Some(mirror), Admission::Admitted(request)) = (mirror, &mut admission) {
            mirror.copy(request);
        }
        (self.state_by(route, way, admission), way)
    }

    pub(super) fn state_by(
        self: &Arc<Self>,
        route: Option<usize>,
        at: usize,
        admission: Admission,
    ) -> State {
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

    pub(super) fn target(&self, route: Option<usize>) -> Option<&Target> {
        route.and_then(|number| self.targets.get(number))
    }

    /// What became of the call of an upstream.
    pub(super) fn called(
        &self,
        (route, way, started): (Option<usize>, usize, Instant),
        result: Result<Response<UpstreamBody>, BoxError>,
    ) -> Result<Response<AnyBody>, Answer> {
        let result = result.map_err(|error| self.explain(route, &error));
        self.judge(route, way, started, &result);
        result.and_then(passed_back).map(|response| response.map(Either::Left))
    }

    /// Tells the split of a route, if it has one, how the call of a way ended.
    pub(super) fn judge<B>(
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
    pub(super) fn explain(&self, route: Option<usize>, error: &BoxError) -> Answer {
        let limit = route.and_then(|number| self.front.gates.get(number)).map(|g| g.body_limit);
        let mut answer = Answer::to_error(error, limit.unwrap_or_default());
        if self.front.between_services {
            answer = answer.among_services(error);
        }
        let path = self.target(route).map(|target| &**target.called());
        let cause = &**error as &dyn std::error::Error;
        if answer == Answer::BadGateway {
            tracing::warn!(route = path, error = cause, "upstream failed");
        } else {
            tracing::debug!(route = path, error = cause, "call ended without an answer");
        }
        answer
    }

    pub(super) fn count(
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

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use gusset_call::BoxError;
use gusset_sidecar::{Hedge, HedgeFuture, HedgeLayer, ReplayBody};
use http::Request;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{Balanced, Judge};
use crate::body::{AttemptBody, RequestBody};

/// One attempt: a call of an instance, or of two where the first is slow.
#[derive(Clone)]
pub(crate) enum Attempts {
    Single(Balanced),
    Hedged(Hedge<Twice, Judge>),
}

impl Attempts {
    pub(super) fn new(balance: Balanced, hedge: Option<&HedgeLayer<Judge>>) -> Self {
        match hedge {
            None => Self::Single(balance),
            Some(hedge) => Self::Hedged(hedge.layer(Twice(balance))),
        }
    }
}

type Answered = <Balanced as Service<Request<AttemptBody>>>::Response;

impl Service<Request<ReplayBody<RequestBody>>> for Attempts {
    type Response = Answered;
    type Error = BoxError;
    type Future = AttemptsFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Single(balance) => Service::<Request<AttemptBody>>::poll_ready(balance, cx),
            Self::Hedged(hedge) => {
                Service::<Request<ReplayBody<RequestBody>>>::poll_ready(hedge, cx)
            }
        }
    }

    fn call(&mut self, request: Request<ReplayBody<RequestBody>>) -> AttemptsFuture {
        match self {
            Self::Single(balance) => {
                AttemptsFuture::Single { call: balance.call(request.map(AttemptBody::Single)) }
            }
            Self::Hedged(hedge) => AttemptsFuture::Hedged { call: Box::pin(hedge.call(request)) },
        }
    }
}

/// The balancer, for bodies that are sent by two calls at once.
#[derive(Clone)]
pub(crate) struct Twice(Balanced);

type TwiceBody = ReplayBody<ReplayBody<RequestBody>>;

impl Service<Request<TwiceBody>> for Twice {
    type Response = Answered;
    type Error = BoxError;
    type Future = <Balanced as Service<Request<AttemptBody>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::<Request<AttemptBody>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<TwiceBody>) -> Self::Future {
        self.0.call(request.map(|body| AttemptBody::Hedged(Box::new(body))))
    }
}

pin_project! {
    /// Future of [`Attempts`].
    #[project = AttemptsProj]
    pub(crate) enum AttemptsFuture {
        Single { #[pin] call: <Balanced as Service<Request<AttemptBody>>>::Future },
        // Few routes have hedges, and those have a large state.
        Hedged { call: Pin<Box<HedgeFuture<Twice, ReplayBody<RequestBody>, Judge>>> },
    }
}

impl Future for AttemptsFuture {
    type Output = Result<Answered, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            AttemptsProj::Single { call } => call.poll(cx),
            AttemptsProj::Hedged { call } => call.as_mut().poll(cx),
        }
    }
}

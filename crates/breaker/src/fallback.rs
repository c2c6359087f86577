//! What answers in place of a service whose circuit is open.

use std::{
    future::{Future, Ready, ready},
    pin::Pin,
    task::{Context, Poll, ready},
};

use gusset_call::{BoxError, Open};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Breaker, BreakerLayer, Classify, ResponseFuture};

/// Answers a call that the circuit refused. Closures `|request, open| async { … }` do.
pub trait Answer<Req> {
    /// The answer.
    type Response;
    /// What may go wrong with that.
    type Error: Into<BoxError>;
    /// The answer to come.
    type Future: Future<Output = Result<Self::Response, Self::Error>>;

    /// Answers `request`, which never reached the service. Runs on the path of the call, under no lock.
    fn answer(&self, request: Req, open: Open) -> Self::Future;
}

impl<F, Fut, Req, Res, E> Answer<Req> for F
where
    F: Fn(Req, Open) -> Fut,
    Fut: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Response = Res;
    type Error = E;
    type Future = Fut;

    fn answer(&self, request: Req, open: Open) -> Fut {
        self(request, open)
    }
}

/// A fallback that always answers the same.
#[derive(Clone, Copy, Debug)]
pub struct FallbackValue<T>(pub(crate) T);

impl<T: Clone, Req> Answer<Req> for FallbackValue<T> {
    type Response = T;
    type Error = BoxError;
    type Future = Ready<Result<T, BoxError>>;

    fn answer(&self, _: Req, _: Open) -> Self::Future {
        ready(Ok(self.0.clone()))
    }
}

/// A fallback that asks another service.
#[derive(Clone, Debug)]
pub struct FallbackService<S>(pub(crate) S);

impl<S, Req> Answer<Req> for FallbackService<S>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Asked<S, Req, S::Future>;

    fn answer(&self, request: Req, _: Open) -> Self::Future {
        Asked { service: self.0.clone(), request: Some(request), future: None }
    }
}

pin_project! {
    /// Future of a call to [`FallbackService`]: waits until that is ready, and calls it.
    #[derive(Debug)]
    pub struct Asked<S, Req, F> {
        service: S,
        request: Option<Req>,
        #[pin]
        future: Option<F>,
    }
}

impl<S: Service<Req>, Req> Future for Asked<S, Req, S::Future> {
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if this.request.is_some() {
            ready!(this.service.poll_ready(cx))?;
            if let Some(request) = this.request.take() {
                this.future.set(Some(this.service.call(request)));
            }
        }
        match this.future.as_pin_mut() {
            Some(future) => future.poll(cx),
            None => Poll::Pending,
        }
    }
}

/// A [`BreakerLayer`] with a fallback. All services and clones share the circuit.
#[derive(Clone, Debug)]
pub struct FallbackLayer<C, F> {
    breaker: BreakerLayer<C>,
    fallback: F,
}

impl<C, F> FallbackLayer<C, F> {
    pub(crate) const fn new(breaker: BreakerLayer<C>, fallback: F) -> Self {
        Self { breaker, fallback }
    }
}

impl<S, C: Clone, F: Clone> Layer<S> for FallbackLayer<C, F> {
    type Service = Fallback<Breaker<S, C>, F>;

    fn layer(&self, inner: S) -> Self::Service {
        Fallback { breaker: self.breaker.layer(inner), fallback: self.fallback.clone() }
    }
}

/// A [`Breaker`] whose refusals are answered by a fallback. Errors of the service itself pass as they are.
///
/// # Readiness
///
/// That of the breaker. The fallback's is not asked before it is needed.
///
/// # Cancellation
///
/// As with the breaker; a fallback under way is dropped, and has no say in the circuit.
#[derive(Clone, Debug)]
pub struct Fallback<B, F> {
    breaker: B,
    fallback: F,
}

impl<S, C, F, Req> Service<Req> for Fallback<Breaker<S, C>, F>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
    C: Classify<S::Response, S::Error> + Clone,
    F: Answer<Req, Response = S::Response>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = FallbackFuture<ResponseFuture<S::Future, C>, F::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.breaker.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let from = match self.breaker.admit() {
            Ok(ticket) => From::Service { future: self.breaker.pass(ticket, request) },
            Err(open) => From::Fallback { future: self.fallback.answer(request, *open) },
        };
        FallbackFuture { from }
    }
}

pin_project! {
    /// Future of [`Fallback`].
    #[derive(Debug)]
    pub struct FallbackFuture<F, A> {
        #[pin]
        from: From<F, A>,
    }
}

pin_project! {
    #[project = FromProj]
    #[derive(Debug)]
    enum From<F, A> {
        Service { #[pin] future: F },
        Fallback { #[pin] future: A },
    }
}

impl<F, A, Res, E> Future for FallbackFuture<F, A>
where
    F: Future<Output = Result<Res, BoxError>>,
    A: Future<Output = Result<Res, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Res, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().from.project() {
            FromProj::Service { future } => future.poll(cx),
            FromProj::Fallback { future } => future.poll(cx).map_err(Into::into),
        }
    }
}

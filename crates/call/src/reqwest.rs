use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use reqwest::{Body, Client, Error};
use tower_service::Service;

/// A reqwest client as a service of `http::Request`, so that HTTP layers fit around it.
///
/// reqwest's own service takes `reqwest::Request`; layers that look at no request, such as a breaker, work
/// around that one as well.
///
/// # Readiness
///
/// Always ready.
///
/// # Cancellation
///
/// Dropping the future ends the request.
#[derive(Clone, Debug)]
pub struct Reqwest(Client);

impl Reqwest {
    /// Sends through `client`.
    #[must_use]
    pub const fn new(client: Client) -> Self {
        Self(client)
    }
}

impl<B: Into<Body>> Service<Request<B>> for Reqwest {
    type Response = Response<Body>;
    type Error = Error;
    type Future = ReqwestFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let state = match reqwest::Request::try_from(request) {
            Ok(request) => State::Sent { response: self.0.call(request) },
            Err(error) => State::Malformed { error: Some(error) },
        };
        ReqwestFuture { state }
    }
}

pin_project! {
    /// Future of [`Reqwest`].
    #[derive(Debug)]
    pub struct ReqwestFuture {
        #[pin]
        state: State,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State {
        Sent { #[pin] response: <Client as Service<reqwest::Request>>::Future },
        /// The URI is none that can be called, for instance because it is relative.
        Malformed { error: Option<Error> },
    }
}

impl Future for ReqwestFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Sent { response } => Poll::Ready(ready!(response.poll(cx)).map(Into::into)),
            StateProj::Malformed { error } => {
                error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
            }
        }
    }
}

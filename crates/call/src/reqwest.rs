use std::{
    any::Any,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use reqwest::{Body, Client, Error, RequestBuilder, ResponseBuilderExt};
use tower_service::Service;

use crate::BoxError;

/// A reqwest client as a service of `http::Request` with any body, also one that is not `Sync`, so that HTTP layers fit around it.
///
/// reqwest's own service takes `reqwest::Request`; layers that look at no request, such as a breaker, work
/// around that one as well.
///
/// Requests made by reqwest's builders go through such a stack by [`SendThrough`].
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

impl<B> Service<Request<B>> for Reqwest
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ReqwestFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let state = match reqwest::Request::try_from(request.map(to_body)) {
            Ok(request) => State::Sent { response: self.0.call(request) },
            Err(error) => State::Malformed { error: Some(error) },
        };
        ReqwestFuture { state }
    }
}

/// One of reqwest's own stays as it is, for it may know its bytes, which then can be sent again after a redirection.
fn to_body<B>(body: B) -> Body
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut body = Some(body);
    let own = (&mut body as &mut dyn Any).downcast_mut::<Option<Body>>().and_then(Option::take);
    let other = |body| Body::wrap(ByOneThread(Mutex::new(Box::pin(body))));
    own.or_else(|| body.map(other)).unwrap_or_default()
}

/// A body that need not be `Sync`, as axum's and tonic's are not, where reqwest wants one that is. Nobody waits for the lock: a body is polled by whoever owns it.
struct ByOneThread<B>(Mutex<Pin<Box<B>>>);

impl<B: HttpBody> HttpBody for ByOneThread<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let body = self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner);
        body.as_mut().poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

/// Sends what reqwest's builders make through layers around [`Reqwest`].
///
/// ```
/// # async fn f() -> Result<(), gusset_call::BoxError> {
/// use gusset_call::{Reqwest, SendThrough};
///
/// let http = reqwest::Client::new();
/// let layered = Reqwest::new(http.clone()); // with layers around it
/// let answer = http.get("http://orders.example/42").send_through(layered.clone()).await?;
/// println!("{}", answer.error_for_status()?.text().await?);
/// # Ok(())
/// # }
/// ```
pub trait SendThrough: Sized {
    /// As `RequestBuilder::send`, but through `service`, usually a clone of a stack of layers around a [`Reqwest`]. Settings of the request alone,
    /// such as its timeout, hold for each attempt.
    ///
    /// # Errors
    ///
    /// Those of the layers, in which [`refusal_in`](crate::refusal_in) finds refusals; `reqwest::Error` by downcast.
    ///
    /// # Cancellation
    ///
    /// Dropping the future ends the call.
    fn send_through<S, B>(
        self,
        service: S,
    ) -> impl Future<Output = Result<reqwest::Response, BoxError>> + Send
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
            + Send,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static;
}

impl SendThrough for RequestBuilder {
    async fn send_through<S, B>(self, mut service: S) -> Result<reqwest::Response, BoxError>
    where
        S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>, Future: Send>
            + Send,
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let request = Request::try_from(self.build()?)?;
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
        let response = service.call(request).await.map_err(Into::into)?;
        Ok(response.map(to_body).into())
    }
}

/// With the address that answered, which the conversion leaves out and `reqwest::Response` wants to know.
fn to_http(response: reqwest::Response) -> Response<Body> {
    let addressed = Response::builder().url(response.url().clone()).body(());
    let mut response = Response::<Body>::from(response);
    if let Ok(addressed) = addressed {
        response.extensions_mut().extend(addressed.into_parts().0.extensions);
    }
    response
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
            StateProj::Sent { response } => Poll::Ready(ready!(response.poll(cx)).map(to_http)),
            StateProj::Malformed { error } => {
                error.take().map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[test]
    fn a_body_that_is_not_sync_is_taken_and_its_length_is_known() {
        let body = to_body(Full::<Bytes>::from("hello").boxed_unsync());
        assert_eq!(body.size_hint().exact(), Some(5));
        assert!(!body.is_end_stream());
        assert!(to_body(Full::<Bytes>::default().boxed_unsync()).is_end_stream());
    }

    #[tokio::test]
    async fn a_body_that_is_not_sync_arrives_whole_with_its_trailers() {
        let trailers = async {
            Some(Ok(http::HeaderMap::from_iter([(http::header::ETAG, "7".parse().unwrap())])))
        };
        let body = Full::<Bytes>::from("hello").with_trailers(trailers).boxed_unsync();
        let collected = to_body(body).collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()[http::header::ETAG], "7");
        assert_eq!(collected.to_bytes(), "hello");
    }
}

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Request;
use http_body::Body as HttpBody;
use tonic::{Code, Status, body::Body};
use tower_service::Service;

use crate::{BoxError, refusal_in};

/// A tonic channel as a service of requests with any body, so that layers which change the body fit around it. A generated client takes
/// the whole:
///
/// ```
/// # use gusset_call::Tonic;
/// # struct HealthClient<T>(T);
/// # impl<T: tower_service::Service<http::Request<tonic::body::Body>>> HealthClient<T> { fn new(inner: T) -> Self { Self(inner) } }
/// # fn f<S>(channel: S) where S: tower_service::Service<http::Request<tonic::body::Body>> {
/// let stack = Tonic::new(channel); // with layers around it
/// let client = HealthClient::new(stack);
/// # }
/// ```
///
/// # Readiness
///
/// That of the channel.
///
/// # Cancellation
///
/// Dropping the future ends the call.
#[derive(Clone, Copy, Debug)]
pub struct Tonic<S>(S);

impl<S> Tonic<S> {
    /// Sends through `channel`.
    #[must_use]
    pub const fn new(channel: S) -> Self {
        Self(channel)
    }
}

impl<S, B> Service<Request<B>> for Tonic<S>
where
    S: Service<Request<Body>>,
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        self.0.call(request.map(Body::new))
    }
}

/// The status that an error of a stack of layers is to the caller of a generated client: for a refusal its own code, with the error as the source, where
/// [`refusal_in`] finds it; for all else what tonic makes of it. Outermost around the layers, by tower's `map_err`; without it a
/// refusal is `UNKNOWN`.
///
/// ```
/// use gusset_call::{BoxError, Limited, to_status};
///
/// let refused = to_status(BoxError::from(Limited::new(std::time::Duration::from_secs(3))));
/// assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
/// assert_eq!(to_status("a bug").code(), tonic::Code::Unknown);
/// ```
#[must_use]
pub fn to_status(error: impl Into<BoxError>) -> Status {
    let error = error.into();
    let refused = refusal_in(&*error).map(|refusal| (refusal.grpc_code(), refusal.to_string()));
    match refused {
        Some((code, text)) => {
            let mut status = Status::new(Code::from_i32(i32::from(code)), text);
            status.set_source(Arc::from(error));
            status
        }
        None => Status::from_error(error),
    }
}

use std::{
    convert::Infallible,
    fmt::Write as _,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{Either, Full};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{BoxError, Problem, Refusal, ServiceLimit, refusal_in};

/// Body of a service behind [`AnswerLayer`]: the service's own, or a small one of ours.
pub type AnswerBody<B> = Either<B, Full<Bytes>>;

/// Answers every error of the services inside it, so that a server never has to.
///
/// A refusal becomes the HTTP status of the table in the crate's documentation with a problem body and
/// `Retry-After`; to a gRPC request (`content-type: application/grpc…`) it becomes a trailers-only answer with
/// `grpc-retry-pushback-ms`. Either has `RateLimit-Policy` and `RateLimit` if the refusal knows its quotas. Any other error is logged and becomes 500 (gRPC 13 `INTERNAL`) without its
/// text, which may hold secrets. Put it outermost on servers; clients want the error itself and do without.
///
/// Without it, axum's `Router::layer` says that `Infallible: From<Box<dyn Error + Send + Sync>>` is not satisfied: its services must not
/// fail. Around a tonic channel it turns a refusal, which a generated client would see as `UNKNOWN`, into `UNAVAILABLE` and its like.
///
/// ```
/// use gusset_call::{AnswerLayer, BoxError, Open};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use http::{Request, Response};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let server = ServiceBuilder::new().layer(AnswerLayer::new()).service(service_fn(
///     |_: Request<()>| async { Err::<Response<String>, BoxError>(Open::new("db").into()) },
/// ));
/// let answer = server.oneshot(Request::new(())).await.unwrap();
/// assert_eq!(answer.status(), 503);
/// # });
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerLayer {
    _private: (),
}

impl AnswerLayer {
    /// The layer; there is nothing to set.
    #[must_use]
    pub const fn new() -> Self {
        Self { _private: () }
    }
}

impl<S> Layer<S> for AnswerLayer {
    type Service = Answer<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Answer { inner, broken: None }
    }
}

/// Service of [`AnswerLayer`].
///
/// # Readiness
///
/// That of the inner service. If the inner `poll_ready` fails, this is ready, and the next call answers with that
/// error.
///
/// # Cancellation
///
/// Dropping the future drops the inner one.
#[derive(Debug)]
pub struct Answer<S> {
    inner: S,
    broken: Option<BoxError>,
}

impl<S: Clone> Clone for Answer<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), broken: None }
    }
}

impl<S, B, RB> Service<Request<B>> for Answer<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody<RB>>;
    type Error = Infallible;
    type Future = AnswerFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.broken.is_none() {
            if let Err(error) = ready!(self.inner.poll_ready(cx)) {
                self.broken = Some(error.into());
            }
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let dialect = Dialect::of(request.headers());
        let state = match self.broken.take() {
            Some(error) => State::Broken { error: Some(error) },
            None => State::Called { future: self.inner.call(request) },
        };
        AnswerFuture { dialect, state }
    }
}

pin_project! {
    /// Future of [`Answer`].
    #[derive(Debug)]
    pub struct AnswerFuture<F> {
        dialect: Dialect,
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Called { #[pin] future: F },
        Broken { error: Option<BoxError> },
    }
}

impl<F, RB, E> Future for AnswerFuture<F>
where
    F: Future<Output = Result<Response<RB>, E>>,
    E: Into<BoxError>,
{
    type Output = Result<Response<AnswerBody<RB>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let error = match this.state.project() {
            StateProj::Called { future } => match ready!(future.poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(response.map(Either::Left))),
                Err(error) => error.into(),
            },
            StateProj::Broken { error } => match error.take() {
                Some(error) => error,
                None => return Poll::Pending,
            },
        };
        Poll::Ready(Ok(this.dialect.answer(&*error).map(Either::Right)))
    }
}

/// How the caller wants to hear of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Http,
    Grpc,
}

impl Dialect {
    fn of(request: &HeaderMap) -> Self {
        match request.get(header::CONTENT_TYPE) {
            Some(kind) if is_grpc(kind.as_bytes()) => Self::Grpc,
            _ => Self::Http,
        }
    }

    fn answer(self, error: &(dyn std::error::Error + 'static)) -> Response<Full<Bytes>> {
        const INTERNAL: u8 = 13;
        match (refusal_in(error), self) {
            (Some(refusal), Self::Http) => Problem::of(refusal).into_response(),
            (Some(refusal), Self::Grpc) => {
                trailers_only(refusal.grpc_code(), &refusal.to_string(), Some(refusal))
            }
            (None, dialect) => {
                tracing::error!(error, "request failed");
                match dialect {
                    Self::Http => Problem::new(StatusCode::INTERNAL_SERVER_ERROR).into_response(),
                    Self::Grpc => trailers_only(INTERNAL, "internal error", None),
                }
            }
        }
    }
}

/// `application/grpc` itself, with a codec or with parameters; not grpc-web, which reads its status elsewhere.
fn is_grpc(content_type: &[u8]) -> bool {
    let rest = content_type.strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// A gRPC answer without messages: its status travels in the only block of headers.
fn trailers_only(code: u8, message: &str, refusal: Option<&dyn Refusal>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", u16::from(code).into());
    if let Ok(message) = HeaderValue::try_from(percent_encode(message)) {
        headers.insert("grpc-message", message);
    }
    let Some(refusal) = refusal else { return response };
    ServiceLimit::tell(refusal.limits(), headers);
    if let Some(span) = refusal.retry_after() {
        // Rounded up: who comes back a fraction of a millisecond too soon is refused again.
        let millis = u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        headers.insert("grpc-retry-pushback-ms", millis.into());
    }
    response
}

/// The encoding of `grpc-message`: everything but printable ASCII, and the percent sign itself.
fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DeadlineExceeded, Limited, Open, QuotaPolicy};
    use http_body_util::BodyExt;
    use std::time::Duration;
    use tower::{ServiceExt, service_fn};

    async fn answer_to(
        error: impl Into<BoxError>,
        content_type: &'static str,
    ) -> Response<AnswerBody<String>> {
        let mut error = Some(error.into());
        let service = service_fn(move |_: Request<()>| {
            let error = error.take().unwrap();
            async move { Err::<Response<String>, BoxError>(error) }
        });
        let request = Request::builder().header("content-type", content_type).body(()).unwrap();
        AnswerLayer::new().layer(service).oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn a_refusal_becomes_a_problem_for_http() {
        let open = Open::new("db").with_retry_after(Duration::from_millis(1_200));
        let answer = answer_to(open, "application/json").await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "2");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }

    #[tokio::test]
    async fn a_refusal_becomes_a_trailers_only_answer_for_grpc() {
        let open = Open::new("db ü").with_retry_after(Duration::from_millis(1_200));
        let answer = answer_to(open, "application/grpc+proto").await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["grpc-status"], "14");
        assert_eq!(answer.headers()["grpc-message"], "circuit db %C3%BC is open");
        assert_eq!(answer.headers()["grpc-retry-pushback-ms"], "1200");

        let web = answer_to(DeadlineExceeded, "application/grpc-web+proto").await;
        assert_eq!(
            web.status(),
            StatusCode::GATEWAY_TIMEOUT,
            "it reads no gRPC trailers-only answer"
        );

        let late = answer_to(DeadlineExceeded, "application/grpc").await;
        assert_eq!(late.headers()["grpc-status"], "4");
        assert!(!late.headers().contains_key("grpc-retry-pushback-ms"));
    }

    #[tokio::test]
    async fn a_limit_is_told_to_grpc_as_well_and_its_pushback_is_rounded_up() {
        let policy = QuotaPolicy::new("default", 100, Duration::from_secs(60));
        let limited = Limited::new(Duration::from_micros(599_001))
            .with_limits([ServiceLimit::new(policy, 0).within(Duration::from_secs(1))]);
        let answer = answer_to(limited, "application/grpc").await;
        assert_eq!(answer.headers()["grpc-status"], "8");
        assert_eq!(answer.headers()["grpc-retry-pushback-ms"], "600");
        assert_eq!(answer.headers()["ratelimit"], "\"default\";r=0;t=1");
    }

    #[tokio::test]
    async fn an_unknown_error_is_answered_without_its_text() {
        let answer = answer_to("password=hunter2", "text/plain").await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(!String::from_utf8_lossy(&body).contains("hunter2"));
        assert_eq!(answer_to("secret", "application/grpc").await.headers()["grpc-status"], "13");
    }

    #[tokio::test]
    async fn an_error_of_readiness_is_answered_by_the_next_call() {
        let (mock, mut handle) = tower_test::mock::pair::<Request<()>, Response<String>>();
        handle.send_error("gone");
        let answer = AnswerLayer::new().layer(mock).oneshot(Request::new(())).await.unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{page, problem};

/// Future of [`Admin`](super::Admin).
pub struct AdminFuture(Doing);

enum Doing {
    /// `None` once it was given.
    Answered(Option<Response<Full<Bytes>>>),
    Reloading(JoinHandle<Result<Value, String>>),
}

impl AdminFuture {
    pub(super) const fn answered(response: Response<Full<Bytes>>) -> Self {
        Self(Doing::Answered(Some(response)))
    }

    pub(super) const fn reloading(task: JoinHandle<Result<Value, String>>) -> Self {
        Self(Doing::Reloading(task))
    }
}

impl Future for AdminFuture {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = match &mut self.0 {
            Doing::Reloading(task) => reloaded(ready!(Pin::new(task).poll(cx)).ok()),
            Doing::Answered(response) => match response.take() {
                Some(response) => response,
                // Polled again after it was ready, which only a broken caller does.
                None => return Poll::Pending,
            },
        };
        self.0 = Doing::Answered(None);
        Poll::Ready(Ok(safe(response)))
    }
}

/// What came of it; nothing if it has panicked.
pub(super) fn reloaded(done: Option<Result<Value, String>>) -> Response<Full<Bytes>> {
    match done {
        Some(Ok(done)) => page(&done),
        Some(Err(errors)) => problem(StatusCode::UNPROCESSABLE_ENTITY, &errors),
        None => problem(StatusCode::INTERNAL_SERVER_ERROR, "the reload has ended without a word"),
    }
}

/// Nobody keeps it, and no browser takes it for a page.
fn safe(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(no_store);
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

impl fmt::Debug for AdminFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminFuture").finish_non_exhaustive()
    }
}

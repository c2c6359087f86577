//! The questions over HTTP.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll},
};

use bytes::Bytes;
use gusset_call::Problem;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use tower_service::Service;

use super::{LogQuery, Store, StoreBody, request::Ask};

/// Serves a [`Store`] as JSON; from [`Store::service`]. Clones share it.
///
/// | path | answer |
/// |---|---|
/// | `/traces` | `{"traces": […]}`: a line for each trace, the youngest first |
/// | `/traces/{id}` | `{"trace_id", "spans": […], "logs": […]}`, the oldest first; 404 if there is nothing of it |
/// | `/logs` | `{"logs": […]}`, the youngest first |
///
/// Parameters of `/traces`: `service`, `since`, `until` (nanoseconds since 1970), `min_duration_ms`, `failed=true`, `text`, `limit` (at most 1,000); of `/logs`: `service`, `level`,
/// `trace_id`, `since`, `until`, `text`, `before` (a `number`, to go on from there), `limit`. One that is not known is refused, with 400.
///
/// With `follow=true`, or `Accept: text/event-stream`, `/logs` and `/traces` go on for ever: server-sent events `log` and `span`, one for each that comes. An event `missed` tells
/// how many were overwritten before they could be sent, for a slow reader is not waited for and costs no memory. Logs go on behind `Last-Event-ID`.
/// Followers look four times a second; there are at most 64, and more are refused with 503. [`Store::close`] ends them.
///
/// Logs tell secrets of users. It asks nobody who he is: listen on the loopback device, or put something that does in front.
///
/// # Readiness
///
/// Always ready.
///
/// # Cancellation
///
/// The future is ready at once. Dropping the body ends the following.
#[derive(Clone, Debug)]
pub struct StoreService(Store);

impl StoreService {
    pub(super) const fn new(store: Store) -> Self {
        Self(store)
    }

    fn answer(&self, ask: Ask) -> Response<StoreBody> {
        #[derive(Serialize)]
        struct Traces<T> {
            traces: T,
        }
        #[derive(Serialize)]
        struct Logs<T> {
            logs: T,
        }
        #[derive(Serialize)]
        struct Trace<S, L> {
            trace_id: String,
            spans: S,
            logs: L,
        }
        let store = &self.0;
        let follower = match ask {
            Ask::Traces(query) => return json(&Traces { traces: store.traces(&query) }),
            Ask::Logs(query) => {
                let logs = store.logs(&query);
                return json(&Logs { logs: logs.iter().map(|log| &**log).collect::<Vec<_>>() });
            }
            Ask::Trace(id) => {
                let spans = store.trace(id);
                let logs = store.logs(&LogQuery::new().trace(id).limit(1_000));
                if spans.is_empty() && logs.is_empty() {
                    return problem(StatusCode::NOT_FOUND, "nothing of this trace is here");
                }
                let logs: Vec<_> = logs.iter().rev().map(|log| &**log).collect();
                return json(&Trace { trace_id: id.to_string(), spans, logs });
            }
            Ask::FollowSpans(query) => StoreBody::spans(store, query),
            Ask::FollowLogs(query, from) => StoreBody::logs(store, query, from),
        };
        match follower {
            Some(body) => with_type(Response::new(body), "text/event-stream"),
            None => problem(StatusCode::SERVICE_UNAVAILABLE, "too many follow, or it is closed"),
        }
    }
}

impl<B> Service<Request<B>> for StoreService {
    type Response = Response<StoreBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut response = match Ask::of(&request) {
            Ok(ask) => self.answer(ask),
            Err((status, why)) => problem(status, &why),
        };
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if request.method() == Method::HEAD {
            *response.body_mut() = StoreBody::default();
        }
        ready(Ok(response))
    }
}

fn json(value: &impl Serialize) -> Response<StoreBody> {
    match serde_json::to_vec(value) {
        Ok(json) => with_type(Response::new(Full::from(json).into()), "application/json"),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn problem(status: StatusCode, why: &str) -> Response<StoreBody> {
    Problem::new(status).detail(why).into_response().map(Full::<Bytes>::into)
}

/// What is asked again and again is never the same, and nobody is to guess what it is.
fn with_type(mut response: Response<StoreBody>, kind: &'static str) -> Response<StoreBody> {
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

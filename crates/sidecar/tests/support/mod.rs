//! What several of these tests need.

#![allow(dead_code, unreachable_pub, reason = "not every test uses all of it")]

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gusset_call::{Attempt, BoxError, Tried};
use gusset_sidecar::ATTEMPT_HEADER;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep};
use tower::Service;

/// One attempt as the upstream saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub at: Duration,
    pub attempt: u32,
    pub header: Option<String>,
    pub body: Bytes,
    pub tried: Tried,
    pub headers: http::HeaderMap,
}

/// What the upstream does with an attempt.
pub enum Step {
    Answer(Response<Full<Bytes>>),
    Fail(BoxError),
    /// Fails without having read anything of the body.
    Refuse(BoxError),
    Hang,
    /// Hangs with the body in its hands.
    HangUnread,
    AnswerAfter(Duration, u16),
}

/// An upstream that follows a script, and answers 200 when that is over. It panics when called unready.
#[derive(Clone)]
pub struct Upstream {
    script: Arc<Mutex<VecDeque<Step>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    began: Instant,
    ready: bool,
}

impl Upstream {
    pub fn new(script: impl IntoIterator<Item = Step>) -> Self {
        Self {
            script: Arc::new(Mutex::new(script.into_iter().collect())),
            seen: Arc::default(),
            began: Instant::now(),
            ready: false,
        }
    }

    pub fn unready_clone(&self) -> Self {
        Self { ready: false, ..self.clone() }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn times(&self) -> Vec<u128> {
        self.seen().iter().map(|seen| seen.at.as_millis()).collect()
    }
}

/// A service to hand out: clones of it start unready.
pub struct Client(pub Upstream);

impl Clone for Client {
    fn clone(&self) -> Self {
        Self(self.0.unready_clone())
    }
}

impl<B> Service<Request<B>> for Client
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: std::fmt::Debug,
{
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        assert!(std::mem::take(&mut self.0.ready), "called without being ready");
        let upstream = self.0.clone();
        let (head, body) = request.into_parts();
        let step = upstream.script.lock().unwrap().pop_front();
        // As a balancer does, while it is called.
        let tried = head.extensions.get::<Tried>().cloned().or_else(Tried::current);
        Box::pin(async move {
            let at = upstream.began.elapsed();
            let body = match &step {
                Some(Step::Refuse(_)) => Bytes::new(),
                Some(Step::HangUnread) => {
                    let _body = body;
                    return std::future::pending().await;
                }
                _ => body.collect().await.unwrap().to_bytes(),
            };
            upstream.seen.lock().unwrap().push(Seen {
                at,
                attempt: head.extensions.get::<Attempt>().map_or(1, |attempt| attempt.number()),
                header: head
                    .headers
                    .get(ATTEMPT_HEADER)
                    .map(|value| value.to_str().unwrap().to_owned()),
                body,
                tried: tried.unwrap_or_default(),
                headers: head.headers,
            });
            match step {
                None => Ok(answer(200)),
                Some(Step::Answer(answer)) => Ok(answer),
                Some(Step::Fail(error) | Step::Refuse(error)) => Err(error),
                Some(Step::Hang | Step::HangUnread) => std::future::pending().await,
                Some(Step::AnswerAfter(span, status)) => {
                    sleep(span).await;
                    Ok(answer(status))
                }
            }
        })
    }
}

pub fn answer(status: u16) -> Response<Full<Bytes>> {
    Response::builder().status(status).body(Full::from(format!("answer {status}"))).unwrap()
}

pub fn status(status: u16) -> Step {
    Step::Answer(answer(status))
}

pub fn request(method: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder().method(method).uri("http://upstream/").body(Full::from(body)).unwrap()
}

/// An xorshift generator: random enough to mix schedules, and the same in every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

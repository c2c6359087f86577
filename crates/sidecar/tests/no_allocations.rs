//! What the layers allocate for a call that succeeds at once.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use gusset_sidecar::{
    BodyDeadlineLayer, DeadlineLayer, FaultLayer, HedgeLayer, HedgePolicy, RetryLayer, RetryPolicy,
};
use http::{HeaderValue, Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service};

#[derive(Clone)]
struct Hello;

impl<B> Service<Request<B>> for Hello {
    type Response = Response<Empty<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Empty::new())))
    }
}

fn made<S>(mut service: S, headers: usize) -> u64
where
    S: Service<Request<Empty<Bytes>>>,
{
    let mut requests: Vec<_> = (0..1_000)
        .map(|_| {
            let names = ["accept", "host", "user-agent", "accept-encoding", "cookie", "referer"];
            let request = Request::get("http://orders.example/orders/7");
            let request = names[..headers].iter().fold(request, |request, name| {
                request.header(*name, HeaderValue::from_static("value"))
            });
            request.body(Empty::new()).unwrap()
        })
        .collect();
    // A URI allocates when it is cloned for the first time: its bytes become shared. Those of a server's requests are.
    requests.iter().for_each(|request| drop(request.uri().clone()));
    let mut cx = Context::from_waker(Waker::noop());
    let mut call = |request| {
        assert!(service.poll_ready(&mut cx).is_ready());
        assert!(pin!(service.call(request)).poll(&mut cx).is_ready());
    };
    call(requests.pop().unwrap());
    let rest = std::mem::take(&mut requests);
    let calls = rest.len() as u64;
    let made = allocation_counter::measure(|| rest.into_iter().for_each(&mut call));
    made.count_total / calls
}

#[tokio::test]
async fn a_call_that_succeeds_at_once_allocates_nothing() {
    let retry = RetryLayer::new(RetryPolicy::default());
    assert_eq!(made(retry.layer(Hello), 0), 0);
    assert_eq!(made(retry.layer(Hello), 6), 0, "the memory of the copy is used again");
    let deadline = DeadlineLayer::server(Duration::from_secs(1));
    assert_eq!(made(deadline.only_in_context().layer(Hello), 6), 0);
    assert_eq!(
        made(deadline.layer(Hello), 6),
        3,
        "the extensions, their table, the deadline in it"
    );
    assert_eq!(made(BodyDeadlineLayer::new().layer(Hello), 6), 0);
    assert_eq!(made(FaultLayer::new().layer(Hello), 6), 0);
    assert_eq!(made(HedgeLayer::new(HedgePolicy::default()).layer(Hello), 0), 0);
}

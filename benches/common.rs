//! What the benches share: how long they measure, and the least that can drive a service.

#![allow(dead_code, reason = "each bench uses its part")]

use std::{
    convert::Infallible,
    future::{Future, Ready, poll_fn, ready},
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use criterion::Criterion;
use tower::Service;

/// All benches together run for a few minutes.
pub(crate) fn config() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
}

/// The inner service: always ready, and so is its answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echo;

impl Service<u64> for Echo {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request))
    }
}

/// The output of a future that is ready at once.
pub(crate) fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing here waits"),
    }
}

/// Readies `service`, calls it and polls the answer, once each.
pub(crate) fn drive<S: Service<Req>, Req>(
    service: &mut S,
    request: Req,
) -> Result<S::Response, S::Error> {
    now(poll_fn(|cx| service.poll_ready(cx)))?;
    now(service.call(black_box(request)))
}

//! What does the whole standard client add to an HTTP call that succeeds at once, and where does it go?
//!
//! Each call clones a GET without a body, drives `poll_ready`, `call` and the future, and reads the body of the answer (64 bytes) to its end. Three
//! instances, each behind a circuit; nobody listens to `tracing`. One thread.
//!
//! - `standard/gusset`: the client of `gusset::standard`, with nothing current: each call begins a trace of its own.
//! - `standard/in_a_trace`: the same within a trace and a deadline, as in a handler: a `traceparent` and the time that is left go out.
//! - `standard/bare`: the innermost client alone.
//! - `standard/balanced`, `standard/outbound`: its two halves: balancer and circuits; trace, metrics, retry and deadline.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use common::{drive, now};
use criterion::{Criterion, criterion_group, criterion_main};
use gusset::{
    breaker::Policy,
    call::{self, Deadline, TraceContext},
    registry::{Instance, Watch},
    sidecar::Sidecar,
    standard::{balanced, circuits, standard},
};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tower::{Layer, Service};

/// The service at the other end.
#[derive(Clone, Debug)]
struct Hello;

impl<B> Service<Request<B>> for Hello {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        black_box(request);
        ready(Ok(Response::new(Full::from(&[b'x'; 64][..]))))
    }
}

/// A function of each whole call of `service`.
fn calls<S, B>(mut service: S) -> impl FnMut()
where
    S: Service<Request<Empty<Bytes>>, Response = Response<B>>,
    B: http_body::Body<Data = Bytes>,
{
    let request = Request::get("/orders/7").body(Empty::new()).expect("it is a valid request");
    move || {
        let response = drive(&mut service, request.clone()).ok().expect("it succeeds");
        let body = now(response.into_body().collect()).ok().expect("it has no errors");
        assert_eq!(black_box(body.to_bytes()).len(), 64);
    }
}

fn client(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sidecar");
    let sidecar = Sidecar::new("bench");
    let circuits = circuits(&sidecar, Policy::default());
    let hosts = ["a", "b", "c"].map(|host| Instance::new("orders", host, 80));
    let watch = || Watch::fixed("orders", hosts.clone());

    group.bench_function("standard/bare", |b| b.iter(calls(Hello)));
    let whole = standard(&sidecar, watch(), &circuits, Hello);
    group.bench_function("standard/gusset", |b| b.iter(calls(whole.clone())));
    let deadline = Deadline::after(Duration::from_secs(3600));
    let cx = call::Context::default().with_trace(TraceContext::new_root()).with_deadline(deadline);
    cx.sync_scope(|| {
        group.bench_function("standard/in_a_trace", |b| b.iter(calls(whole.clone())));
    });
    let instances = balanced(watch(), &circuits, Hello);
    group.bench_function("standard/balanced", |b| b.iter(calls(instances.clone())));
    let outbound = sidecar.outbound("orders").layer(Hello);
    group.bench_function("standard/outbound", |b| b.iter(calls(outbound.clone())));
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::config();
    targets = client
}
criterion_main!(benches);

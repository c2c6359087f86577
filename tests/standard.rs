//! The standard client as its callers see it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{convert::Infallible, num::NonZeroUsize, sync::Arc, time::Duration};

use bytes::Bytes;
use gusset::{
    breaker::{Circuits, Policy, State},
    call::refusal_in,
    registry::{Instance, MemoryRegistry, Registry, Watch},
    sidecar::{ReplayBody, RetryPolicy, Sidecar},
    standard::standard,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tower::{Service, ServiceExt, service_fn};

type Outgoing = Request<ReplayBody<Full<Bytes>>>;

fn circuits(policy: Policy) -> Circuits<Arc<str>> {
    Circuits::new(policy, NonZeroUsize::new(10).unwrap())
}

fn get() -> Request<Full<Bytes>> {
    Request::get("/stock").body(Full::default()).unwrap()
}

/// Of two instances, `a` takes requests and never answers.
fn half_hung()
-> impl Service<Outgoing, Response = Response<String>, Error = Infallible, Future: Send> + Clone {
    service_fn(|request: Outgoing| async move {
        if request.uri().host() == Some("a") {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(request.uri().to_string()))
    })
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_hangs_is_left_alone_after_a_few_calls() {
    let circuits = circuits(Policy::consecutive(3).slow_after(Duration::from_millis(500)));
    let patience = RetryPolicy::default().attempt_timeout(Duration::from_secs(1));
    let sidecar = Sidecar::new("caller").retry(patience);
    let two =
        Watch::fixed("stock", [Instance::new("stock", "a", 1), Instance::new("stock", "b", 1)]);
    let client = standard(&sidecar, two, &circuits, half_hung());

    for _ in 0..20 {
        let answer = client.clone().oneshot(get()).await.unwrap();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "http://b:1/stock");
    }
    assert_eq!(circuits.get("a:1".into()).state(), State::Open);
    let asked = Instant::now();
    client.clone().oneshot(get()).await.unwrap();
    assert_eq!(asked.elapsed(), Duration::ZERO, "nobody waits for it any more");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_nobody_offers_is_refused_after_one_wait() {
    let registry = MemoryRegistry::default();
    let circuits = circuits(Policy::default());
    let client =
        standard(&Sidecar::new("caller"), registry.watch("nobody"), &circuits, half_hung());
    let asked = Instant::now();
    let error = client.oneshot(get()).await.map(drop).unwrap_err();
    assert!(refusal_in(&*error).is_some(), "{error}");
    assert_eq!(asked.elapsed(), Duration::from_secs(1));
}

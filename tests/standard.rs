//! The standard server and client as their callers see them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    convert::Infallible,
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use gusset::{
    breaker::{Circuits, Policy, State},
    call::refusal_in,
    ratelimit::{Concurrency, ConcurrencyLimiter},
    registry::{Fleet, Instance, MemoryRegistry, Registry, Watch},
    sidecar::{ReplayBody, RetryPolicy, Sidecar},
    standard::{balanced, circuits as circuits_for, server, server_with, standard},
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

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
    let patience = RetryPolicy::default().attempt_timeout(Duration::from_secs(1));
    let sidecar = Sidecar::new("caller").retry(patience);
    let circuits = circuits_for(&sidecar, Policy::consecutive(3));
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

/// Those of service `s` at hosts with these names.
fn hosts(names: &str) -> Watch {
    Watch::fixed("s", names.chars().map(|name| Instance::new("s", name, 1)))
}

#[tokio::test(start_paused = true)]
async fn each_attempt_counts_in_the_circuit_of_the_instance_that_it_went_to() {
    let sidecar = Sidecar::new("caller");
    let failing = service_fn(|_: Outgoing| async {
        let answer = Response::builder().status(503).body(String::new());
        Ok::<_, Infallible>(answer.unwrap())
    });
    let failures = async |names: &str, calls: u32| {
        let circuits = circuits_for(&sidecar, Policy::consecutive(5));
        let client = standard(&sidecar, hosts(names), &circuits, failing);
        for _ in 0..calls {
            let _ = client.clone().oneshot(get()).await;
        }
        let of = |name| circuits.get(format!("{name}:1").into());
        names.chars().map(|name| (of(name).stats().failures, of(name).state())).collect::<Vec<_>>()
    };
    assert_eq!(failures("abcd", 1).await, [(1, State::Closed); 4], "one call, four instances");
    assert_eq!(failures("a", 1).await, [(4, State::Closed)], "one call, one instance");
    assert_eq!(failures("a", 2).await, [(5, State::Open)], "it opens within the second");
}

/// Answers with the host that was asked; `b` fails every third time.
fn mostly_well()
-> impl Service<Outgoing, Response = Response<String>, Error = Infallible, Future: Send> + Clone {
    let asked = Arc::new(AtomicU32::new(0));
    service_fn(move |request: Outgoing| {
        let host = request.uri().host().unwrap_or_default().to_owned();
        let fails = host == "b" && asked.fetch_add(1, SeqCst) % 3 == 0;
        let mut answer = Response::new(host);
        if fails {
            *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        async move {
            // Long enough that calls overlap.
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(answer)
        }
    })
}

#[tokio::test(start_paused = true)]
async fn who_fails_more_often_than_the_others_is_taken_out_though_its_circuit_stays_closed() {
    let circuits = circuits(Policy::consecutive(5));
    let client = balanced(hosts("abcdefgh"), &circuits, mostly_well());
    let sidecar = Sidecar::new("caller").retry(RetryPolicy::default().retries(0));
    let layered = tower::Layer::layer(&sidecar.outbound("s"), client.clone());
    // 60 calls at a time: so many that `b` is not spared by its failures alone.
    for _ in 0..300 {
        let calls = (0..60).map(|_| layered.clone().oneshot(get()));
        for answer in futures(calls).await {
            answer.unwrap();
        }
    }
    assert_eq!(circuits.get("b:1".into()).state(), State::Closed);
    assert_eq!(client.stats().ejections, 1, "{:?}", client.endpoints());
}

async fn futures<F>(calls: impl Iterator<Item = F>) -> Vec<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let tasks: Vec<_> = calls.map(tokio::spawn).collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

#[tokio::test(start_paused = true)]
async fn a_loaded_instance_gets_fewer_calls() {
    let circuits = circuits(Policy::default());
    let asked: Arc<[AtomicU32; 2]> = Arc::default();
    let seen = asked.clone();
    let client = service_fn(move |request: Outgoing| {
        let slow = request.uri().host() == Some("a");
        seen[usize::from(slow)].fetch_add(1, SeqCst);
        async move {
            tokio::time::sleep(Duration::from_millis(if slow { 400 } else { 10 })).await;
            Ok::<_, Infallible>(Response::new(String::new()))
        }
    });
    let client = standard(&Sidecar::new("caller"), hosts("ab"), &circuits, client);
    let loops = (0..20).map(|_| {
        let client = client.clone();
        async move {
            for _ in 0..20 {
                client.clone().oneshot(get()).await.unwrap();
            }
        }
    });
    futures(loops).await;
    let (quick, slow) = (asked[0].load(SeqCst), asked[1].load(SeqCst));
    assert!(quick + slow == 400 && slow < 80, "{slow} of 400 went to the slow one");
}

/// Is ready once a connection is made, which takes a second, at once for clones of it.
#[derive(Clone, Default)]
struct Connecting {
    connected: Arc<tokio::sync::OnceCell<Instant>>,
}

impl Service<Outgoing> for Connecting {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<String>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        let now = Instant::now();
        let begun = self.connected.get().copied();
        let ready = begun.unwrap_or(now) + Duration::from_secs(1);
        if begun.is_none() {
            let _ = self.connected.set(now);
        }
        if ready <= now {
            return Poll::Ready(Ok(()));
        }
        let waker = cx.waker().clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(ready).await;
            waker.wake();
        });
        Poll::Pending
    }

    fn call(&mut self, _: Outgoing) -> Self::Future {
        std::future::ready(Ok(Response::new(String::new())))
    }
}

#[tokio::test(start_paused = true)]
async fn a_connector_of_the_balanced_instances_connects_before_calls_need_it() {
    let circuits = circuits(Policy::default());
    let instances = balanced(hosts("a"), &circuits, Connecting::default()).among(Fleet::new());
    let _connector = instances.spawn_connector::<Outgoing>();
    let sidecar = Sidecar::new("caller");
    let client = tower::Layer::layer(&sidecar.outbound("s"), instances);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let asked = Instant::now();
    client.oneshot(get()).await.unwrap();
    assert_eq!(asked.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_server_answers_who_is_one_too_many_at_once_and_counts_him() {
    let (sidecar, gate) = (Sidecar::new("quotes"), Arc::new(tokio::sync::Semaphore::new(0)));
    let limiter = ConcurrencyLimiter::new("quotes", Concurrency::fixed(NonZeroU32::MIN));
    let behind = gate.clone();
    let handler = service_fn(move |_: Request<Full<Bytes>>| {
        let gate = behind.clone();
        async move {
            let _open = gate.acquire().await;
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("a quote")))
        }
    });
    let server = server_with(&sidecar, &limiter).layer(handler);
    let first = tokio::spawn(server.clone().oneshot(get()));
    tokio::task::yield_now().await;
    let refused = server.clone().oneshot(get()).await.unwrap();
    assert_eq!(refused.status(), 503);
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    // There is room again.
    assert_eq!(server.oneshot(get()).await.unwrap().status(), 200);
    let page = sidecar.metrics().render_prometheus();
    let line = |what: &str| {
        page.lines().any(|line| {
            line.starts_with("gusset_concurrency_calls_total")
                && line.contains("normal")
                && line.ends_with(what)
        })
    };
    assert!(line("outcome=\"refused\"} 1") && line("outcome=\"ended\"} 2"), "{page}");
}

#[tokio::test(start_paused = true)]
async fn a_server_of_no_settings_serves_a_thousand_at_once_and_no_more() {
    let served = Arc::new(AtomicU32::new(0));
    let counted = served.clone();
    let server =
        server(&Sidecar::new("quotes")).layer(service_fn(move |_: Request<Full<Bytes>>| {
            counted.fetch_add(1, SeqCst);
            std::future::pending::<Result<Response<Full<Bytes>>, Infallible>>()
        }));
    let waiting: Vec<_> = (0..1_000).map(|_| tokio::spawn(server.clone().oneshot(get()))).collect();
    while served.load(SeqCst) < 1_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.oneshot(get()).await.unwrap().status(), 503);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

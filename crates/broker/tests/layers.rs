//! Layers around handlers, and what their errors mean.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{Log, millis, secs, settle, stats};
use gusset_breaker::{BreakerLayer, Circuit};
use gusset_broker::{
    Broker, DeadLetter, Delivery, End, FailureKind, Filter, Policy, Reply, TraceLayer,
};
use gusset_call::{BoxError, Overloaded};
use tokio::time::{Instant, sleep};
use tower::{ServiceBuilder, retry, service_fn};

async fn letters(broker: &Broker) -> Vec<Arc<DeadLetter>> {
    broker.dead_letters().list(&Filter::all(), None, 99).await.unwrap()
}

/// Notes the moment of each call.
fn failing(
    log: &Log<Instant>,
) -> impl Fn(Delivery<u32>) -> std::future::Ready<Result<(), BoxError>> + Clone + use<> {
    let log = log.clone();
    move |_| {
        log.note(Instant::now());
        std::future::ready(Err("the database is gone".into()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_timeout_layer_fails_the_attempt_with_its_error() {
    let broker = Broker::new();
    let hang = service_fn(|_: Delivery<u32>| std::future::pending::<Result<(), BoxError>>());
    let handler = ServiceBuilder::new().timeout(millis(50)).service(hang);
    let policy = Policy::new().max_attempts(2);
    let _guard = broker.subscribe(">").group("g").policy(policy).handle(handler).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    secs(1).await;
    let letter = &letters(&broker).await[0];
    let failure = letter.last_failure.as_ref().unwrap();
    assert_eq!((letter.attempts, failure.kind), (2, FailureKind::Error));
    assert!(failure.error.contains("timed out"), "{}", failure.error);
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_shared_by_two_groups_bounds_both_and_charges_nobody() {
    let broker = Broker::new();
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (now.clone(), most.clone());
    let handler = service_fn(move |_: Delivery<u32>| {
        let (now, most) = (counted.clone(), highest.clone());
        async move {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            sleep(millis(10)).await;
            now.fetch_sub(1, SeqCst);
            Ok::<_, BoxError>(())
        }
    });
    let handler = ServiceBuilder::new().concurrency_limit(3).service(handler);
    let _one = broker.subscribe(">").group("one").handle(handler.clone()).await.unwrap();
    let _two = broker.subscribe(">").group("two").handle(handler).await.unwrap();
    for n in 0..60 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(2).await;
    assert_eq!(most.load(SeqCst), 3);
    for group in ["one", "two"] {
        assert_eq!((stats(&broker, group).acked, stats(&broker, group).redelivered), (60, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_postpones_the_next_attempt_until_it_may_close() {
    let broker = Broker::new();
    let calls = Log::default();
    let open_for = Duration::from_secs(20);
    let circuit = Circuit::new("db", gusset_breaker::Policy::consecutive(2).open_for(open_for));
    let handler = ServiceBuilder::new()
        .layer(BreakerLayer::new(circuit.clone()))
        .service(service_fn(failing(&calls)));
    let policy = Policy::new().max_attempts(4);
    let subscribe = broker.subscribe(">").group("g").policy(policy).concurrency(1);
    let _guard = subscribe.handle(handler).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    secs(5).await;
    assert_eq!(calls.len(), 2, "open, so the database has its peace");
    secs(60).await;
    let calls = calls.all();
    assert!(calls[2] - calls[1] >= open_for, "{:?}", calls[2] - calls[1]);
    let letter = &letters(&broker).await[0];
    assert_eq!((letter.attempts, calls.len()), (4, 3), "the refusal was the third attempt");
}

#[tokio::test(start_paused = true)]
async fn load_that_is_shed_is_tried_again_when_the_refusal_says_so() {
    let broker = Broker::new();
    let seen = Log::default();
    let noted = seen.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note(Instant::now());
        let refused = Overloaded::new("db").with_retry_after(Duration::from_secs(7));
        let first = delivery.attempt().number() == 1;
        async move { if first { Err(BoxError::from(refused)) } else { Ok(()) } }
    });
    let handler = ServiceBuilder::new().load_shed().concurrency_limit(9).service(handler);
    let _guard = broker.subscribe(">").group("g").handle(handler).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    secs(30).await;
    let [first, second] = seen.all()[..] else { panic!() };
    assert!(second - first >= Duration::from_secs(7));
    assert_eq!(stats(&broker, "g").acked, 1);
}

#[derive(Clone)]
struct ThreeTimes(u32);

impl<R, E> retry::Policy<Delivery<u32>, R, E> for ThreeTimes {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut Delivery<u32>, result: &mut Result<R, E>) -> Option<Self::Future> {
        self.0 -= 1;
        (result.is_err() && self.0 > 0).then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, delivery: &Delivery<u32>) -> Option<Delivery<u32>> {
        Some(delivery.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_inside_of_an_attempt_is_that_attempt() {
    let broker = Broker::new();
    let calls = Log::default();
    let handler = ServiceBuilder::new().retry(ThreeTimes(3)).service(service_fn(failing(&calls)));
    let policy = Policy::new().max_attempts(2);
    let _guard = broker.subscribe(">").group("g").policy(policy).handle(handler).await.unwrap();
    broker.publish("tick", &1).await.unwrap();
    secs(2).await;
    assert_eq!((calls.len(), letters(&broker).await[0].attempts), (6, 2));
}

#[tokio::test(start_paused = true)]
async fn all_layers_together_pass_on_what_the_handler_answers() {
    let broker = Broker::new();
    let spans = Log::default();
    let noted = spans.clone();
    let circuit = Circuit::new("db", gusset_breaker::Policy::consecutive(50));
    let handler = service_fn(|delivery: Delivery<u32>| async move {
        match (*delivery.body(), delivery.attempt().number()) {
            (1, 1) => Ok(Reply::RetryAfter(millis(5))),
            (2, _) => Ok(Reply::reject("no use")),
            (3, 1) => Err(BoxError::from("broken")),
            (4, 1) => panic!("oh no"),
            (5, 1) => std::future::pending().await,
            _ => Ok(Reply::Ack),
        }
    });
    let handler = ServiceBuilder::new()
        .layer(TraceLayer::new(&broker, move |span| noted.note(span.end)))
        .layer(BreakerLayer::new(circuit.clone()))
        .concurrency_limit(4)
        .timeout(millis(100))
        .service(handler);
    let _guard = broker.subscribe(">").group("g").handle(handler).await.unwrap();
    for n in 0..6 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(5).await;
    let stats = stats(&broker, "g");
    assert_eq!((stats.acked, stats.dead, stats.redelivered), (5, 1, 4));
    let count = |end: End| spans.all().iter().filter(|seen| **seen == end).count();
    let ends = [End::Complete, End::Retry, End::Rejected, End::Error, End::Panicked];
    assert_eq!(ends.map(count), [5, 1, 1, 2, 1]);
    assert_eq!(circuit.stats().failures, 3, "what failed, what hung and what panicked");
    settle().await;
}

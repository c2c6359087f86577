use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use gusset_broker::{Broker, Delivery, Error, Policy, Reply, Subscription};
use gusset_call::BoxError;
use tokio::time::sleep;
use tower::service_fn;

use crate::harness::{Server, connect, hasty, until};

/// Adds one to what it is asked; how often it was.
async fn adder(broker: &Broker, group: &str) -> (Subscription, Arc<AtomicUsize>) {
    let asked = Arc::<AtomicUsize>::default();
    let counting = asked.clone();
    let subscription = broker
        .subscribe("add.*")
        .group(group)
        .policy(hasty())
        .handle(service_fn(move |question: Delivery<u32>| {
            counting.fetch_add(1, SeqCst);
            async move { Reply::answer(&(question.body() + 1)) }
        }))
        .await
        .unwrap();
    (subscription, asked)
}

const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_question_is_answered_by_another_process_and_by_one_member_of_its_group() {
    let server = Server::start();
    let (asks, one, other) = (server.broker().await, server.broker().await, server.broker().await);
    let (_a, first) = adder(&one, "adders").await;
    let (_b, second) = adder(&other, "adders").await;
    let answers = (0..50_u32).map(|n| {
        let asks = asks.clone();
        async move { asks.request::<_, _, u32>("add.one", &n, SOON).await.unwrap() }
    });
    let answers = futures_util::future::join_all(answers).await;
    assert_eq!(answers, (1..=50).collect::<Vec<_>>());
    assert_eq!(first.load(SeqCst) + second.load(SeqCst), 50, "each was asked once");
    let operator = server.operator().await;
    until("questions are settled", async || operator.messages("gusset").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_wants_the_question_it_is_refused_at_once() {
    let server = Server::start();
    let (asks, other) = (server.broker().await, server.broker().await);
    let begin = Instant::now();
    let nobody = asks.request::<_, _, u32>("add.one", &1, SOON).await;
    assert!(matches!(nobody, Err(Error::NoResponders(_))), "{nobody:?}");
    let (subscription, _) = adder(&other, "adders").await;
    assert_eq!(asks.request::<_, _, u32>("add.one", &1, SOON).await.unwrap(), 2);
    let elsewhere = asks.request::<_, _, u32>("subtract.one", &1, SOON).await;
    assert!(matches!(elsewhere, Err(Error::NoResponders(_))), "{elsewhere:?}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    drop(subscription);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_nobody_answers_in_time_ends_in_time() {
    let server = Server::start();
    let (asks, other) = (server.broker().await, server.broker().await);
    other.declare("adders", "add.*", Policy::new()).await.unwrap();
    let begin = Instant::now();
    let late = asks.request::<_, _, u32>("add.one", &1, Duration::from_millis(300)).await;
    assert!(matches!(late, Err(Error::DeadlineExceeded(_))), "{late:?}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    // Nobody waits for it any more, so nobody is troubled with it.
    let (_subscription, asked) = adder(&other, "adders").await;
    let operator = server.operator().await;
    until("it is gone", async || operator.messages("gusset").await == 0).await;
    assert_eq!(asked.load(SeqCst), 0);
    assert_eq!(asks.request::<_, _, u32>("add.one", &7, SOON).await.unwrap(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_after_another_attempt_and_across_the_restart_of_a_server() {
    let mut server = Server::start();
    let patient = || server.options().call_within(SOON);
    let (asks, other) = (connect(patient()).await, connect(patient()).await);
    let _subscription = other
        .subscribe("add.*")
        .group("adders")
        .policy(Policy::new().backoff(Duration::from_secs(1), Duration::from_secs(1)))
        .handle(service_fn(|question: Delivery<u32>| async move {
            match question.attempt().number() {
                1 => Ok::<_, BoxError>(Reply::RetryAfter(Duration::from_secs(1))),
                _ => Ok(Reply::answer(&(question.body() + 1))?),
            }
        }))
        .await
        .unwrap();
    let asking = tokio::spawn({
        let asks = asks.clone();
        async move { asks.request::<_, _, u32>("add.one", &41, 2 * SOON).await }
    });
    sleep(Duration::from_millis(300)).await;
    server.restart();
    assert_eq!(asking.await.unwrap().unwrap(), 42);
}

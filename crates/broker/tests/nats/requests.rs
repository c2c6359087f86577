use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use gusset_broker::{Broker, Delivery, Error, Headers, NatsOptions, Policy, Reply, Subscription};
use gusset_call::BoxError;
use gusset_engines::{Faults, Proxy};
use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};
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

/// Answers once it may; tells where each answer goes.
async fn slow_adder(
    broker: &Broker,
) -> (Subscription, mpsc::UnboundedReceiver<String>, Arc<Semaphore>) {
    let (tell, told) = mpsc::unbounded_channel();
    let gate = Arc::new(Semaphore::new(0));
    let may = gate.clone();
    let handler = service_fn(move |question: Delivery<u32>| {
        let (tell, may) = (tell.clone(), may.clone());
        async move {
            let place = question.headers().get(Headers::REPLY_TO).unwrap_or_default();
            tell.send(format!("gusset.answer.{place}"))?;
            drop(may.acquire().await?);
            Ok::<_, BoxError>(Reply::answer(&(question.body() + 1))?)
        }
    });
    let subscribing = broker.subscribe("add.*").group("adders").policy(hasty()).concurrency(1);
    (subscribing.handle(handler).await.unwrap(), told, gate)
}

/// The server throws away what nobody listens for.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_finds_whoever_lost_his_connection_meanwhile() {
    let server = Server::start();
    let proxy = Proxy::before(server.port());
    let asks = connect(NatsOptions::new(proxy.url("nats")).max_bytes(16 << 20)).await;
    let other = server.broker().await;
    let (_subscription, mut places, gate) = slow_adder(&other).await;
    let asking = tokio::spawn(async move { asks.request::<_, _, u32>("add.one", &41, SOON).await });
    let place = places.recv().await.unwrap();
    proxy.cut();
    let operator = server.operator().await;
    until("it is not listened for", async || !operator.is_heard(&place).await).await;
    gate.add_permits(1);
    sleep(Duration::from_millis(300)).await;
    assert!(!asking.is_finished());
    proxy.mend();
    assert_eq!(asking.await.unwrap().unwrap(), 42);
    until("it is settled", async || operator.messages("gusset").await == 0).await;
}

/// So many questions that one `asks` are under way, and nobody listens for their answers any more after `leave`: another asker is answered soon all the same.
async fn others_are_held_up_once(server: &Server, asks: Broker, leave: impl AsyncFnOnce(&str)) {
    let other = connect(server.options().call_within(Duration::from_secs(4))).await;
    let (_subscription, mut places, gate) = slow_adder(&other).await;
    let operator = server.operator().await;
    let asking: Vec<_> = (0..20_u32)
        .map(|n| {
            let asks = asks.clone();
            let minute = 3 * SOON;
            tokio::spawn(async move { asks.request::<_, _, u32>("add.one", &n, minute).await })
        })
        .collect();
    drop(asks);
    until("all have asked", async || operator.messages("gusset").await == 20).await;
    let place = places.recv().await.unwrap();
    leave(&place).await;
    let begin = Instant::now();
    gate.add_permits(1);
    let stays = server.broker().await;
    assert_eq!(stays.request::<_, _, u32>("add.one", &1, SOON).await.unwrap(), 2);
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    drop(asking);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_and_is_gone_holds_up_others_once() {
    let server = Server::start();
    let proxy = Proxy::before(server.port());
    let asks = connect(NatsOptions::new(proxy.url("nats")).max_bytes(16 << 20)).await;
    let operator = server.operator().await;
    let leave = async |place: &str| {
        proxy.cut();
        until("it is not listened for", async || !operator.is_heard(place).await).await;
    };
    others_are_held_up_once(&server, asks, leave).await;
}

/// The server still takes it for a listener.
#[tokio::test(flavor = "multi_thread")]
async fn who_asked_and_stands_still_holds_up_others_once() {
    let server = Server::start();
    let proxy = Proxy::before(server.port());
    let options = NatsOptions::new(proxy.url("nats")).max_bytes(16 << 20);
    let asks = connect(options.ping_interval(Duration::from_secs(60))).await;
    let deaf = Faults { deaf: true, mute: true, ..Faults::default() };
    others_are_held_up_once(&server, asks, async |_| proxy.set(deaf)).await;
}

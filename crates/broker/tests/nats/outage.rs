use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use gusset_broker::{Delivery, Error, Policy, Reason};
use gusset_call::{BoxError, Context, Deadline};
use gusset_engines::{Process, again};
use serde_json::json;
use tokio::time::sleep;
use tower::service_fn;

use crate::harness::{Server, connect, dead, hasty, listen, soon, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_and_comes_back_loses_nothing_that_it_acknowledged() {
    let mut server = Server::start();
    let publisher = connect(server.options().call_within(Duration::from_secs(30))).await;
    let (broker, other) = (server.broker().await, server.broker().await);
    let (_here, log) = listen(&broker, ">", "g").await;
    let (_there, second) = listen(&other, ">", "g").await;
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, sender) = (stop.clone(), publisher.clone());
    let publishing = tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        let mut next = 0_u32;
        while !stopped.load(SeqCst) {
            let batch: Vec<_> =
                (next..next + 50).map(|n| (n, sender.publish("a", &n).into_future())).collect();
            next += 50;
            for (n, result) in batch {
                if result.await.is_ok() {
                    acknowledged.push(n);
                }
            }
        }
        acknowledged
    });
    for _ in 0..2 {
        let before = log.len() + second.len();
        until("it flows", async || log.len() + second.len() > before + 500).await;
        server.kill();
        sleep(Duration::from_millis(500)).await;
        server.restart();
    }
    let before = log.len() + second.len();
    until("it flows again", async || log.len() + second.len() > before + 500).await;
    stop.store(true, SeqCst);
    let acknowledged = publishing.await.unwrap();
    let handled = || log.all().into_iter().chain(second.all());
    until("all are handled", async || {
        let handled: HashSet<_> = handled().collect();
        acknowledged.iter().all(|n| handled.contains(n))
    })
    .await;
    let operator = server.operator().await;
    until("all are settled", async || operator.messages("gusset").await == 0).await;
    let mut times = BTreeMap::new();
    for n in handled() {
        *times.entry(n).or_insert(0_usize) += 1;
    }
    // The server writes down what was settled some time after it was, so each death brings some back once.
    let most = times.values().max().copied().unwrap_or_default();
    assert!(most <= 3, "delivered {most} times, with two deaths");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_server_is_frozen_calls_end_in_time_and_then_all_goes_on() {
    let server = Server::start();
    let broker = connect(server.options().call_within(Duration::from_secs(1))).await;
    let (_subscription, log) = listen(&broker, ">", "g").await;
    broker.publish("a", &1).await.unwrap();
    log.has(1).await;
    server.pause();
    let begin = Instant::now();
    let late = broker.publish("a", &2).await;
    assert!(matches!(late, Err(Error::Engine(_))), "{late:?}");
    let deadline = Deadline::after(Duration::from_millis(100));
    let call = Context::default().with_deadline(deadline);
    let late = call.scope(broker.publish("a", &3)).await;
    assert!(matches!(late, Err(Error::DeadlineExceeded(_))), "{late:?}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    server.resume();
    broker.publish("a", &4).await.unwrap();
    // Whether 2 and 3 came through nobody could know; 4 did.
    until("4 is here", async || log.all().contains(&4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_s_publishes_wait_for_it_and_are_there_once() {
    let mut server = Server::start();
    let broker = connect(server.options().call_within(Duration::from_secs(20))).await;
    let (_subscription, log) = listen(&broker, ">", "g").await;
    server.kill();
    let publishes: Vec<_> = (0..20)
        .map(|n| {
            let broker = broker.clone();
            tokio::spawn(async move { broker.publish("a", &n).await })
        })
        .collect();
    sleep(Duration::from_millis(300)).await;
    server.restart();
    for publish in publishes {
        publish.await.unwrap().unwrap();
    }
    log.has(20).await;
    sleep(Duration::from_millis(100)).await;
    let mut all = log.all();
    all.sort_unstable();
    assert_eq!(all, (0..20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_groups_that_an_operator_deletes_are_made_again() {
    let server = Server::start();
    let broker = server.broker().await;
    let operator = server.operator().await;
    let (_subscription, log) = listen(&broker, ">", "g").await;
    broker.publish("a", &1).await.unwrap();
    log.has(1).await;
    let deletions = [
        "CONSUMER.DELETE.gusset.g",
        "STREAM.DELETE.gusset",
        "STREAM.DELETE.gusset_dead",
        "STREAM.DELETE.gusset_notes",
    ];
    for (n, deletion) in deletions.into_iter().enumerate() {
        let deleted = operator.api(deletion, json!({})).await;
        assert_eq!(deleted["success"], true, "{deletion}: {deleted}");
        if n < 2 {
            until("the group is back", async || {
                operator.group("g").await["config"]["durable_name"] == "g"
            })
            .await;
        }
        broker.publish("a", &2).await.unwrap();
        log.has(n + 2).await;
    }
    let (_failing, _) = crate::harness::fail(&broker, "f", hasty().max_attempts(2)).await;
    broker.publish("a", &3).await.unwrap();
    assert_eq!(dead(&broker, 1).await[0].attempts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_finds_its_stream_gone_makes_it_again_with_its_groups() {
    let server = Server::start();
    let broker = server.broker().await;
    broker.declare("g", ">", Policy::new()).await.unwrap();
    let operator = server.operator().await;
    operator.api("STREAM.DELETE.gusset", json!({})).await;
    broker.publish("a", &1).await.unwrap();
    let (_subscription, log) = listen(&broker, ">", "g").await;
    log.has(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_back_without_its_disk_gets_its_streams_again() {
    let mut server = Server::start();
    let broker = connect(server.options().call_within(Duration::from_secs(20))).await;
    let (_subscription, log) = listen(&broker, ">", "g").await;
    broker.publish("a", &1).await.unwrap();
    log.has(1).await;
    server.restart_empty();
    broker.publish("a", &2).await.unwrap();
    log.has(2).await;
}

/// Ends itself when it gets number 13, in the middle of handling it.
#[tokio::test(flavor = "multi_thread")]
async fn as_another_process() {
    let Ok(url) = std::env::var("GUSSET_NATS_PROCESS") else { return };
    let options = gusset_broker::NatsOptions::new(url).ack_wait(Duration::from_secs(5));
    let broker = connect(options).await;
    let _subscription = broker
        .subscribe(">")
        .group("g")
        .policy(hasty())
        .concurrency(1)
        .handle(service_fn(|delivery: Delivery<u32>| async move {
            if *delivery.body() == 13 {
                std::process::abort();
            }
            Ok::<_, BoxError>(())
        }))
        .await
        .unwrap();
    sleep(Duration::from_secs(300)).await;
}

fn process(url: &str) -> Process {
    let mut command = again("outage::as_another_process");
    command.env("GUSSET_NATS_PROCESS", url);
    Process::started("nats-process", command)
}

/// Where a process dies of its message, an attempt that is counted by who failed is never counted.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_kills_its_process_each_time_becomes_a_dead_letter() {
    let server = Server::start();
    let broker = connect(server.options().ack_wait(Duration::from_secs(5))).await;
    broker.declare("g", ">", hasty()).await.unwrap();
    for n in [12, 13, 14] {
        broker.publish("a", &n).await.unwrap();
    }
    let mut deaths = 0;
    for _ in 0..3 {
        tokio::task::block_in_place(|| process(&server.url()).ends());
        deaths += 1;
    }
    let _fourth = process(&server.url());
    let letter = dead(&broker, 1).await.remove(0);
    assert_eq!((deaths, letter.message.payload().as_ref()), (3, &b"13"[..]));
    assert_eq!((letter.reason.clone(), letter.attempts), (Reason::Exhausted, 4));
    let operator = server.operator().await;
    until("the others are done", async || operator.messages("gusset").await == 0).await;
    broker.close(soon()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_dies_in_mid_message_costs_no_message() {
    let mut server = Server::start();
    let broker = connect(server.options().ack_wait(Duration::from_millis(800))).await;
    let log = crate::harness::Log::default();
    let noted = log.clone();
    let _subscription = broker
        .subscribe(">")
        .group("g")
        .handle(service_fn(move |delivery: Delivery<u32>| {
            let noted = noted.clone();
            async move {
                sleep(Duration::from_millis(400)).await;
                noted.note(*delivery.body());
                Ok::<_, BoxError>(())
            }
        }))
        .await
        .unwrap();
    for n in 0..10 {
        broker.publish("a", &n).await.unwrap();
    }
    sleep(Duration::from_millis(200)).await;
    server.restart();
    let operator = server.operator().await;
    until("all settled", async || operator.messages("gusset").await == 0).await;
    let mut all = log.all();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
}

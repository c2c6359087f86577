//! What other systems lost.

use std::{collections::BTreeMap, time::Duration};

use crate::harness::{Log, Server, connect, dead, fail, hasty, listen, until};
use gusset_broker::{Delivery, Filter, NatsOptions, Reason};
use gusset_call::{BoxError, Deadline};
use gusset_engines::{Faults, Proxy};
use tower::service_fn;

/// The record is written before the original goes: a program that dies between the two loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_dies_between_the_dead_letter_and_the_end_of_the_original_leaves_one_letter()
{
    let server = Server::start();
    let proxy = Proxy::before(server.port());
    let quick = |options: NatsOptions| options.ack_wait(Duration::from_secs(5)).max_bytes(16 << 20);
    let dying = connect(quick(NatsOptions::new(proxy.url("nats")))).await;
    let policy = hasty().max_attempts(1);
    let (subscription, _) = fail(&dying, "g", policy).await;
    proxy.set(Faults { deaf_from: Some(b"+TERM"), ..Faults::default() });
    dying.publish("a", &7).await.unwrap();
    until("it would end the original", async || proxy.is_deaf()).await;
    let operator = server.operator().await;
    assert_eq!(operator.messages("gusset_dead").await, 1, "the letter is there");
    assert_eq!(operator.messages("gusset").await, 1, "and the original as well");
    drop(subscription);
    dying.close(Deadline::after(Duration::ZERO)).await;

    let other = connect(quick(server.options())).await;
    let (_subscription, log) = fail(&other, "g", policy).await;
    until("the original is gone", async || operator.messages("gusset").await == 0).await;
    let letters = dead(&other, 1).await;
    assert_eq!((letters.len(), &letters[0].reason), (1, &Reason::Exhausted));
    assert_eq!(letters[0].message.payload(), "7");
    // It had had its attempts. Server 2.9.10 forgets one if the request that it answers with the message ends at that moment.
    let seen = log.all();
    assert!(seen.len() <= 1 && seen.iter().all(|seen| seen.attempt == 1), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_beside_ten_thousand_good_ones_costs_none_of_them() {
    let server = Server::start();
    let broker = server.broker().await;
    let (log, policy) = (Log::default(), hasty().max_attempts(3));
    let noted = log.clone();
    let _subscription = broker
        .subscribe(">")
        .group("g")
        .policy(policy)
        .concurrency(64)
        .handle(service_fn(move |delivery: Delivery<u32>| {
            let (n, noted) = (*delivery.body(), noted.clone());
            async move {
                if n % 1_000 == 500 {
                    return Err("poison");
                }
                noted.note(n);
                Ok(())
            }
        }))
        .await
        .unwrap();
    let sending = futures_util::stream::iter(0..10_010_u32).map(|n| broker.publish("a", &n));
    use futures_util::StreamExt;
    let mut sending = sending.buffer_unordered(256);
    while let Some(published) = sending.next().await {
        published.unwrap();
    }
    log.has(10_000).await;
    let letters = dead(&broker, 10).await;
    assert!(letters.iter().all(|letter| letter.attempts == 3) && letters.len() == 10);
    let mut times = BTreeMap::new();
    for n in log.all() {
        *times.entry(n).or_insert(0) += 1;
    }
    assert!(times.len() == 10_000 && times.values().all(|times| *times == 1));
    let operator = server.operator().await;
    until("nothing is left", async || operator.messages("gusset").await == 0).await;
}

/// The client's own `subscribe` and `flush` return before the server knows of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_publishes_right_after_a_subscription_is_there() {
    let server = Server::start();
    let broker = server.broker().await;
    let stranger = server.operator().await.0;
    for round in 0..20 {
        let (_subscription, log) =
            listen(&broker, &format!("now.{round}"), &format!("g{round}")).await;
        for n in 0..100_u32 {
            let place = format!("gusset.message.now.{round}");
            stranger.publish(place, n.to_string().into()).await.unwrap();
        }
        stranger.flush().await.unwrap();
        log.has(100).await;
    }
}

/// A process that is ended right after it has closed its broker has lost neither publishes nor answers.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_settled_before_the_end_is_settled() {
    let server = Server::start();
    let operator = server.operator().await;
    for round in 0..5_u32 {
        // A runtime that goes takes the client's task with it in the middle of whatever it does.
        let options = server.options();
        let process = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let broker = connect(options).await;
                let (subscription, log) = listen(&broker, ">", "g").await;
                let sending = (0..500_u32).map(|n| broker.publish("a", &n).into_future());
                for published in futures_util::future::join_all(sending).await {
                    published.unwrap();
                }
                log.has(500).await;
                let left = broker.close(Deadline::after(Duration::from_secs(10))).await;
                assert!(left.is_empty(), "{left:?}");
                drop(subscription);
            });
            runtime.shutdown_background();
        });
        tokio::task::spawn_blocking(|| process.join().unwrap()).await.unwrap();
        let info = operator.group("g").await;
        assert_eq!(
            (&info["num_ack_pending"], &info["num_pending"]),
            (&0.into(), &0.into()),
            "{round}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_group_that_is_slow_leaves_another_alone() {
    let server = Server::start();
    let broker = server.broker().await;
    let _slow = broker
        .subscribe(">")
        .group("slow")
        .concurrency(2)
        .handle(service_fn(|_: Delivery<u32>| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok::<_, BoxError>(())
        }))
        .await
        .unwrap();
    let (_quick, log) = listen(&broker, ">", "quick").await;
    let begin = std::time::Instant::now();
    for n in 0..200_u32 {
        broker.publish("a", &n).await.unwrap();
    }
    log.has(200).await;
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
    assert!(server.operator().await.group("slow").await["num_pending"].as_u64().unwrap() > 0);
    assert!(broker.dead_letters().list(&Filter::all(), None, 1).await.unwrap().is_empty());
}

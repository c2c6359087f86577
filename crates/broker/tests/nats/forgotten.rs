//! What a server that was killed has forgotten. Here its disk is changed while it is down: what it is seen to do now and then it does each time.

use std::{collections::BTreeSet, path::Path};

use crate::harness::{Server, connect, listen, until};
use gusset_broker::{NatsOptions, Policy};
use gusset_engines::Proxy;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Servers before 2.10 never look at such messages again, so the stream would be full of them one day.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_settled_and_not_deleted_when_the_server_was_killed_is_deleted_then() {
    let mut server = Server::start();
    let broker = server.broker().await;
    broker.declare("g", ">", Policy::new()).await.unwrap();
    for n in 0..10 {
        broker.publish("a", &n).await.unwrap();
    }
    server.stop();
    let (place, kept) = (server.messages_on_disk(), server.messages_on_disk().join("../kept"));
    copy(&place, &kept);
    server.restart();
    let (_subscription, log) = listen(&broker, ">", "g").await;
    log.has(10).await;
    let operator = server.operator().await;
    until("all are settled", async || operator.messages("gusset").await == 0).await;
    // Not settled, and so not to be deleted.
    broker.declare("slow", "b", Policy::new()).await.unwrap();
    server.stop();
    std::fs::remove_dir_all(&place).unwrap();
    copy(&kept, &place);
    std::fs::remove_dir_all(&kept).unwrap();
    server.restart();
    let operator = server.operator().await;
    broker.publish("b", &10).await.unwrap();
    until("what was settled is gone", async || operator.messages("gusset").await == 1).await;
    log.has(11).await;
    let (_slow, slow) = listen(&broker, "b", "slow").await;
    slow.has(1).await;
    until("nothing is left", async || operator.messages("gusset").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_ahead_of_its_stream_after_a_crash_misses_nothing() {
    let mut server = Server::start();
    let proxy = Proxy::before(server.port());
    let broker = connect(NatsOptions::new(proxy.url("nats")).max_bytes(16 << 20)).await;
    let (_subscription, log) = listen(&broker, ">", "g").await;
    let publisher = server.broker().await;
    // The second time the numbers have caught up before the group is looked after.
    for (round, many) in [5_u32, 20].into_iter().enumerate() {
        let first = 100 * u32::try_from(round).unwrap();
        for n in first..first + 10 {
            publisher.publish("a", &n).await.unwrap();
        }
        let operator = server.operator().await;
        let seen = async |n: u32| log.all().contains(&n);
        until("the last is here", async || seen(first + 9).await).await;
        until("all are settled", async || operator.messages("gusset").await == 0).await;
        proxy.cut();
        server.stop();
        std::fs::remove_dir_all(server.messages_on_disk()).unwrap();
        server.restart();
        let later = first + 50..first + 50 + many;
        for n in later.clone() {
            publisher.publish("a", &n).await.unwrap();
        }
        proxy.mend();
        until("all are handled", async || {
            let handled: BTreeSet<_> = log.all().into_iter().collect();
            later.clone().all(|n| handled.contains(&n))
        })
        .await;
        let operator = server.operator().await;
        until("all are settled", async || operator.messages("gusset").await == 0).await;
    }
    let operator = server.operator().await;
    let info = operator.api("STREAM.INFO.gusset", serde_json::json!({})).await;
    assert_eq!(info["state"]["consumer_count"], 1, "only the group is left");
}

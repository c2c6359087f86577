use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use gusset_broker::{Limits, NatsEngine, NatsOptions};
use serde_json::{Value, json};

use crate::harness::{Operator, Server, connect, dead, fail, hasty, listen, until};

/// What the cluster says, once it has made up its mind.
async fn leader(operator: &Operator, of: &str) -> String {
    for _ in 0..600 {
        let asked = operator.0.request(format!("$JS.API.{of}"), json!({}).to_string().into()).await;
        if let Ok(answer) = asked {
            let info: Value = serde_json::from_slice(&answer.payload).unwrap();
            if let Some(leader) = info["cluster"]["leader"].as_str() {
                return leader.to_owned();
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no leader of {of}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_loses_its_leader_loses_no_message() {
    let mut servers = Server::cluster();
    let all = servers.iter().map(|server| server.url()).collect::<Vec<_>>().join(",");
    let options = || {
        NatsOptions::new(&*all)
            .replicas(3)
            .max_bytes(16 << 20)
            .ping_interval(Duration::from_millis(500))
            .call_within(Duration::from_secs(45))
    };
    // At once, while the servers are still getting to know each other.
    let broker = connect(options()).await;
    let other = connect(options()).await;
    let (_here, log) = listen(&broker, "order.*", "g").await;
    let (_there, second) = listen(&other, "order.*", "g").await;
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, sender) = (stop.clone(), connect(options()).await);
    let publishing = tokio::spawn(async move {
        let (mut acknowledged, mut next) = (Vec::new(), 0_u32);
        while !stopped.load(SeqCst) {
            let batch: Vec<_> = (next..next + 20)
                .map(|n| (n, sender.publish("order.created", &n).into_future()))
                .collect();
            next += 20;
            for (n, result) in batch {
                if result.await.is_ok() {
                    acknowledged.push(n);
                }
            }
        }
        acknowledged
    });
    for question in ["STREAM.INFO.gusset", "CONSUMER.INFO.gusset.g"] {
        let before = log.len() + second.len();
        until("it flows", async || log.len() + second.len() > before + 200).await;
        let operator =
            Operator(async_nats::connect(all.split(',').collect::<Vec<_>>()).await.unwrap());
        let name = leader(&operator, question).await;
        let place = usize::from(name.as_bytes()[1] - b'1');
        servers[place].kill();
        let before = log.len() + second.len();
        until("it flows with two", async || log.len() + second.len() > before + 200).await;
        servers[place].restart();
    }
    stop.store(true, SeqCst);
    let acknowledged = publishing.await.unwrap();
    let handled = || log.all().into_iter().chain(second.all());
    until("all are handled", async || {
        let handled: HashSet<_> = handled().collect();
        acknowledged.iter().all(|n| handled.contains(n))
    })
    .await;
    let mut times = BTreeMap::new();
    for n in handled() {
        *times.entry(n).or_insert(0_usize) += 1;
    }
    let most = times.values().max().copied().unwrap_or_default();
    assert!(most <= 3, "delivered {most} times, with two deaths");
    // Dead letters as well, with one server gone.
    servers[0].kill();
    let (_failing, _) = fail(&broker, "f", hasty().max_attempts(1)).await;
    broker.publish("bill.created", &1).await.unwrap();
    assert_eq!(dead(&broker, 1).await[0].message.payload(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_replicas_than_there_are_servers_are_refused() {
    let server = Server::start();
    let refused = NatsEngine::connect(server.options().replicas(3), Limits::new()).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("replicas"), "{text}");
}

//! Networks break in halves.

use std::time::{Duration, Instant};

use crate::harness::{Server, connect, listen, until};
use gusset_broker::{Broker, Error, NatsOptions};
use gusset_engines::{Faults, Proxy};
use tokio::time::sleep;

const NONE: Faults = Faults { deaf: false, mute: false, deaf_from: None, delay: Duration::ZERO };
const DEAF: Faults = Faults { deaf: true, ..NONE };
const MUTE: Faults = Faults { mute: true, ..NONE };
const DEAD: Faults = Faults { deaf: true, ..MUTE };

async fn behind(proxy: &Proxy) -> Broker {
    let options = NatsOptions::new(proxy.url("nats"))
        .max_bytes(16 << 20)
        .ping_interval(Duration::from_millis(200))
        .call_within(Duration::from_secs(60));
    connect(options).await
}

/// A firewall that forgot the connection, a cable that was cut.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_dead_without_a_word_is_made_anew_and_all_goes_on() {
    for faults in [DEAF, MUTE, DEAD] {
        let server = Server::start();
        let proxy = Proxy::before(server.port());
        let (broker, direct) = (behind(&proxy).await, server.broker().await);
        let (_subscription, log) = listen(&broker, ">", "g").await;
        broker.publish("a", &0).await.unwrap();
        log.has(1).await;
        let operator = server.operator().await;
        until("it is settled", async || operator.messages("gusset").await == 0).await;
        proxy.set_present(faults);
        let begin = Instant::now();
        // Mute, the server has it and its word does not arrive: asked again, it says that it had it.
        broker.publish("a", &1).await.unwrap();
        assert!(begin.elapsed() < Duration::from_secs(30), "{faults:?}: {:?}", begin.elapsed());
        direct.publish("a", &2).await.unwrap();
        log.has(3).await;
        until("all are settled", async || operator.messages("gusset").await == 0).await;
        let mut all = log.all();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2], "{faults:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_passes_calls_end_in_time() {
    let server = Server::start();
    let proxy = Proxy::before(server.port());
    let options = NatsOptions::new(proxy.url("nats"))
        .max_bytes(16 << 20)
        .ping_interval(Duration::from_millis(200))
        .call_within(Duration::from_secs(1));
    let broker = connect(options).await;
    let (_subscription, log) = listen(&broker, ">", "g").await;
    proxy.set(DEAD);
    let begin = Instant::now();
    let late = broker.publish("a", &1).await;
    assert!(matches!(late, Err(Error::Engine(_))), "{late:?}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    proxy.mend();
    until("it is through", async || broker.publish("a", &2).await.is_ok()).await;
    until("2 is here", async || log.all().contains(&2)).await;
}

/// Where 20 publish at once, the server has no more than 4 that it has not answered.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_publishes_are_under_way_than_the_window_allows() {
    let server = Server::start();
    let proxy = Proxy::before(server.port());
    let options = NatsOptions::new(proxy.url("nats"))
        .max_bytes(16 << 20)
        .publish_window(4)
        .call_within(Duration::from_secs(3));
    let broker = connect(options).await;
    server.broker().await.declare("g", ">", gusset_broker::Policy::new()).await.unwrap();
    proxy.set(MUTE);
    let publishes: Vec<_> = (0..20)
        .map(|n| {
            let broker = broker.clone();
            tokio::spawn(async move { broker.publish("a", &n).await })
        })
        .collect();
    let operator = server.operator().await;
    until("four are there", async || operator.messages("gusset").await == 4).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(operator.messages("gusset").await, 4);
    for publish in publishes {
        let ended = publish.await.unwrap();
        assert!(matches!(ended, Err(Error::Full(_) | Error::Engine(_))), "{ended:?}");
    }
}

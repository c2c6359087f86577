//! What does a broker on NATS cost beside the bare client? From the first publish until the last acknowledgement, one process that publishes and
//! consumes at the same time; the same server, streams and consumers of the same settings, 256 publishes under way, 256 messages fetched at
//! once, file storage, each message with an id. The rounds of both take turns.
//!
//! Needs `nats-server` and the feature `nats`: `cargo bench -p benches --features nats --bench nats`.

#![allow(clippy::print_stdout, reason = "the result is what it is for")]

use std::{
    convert::Infallible,
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, consumer::pull, message::PublishMessage, stream};
use bytes::Bytes;
use futures_util::{StreamExt, stream::iter};
use gusset_broker::{Broker, Delivery, Limits, Message, NatsEngine, NatsOptions};
use gusset_engines::Nats;
use tokio::sync::Notify;
use tower::service_fn;

type Failure = Box<dyn Error + Send + Sync>;

const WINDOW: usize = 256;
const MESSAGES: usize = 40_000;
const ROUNDS: usize = 5;

/// Counts down what is to be handled.
#[derive(Default)]
struct Count {
    handled: AtomicUsize,
    all: Notify,
}

impl Count {
    fn one(&self) {
        if self.handled.fetch_add(1, SeqCst) + 1 == MESSAGES {
            self.all.notify_one();
        }
    }
}

async fn bare(url: &str, name: &str, size: usize) -> Result<Duration, Failure> {
    let context = jetstream::new(async_nats::connect(url).await?);
    let stream = context
        .create_stream(stream::Config {
            name: name.into(),
            subjects: vec![format!("{name}.>")],
            retention: stream::RetentionPolicy::Interest,
            discard: stream::DiscardPolicy::New,
            max_messages: 1_000_000,
            max_bytes: 1 << 30,
            duplicate_window: Duration::from_secs(120),
            ..Default::default()
        })
        .await?;
    let consumer = stream
        .create_consumer(pull::Config {
            durable_name: Some("g".into()),
            filter_subject: format!("{name}.order.>"),
            max_ack_pending: 50_000,
            ..Default::default()
        })
        .await?;
    let mut messages = consumer.stream().max_messages_per_batch(WINDOW).messages().await?;
    let begin = Instant::now();
    let consuming = tokio::spawn(async move {
        for _ in 0..MESSAGES {
            let Some(message) = messages.next().await else { return Err("ended".into()) };
            message?.ack().await?;
        }
        Ok::<_, Failure>(())
    });
    let subject = format!("{name}.order.created");
    let publishes = iter(0..MESSAGES).map(|n| {
        let id = format!("{name}-{n}");
        let message = PublishMessage::build().payload(payload(size)).message_id(id);
        let (subject, context) = (subject.clone(), context.clone());
        async move {
            context.send_publish(subject, message).await?.await?;
            Ok::<_, Failure>(())
        }
    });
    let mut publishes = publishes.buffer_unordered(WINDOW);
    while let Some(published) = publishes.next().await {
        published?;
    }
    consuming.await??;
    let took = begin.elapsed();
    context.delete_stream(name).await?;
    Ok(took)
}

async fn ours(url: &str, name: &str, size: usize) -> Result<Duration, Failure> {
    let options = NatsOptions::new(url).namespace(name);
    let broker = Broker::on(NatsEngine::connect(options, Limits::new()).await?);
    let count = Arc::<Count>::default();
    let counting = count.clone();
    let subscription = broker
        .subscribe("order.>")
        .group("g")
        .concurrency(WINDOW)
        .handle_raw(service_fn(move |_: Delivery| {
            counting.one();
            std::future::ready(Ok::<_, Infallible>(()))
        }))
        .await?;
    let begin = Instant::now();
    let publishes = iter(0..MESSAGES).map(|_| {
        let broker = broker.clone();
        async move {
            let message = Message::new("order.created", payload(size))?;
            broker.publish_message(message).await?;
            Ok::<_, Failure>(())
        }
    });
    let mut publishes = publishes.buffer_unordered(WINDOW);
    while let Some(published) = publishes.next().await {
        published?;
    }
    count.all.notified().await;
    let took = begin.elapsed();
    drop(subscription);
    let client = async_nats::connect(url).await?;
    for stream in [name.to_owned(), format!("{name}_dead"), format!("{name}_notes")] {
        jetstream::new(client.clone()).delete_stream(stream).await?;
    }
    Ok(took)
}

fn payload(size: usize) -> Bytes {
    vec![b'x'; size].into()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let server = Nats::start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    for size in [64, 1_024] {
        let (mut bare_rates, mut our_rates, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let names = (format!("bare-{size}-{round}"), format!("ours-{size}-{round}"));
            let rate = |took: Duration| MESSAGES as f64 / took.as_secs_f64() / 1e3;
            let theirs = rate(bare(&server.url(), &names.0, size).await?);
            let mine = rate(ours(&server.url(), &names.1, size).await?);
            bare_rates.push(theirs);
            our_rates.push(mine);
            ratios.push(mine / theirs);
        }
        println!(
            "{size:>5} B: bare {:.1} k/s, gusset {:.1} k/s, ratio {:.2} (medians of {ROUNDS})",
            median(&mut bare_rates),
            median(&mut our_rates),
            median(&mut ratios)
        );
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

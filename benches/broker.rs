//! How long does a message take from its publisher through a handler, one of many on the way?
//!
//! Each sample publishes its messages one after the other and ends when all are handled; the time is that of one message. A payload is copied
//! from a slice for each message, and the handler is a tower service that counts. Everything runs on one thread (a current-thread
//! runtime), so this is the work on the path and not the wake-ups of threads.
//!
//! What they promise differs:
//!
//! - `gusset`: a bounded queue of 1,024 that holds up the publisher; acknowledged after the handler's success, and otherwise tried again and
//!   buried; an id and a time for each message, a time limit for each handling. One worker, so the order is kept as in the others.
//! - `bare` calls the handler: no queue, no task.
//! - `tokio-mpsc` is its bounded channel of 1,024 and a task that calls the handler; a failure would be lost. `fan_out_4` is four of them.
//! - `tokio-broadcast` has a ring of 1,024 and holds nobody up: a slow receiver loses messages, which are counted and printed. As its `send` never
//!   waits, the publisher yields after every 128 messages; else nobody would receive anything but the last 1,024.
//! - `async-broadcast` holds up the publisher at 1,024 and loses nothing.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::{
    convert::Infallible,
    future::{Ready, poll_fn, ready},
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use gusset_broker::{Broker, Delivery, Message, Policy, Subscription, WhenFull};
use tokio::{
    runtime::Runtime,
    sync::{Notify, broadcast, mpsc},
    task::{JoinSet, yield_now},
};
use tower::Service;

const SUBJECT: &str = "order.created";
const QUEUE: usize = 1_024;
/// What tokio lets a task do before it has to yield.
const BUDGET: u64 = 128;

/// The handler: it counts, and wakes who waits for the count.
#[derive(Clone, Default)]
struct Count(Arc<Counted>);

#[derive(Default)]
struct Counted {
    handled: AtomicU64,
    wanted: AtomicU64,
    reached: Notify,
}

impl Count {
    fn add(&self, messages: u64) {
        let before = self.0.handled.fetch_add(messages, Relaxed);
        if before + messages >= self.0.wanted.load(Relaxed) {
            self.0.reached.notify_one();
        }
    }

    fn expect(&self, messages: u64) {
        self.0.handled.store(0, Relaxed);
        self.0.wanted.store(messages, Relaxed);
    }

    async fn reached(&self) {
        while self.0.handled.load(Relaxed) < self.0.wanted.load(Relaxed) {
            self.0.reached.notified().await;
        }
    }
}

impl Service<Bytes> for Count {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, payload: Bytes) -> Self::Future {
        black_box(payload);
        self.add(1);
        ready(Ok(()))
    }
}

impl Service<Delivery> for Count {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, delivery: Delivery) -> Self::Future {
        self.call(delivery.into_body())
    }
}

async fn handle(handler: &mut Count, payload: Bytes) {
    let Ok(()) = poll_fn(|cx| Service::<Bytes>::poll_ready(handler, cx)).await;
    let Ok(()) = handler.call(payload).await;
}

/// One way to get messages to `receivers` handlers each.
trait Contender {
    async fn new(receivers: usize, count: &Count, tasks: &mut JoinSet<()>) -> Self;
    /// Publishes the `number`th message.
    async fn publish(&mut self, number: u64, payload: Bytes);
}

struct Gusset {
    broker: Broker,
    _subscriptions: Vec<Subscription>,
}

impl Contender for Gusset {
    async fn new(receivers: usize, count: &Count, _: &mut JoinSet<()>) -> Self {
        let broker = Broker::new();
        let patient = WhenFull::Wait(Duration::from_secs(60));
        let mut _subscriptions = Vec::new();
        for group in 0..receivers {
            let subscribe = broker.subscribe("order.*").group(format!("group-{group}"));
            let subscribe = subscribe.policy(Policy::new().capacity(QUEUE).when_full(patient));
            let subscribed = subscribe.concurrency(1).handle_raw(count.clone()).await;
            _subscriptions.push(subscribed.expect("the names are valid"));
        }
        Self { broker, _subscriptions }
    }

    async fn publish(&mut self, _: u64, payload: Bytes) {
        let message = Message::new(SUBJECT, payload).expect("the subject is valid");
        self.broker.publish_message(message).await.expect("somebody makes room");
    }
}

struct Bare(Vec<Count>);

impl Contender for Bare {
    async fn new(receivers: usize, count: &Count, _: &mut JoinSet<()>) -> Self {
        Self(vec![count.clone(); receivers])
    }

    async fn publish(&mut self, _: u64, payload: Bytes) {
        for handler in &mut self.0 {
            handle(handler, payload.clone()).await;
        }
    }
}

struct TokioMpsc(Vec<mpsc::Sender<Bytes>>);

impl Contender for TokioMpsc {
    async fn new(receivers: usize, count: &Count, tasks: &mut JoinSet<()>) -> Self {
        let mut open = |_| {
            let (sender, mut receiver) = mpsc::channel(QUEUE);
            let mut handler = count.clone();
            tasks.spawn(async move {
                while let Some(payload) = receiver.recv().await {
                    handle(&mut handler, payload).await;
                }
            });
            sender
        };
        Self((0..receivers).map(&mut open).collect())
    }

    async fn publish(&mut self, _: u64, payload: Bytes) {
        for sender in &self.0 {
            sender.send(payload.clone()).await.expect("the task lives");
        }
    }
}

struct TokioBroadcast(broadcast::Sender<Bytes>);

static LOST: AtomicU64 = AtomicU64::new(0);

impl Contender for TokioBroadcast {
    async fn new(receivers: usize, count: &Count, tasks: &mut JoinSet<()>) -> Self {
        let sender = broadcast::Sender::new(QUEUE);
        for _ in 0..receivers {
            let (mut receiver, mut handler) = (sender.subscribe(), count.clone());
            tasks.spawn(async move {
                loop {
                    match receiver.recv().await {
                        Ok(payload) => handle(&mut handler, payload).await,
                        Err(broadcast::error::RecvError::Lagged(lost)) => {
                            LOST.fetch_add(lost, Relaxed);
                            handler.add(lost);
                        }
                        Err(broadcast::error::RecvError::Closed) => break,
                    }
                }
            });
        }
        Self(sender)
    }

    async fn publish(&mut self, number: u64, payload: Bytes) {
        self.0.send(payload).expect("the tasks live");
        if number % BUDGET == BUDGET - 1 {
            yield_now().await;
        }
    }
}

struct AsyncBroadcast(async_broadcast::Sender<Bytes>);

impl Contender for AsyncBroadcast {
    async fn new(receivers: usize, count: &Count, tasks: &mut JoinSet<()>) -> Self {
        let (sender, receiver) = async_broadcast::broadcast(QUEUE);
        for _ in 0..receivers {
            let (mut receiver, mut handler) = (receiver.clone(), count.clone());
            tasks.spawn(async move {
                while let Ok(payload) = receiver.recv_direct().await {
                    handle(&mut handler, payload).await;
                }
            });
        }
        Self(sender)
    }

    async fn publish(&mut self, _: u64, payload: Bytes) {
        self.0.broadcast_direct(payload).await.expect("the tasks live");
    }
}

fn measure<C: Contender>(
    bencher: &mut Bencher<'_>,
    runtime: &Runtime,
    receivers: usize,
    payload: &[u8],
) {
    let (count, mut tasks) = (Count::default(), JoinSet::new());
    let mut contender = runtime.block_on(async { C::new(receivers, &count, &mut tasks).await });
    bencher.iter_custom(|messages| {
        count.expect(messages * receivers as u64);
        runtime.block_on(async {
            let began = Instant::now();
            for number in 0..messages {
                contender.publish(number, Bytes::copy_from_slice(black_box(payload))).await;
            }
            count.reached().await;
            began.elapsed()
        })
    });
}

fn broker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("broker");
    group.throughput(Throughput::Elements(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = &runtime.expect("it starts no thread");
    for (case, receivers, bytes) in
        [("one_to_one_64b", 1, 64), ("one_to_one_1kib", 1, 1_024), ("fan_out_4", 4, 64)]
    {
        let payload = &vec![7_u8; bytes];
        let mut bench = |who: &str, measure: &dyn Fn(&mut Bencher<'_>)| {
            group.bench_function(format!("{case}/{who}"), measure);
        };
        bench("gusset", &|bencher| measure::<Gusset>(bencher, runtime, receivers, payload));
        bench("bare", &|bencher| measure::<Bare>(bencher, runtime, receivers, payload));
        bench("tokio-mpsc", &|bencher| measure::<TokioMpsc>(bencher, runtime, receivers, payload));
        if receivers > 1 {
            bench("tokio-broadcast", &|bencher| {
                measure::<TokioBroadcast>(bencher, runtime, receivers, payload);
            });
            eprintln!("{case}/tokio-broadcast: {} messages lost", LOST.load(Relaxed));
            bench("async-broadcast", &|bencher| {
                measure::<AsyncBroadcast>(bencher, runtime, receivers, payload);
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::config();
    targets = broker
}
criterion_main!(benches);

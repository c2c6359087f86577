//! How long does a message take from its publisher through a handler, one of many on the way?
//!
//! Each sample publishes its messages one after the other and ends when all are handled; the time is that of one message. A payload is copied
//! from a slice for each message, and the handler is a tower service that looks at it and counts. Where the name does not say otherwise, everything runs on one thread
//! (a current-thread runtime), so this is the work on the path and not the wake-ups of threads; `2_threads` has a runtime of two.
//!
//! What they promise differs:
//!
//! - `gusset`: a bounded queue of 1,024 that holds up the publisher; acknowledged after the handler's success, and otherwise tried again and
//!   buried; an id and a time for each message, a time limit for each handling. The subject was checked before. One worker for each group, so the order
//!   is kept as in the others.
//! - `bare` calls the handler: no queue, no task.
//! - `tokio-mpsc` is its bounded channel of 1,024 and a task that calls the handler; a failure would be lost. `fan_out_4` is four of them.
//! - `tokio-broadcast` has a ring of 1,024 and holds nobody up: a slow receiver loses messages, which are counted and printed. As its `send` never
//!   waits, the publisher yields after every 128 messages; else nobody would receive anything but the last 1,024.
//! - `async-broadcast` holds up the publisher at 1,024 and loses nothing.
//!
//! In `competing_4` there are four publishers, and four handlers that share the messages: four workers of one group, or four channels to which each publisher
//! sends in turns.
//!
//! `wake_up` is the time from a publish to the handler of a worker that has slept for 100 µs, on two threads; the median of all messages of a sample.
//!
//! `redelivered_500k` is the processor's time for each of 500,000 messages that all fail, wait for a random part of a second, and are handled then: from the
//! first delivery of the first to the last acknowledgement. `once` is the same without failing, `twice` with the second delivery at once: what `gusset` takes
//! beyond `twice` is the waiting, and that everything is cold when it is handled again. `ready_again` ends when the last is due: beyond `once`, which is as cold, that is
//! failing, insertion and firing. `tokio-sleep` is a spawned task that sleeps, for each message.

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
use gusset_broker::{Broker, Delivery, Message, Policy, Reply, Subject, Subscription, WhenFull};
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
        black_box(delivery.body());
        self.add(1);
        ready(Ok(()))
    }
}

async fn handle(handler: &mut Count, payload: Bytes) {
    let Ok(()) = poll_fn(|cx| Service::<Bytes>::poll_ready(handler, cx)).await;
    let Ok(()) = handler.call(payload).await;
}

/// How many handlers there are, and whether each gets every message.
#[derive(Clone, Copy)]
enum Hands {
    Each(usize),
    Share(usize),
}

/// One way to get messages to handlers. Clones are further publishers.
trait Contender: Clone + Send + 'static {
    fn new(
        hands: Hands,
        count: &Count,
        tasks: &mut JoinSet<()>,
    ) -> impl Future<Output = Self> + Send;
    /// Publishes the `number`th message.
    fn publish(&mut self, number: u64, payload: Bytes) -> impl Future<Output = ()> + Send;
}

#[derive(Clone)]
struct Gusset {
    broker: Broker,
    subject: Subject,
    _subscriptions: Arc<Vec<Subscription>>,
}

impl Contender for Gusset {
    async fn new(hands: Hands, count: &Count, _: &mut JoinSet<()>) -> Self {
        let broker = Broker::new();
        let patient = WhenFull::Wait(Duration::from_secs(60));
        let (groups, workers) = match hands {
            Hands::Each(hands) => (hands, 1),
            Hands::Share(hands) => (1, hands),
        };
        let mut subscriptions = Vec::new();
        for group in 0..groups {
            let subscribe = broker.subscribe("order.*").group(format!("group-{group}"));
            let subscribe = subscribe.policy(Policy::new().capacity(QUEUE).when_full(patient));
            let subscribed = subscribe.concurrency(workers).handle_raw(count.clone()).await;
            subscriptions.push(subscribed.expect("the names are valid"));
        }
        let subject = Subject::new(SUBJECT).expect("it is valid");
        Self { broker, subject, _subscriptions: subscriptions.into() }
    }

    async fn publish(&mut self, _: u64, payload: Bytes) {
        let message = Message::new(self.subject.clone(), payload).expect("the subject is valid");
        self.broker.publish_message(message).await.expect("somebody makes room");
    }
}

#[derive(Clone)]
struct Bare(Vec<Count>);

impl Contender for Bare {
    async fn new(hands: Hands, count: &Count, _: &mut JoinSet<()>) -> Self {
        let (Hands::Each(hands) | Hands::Share(hands)) = hands;
        Self(vec![count.clone(); hands])
    }

    async fn publish(&mut self, _: u64, payload: Bytes) {
        for handler in &mut self.0 {
            handle(handler, payload.clone()).await;
        }
    }
}

#[derive(Clone)]
struct TokioMpsc {
    senders: Vec<mpsc::Sender<Bytes>>,
    in_turns: bool,
}

impl Contender for TokioMpsc {
    async fn new(hands: Hands, count: &Count, tasks: &mut JoinSet<()>) -> Self {
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
        let (hands, in_turns) = match hands {
            Hands::Each(hands) => (hands, hands == 1),
            Hands::Share(hands) => (hands, true),
        };
        Self { senders: (0..hands).map(&mut open).collect(), in_turns }
    }

    async fn publish(&mut self, number: u64, payload: Bytes) {
        if self.in_turns {
            let sender = &self.senders[number as usize % self.senders.len()];
            return sender.send(payload).await.expect("the task lives");
        }
        for sender in &self.senders {
            sender.send(payload.clone()).await.expect("the task lives");
        }
    }
}

#[derive(Clone)]
struct TokioBroadcast(broadcast::Sender<Bytes>);

static LOST: AtomicU64 = AtomicU64::new(0);

impl Contender for TokioBroadcast {
    async fn new(hands: Hands, count: &Count, tasks: &mut JoinSet<()>) -> Self {
        let (Hands::Each(hands) | Hands::Share(hands)) = hands;
        let sender = broadcast::Sender::new(QUEUE);
        for _ in 0..hands {
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

#[derive(Clone)]
struct AsyncBroadcast(async_broadcast::Sender<Bytes>);

impl Contender for AsyncBroadcast {
    async fn new(hands: Hands, count: &Count, tasks: &mut JoinSet<()>) -> Self {
        let (Hands::Each(hands) | Hands::Share(hands)) = hands;
        let (sender, receiver) = async_broadcast::broadcast(QUEUE);
        for _ in 0..hands {
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

/// A place to run, and what for.
#[derive(Clone, Copy)]
struct Case<'c> {
    runtime: &'c Runtime,
    hands: Hands,
    payload: &'c [u8],
}

impl Case<'_> {
    fn begin<C: Contender>(self) -> (Count, JoinSet<()>, C) {
        let (count, mut tasks) = (Count::default(), JoinSet::new());
        let contender =
            self.runtime.block_on(async { C::new(self.hands, &count, &mut tasks).await });
        (count, tasks, contender)
    }

    fn deliveries(self, messages: u64) -> u64 {
        match self.hands {
            Hands::Each(hands) => messages * hands as u64,
            Hands::Share(_) => messages,
        }
    }

    fn one_publisher<C: Contender>(self, bencher: &mut Bencher<'_>) {
        let (count, _tasks, contender) = self.begin::<C>();
        let payload: Arc<[u8]> = self.payload.into();
        bencher.iter_custom(|messages| {
            count.expect(self.deliveries(messages));
            let (count, payload) = (count.clone(), payload.clone());
            let mut contender = contender.clone();
            let published = async move {
                let began = Instant::now();
                for number in 0..messages {
                    contender.publish(number, Bytes::copy_from_slice(black_box(&payload))).await;
                }
                count.reached().await;
                began.elapsed()
            };
            // A task like the others, which on two threads is not bound to one of its own.
            let task = self.runtime.spawn(published);
            self.runtime.block_on(task).expect("no panic")
        });
    }

    fn four_publishers<C: Contender>(self, bencher: &mut Bencher<'_>) {
        let (count, _tasks, contender) = self.begin::<C>();
        let payload: Arc<[u8]> = self.payload.into();
        bencher.iter_custom(|messages| {
            count.expect(self.deliveries(messages));
            self.runtime.block_on(async {
                let began = Instant::now();
                for publisher in 0..4 {
                    let (mut contender, payload) = (contender.clone(), payload.clone());
                    tokio::spawn(async move {
                        for number in (publisher..messages).step_by(4) {
                            let payload = Bytes::copy_from_slice(black_box(&payload));
                            contender.publish(number / 4 + publisher, payload).await;
                        }
                    });
                }
                count.reached().await;
                began.elapsed()
            })
        });
    }

    fn wake_up<C: Contender>(self, bencher: &mut Bencher<'_>) {
        let (count, _tasks, contender) = self.begin::<C>();
        let payload: Arc<[u8]> = self.payload.into();
        bencher.iter_custom(|messages| {
            let (count, payload) = (count.clone(), payload.clone());
            let mut contender = contender.clone();
            let published = async move {
                let mut times = Vec::new();
                for number in 0..messages.min(2_000) {
                    count.expect(1);
                    // This thread does not sleep, the worker's does.
                    let idle = Instant::now();
                    while idle.elapsed() < Duration::from_micros(100) {
                        std::hint::spin_loop();
                    }
                    let began = Instant::now();
                    contender.publish(number, Bytes::copy_from_slice(black_box(&payload))).await;
                    while count.0.handled.load(Relaxed) == 0 {
                        std::hint::spin_loop();
                    }
                    times.push(began.elapsed());
                }
                times.sort_unstable();
                times[times.len() / 2]
            };
            // On a thread that runs no other task: what a task wakes, its own thread runs next.
            self.runtime.block_on(published) * messages as u32
        });
    }
}

/// What becomes of the first delivery of each message.
#[derive(Clone, Copy)]
enum First {
    Done,
    AtOnce,
    Later,
}

const MANY: u64 = 500_000;

/// The time that this thread has been on a processor, as the kernel counts it.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("this is Linux");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("a number"))
}

/// A part of a second, the same in each run: multiples of the golden ratio.
fn part_of_a_second(number: u64) -> Duration {
    Duration::from_millis(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32)
        .mul_f64(1e3 / 4_294_967_296.0)
}

/// As many as there are to be, in a group of that size.
async fn filled(broker: &Broker) {
    let policy = Policy::new().capacity(MANY as usize);
    broker.declare("g", ">", policy).await.expect("the name is valid");
    let subject = Subject::new(SUBJECT).expect("it is valid");
    for _ in 0..MANY {
        let message = Message::new(subject.clone(), Bytes::from_static(&[7; 64]));
        broker.publish_message(message.expect("valid")).await.expect("there is room");
    }
}

async fn redeliver(first: First) -> Duration {
    let (broker, count) = (Broker::new(), Count::default());
    filled(&broker).await;
    count.expect(MANY);
    let (counts, mut number) = (count.clone(), 0);
    let handler = tower::service_fn(move |delivery: Delivery| {
        let done = matches!(first, First::Done) || delivery.attempt().number() > 1;
        number += 1;
        ready(Ok::<_, Infallible>(if done {
            counts.add(1);
            Reply::Ack
        } else {
            Reply::RetryAfter(match first {
                First::Later => part_of_a_second(number),
                First::Done | First::AtOnce => Duration::ZERO,
            })
        }))
    });
    let began = cpu_time();
    let subscription = broker.subscribe(">").group("g").concurrency(1).handle_raw(handler).await;
    count.reached().await;
    let took = cpu_time() - began;
    drop(subscription);
    took
}

/// Until all are ready again, after each has failed: insert to fire, and what comes before.
async fn fail_and_wait() -> Duration {
    let (broker, failed) = (Broker::new(), Count::default());
    filled(&broker).await;
    failed.expect(MANY);
    let (counts, mut number) = (failed.clone(), 0);
    let handler = tower::service_fn(move |_: Delivery| {
        number += 1;
        counts.add(1);
        // None is due before the last has failed.
        ready(Ok::<_, Infallible>(Reply::RetryAfter(
            Duration::from_secs(1) + part_of_a_second(number),
        )))
    });
    let began = cpu_time();
    let subscription = broker.subscribe(">").group("g").concurrency(1).handle_raw(handler).await;
    failed.reached().await;
    subscription.as_ref().expect("the names are valid").pause();
    while broker.stats().groups[0].ready < MANY as usize {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = cpu_time() - began;
    drop(subscription);
    took
}

async fn sleep_in_tasks() -> Duration {
    let began = cpu_time();
    let mut tasks = JoinSet::new();
    for number in 0..MANY {
        tasks.spawn(tokio::time::sleep(part_of_a_second(number)));
    }
    while tasks.join_next().await.is_some() {}
    cpu_time() - began
}

fn broker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("broker");
    group.throughput(Throughput::Elements(1));
    let one = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let one = &one.expect("it starts no thread");
    let two = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let two = &two.expect("there is room for two threads");
    let (small, large) = ([7_u8; 64], [7_u8; 1_024]);
    macro_rules! rows {
        ($case:literal, $how:ident, $runtime:expr, $hands:expr, $payload:expr, $($who:literal $peer:ident),*) => {
            let case = Case { runtime: $runtime, hands: $hands, payload: $payload };
            $(group.bench_function(concat!($case, "/", $who), |bencher| case.$how::<$peer>(bencher));)*
        };
    }
    let (single, four) = (Hands::Each(1), Hands::Each(4));
    rows!("one_to_one_64b", one_publisher, one, single, &small, "gusset" Gusset, "bare" Bare, "tokio-mpsc" TokioMpsc);
    rows!("one_to_one_1kib", one_publisher, one, single, &large, "gusset" Gusset, "bare" Bare, "tokio-mpsc" TokioMpsc);
    rows!("one_to_one_64b_2_threads", one_publisher, two, single, &small, "gusset" Gusset, "tokio-mpsc" TokioMpsc);
    rows!("one_to_one_1kib_2_threads", one_publisher, two, single, &large, "gusset" Gusset, "tokio-mpsc" TokioMpsc);
    rows!(
        "fan_out_4", one_publisher, one, four, &small,
        "gusset" Gusset, "bare" Bare, "tokio-mpsc" TokioMpsc, "tokio-broadcast" TokioBroadcast, "async-broadcast" AsyncBroadcast
    );
    eprintln!("fan_out_4/tokio-broadcast: {} messages lost", LOST.load(Relaxed));
    rows!("fan_out_4_2_threads", one_publisher, two, four, &small, "gusset" Gusset, "tokio-mpsc" TokioMpsc);
    let share = Hands::Share(4);
    rows!("competing_4_64b", four_publishers, one, share, &small, "gusset" Gusset, "tokio-mpsc" TokioMpsc);
    rows!("competing_4_1kib", four_publishers, one, share, &large, "gusset" Gusset, "tokio-mpsc" TokioMpsc);
    rows!("competing_4_64b_2_threads", four_publishers, two, share, &small, "gusset" Gusset, "tokio-mpsc" TokioMpsc);
    rows!("competing_4_1kib_2_threads", four_publishers, two, share, &large, "gusset" Gusset, "tokio-mpsc" TokioMpsc);
    rows!("wake_up", wake_up, two, single, &small, "gusset" Gusset, "tokio-mpsc" TokioMpsc);
    group.sample_size(10);
    let mut many = |who: &str, round: &dyn Fn() -> Duration| {
        group.bench_function(format!("redelivered_500k/{who}"), |bencher| {
            bencher.iter_custom(|messages| round().div_f64(MANY as f64).mul_f64(messages as f64));
        });
    };
    many("gusset", &|| one.block_on(redeliver(First::Later)));
    many("ready_again", &|| one.block_on(fail_and_wait()));
    many("once", &|| one.block_on(redeliver(First::Done)));
    many("twice", &|| one.block_on(redeliver(First::AtOnce)));
    many("tokio-sleep", &|| one.block_on(sleep_in_tasks()));
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::config();
    targets = broker
}
criterion_main!(benches);

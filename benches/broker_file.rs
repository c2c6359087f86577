//! What does it cost to have a message on the disk before its publish returns?
//!
//! 64 publishers, each with one message of 1 KiB on its way; the time is that of one message. The runtime has two threads, the engine one more.
//!
//! - `gusset` in `publish`: into a declared group that nobody listens to, acknowledged when it is synced.
//! - `gusset` in `publish_attempt_ack`: a subscription of 16 workers handles them meanwhile; the time ends when the last is acknowledged, its attempt
//!   written before the handler has seen it.
//! - `gusset` in `attempt_ack`: what was published before is handled: attempts written, acknowledgements noted, none synced for.
//! - `open_64_000` opens a directory in which so many messages wait.
//! - `bare` is the floor: a file to which one thread appends what 64 such publishers have sent it over a channel, one `fdatasync` for all that has
//!   gathered, and one wake-up each. No group, no limits, no checksum, nothing that could be read again.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::{
    convert::Infallible,
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gusset_broker::{Broker, Delivery, FileEngine, FileOptions, Message, Policy};
use tokio::{runtime::Runtime, sync::oneshot};
use tower::service_fn;

const IN_FLIGHT: u64 = 64;
const SIZE: usize = 1_024;
/// In a directory that is opened; a whole number of rounds.
const WAITING: u64 = 64_000;

struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let id = Message::new("a", "").expect("a subject").id();
        let dir = std::env::var_os("GUSSET_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
        let dir = dir.join(format!("gusset-bench-{id}"));
        fs::create_dir(&dir).expect("a place for files");
        Self(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_time().build().expect("a runtime")
}

/// Divides the messages among the publishers, and waits for all.
async fn publishers<F: Future<Output = ()> + Send + 'static>(
    messages: u64,
    publish: impl Fn(u64) -> F,
) {
    let each = messages.div_ceil(IN_FLIGHT);
    let tasks: Vec<_> = (0..IN_FLIGHT).map(|_| tokio::spawn(publish(each))).collect();
    for task in tasks {
        task.await.expect("a publisher that goes on");
    }
}

async fn publish(broker: &Broker, messages: u64) {
    publishers(messages, |each| {
        let broker = broker.clone();
        async move {
            let payload = Bytes::from(vec![7; SIZE]);
            for _ in 0..each {
                let message = Message::new("order.created", payload.clone()).expect("a subject");
                broker.publish_message(message).await.expect("room");
            }
        }
    })
    .await;
}

async fn open(dir: &Dir) -> Broker {
    let options = FileOptions::new().max_bytes(8 << 30);
    let broker = Broker::on(FileEngine::open(&dir.0, options).expect("a directory"));
    let policy = Policy::new().capacity(10_000_000).max_bytes(8 << 30);
    broker.declare("mails", "order.*", policy).await.expect("a group");
    broker
}

async fn handled(broker: &Broker, messages: u64) {
    while broker.stats().groups[0].acked < messages {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}

async fn subscribe(broker: &Broker) -> gusset_broker::Subscription {
    let handler = service_fn(|_: Delivery| async { Ok::<_, Infallible>(()) });
    let subscribe = broker.subscribe("order.*").group("mails");
    subscribe.handle_raw(handler).await.expect("a subscription")
}

/// Sends what it is to write, and where to tell when it is synced.
type Floor = mpsc::Sender<(Bytes, oneshot::Sender<()>)>;

fn floor(dir: &Dir) -> (Floor, thread::JoinHandle<()>) {
    let (sender, receiver) = mpsc::channel::<(Bytes, oneshot::Sender<()>)>();
    let path = dir.0.join("floor");
    let writer = thread::spawn(move || {
        let mut file = File::options().append(true).create(true).open(path).expect("a file");
        let (mut batch, mut waiting) = (Vec::new(), Vec::new());
        while let Ok(first) = receiver.recv() {
            for (payload, done) in std::iter::once(first).chain(receiver.try_iter()) {
                batch.extend_from_slice(&payload);
                waiting.push(done);
            }
            file.write_all(&batch).and_then(|()| file.sync_data()).expect("a disk");
            batch.clear();
            for done in waiting.drain(..) {
                let _ = done.send(());
            }
        }
    });
    (sender, writer)
}

async fn publish_to_floor(floor: &Floor, messages: u64) {
    publishers(messages, |each| {
        let floor = floor.clone();
        async move {
            let payload = Bytes::from(vec![7; SIZE]);
            for _ in 0..each {
                let (done, synced) = oneshot::channel();
                floor.send((payload.clone(), done)).expect("the writer");
                synced.await.expect("the writer");
            }
        }
    })
    .await;
}

fn broker_file(c: &mut Criterion) {
    let runtime = Arc::new(runtime());
    let mut group = c.benchmark_group("broker_file");
    group.throughput(Throughput::Elements(1));
    // Each a whole number of rounds, so that none ends with publishers that wait alone.
    let measured = |messages: u64| messages.max(IN_FLIGHT * 20);
    let share = |elapsed: Duration, messages: u64| {
        elapsed.mul_f64(messages as f64 / measured(messages) as f64)
    };
    group.bench_function("publish/bare", |b| {
        b.iter_custom(|messages| {
            let dir = Dir::new();
            let (floor, writer) = floor(&dir);
            let began = Instant::now();
            runtime.block_on(publish_to_floor(&floor, measured(messages)));
            let elapsed = began.elapsed();
            drop(floor);
            writer.join().expect("the writer");
            share(elapsed, messages)
        });
    });
    group.bench_function("publish/gusset", |b| {
        b.iter_custom(|messages| {
            let dir = Dir::new();
            runtime.block_on(async {
                let broker = open(&dir).await;
                let began = Instant::now();
                publish(&broker, measured(messages)).await;
                share(began.elapsed(), messages)
            })
        });
    });
    group.bench_function("publish_attempt_ack/gusset", |b| {
        b.iter_custom(|messages| {
            let dir = Dir::new();
            runtime.block_on(async {
                let broker = open(&dir).await;
                let _subscription = subscribe(&broker).await;
                let began = Instant::now();
                publish(&broker, measured(messages)).await;
                handled(&broker, measured(messages)).await;
                share(began.elapsed(), messages)
            })
        });
    });
    group.bench_function("attempt_ack/gusset", |b| {
        b.iter_custom(|messages| {
            let dir = Dir::new();
            runtime.block_on(async {
                let broker = open(&dir).await;
                publish(&broker, measured(messages)).await;
                let began = Instant::now();
                let _subscription = subscribe(&broker).await;
                handled(&broker, measured(messages)).await;
                share(began.elapsed(), messages)
            })
        });
    });
    let full = Dir::new();
    runtime.block_on(async { publish(&open(&full).await, WAITING).await });
    group.bench_function("open_64_000/gusset", |b| {
        b.iter_custom(|times| {
            (0..times).fold(Duration::ZERO, |sum, _| {
                let began = Instant::now();
                let engine = FileEngine::open(&full.0, FileOptions::new()).expect("a directory");
                let elapsed = began.elapsed();
                drop(engine);
                sum + elapsed
            })
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::config();
    targets = broker_file
}
criterion_main!(benches);

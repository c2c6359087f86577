//! What survives in a directory, as publishers and handlers see it. On real disks, so in real time: each waits for what it expects.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod bounds;
mod opening;
mod restart;
mod room;
mod segments;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use gusset_broker::{
    Broker, Delivery, Error, FileEngine, FileError, FileOptions, Filter, Limits, Message,
    MessageId, OrderBy, Policy, Reason, Reply, WhenFull, WhenLettersFull, WhenUnheard, conformance,
};
use gusset_call::{BoxError, Deadline};
use tokio::time::sleep;
use tower::service_fn;

/// A directory that is there as long as this.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let id = Message::new("a", "").unwrap().id();
        let dir = std::env::temp_dir().join(format!("gusset-broker-{id}"));
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    fn open(&self) -> Broker {
        open(&self.0, FileOptions::new())
    }

    /// How many bytes are in it.
    fn size(&self) -> u64 {
        let files = std::fs::read_dir(&self.0).unwrap();
        // A file may go while it is looked at.
        files.filter_map(|file| Some(file.unwrap().metadata().ok()?.len())).sum()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Once the workers of the last broker on it are gone, which is soon after.
fn open(dir: &Path, options: FileOptions) -> Broker {
    let began = Instant::now();
    loop {
        match FileEngine::open(dir, options) {
            Ok(engine) => return Broker::on(engine),
            Err(FileError::InUse { .. }) if began.elapsed() < Duration::from_secs(10) => {}
            Err(error) => panic!("{error}: {error:?}"),
        }
    }
}

/// Waits until it is so.
async fn until(what: &str, so: impl AsyncFn() -> bool) {
    for _ in 0..2_000 {
        if so().await {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("in ten seconds, not {what}");
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

/// A subscription that notes what comes.
async fn listen(
    broker: &Broker,
    group: &str,
) -> (gusset_broker::Subscription, Arc<Mutex<Vec<(u32, u32)>>>) {
    let seen = Arc::<Mutex<Vec<(u32, u32)>>>::default();
    let noted = seen.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.lock().unwrap().push((*delivery.body(), delivery.attempt().number()));
        async { Ok::<_, BoxError>(()) }
    });
    (broker.subscribe(">").group(group).concurrency(1).handle(handler).await.unwrap(), seen)
}

fn quick() -> Policy {
    Policy::new().backoff(Duration::from_millis(1), Duration::from_millis(1))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_of_many_at_once_share_their_syncs() {
    let dir = Dir::new();
    let broker = dir.open();
    broker.declare("mails", ">", Policy::new().capacity(100_000)).await.unwrap();
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let broker = broker.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    broker.publish("a", &n).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    broker.close(soon()).await;
    drop(broker);
    assert_eq!(dir.open().stats().groups[0].ready, 64 * 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shared_suite_holds() {
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            for (name, case) in conformance::CASES {
                let dir = Dir::new();
                let result = conformance::check(name, *case, dir.open()).await;
                assert!(result.is_ok(), "{}", result.unwrap_err());
            }
        })
        .await;
}

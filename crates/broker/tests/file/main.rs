//! What survives in a directory, as publishers and handlers see it. On real disks, so in real time: each waits for what it expects.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

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
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
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
async fn declared_groups_come_back_with_what_nobody_has_acknowledged() {
    let dir = Dir::new();
    {
        let broker = dir.open();
        broker.declare("mails", ">", Policy::new().capacity(7)).await.unwrap();
        broker.declare("gone", ">", Policy::new()).await.unwrap();
        let (subscription, seen) = listen(&broker, "done").await;
        for n in 0..5 {
            assert_eq!(broker.publish("a", &n).await.unwrap().groups, 3);
        }
        until("all are seen", async || seen.lock().unwrap().len() == 5).await;
        assert_eq!(broker.remove("gone").await.unwrap(), 5);
        subscription.close().await;
    }
    let broker = dir.open();
    let groups = broker.stats().groups;
    assert_eq!(groups.len(), 1, "one was removed, one went with its subscription");
    assert_eq!((&*groups[0].group, groups[0].ready), ("mails", 5));
    let differs = broker.declare("mails", ">", Policy::new().capacity(8)).await;
    assert!(matches!(differs, Err(Error::GroupDiffers { what: "policy", .. })));
    let (_subscription, seen) = listen(&broker, "mails").await;
    until("all are seen", async || seen.lock().unwrap().len() == 5).await;
    assert_eq!(*seen.lock().unwrap(), [0, 1, 2, 3, 4].map(|n| (n, 1)));
    until("all are done", async || broker.stats().groups[0].acked == 5).await;
    drop((_subscription, broker));
    let broker = dir.open();
    assert_eq!(broker.stats().groups[0].ready, 0, "acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_broker_keeps_what_its_subscriptions_had_not_done() {
    let dir = Dir::new();
    {
        let broker = dir.open();
        let stuck = service_fn(|_: Delivery<u32>| std::future::pending::<Result<(), BoxError>>());
        let _subscription =
            broker.subscribe(">").group("mails").concurrency(1).handle(stuck).await.unwrap();
        broker.publish("a", &1).await.unwrap();
        broker.publish("a", &2).await.unwrap();
        until("one is at work", async || broker.stats().groups[0].in_flight == 1).await;
        let leftover = broker.close(Deadline::after(Duration::from_millis(10))).await;
        assert_eq!((leftover.cut_short, leftover.messages()), (1, 2));
        assert!(matches!(broker.publish("a", &3).await, Err(Error::Closed)));
        let purged = broker.dead_letters().purge(&Filter::all()).await;
        assert!(matches!(purged, Err(Error::Closed)), "it could not be written");
        // The first broker and its subscription are still there.
        drop(FileEngine::open(&dir.0, FileOptions::new()).unwrap());
    }
    let broker = dir.open();
    let (_subscription, seen) = listen(&broker, "mails").await;
    until("both are seen", async || seen.lock().unwrap().len() == 2).await;
    assert_eq!(*seen.lock().unwrap(), [(1, 1), (2, 1)], "not charged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_stay_with_their_story_and_are_redriven_and_purged_for_good() {
    let dir = Dir::new();
    {
        let broker = dir.open();
        broker.declare("mails", ">", quick()).await.unwrap();
        let poison = service_fn(|d: Delivery<u32>| async move {
            if *d.body() == 9 { Ok(Reply::reject("nine")) } else { Err("out of order") }
        });
        let _subscription = broker.subscribe(">").group("mails").handle(poison).await.unwrap();
        for n in [7, 8, 9] {
            let message = Message::json("order.created", &n).unwrap().with_header("k", "v");
            broker.publish_message(message).await.unwrap();
        }
        until("all are dead", async || broker.stats().dead_letters == 3).await;
    }
    {
        let broker = dir.open();
        let letters = broker.dead_letters();
        let all = letters.list(&Filter::all(), None, 10).await.unwrap();
        let nine = all.iter().find(|l| &l.message.payload()[..] == b"9").unwrap();
        assert_eq!(nine.reason, Reason::Rejected("nine".into()));
        let seven = all.iter().find(|l| &l.message.payload()[..] == b"7").unwrap();
        assert_eq!(
            (&*seven.group, seven.attempts, &seven.reason),
            ("mails", 3, &Reason::Exhausted)
        );
        assert_eq!(seven.message.headers().get("k"), Some("v"));
        assert_eq!(seven.first_failure.as_ref().unwrap().attempt, 1);
        assert_eq!(seven.last_failure.as_ref().unwrap().error, "out of order");
        letters.redrive(seven.id).await.unwrap();
        assert!(matches!(letters.redrive(seven.id).await, Err(Error::NoSuchDeadLetter)));
    }
    {
        let broker = dir.open();
        assert_eq!((broker.stats().dead_letters, broker.stats().groups[0].ready), (2, 1));
        assert_eq!(broker.dead_letters().purge(&Filter::all()).await.unwrap(), 2);
    }
    let broker = dir.open();
    assert_eq!((broker.stats().dead_letters, broker.stats().groups[0].ready), (0, 1));
    let (_subscription, seen) = listen(&broker, "mails").await;
    until("it is seen", async || !seen.lock().unwrap().is_empty()).await;
    assert_eq!(*seen.lock().unwrap(), [(7, 1)], "attempts are counted anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_delayed_keeps_its_time_and_what_failed_its_attempts() {
    let dir = Dir::new();
    {
        let broker = dir.open();
        let slow = Policy::new();
        broker.declare("mails", ">", slow).await.unwrap();
        let later =
            |n: u32, secs| Message::json("a", &n).unwrap().with_delay(Duration::from_secs(secs));
        broker.publish_message(later(1, 3_600)).await.unwrap();
        broker.publish_message(later(2, 1)).await.unwrap();
        broker.publish("a", &3).await.unwrap();
        let fails = service_fn(|_: Delivery<u32>| async {
            Ok::<_, BoxError>(Reply::RetryAfter(Duration::from_secs(1)))
        });
        let subscription = broker.subscribe(">").group("mails").handle(fails).await.unwrap();
        until("it failed", async || broker.stats().groups[0].delayed == 3).await;
        subscription.close().await;
    }
    let broker = dir.open();
    assert_eq!(broker.stats().groups[0].delayed, 3);
    let (_subscription, seen) = listen(&broker, "mails").await;
    sleep(Duration::from_millis(100)).await;
    assert!(seen.lock().unwrap().is_empty(), "not before its time");
    until("two are seen", async || seen.lock().unwrap().len() == 2).await;
    let mut seen = seen.lock().unwrap().clone();
    seen.sort_unstable();
    assert_eq!((seen, broker.stats().groups[0].delayed), (vec![(2, 1), (3, 2)], 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_was_taken_is_known_after_a_restart() {
    let dir = Dir::new();
    let message = Message::new("a", "1").unwrap();
    let message = message.clone().with_id(message.id());
    {
        let broker = dir.open();
        broker.declare("mails", ">", Policy::new()).await.unwrap();
        assert!(!broker.publish_message(message.clone()).await.unwrap().duplicate);
    }
    for _ in 0..2 {
        let broker = dir.open();
        assert!(broker.publish_message(message.clone()).await.unwrap().duplicate);
        assert_eq!(broker.stats().groups[0].ready, 1);
    }
    let other = MessageId::new(Message::new("a", "").unwrap().id().get());
    assert!(!dir.open().publish_message(message.with_id(other)).await.unwrap().duplicate);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_a_key_survives_and_one_by_a_closure_is_refused() {
    let dir = Dir::new();
    {
        let broker = dir.open();
        let by_header = OrderBy::header("customer");
        broker.subscribe(">").group("mails").ordered_by(by_header).declare().await.unwrap();
        let by_closure = OrderBy::key("first", |_| None);
        let refused = broker.subscribe(">").group("x").ordered_by(by_closure).declare().await;
        assert!(matches!(refused, Err(Error::Unsupported { engine: "file", .. })));
        for n in 0..5_u32 {
            let message = Message::json("a", &n).unwrap().with_header("customer", "7");
            broker.publish_message(message).await.unwrap();
        }
        let fails = service_fn(|_: Delivery<u32>| async {
            Ok::<_, BoxError>(Reply::RetryAfter(Duration::from_secs(3_600)))
        });
        let subscription = broker.subscribe(">").group("mails").handle(fails).await.unwrap();
        until("it failed", async || broker.stats().groups[0].delayed == 1).await;
        subscription.close().await;
    }
    let broker = dir.open();
    let (_subscription, seen) = listen(&broker, "mails").await;
    until("all are seen", async || seen.lock().unwrap().len() == 5).await;
    assert_eq!(*seen.lock().unwrap(), [(0, 2), (1, 1), (2, 1), (3, 1), (4, 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_broker_on_the_directory_is_refused() {
    let dir = Dir::new();
    let first = dir.open();
    let second = FileEngine::open(&dir.0, FileOptions::new()).unwrap_err();
    let own = format!("process {}", std::process::id());
    let FileError::InUse { path, holder: Some(holder) } = second else { panic!("{second}") };
    assert!(path == dir.0 && holder.starts_with(&own), "{holder}");
    drop(first);
    dir.open();
}

#[test]
fn where_no_broker_was_a_tool_makes_none() {
    let dir = Dir::new();
    for place in [dir.0.clone(), dir.0.join("mistyped")] {
        let error = FileEngine::open(&place, FileOptions::new().existing()).unwrap_err();
        assert!(matches!(&error, FileError::NoBroker { path } if *path == place), "{error}");
    }
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 0, "not even a lock");
}

#[test]
fn a_directory_that_cannot_be_is_a_clear_error() {
    let dir = Dir::new();
    let file = dir.0.join("file");
    std::fs::write(&file, "").unwrap();
    let error = FileEngine::open(file.join("dir"), FileOptions::new()).unwrap_err();
    assert!(matches!(error, FileError::Io { .. }), "{error}");
    // Nobody may write there, not even root.
    let error = FileEngine::open("/proc/sys", FileOptions::new()).unwrap_err();
    assert!(matches!(error, FileError::Io { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_queue_does_not_grow_the_disk() {
    let dir = Dir::new();
    let broker = dir.open();
    let (_subscription, _) = listen_bytes(&broker).await;
    let payload = vec![7; 1 << 20];
    let mut most = 0;
    for _ in 0..300 {
        broker.publish_message(Message::new("a", payload.clone()).unwrap()).await.unwrap();
        most = most.max(dir.size());
    }
    assert!(most <= (2 * 20 + 64 + 20) << 20, "{most} bytes for what is done");
    drop((_subscription, broker));
    drop(dir.open());
    assert!(dir.size() < 1_000, "{}", dir.size());
}

async fn listen_bytes(broker: &Broker) -> (gusset_broker::Subscription, ()) {
    let handler = service_fn(|_: Delivery<bytes::Bytes>| async { Ok::<_, BoxError>(()) });
    let policy = Policy::new().capacity(10);
    (broker.subscribe(">").group("all").policy(policy).handle_raw(handler).await.unwrap(), ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_of_the_disk_refuses_publishes_and_nothing_else() {
    let dir = Dir::new();
    let broker = open(&dir.0, FileOptions::new().max_bytes(10_000));
    broker.declare("mails", ">", Policy::new()).await.unwrap();
    let publish =
        async || broker.publish_message(Message::new("a", "1".repeat(1_000)).unwrap()).await;
    let mut taken = 0;
    let error = loop {
        match publish().await {
            Ok(_) => taken += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Full(_)) && (9..=11).contains(&taken), "{error} {taken}");
    let handler = service_fn(|_: Delivery<bytes::Bytes>| async { Ok::<_, BoxError>(()) });
    let _subscription = broker.subscribe(">").group("mails").handle_raw(handler).await.unwrap();
    until("there is room", async || publish().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_wanted_is_kept_where_that_was_asked_for() {
    let dir = Dir::new();
    let options =
        FileOptions::new().when_unheard(WhenUnheard::Bury).limits(Limits::new().dead_letters(2));
    let broker = open(&dir.0, options);
    for n in 0..3 {
        assert_eq!(broker.publish("a", &n).await.unwrap().groups, 0);
    }
    drop(broker);
    let broker = open(&dir.0, options);
    let letters = broker.dead_letters().list(&Filter::all(), None, 10).await.unwrap();
    let ids: Vec<_> = letters.iter().map(|l| (l.id.get(), l.reason.clone())).collect();
    assert_eq!(ids, [(2, Reason::Unheard), (3, Reason::Unheard)], "the oldest made room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_that_made_room_does_not_come_back() {
    let dir = Dir::new();
    let policy = Policy::new().capacity(3).when_full(WhenFull::DropOldest);
    {
        let broker = dir.open();
        broker.declare("mails", ">", policy).await.unwrap();
        for n in 0..10 {
            broker.publish("a", &n).await.unwrap();
        }
    }
    let broker = dir.open();
    let (_subscription, seen) = listen(&broker, "mails").await;
    until("all are seen", async || seen.lock().unwrap().len() == 3).await;
    assert_eq!(*seen.lock().unwrap(), [(7, 1), (8, 1), (9, 1)]);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_could_not_be_buried_is_there_after_a_restart_and_is_buried_then() {
    let dir = Dir::new();
    let limits = Limits::new().dead_letters(1).when_letters_full(WhenLettersFull::Refuse);
    let options = FileOptions::new().limits(limits);
    let handled = Arc::new(Mutex::new(Vec::new()));
    let fail = |broker: &Broker| {
        let handled = handled.clone();
        let handler = service_fn(move |delivery: Delivery<u32>| {
            handled.lock().unwrap().push(*delivery.body());
            async { Err::<(), _>("out of order") }
        });
        broker.subscribe(">").group("g").policy(quick().max_attempts(2)).handle(handler)
    };
    {
        let broker = open(&dir.0, options);
        broker.declare("g", ">", quick().max_attempts(2)).await.unwrap();
        let _guard = fail(&broker).await.unwrap();
        for n in 0..2 {
            broker.publish("a", &n).await.unwrap();
        }
        until("one is refused", async || broker.stats().dead_letters_refused > 2).await;
        let stats = broker.stats();
        assert_eq!((stats.dead_letters, stats.dead_letters_dropped), (1, 0));
        broker.close(soon()).await;
    }
    let broker = open(&dir.0, options);
    assert_eq!((broker.stats().dead_letters, broker.stats().groups[0].lag()), (1, 1));
    let first = broker.dead_letters().list(&Filter::all(), None, 9).await.unwrap();
    broker.dead_letters().purge(&Filter::all()).await.unwrap();
    let _guard = fail(&broker).await.unwrap();
    until("it is buried", async || broker.stats().dead_letters == 1).await;
    let second = broker.dead_letters().list(&Filter::all(), None, 9).await.unwrap();
    assert_ne!(first[0].message.id(), second[0].message.id());
    assert_eq!(second[0].last_failure.as_ref().unwrap().attempt, 2);
    assert_eq!(handled.lock().unwrap().len(), 4, "each as often as it may be");
}

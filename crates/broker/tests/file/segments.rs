//! A log of many files, of which the oldest are emptied and removed.

use super::*;

/// Numbers of the files, the oldest first.
fn numbers(dir: &Dir) -> Vec<u64> {
    let names = std::fs::read_dir(&dir.0).unwrap().map(|file| file.unwrap().file_name());
    let number = |name: &std::ffi::OsStr| name.to_str()?.strip_prefix("log.")?.parse().ok();
    let mut numbers: Vec<u64> = names.filter_map(|name| number(&name)).collect();
    numbers.sort_unstable();
    numbers
}

fn short(bytes: u64) -> FileOptions {
    FileOptions::new().segment_bytes(bytes)
}

/// A group that nobody listens to, and one that handles all at once.
async fn slow_and_quick(broker: &Broker) -> gusset_broker::Subscription {
    let roomy = Policy::new().capacity(1_000_000).max_bytes(1 << 30);
    broker.declare("slow", "slow", roomy).await.unwrap();
    broker.declare("quick", "quick", roomy).await.unwrap();
    let handler = service_fn(|_: Delivery<bytes::Bytes>| async { Ok::<_, BoxError>(()) });
    broker.subscribe("quick").group("quick").handle_raw(handler).await.unwrap()
}

async fn publish_many(broker: &Broker, subject: &'static str, messages: u32, size: usize) {
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let broker = broker.clone();
            tokio::spawn(async move {
                for n in (task..messages).step_by(64) {
                    let mut payload = n.to_le_bytes().to_vec();
                    payload.resize(size, 7);
                    let message = Message::new(subject, payload).unwrap();
                    broker.publish_message(message).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_long_is_moved_and_what_is_done_goes_with_its_file() {
    let dir = Dir::new();
    {
        let broker = open(&dir.0, short(1 << 16));
        let _quick = slow_and_quick(&broker).await;
        let failing = service_fn(|_: Delivery<bytes::Bytes>| async {
            Ok::<_, BoxError>(Reply::RetryAfter(Duration::from_secs(3_600)))
        });
        publish_many(&broker, "slow", 10, 100).await;
        let failing = broker.subscribe("slow").group("slow").handle_raw(failing).await.unwrap();
        until("all failed", async || broker.stats().groups[0].delayed == 10).await;
        failing.close().await;
        for _ in 0..10 {
            publish_many(&broker, "slow", 3, 100).await;
            publish_many(&broker, "quick", 1_000, 1_000).await;
            until("few files are left", async || numbers(&dir).len() < 12).await;
        }
        until("the first files are gone", async || numbers(&dir)[0] > 50).await;
        broker.close(soon()).await;
    }
    let broker = open(&dir.0, short(1 << 16));
    let groups = broker.stats().groups;
    let slow = groups.iter().find(|group| &*group.group == "slow").unwrap();
    assert_eq!((slow.delayed, slow.ready), (10, 30), "with their standing");
    assert!(numbers(&dir).len() <= 12, "and one for this process");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_leaves_no_file() {
    let dir = Dir::new();
    {
        let broker = dir.open();
        broker.declare("all", ">", Policy::new().capacity(20)).await.unwrap();
        publish_many(&broker, "a", 10, 100).await;
    }
    for _ in 0..5 {
        assert_eq!(dir.open().stats().groups[0].ready, 10);
        assert_eq!(numbers(&dir), [1, 2]);
    }
    dir.open().publish_message(Message::new("a", "").unwrap()).await.unwrap();
    assert_eq!(dir.open().stats().groups[0].ready, 11);
    assert_eq!(numbers(&dir), [1, 2, 3]);
    {
        let broker = dir.open();
        let handler = service_fn(|_: Delivery<bytes::Bytes>| async { Ok::<_, BoxError>(()) });
        let _all = broker.subscribe(">").group("all").handle_raw(handler).await.unwrap();
        until("all are done", async || broker.stats().groups[0].acked == 11).await;
        broker.close(soon()).await;
    }
    // What was needed before is not any more, and not missed.
    for _ in 0..3 {
        assert_eq!(dir.open().stats().groups[0].ready, 0);
        assert_eq!(numbers(&dir).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_while_old_files_are_emptied_waits_for_a_part_of_one() {
    let dir = Dir::new();
    {
        let broker = open(&dir.0, FileOptions::new());
        let _quick = slow_and_quick(&broker).await;
        // Little enough is done for nothing to be moved yet.
        publish_many(&broker, "slow", 40_000, 1_000).await;
        publish_many(&broker, "quick", 30_000, 1_000).await;
        broker.close(soon()).await;
    }
    // Now there is too much of it for files so short.
    let broker = open(&dir.0, short(1 << 20));
    let _quick = slow_and_quick(&broker).await;
    let (first, mut longest, mut published) = (numbers(&dir)[0], Duration::ZERO, 0);
    let mut moved = first;
    while moved < first + 3 {
        let began = Instant::now();
        let message = Message::new("quick", vec![1; 20_000]).unwrap();
        broker.publish_message(message).await.unwrap();
        longest = longest.max(began.elapsed());
        published += 1;
        moved = numbers(&dir)[0];
        assert!(published < 20_000, "nothing is moved: {:?}", numbers(&dir));
    }
    // 48 MiB were rewritten meanwhile, which takes longer than this as a whole where a disk is slow, and no publish waited for more than two parts.
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    broker.close(soon()).await;
    drop(_quick);
    let broker = open(&dir.0, FileOptions::new());
    let slow = broker.stats().groups.into_iter().find(|group| &*group.group == "slow").unwrap();
    assert_eq!(slow.ready, 40_000);
}

/// Each byte of the last file that is in a frame before its last one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bits_that_rot_in_an_old_file_are_told_with_file_and_place_and_nothing_is_changed() {
    let dir = Dir::new();
    {
        let broker = open(&dir.0, short(1 << 16));
        broker.declare("slow", ">", Policy::new().capacity(10_000)).await.unwrap();
        publish_many(&broker, "slow", 300, 1_000).await;
        broker.close(soon()).await;
    }
    let files = numbers(&dir);
    assert!(files.len() > 3, "{files:?}");
    let content = || -> Vec<_> {
        numbers(&dir)
            .iter()
            .map(|n| std::fs::read(dir.0.join(format!("log.{n:010}"))).unwrap())
            .collect()
    };
    let path = dir.0.join(format!("log.{:010}", files[1]));
    let good = std::fs::read(&path).unwrap();
    for place in (0..good.len()).step_by(997) {
        let mut rotten = good.clone();
        rotten[place] ^= 1 << (place % 8);
        std::fs::write(&path, &rotten).unwrap();
        let before = content();
        match FileEngine::open(&dir.0, FileOptions::new()) {
            Err(FileError::Damaged { path: told, offset }) => {
                assert!(told == path && offset <= place as u64, "{place}: {offset}");
            }
            Err(FileError::Newer { path: told, .. }) => assert_eq!(told, path),
            other => panic!("{place}: {other:?}"),
        }
        assert_eq!(content(), before, "{place}");
    }
    std::fs::write(&path, &good).unwrap();
    assert_eq!(dir.open().stats().groups[0].ready, 300);
}

use std::num::NonZeroUsize;

use super::*;

fn block_on(answer: BoxFuture<'_, Result<(), Error>>) -> Result<(), Error> {
    tokio_test::block_on(answer)
}

fn services(registry: &MemoryRegistry) -> usize {
    registry.0.services.load().len()
}

#[tokio::test(start_paused = true)]
async fn services_that_nobody_needs_take_no_room_for_long() {
    let registry = MemoryRegistry::default();
    let watched = registry.watch("watched");
    for n in 0..1_000 {
        drop(registry.watch(&format!("glanced-at-{n}")));
        let instance = Instance::new(format!("short-lived-{n}"), "h", 1);
        registry.register(instance.clone()).await.unwrap();
        registry.deregister(instance.key()).await.unwrap();
    }
    assert!(services(&registry) <= 4, "{}", services(&registry));
    registry.register(Instance::new("watched", "h", 1)).await.unwrap();
    assert_eq!(watched.snapshot().instances().len(), 1, "the watch still sees its service");
}

#[test]
fn a_service_that_was_removed_after_it_was_found_is_looked_up_again() {
    let registry = MemoryRegistry::default();
    let stale = registry.find_or_add(&"s".into());
    drop(registry.watch("other"));
    assert!(stale.watch(&registry.0).is_none());
    let instance = Instance::new("s", "h", 1);
    assert!(registry.register_in(&stale, &instance, false).is_none());
    assert_eq!(registry.stats().instances, 0);

    let watch = registry.watch("s");
    block_on(registry.register(instance)).unwrap();
    assert_eq!(watch.snapshot().instances().len(), 1);
}

#[test]
fn threads_at_the_bound_never_pass_it() {
    let policy = Policy::default().capacity(NonZeroUsize::new(100).unwrap());
    let registry = MemoryRegistry::new(policy);
    let registered: usize = std::thread::scope(|scope| {
        let registry = &registry;
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                scope.spawn(move || {
                    let instance = |n| Instance::new(format!("s{thread}"), "h", n);
                    (0..50).filter(|&n| block_on(registry.register(instance(n))).is_ok()).count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(registered, 100);
    assert_eq!((registry.stats().instances, registry.stats().refused), (100, 100));
}

#[tokio::test(start_paused = true)]
async fn those_who_come_within_ten_milliseconds_are_one_snapshot() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    let mut watch = registry.watch("s");
    registry.register(Instance::new("s", "h", 0)).await.unwrap();
    assert_eq!(watch.changed().await.instances().len(), 1, "the first is seen at once");
    for n in 1..1_000 {
        registry.register(Instance::new("s", "h", n)).await.unwrap();
    }
    assert_eq!(watch.snapshot().version(), 1);
    let begin = tokio::time::Instant::now();
    assert_eq!(watch.changed().await.instances().len(), 1_000);
    assert!(begin.elapsed() <= Duration::from_millis(12), "{:?}", begin.elapsed());
    assert_eq!(watch.snapshot().version(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_or_drains_or_fails_is_in_no_later_snapshot_and_who_asks_sees_all() {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    let watch = registry.watch("s");
    let key = |id| InstanceKey::new("s", id);
    let well = |id: &str| {
        let instance = Instance::new("s", "h", 1).with_id(id).with_health(crate::Health::Healthy);
        registry.register(instance)
    };
    for id in ["a", "b", "c", "d"] {
        well(id).await.unwrap();
    }
    registry.deregister(key("a")).await.unwrap();
    assert!(watch.snapshot().get("a").is_none());
    registry.drain(key("b")).await.unwrap();
    assert_eq!(watch.snapshot().get("b").unwrap().health, crate::Health::Draining);
    registry.report(key("c"), false).unwrap();
    assert_eq!(watch.snapshot().healthy().count(), 1);
    registry.register(Instance::new("s", "elsewhere", 1).with_id("d")).await.unwrap();
    assert_eq!(watch.snapshot().get("d").unwrap().host, "elsewhere");

    well("e").await.unwrap();
    assert!(watch.snapshot().get("e").is_none(), "gathered");
    assert!(registry.watch("s").snapshot().get("e").is_some());
    well("f").await.unwrap();
    assert!(registry.instances("s").await.unwrap().get("f").is_some());
    assert!(watch.snapshot().get("f").is_some(), "from then on for all");
}

#[tokio::test(start_paused = true)]
async fn what_is_gathered_is_published_when_the_sweeper_ends_and_without_one_nothing_is() {
    let registry = MemoryRegistry::default();
    let sweeper = registry.spawn_sweeper();
    let mut watch = registry.watch("s");
    for n in 0..3 {
        registry.register(Instance::new("s", "h", n)).await.unwrap();
    }
    assert_eq!(watch.changed().await.instances().len(), 1);
    drop(sweeper);
    assert_eq!(watch.changed().await.instances().len(), 3);
    for n in 3..6 {
        registry.register(Instance::new("s", "h", n)).await.unwrap();
        assert_eq!(watch.snapshot().instances().len(), usize::from(n) + 1);
    }
}

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
    assert!(stale.watch().is_none());
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

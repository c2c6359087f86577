//! How long things take; the bounds are far from what is printed, for busy machines.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_a_watcher_within_milliseconds() {
    let servers = [Etcd::start()];
    let (registry, other) = (registry_at(&servers), registry_at(&servers));
    let mut watch = other.watch("cart");
    registry.register(instance("cart", "a")).await.unwrap();
    shows(&watch, "a").await;
    let (mut seen, mut stored) = (Vec::new(), Vec::new());
    for n in 0..200 {
        let changed = instance("cart", "a").with_version(n.to_string());
        let began = Instant::now();
        let told = async {
            while watch.changed().await.get("a").unwrap().version != changed.version {}
            began.elapsed()
        };
        let put = async {
            registry.register(changed.clone()).await.unwrap();
            began.elapsed()
        };
        let (told, put) = tokio::join!(told, put);
        seen.push(told);
        stored.push(put);
    }
    let (seen, stored) = (median(seen), median(stored));
    println!("put to watch {seen:?}, put acknowledged {stored:?}");
    assert!(seen < ms(500), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_instances_are_listed_within_milliseconds_and_read_without_asking() {
    let servers = [Etcd::start()];
    // Nobody beats for them: a TTL that a busy machine does not outlast.
    let patient = || registry_with(&servers, policy().ttl(ms(120_000)));
    let (registry, other) = (patient(), patient());
    let all = (0..1_000).map(|n| {
        let registry = registry.clone();
        async move { registry.register(instance("cart", &format!("{n:04}"))).await.unwrap() }
    });
    let began = Instant::now();
    futures_util::future::join_all(all).await;
    println!("1,000 instances registered in {:?}", began.elapsed());
    let mut listed = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        assert_eq!(other.instances("cart").await.unwrap().instances().len(), 1_000);
        listed.push(began.elapsed());
    }
    let listed = median(listed);
    println!("1,000 instances listed in {listed:?}");
    assert!(listed < ms(1_000), "{listed:?}");

    let watch = other.watch("cart");
    let listings = other.stats().listings;
    for _ in 0..100_000 {
        assert_eq!(watch.snapshot().instances().len(), 1_000);
    }
    assert_eq!(other.stats().listings, listings);
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    spans[spans.len() / 2]
}

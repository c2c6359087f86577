//! How much is kept.

use super::*;

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
    // What is not done is kept.
    let is_done = async || {
        let groups = broker.stats().groups;
        groups.iter().all(|group| group.ready + group.delayed + group.in_flight == 0)
    };
    until("all is done", is_done).await;
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

//! What the next process finds.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn named_groups_come_back_with_what_nobody_has_acknowledged() {
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
    let known: Vec<_> = groups.iter().map(|group| (&*group.group, group.ready)).collect();
    assert_eq!(known, [("mails", 5), ("done", 0)], "one was removed");
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
async fn a_group_that_nobody_declared_misses_nothing_while_its_members_are_away() {
    let dir = Dir::new();
    {
        let broker = dir.open();
        let fails = service_fn(|_: Delivery<u32>| async { Err::<(), BoxError>("down".into()) });
        let mails = broker.subscribe(">").group("mails").policy(quick().max_attempts(1));
        let mails = mails.handle(fails).await.unwrap();
        broker.publish("a", &1).await.unwrap();
        until("it is dead", async || broker.stats().dead_letters == 1).await;
        mails.close().await;
        assert_eq!(broker.publish("a", &2).await.unwrap().groups, 1);
        assert_eq!(broker.stats().discarded, 0);
    }
    let broker = dir.open();
    // As operators do while the program is not there.
    let redriven = broker.dead_letters().redrive_all(&Filter::all()).await.unwrap();
    assert_eq!(redriven.redriven, 1);
    let (_subscription, seen) = listen(&broker, "mails").await;
    until("both are seen", async || seen.lock().unwrap().len() == 2).await;
    assert_eq!(broker.remove("mails").await.unwrap(), 0);
    drop(_subscription);
    until("it is gone", async || broker.stats().groups.is_empty()).await;
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

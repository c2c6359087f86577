//! From poison to dead letter and back.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::SystemTime,
};

use common::{Log, fail, listen, secs, settle, stats};
use gusset_broker::{
    Broker, DeadLetterId, Delivery, Error, FailureKind, Filter, Limits, Message, Pattern, Policy,
    Reason, Redriven, WhenFull,
};
use tower::service_fn;

#[tokio::test(start_paused = true)]
async fn poison_becomes_a_dead_letter_and_a_redriven_one_is_handled() {
    let broker = Broker::new();
    let (repaired, attempts) = (Arc::new(AtomicBool::new(false)), Log::default());
    let handler = {
        let (repaired, noted) = (repaired.clone(), attempts.clone());
        service_fn(move |delivery: Delivery<u32>| {
            noted.note(delivery.attempt().number());
            let result = match repaired.load(SeqCst) {
                true => Ok(()),
                false => Err(format!("no printer, attempt {}", delivery.attempt())),
            };
            async { result }
        })
    };
    let _guard = broker.subscribe("label.*").group("print").handle(handler).await.unwrap();
    let (_other, seen) = listen(&broker, "label.*", "archive").await;
    let message = Message::json("label.made", &7).unwrap().with_header("tenant", "acme");
    let (id, before) = (message.id(), SystemTime::UNIX_EPOCH);
    broker.publish_message(message).await.unwrap();
    secs(1).await;

    let dead = broker.dead_letters();
    let [letter] = &dead.list(&Filter::all(), None, 10).await.unwrap()[..] else { panic!() };
    assert_eq!((letter.message.id(), &*letter.group, letter.attempts), (id, "print", 3));
    assert_eq!(letter.reason, Reason::Exhausted);
    assert_eq!(letter.message.headers().get("tenant"), Some("acme"));
    assert_eq!(&letter.message.payload()[..], b"7");
    let (first, last) =
        (letter.first_failure.clone().unwrap(), letter.last_failure.clone().unwrap());
    assert_eq!((first.attempt, &*first.error), (1, "no printer, attempt 1"));
    assert_eq!((last.attempt, &*last.error), (3, "no printer, attempt 3"));
    assert_eq!(first.kind, FailureKind::Error);
    assert!(letter.message.published_at() > before && letter.died_at >= last.at);

    repaired.store(true, SeqCst);
    dead.redrive(letter.id).await.unwrap();
    settle().await;
    assert_eq!(attempts.all(), [1, 2, 3, 1], "counted anew");
    assert_eq!(seen.all(), [7], "the group that had no trouble has not got it again");
    assert!(dead.get(letter.id).await.unwrap().is_none() && broker.stats().dead_letters == 0);
    assert_eq!(broker.stats().dead_letter_bytes, 0);
    let stats = stats(&broker, "print");
    assert_eq!((stats.published, stats.redriven, stats.acked, stats.dead), (1, 1, 1, 1));
    assert!(matches!(dead.redrive(letter.id).await, Err(Error::NoSuchDeadLetter)));
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_dies_again_and_again_is_redriven_only_so_often() {
    let broker = Broker::with_limits(Limits::new().redrives(2));
    let (_guard, log) = fail(&broker, "g", Policy::new().max_attempts(1)).await;
    broker.publish("tick", &1).await.unwrap();
    settle().await;
    let dead = broker.dead_letters();
    for redrives in 0..2 {
        let letter = &dead.list(&Filter::all(), None, 1).await.unwrap()[0];
        assert_eq!((letter.redrives, letter.attempts), (redrives, 1));
        assert_eq!(
            dead.redrive_all(&Filter::all()).await.unwrap(),
            Redriven { redriven: 1, kept: 0 }
        );
        settle().await;
    }
    let id = dead.list(&Filter::all(), None, 1).await.unwrap()[0].id;
    assert!(matches!(dead.redrive(id).await, Err(Error::RedrivenTooOften(2))));
    assert_eq!(dead.redrive_all(&Filter::all()).await.unwrap(), Redriven { redriven: 0, kept: 1 });
    assert_eq!(log.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn letters_are_listed_by_page_and_filter() {
    let broker = Broker::new();
    let policy = Policy::new().max_attempts(1);
    let (_one, _) = fail(&broker, "one", policy).await;
    let (_two, _) = fail(&broker, "two", policy).await;
    for n in 0..10 {
        broker.publish(if n % 2 == 0 { "even.tick" } else { "odd.tick" }, &n).await.unwrap();
    }
    settle().await;
    let dead = broker.dead_letters();
    let even = Filter::all().group("two").subjects(Pattern::new("even.*").unwrap());
    let (mut seen, mut last) = (Vec::new(), None);
    loop {
        let page = dead.list(&even, last, 2).await.unwrap();
        let Some(end) = page.last() else { break };
        last = Some(end.id);
        seen.extend(page.iter().map(|letter| letter.message.payload()[0] - b'0'));
    }
    assert_eq!(seen, [0, 2, 4, 6, 8]);
    assert_eq!(dead.purge(&even).await.unwrap(), 5);
    assert_eq!(dead.list(&Filter::all(), None, 100).await.unwrap().len(), 15);
    let last = Some(DeadLetterId::new(u64::MAX));
    assert!(dead.list(&Filter::all(), last, 1).await.unwrap().is_empty());
    assert_eq!(dead.purge(&Filter::all()).await.unwrap(), 15);
    assert_eq!(broker.stats().dead_letter_bytes, 0);
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_the_oldest_make_room_and_are_counted() {
    let broker = Broker::with_limits(Limits::new().dead_letters(3));
    let (_guard, _) = fail(&broker, "g", Policy::new().max_attempts(1)).await;
    for n in 0..10 {
        broker.publish("tick", &n).await.unwrap();
        settle().await;
    }
    let payload = |letter: &gusset_broker::DeadLetter| letter.message.payload()[0] - b'0';
    let kept: Vec<_> = broker
        .dead_letters()
        .list(&Filter::all(), None, 9)
        .await
        .unwrap()
        .iter()
        .map(|l| payload(l))
        .collect();
    assert_eq!((kept, broker.stats().dead_letters_dropped), (vec![7, 8, 9], 7));
}

#[tokio::test(start_paused = true)]
async fn letters_are_bounded_in_bytes_too() {
    let broker = Broker::with_limits(Limits::new().dead_letter_bytes(10_000));
    let (_guard, _) = listen(&broker, ">", "g").await;
    for _ in 0..5 {
        broker.publish_message(Message::new("a", vec![b'x'; 4_000]).unwrap()).await.unwrap();
        settle().await;
        assert!(broker.stats().dead_letter_bytes <= 10_000);
    }
    assert_eq!(broker.stats().dead_letters, 2);
    broker.publish_message(Message::new("a", vec![b'x'; 40_000]).unwrap()).await.unwrap();
    settle().await;
    assert_eq!(broker.stats().dead_letters, 1, "the newest is kept whatever its size");
}

#[tokio::test(start_paused = true)]
async fn a_letter_stays_where_its_group_cannot_take_it() {
    let broker = Broker::new();
    let policy = Policy::new().max_attempts(1).capacity(1).when_full(WhenFull::DropOldest);
    broker.declare("g", ">", policy).await.unwrap();
    let (guard, _) = fail(&broker, "g", policy).await;
    broker.publish("tick", &1).await.unwrap();
    settle().await;
    guard.close().await;
    broker.publish("tick", &2).await.unwrap();
    let (dead, id) = (broker.dead_letters(), DeadLetterId::new(1));
    assert!(matches!(dead.redrive(id).await, Err(Error::Full(_))), "it drops no other message");
    broker.remove("g").await.unwrap();
    assert!(matches!(dead.redrive(id).await, Err(Error::NoSuchGroup(_))));
    assert_eq!(dead.get(id).await.unwrap().unwrap().id, id);
}

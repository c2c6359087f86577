//! From poison to dead letter and back.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use common::{Log, fail, listen, secs, settle, stats};
use gusset_broker::{
    Broker, DeadLetterId, Delivery, Error, FailureKind, Filter, Limits, Message, OrderBy, Pattern,
    Policy, Reason, Redriven, Reply, WhenFull, WhenLettersFull,
};
use tokio::time::timeout;
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

/// Room for one letter, and no more is taken.
fn refusing() -> Limits {
    Limits::new().dead_letters(1).when_letters_full(WhenLettersFull::Refuse)
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_buried_stays_in_its_group_until_it_can() {
    let broker = Broker::with_limits(refusing());
    let policy = Policy::new().max_attempts(2);
    let (_guard, attempts) = fail(&broker, "g", policy).await;
    for n in 0..3 {
        broker.publish("tick", &n).await.unwrap();
    }
    secs(600).await;
    let held = stats(&broker, "g");
    assert_eq!((held.dead, held.delayed + held.in_flight + held.ready), (1, 2), "none is lost");
    assert_eq!(attempts.len(), 6, "and none handled oftener than it may be");
    let all = broker.stats();
    assert!((1, 0) == (all.dead_letters, all.dead_letters_dropped) && all.dead_letters_refused > 9);

    let (dead, mut buried) = (broker.dead_letters(), Vec::new());
    for _ in 0..3 {
        let letter = dead.list(&Filter::all(), None, 9).await.unwrap()[0].clone();
        assert_eq!(letter.reason, Reason::Exhausted);
        assert_eq!(letter.first_failure.as_ref().unwrap().attempt, 1);
        assert_eq!(letter.last_failure.as_ref().unwrap().attempt, 2);
        buried.push(letter.message.payload().clone());
        dead.purge(&Filter::all()).await.unwrap();
        secs(60).await;
    }
    buried.sort();
    assert_eq!(buried, ["0", "1", "2"]);
    assert_eq!((stats(&broker, "g").dead, attempts.len()), (3, 6));
}

#[tokio::test(start_paused = true)]
async fn what_is_rejected_or_expired_is_not_lost_either_where_there_is_no_room() {
    let broker = Broker::with_limits(refusing());
    broker.declare("g", ">", Policy::new()).await.unwrap();
    for ttl in [None, None, Some(Duration::from_secs(1))] {
        let message = Message::json("tick", &1).unwrap();
        let message = match ttl {
            Some(ttl) => message.with_ttl(ttl),
            None => message,
        };
        broker.publish_message(message).await.unwrap();
    }
    secs(2).await;
    let reject = service_fn(|_: Delivery<u32>| async { Ok::<_, Error>(Reply::reject("no use")) });
    let _guard = broker.subscribe(">").group("g").handle(reject).await.unwrap();
    secs(600).await;
    assert_eq!(stats(&broker, "g").dead, 1);
    let (dead, mut reasons) = (broker.dead_letters(), Vec::new());
    for _ in 0..3 {
        reasons.push(dead.list(&Filter::all(), None, 9).await.unwrap()[0].reason.clone());
        dead.purge(&Filter::all()).await.unwrap();
        secs(60).await;
    }
    let rejected = Reason::Rejected("no use".into());
    assert_eq!(reasons.iter().filter(|reason| **reason == rejected).count(), 2);
    assert!(reasons.contains(&Reason::Expired));
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_first_cannot_be_buried_keeps_its_order() {
    let broker = Broker::with_limits(refusing());
    let seen = Log::default();
    let noted = seen.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note(*delivery.body());
        let bad = *delivery.body() < 2;
        async move { if bad { Err("bad") } else { Ok(()) } }
    });
    let subscribe = broker.subscribe(">").group("g").policy(Policy::new().max_attempts(1));
    let subscribe = subscribe.ordered_by(OrderBy::header("key"));
    let _guard = subscribe.handle(handler).await.unwrap();
    for n in 0..3 {
        let message = Message::json("tick", &n).unwrap().with_header("key", "k");
        broker.publish_message(message).await.unwrap();
    }
    secs(60).await;
    assert_eq!(seen.all(), [0, 1], "the third waits behind what is not settled");
    broker.dead_letters().purge(&Filter::all()).await.unwrap();
    secs(60).await;
    assert_eq!(seen.all(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn pages_miss_nothing_that_was_there_throughout_and_repeat_nothing_while_others_change_them()
{
    let broker = Broker::with_limits(Limits::new().dead_letters(60));
    let (_guard, _) = fail(&broker, "g", Policy::new().max_attempts(1)).await;
    for n in 0..50 {
        broker.publish("tick", &n).await.unwrap();
        settle().await;
    }
    let dead = broker.dead_letters();
    let (mut seen, mut gone, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let page = dead.list(&Filter::all(), after, 7).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.iter().map(|letter| letter.id.get()));
        // One of this page and one of the next go back and die again, and the oldest make room.
        for id in [last.id, DeadLetterId::new(last.id.get() + 3)] {
            if dead.redrive(id).await.is_ok() {
                gone.push(id.get());
            }
        }
        if seen.len() < 100 {
            for _ in 0..2 {
                broker.publish("tick", &99).await.unwrap();
            }
        }
        settle().await;
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "none twice: {seen:?}");
    let missed: Vec<u64> = (1..=50).filter(|id| !seen.contains(id)).collect();
    assert!(missed.iter().all(|id| gone.contains(id)), "{missed:?} {gone:?}");
}

#[tokio::test(start_paused = true)]
async fn a_letter_counts_only_what_was_handed_over() {
    let broker = Broker::new();
    let policy = Policy::new().max_attempts(1).attempt_timeout(Duration::from_secs(1));
    let mut pull = broker.subscribe("a").group("g").policy(policy).pull::<u32>().await.unwrap();
    broker.publish("a", &7).await.unwrap();
    let pulled = pull.next().await.unwrap();
    // Overdue, and taken once more to be buried.
    assert!(timeout(Duration::from_secs(5), pull.next()).await.is_err());
    drop(pulled);
    let message = Message::json("a", &8).unwrap().with_ttl(Duration::from_millis(10));
    broker.publish_message(message).await.unwrap();
    secs(1).await;
    assert!(timeout(Duration::from_secs(5), pull.next()).await.is_err());
    let letters = broker.dead_letters().list(&Filter::all(), None, 10).await.unwrap();
    assert_eq!(letters.iter().map(|l| l.attempts).collect::<Vec<_>>(), [1, 0]);
    assert_eq!((stats(&broker, "g").delivered, stats(&broker, "g").redelivered), (1, 0));
}

//! Messages that come later, expire, hurry, come twice, are kept, or ask.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall fail")]

mod common;

use std::{borrow::Cow, future::ready, time::Duration};

use bytes::Bytes;
use common::{Log, listen, millis, secs, settle, stats};
use gusset_broker::{
    Broker, CloudEvent, Decode, Delivery, Encode, Error, Filter, Headers, Limits, MemoryEngine,
    Message, MessageId, OrderBy, Pattern, Policy, Priority, Reason, Reply, Retention, Start,
    Subscription, WhenExpired, WhenLettersFull, WhenUnheard,
};
use gusset_call::{BoxError, Context, Deadline, refusal_in};
use proptest::prelude::*;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tower::service_fn;

fn json(subject: &str, n: u32) -> Message {
    Message::json(subject, &n).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_comes_when_it_is_due_and_not_before() {
    let broker = Broker::new();
    let (_guard, seen) = listen(&broker, ">", "g").await;
    let at = json("tick", 2).published_at() + Duration::from_secs(20);
    broker.publish_message(json("tick", 1).with_delay(Duration::from_secs(10))).await.unwrap();
    broker.publish_message(json("tick", 2).with_delivery_at(at)).await.unwrap();
    broker.publish("tick", &3).await.unwrap();
    sleep(millis(9_999)).await;
    assert_eq!((seen.all(), stats(&broker, "g").delayed), (vec![3], 2));
    sleep(millis(3)).await;
    assert_eq!(seen.all(), [3, 1]);
    secs(11).await;
    assert_eq!(seen.all(), [3, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_took_in_its_time_is_a_dead_letter_or_counted() {
    for (choice, dead, expired) in [(WhenExpired::Bury, 1, 0), (WhenExpired::Drop, 0, 1)] {
        let broker = Broker::new();
        let policy = Policy::new().when_expired(choice);
        broker.declare("g", ">", policy).await.unwrap();
        let brief = |n| json("tick", n).with_ttl(Duration::from_secs(5));
        broker.publish_message(brief(1)).await.unwrap();
        secs(6).await;
        broker.publish_message(brief(2)).await.unwrap();
        let (_guard, seen) = listen(&broker, ">", "g").await;
        settle().await;
        assert_eq!(seen.all(), [2]);
        let stats = stats(&broker, "g");
        assert_eq!((stats.dead, stats.expired, stats.acked), (dead, expired, 1));
        let letters = broker.dead_letters().list(&Filter::all(), None, 9).await.unwrap();
        assert!(letters.iter().all(|letter| letter.reason == Reason::Expired));
        assert_eq!(letters.len() as u64, dead);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_urgent_overtakes_but_starves_nobody() {
    let broker = Broker::new();
    broker.declare("g", ">", Policy::new()).await.unwrap();
    for n in 0..20 {
        let priority = if n < 10 { Priority::Normal } else { Priority::High };
        broker.publish_message(json("tick", n).with_priority(priority)).await.unwrap();
    }
    let log = Log::default();
    let noted = log.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note(*delivery.body());
        async { Ok::<_, BoxError>(()) }
    });
    let _guard = broker.subscribe(">").group("g").concurrency(1).handle(handler).await.unwrap();
    settle().await;
    let seen = log.all();
    assert_eq!(seen[..10], [10, 11, 12, 13, 14, 15, 16, 17, 0, 18]);
    assert_eq!(seen.len(), 20);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_twice_with_its_id_is_taken_once_within_the_window() {
    let broker = Broker::with_limits(Limits::new().dedup(Duration::from_secs(60), 100));
    let (_guard, seen) = listen(&broker, ">", "g").await;
    let id = json("tick", 0).id();
    let first = broker.publish_message(json("tick", 1).with_id(id)).await.unwrap();
    let second = broker.publish_message(json("tick", 2).with_id(id)).await.unwrap();
    assert_eq!((first.duplicate, first.groups), (false, 1));
    assert_eq!((second.duplicate, second.groups, second.id), (true, 0, id));
    assert_eq!((broker.stats().duplicates, broker.stats().unroutable), (1, 0));
    secs(61).await;
    broker.publish_message(json("tick", 3).with_id(id)).await.unwrap();
    settle().await;
    assert_eq!(seen.all(), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_is_not_known_when_it_comes_again() {
    let broker = Broker::new();
    let policy = Policy::new().capacity(1).when_full(gusset_broker::WhenFull::Reject);
    broker.declare("g", ">", policy).await.unwrap();
    let again = json("tick", 2).with_id(json("tick", 0).id());
    broker.publish("tick", &1).await.unwrap();
    broker.publish_message(again.clone()).await.unwrap_err();
    let (_guard, seen) = listen(&broker, ">", "g").await;
    settle().await;
    assert!(!broker.publish_message(again).await.unwrap().duplicate);
    settle().await;
    assert_eq!(seen.all(), [1, 2]);
}

fn retaining(retention: Retention) -> Broker {
    Broker::on(MemoryEngine::new(Limits::new(), Some(retention), WhenUnheard::Drop))
}

async fn collect(broker: &Broker, start: Start) -> (Subscription, Log<u32>) {
    let log = Log::default();
    let noted = log.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        noted.note(*delivery.body());
        async { Ok::<_, BoxError>(()) }
    });
    let subscribe = broker.subscribe("keep.*").starting(start).concurrency(1);
    (subscribe.handle(handler).await.unwrap(), log)
}

#[tokio::test(start_paused = true)]
async fn a_new_group_may_begin_with_the_past() {
    let broker = retaining(Retention::new(Pattern::new("keep.>").unwrap()));
    let mut sequences = Vec::new();
    for n in 0..5 {
        sequences.extend(broker.publish("keep.this", &n).await.unwrap().sequence);
        assert_eq!(broker.publish("other", &n).await.unwrap().sequence, None);
    }
    assert_eq!(sequences, [1, 2, 3, 4, 5]);
    assert_eq!((broker.stats().retained, broker.stats().unroutable), (5, 5));
    let (_a, all) = collect(&broker, Start::First).await;
    let (_b, later) = collect(&broker, Start::Sequence(4)).await;
    let (_c, new) = collect(&broker, Start::New).await;
    broker.publish("keep.this", &5).await.unwrap();
    settle().await;
    assert_eq!((all.all(), later.all(), new.all()), ((0..6).collect(), vec![3, 4, 5], vec![5]));
}

#[tokio::test]
async fn while_others_publish_the_past_and_the_present_meet_without_gap_or_overlap() {
    let broker = retaining(Retention::new(Pattern::new(">").unwrap()));
    let publisher = {
        let broker = broker.clone();
        tokio::spawn(async move {
            for n in 0..2_000 {
                broker.publish("keep.this", &n).await.unwrap();
                if n % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
        })
    };
    tokio::task::yield_now().await;
    let (_guard, seen) = collect(&broker, Start::First).await;
    publisher.await.unwrap();
    while seen.len() < 2_000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(seen.all(), (0..2_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_no_group_wants_may_be_buried_and_published_again() {
    let broker = Broker::on(MemoryEngine::new(Limits::new(), None, WhenUnheard::Bury));
    assert_eq!(broker.publish("tick", &1).await.unwrap().groups, 0);
    let dead = broker.dead_letters();
    let letter = dead.list(&Filter::all(), None, 9).await.unwrap()[0].clone();
    assert_eq!((&letter.reason, &*letter.group), (&Reason::Unheard, ""));
    let (_guard, seen) = listen(&broker, ">", "g").await;
    dead.redrive(letter.id).await.unwrap();
    settle().await;
    assert_eq!((seen.all(), broker.stats().dead_letters), (vec![1], 0));
}

#[tokio::test(start_paused = true)]
async fn what_no_group_wants_and_cannot_be_buried_is_refused_and_not_known_when_it_comes_again() {
    let limits = Limits::new().dead_letters(1).when_letters_full(WhenLettersFull::Refuse);
    let broker = Broker::on(MemoryEngine::new(limits, None, WhenUnheard::Bury));
    broker.publish("tick", &1).await.unwrap();
    let known = json("tick", 2).with_id(MessageId::named("two"));
    for message in [json("tick", 3), known.clone()] {
        let refused = broker.publish_message(message).await.unwrap_err();
        assert!(matches!(refused, Error::LettersFull(_)));
        assert_eq!(refusal_in(&refused).unwrap().status(), 503);
    }
    assert_eq!((broker.stats().dead_letters_refused, broker.stats().unroutable), (2, 1));
    broker.dead_letters().purge(&Filter::all()).await.unwrap();
    assert!(!broker.publish_message(known.clone()).await.unwrap().duplicate);
    assert!(broker.publish_message(known).await.unwrap().duplicate);
    assert_eq!(broker.stats().dead_letters, 1);
}

#[tokio::test(start_paused = true)]
async fn what_no_group_wants_may_be_kept_for_one_that_comes() {
    let kept = Retention::new(Pattern::new("keep.tick").unwrap());
    let broker = Broker::on(MemoryEngine::new(Limits::new(), Some(kept), WhenUnheard::Bury));
    broker.publish("keep.tick", &1).await.unwrap();
    assert_eq!((broker.stats().retained, broker.stats().dead_letters), (1, 0));
    let (_guard, seen) = collect(&broker, Start::First).await;
    settle().await;
    assert_eq!(seen.all(), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_key_holds_up_only_itself() {
    let broker = Broker::new();
    let log = Log::default();
    let noted = log.clone();
    let handler = service_fn(move |delivery: Delivery<u32>| {
        let key = delivery.headers().get("customer").unwrap_or_default().to_owned();
        noted.note((key.clone(), *delivery.body()));
        async move {
            sleep(millis(1)).await;
            // By the backoff, which is random, the next attempt might come at once.
            let again = Reply::RetryAfter(Duration::from_secs(5));
            Ok::<_, BoxError>(if key == "bad" { again } else { Reply::Ack })
        }
    });
    let policy = Policy::new().max_attempts(2);
    let subscribe = broker.subscribe(">").group("g").policy(policy).concurrency(8);
    let subscribe = subscribe.ordered_by(OrderBy::header("customer"));
    let _guard = subscribe.handle(handler).await.unwrap();
    for n in 0..30 {
        for key in ["bad", "good", "fine"] {
            broker.publish_message(json("tick", n).with_header("customer", key)).await.unwrap();
        }
    }
    let of = |key: &str| -> Vec<u32> {
        log.all().iter().filter(|(other, _)| other == key).map(|(_, n)| *n).collect()
    };
    sleep(millis(100)).await;
    assert_eq!((of("good"), of("fine")), ((0..30).collect(), (0..30).collect()));
    assert!(of("bad").len() < 3, "one at a time");
    assert_eq!(stats(&broker, "g").in_lanes, 29 - *of("bad").iter().max().unwrap() as usize);
    secs(400).await;
    let expected: Vec<_> = (0..30).flat_map(|n| [n, n]).collect();
    assert_eq!(of("bad"), expected, "in order, each until it is dead");
}

#[tokio::test(start_paused = true)]
async fn a_key_may_be_found_by_a_closure_and_a_group_has_one_order() {
    let broker = Broker::new();
    let by_subject =
        || OrderBy::key("subject", |message| Some(Cow::Owned(message.subject().to_string())));
    let group = || broker.subscribe(">").group("g");
    group().ordered_by(by_subject()).declare().await.unwrap();
    group().ordered_by(by_subject()).declare().await.unwrap();
    group().declare().await.unwrap();
    let other = group().ordered_by(OrderBy::header("customer")).declare().await.unwrap_err();
    assert_eq!(other.to_string(), "group g exists with another order");
    for n in 0..3 {
        broker.publish("a", &n).await.unwrap();
        broker.publish("b", &n).await.unwrap();
    }
    assert_eq!((stats(&broker, "g").ready, stats(&broker, "g").in_lanes), (2, 4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn whatever_fails_each_key_is_handled_in_order(
        keys in prop::collection::vec(0..4_u32, 1..60), fails in prop::collection::vec(any::<bool>(), 60)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let broker = Broker::new();
            let done = Log::default();
            let (noted, fails) = (done.clone(), fails.clone());
            let handler = service_fn(move |delivery: Delivery<(u32, u32)>| {
                let (noted, (key, n)) = (noted.clone(), *delivery.body());
                let fails = fails[n as usize] && delivery.attempt().number() < 3;
                async move {
                    sleep(millis(u64::from(n % 3))).await;
                    if fails {
                        return Err("again");
                    }
                    noted.note((key, n));
                    Ok(())
                }
            });
            let order = OrderBy::header("key");
            let _guard = broker.subscribe(">").ordered_by(order).handle(handler).await.unwrap();
            for (n, key) in keys.iter().enumerate() {
                let message = Message::json("tick", &(*key, n)).unwrap().with_header("key", key.to_string());
                broker.publish_message(message).await.unwrap();
            }
            secs(600).await;
            assert_eq!(done.len(), keys.len());
            for key in 0..4 {
                let of: Vec<_> = done.all().into_iter().filter(|(k, _)| *k == key).collect();
                assert!(of.is_sorted(), "{of:?}");
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_and_its_deadline_is_the_handler_s() {
    let broker = Broker::new();
    let answering = service_fn(|delivery: Delivery<u32>| async move {
        let left = Context::current().deadline().unwrap().remaining();
        Reply::answer(&(*delivery.body() + 1, left <= Duration::from_secs(2)))
    });
    let _guard = broker.subscribe("add").group("adder").handle(answering).await.unwrap();
    let answer: (u32, bool) = broker.request("add", &41, Duration::from_secs(2)).await.unwrap();
    assert_eq!(answer, (42, true));
    broker.publish("add", &1).await.unwrap();
    settle().await;
    assert_eq!(stats(&broker, "adder").acked, 2, "an answer to nobody is an acknowledgement");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_can_answer_fails_at_once_and_one_that_nobody_does_in_time() {
    let broker = Broker::new();
    let began = Instant::now();
    let nobody = broker.request::<_, _, u32>("add", &1, Duration::from_secs(2)).await.unwrap_err();
    assert_eq!(
        (nobody.to_string(), began.elapsed()),
        ("nobody answers add".into(), Duration::ZERO)
    );
    let (_guard, seen) = listen(&broker, ">", "g").await;
    let late = broker.request::<_, _, u32>("add", &1, Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(late, Error::DeadlineExceeded(_)));
    assert_eq!((seen.len(), began.elapsed().as_secs()), (1, 2));
    let cx = Context::default().with_deadline(Deadline::after(Duration::from_secs(1)));
    let late = cx.scope(broker.request::<_, _, u32>("add", &1, Duration::from_secs(9))).await;
    assert!(matches!(late, Err(Error::DeadlineExceeded(_))) && began.elapsed().as_secs() == 3);
}

/// Numbers as eight bytes.
struct Plain;

impl Encode<u64> for Plain {
    const CONTENT_TYPE: &'static str = "application/x-number";

    fn encode(body: &u64) -> Result<Bytes, BoxError> {
        Ok(body.to_be_bytes().to_vec().into())
    }
}

impl Decode<u64> for Plain {
    fn decode(message: &Message) -> Result<u64, BoxError> {
        Ok(u64::from_be_bytes(message.payload()[..].try_into()?))
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_may_be_written_by_any_codec_and_json_reads_no_other() {
    let broker = Broker::new();
    let mut plain = broker.subscribe("n").group("plain").pull_as::<Plain, u64>().await.unwrap();
    let (_guard, seen) = listen(&broker, ">", "json").await;
    let (told, mut handled) = mpsc::unbounded_channel();
    let handler = service_fn(move |number: Delivery<u64>| ready(told.send(*number.body())));
    let group = broker.subscribe("n").group("handled");
    let _handling = group.handle_as::<Plain, u64, _>(handler).await.unwrap();
    let message = Message::encoded::<Plain, _, _>("n", &7).unwrap().with_schema_version(3);
    let message = message.with_cloud_event(CloudEvent::new("/shop", "com.example.n").unwrap());
    broker.publish_message(message).await.unwrap();
    let pulled = plain.next().await.unwrap();
    assert_eq!((*pulled.body(), pulled.message().schema_version()), (7, Some(3)));
    assert_eq!(pulled.headers().get(Headers::CONTENT_TYPE), Some("application/x-number"));
    let event = pulled.message().cloud_event().unwrap().unwrap();
    assert_eq!((event.id(), event.source()), (&*pulled.id().to_string(), "/shop"));
    assert_eq!(handled.recv().await, Some(7));
    settle().await;
    let letter =
        &broker.dead_letters().list(&Filter::all().group("json"), None, 9).await.unwrap()[0];
    assert_eq!(letter.reason, Reason::Undecodable("application/x-number is not JSON".into()));
    assert_eq!(seen.len(), 0);
}

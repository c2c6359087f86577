use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use gusset_broker::{
    Delivery, Error, FailureKind, Filter, Message, Policy, Reason, Receipt, Reply, Subject,
};
use gusset_call::BoxError;
use serde_json::json;
use tokio::{sync::Semaphore, time::sleep};
use tower::service_fn;

use crate::harness::{Log, Server, connect, dead, fail, hasty, listen, soon, until};

/// Between the client's `subscribe` and the server lies a flush that is none; here it is a question with an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_published_right_after_subscribing_is_never_missed() {
    let server = Server::start();
    let (here, there) = (server.broker().await, server.broker().await);
    for round in 0..30 {
        let subject = format!("round.{round}");
        let (subscription, log) = listen(&here, &subject, &format!("g{round}")).await;
        there.publish(&*subject, &round).await.unwrap();
        there.publish(&*subject, &round).await.unwrap();
        log.has(2).await;
        drop(subscription);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_group_gets_every_message_and_its_members_share_them() {
    let server = Server::start();
    let (here, there) = (server.broker().await, server.broker().await);
    let (_a, mails_here) = listen(&here, "order.*", "mails").await;
    let (_b, mails_there) = listen(&there, "order.*", "mails").await;
    let (_c, stock) = listen(&there, "order.>", "stock").await;
    let (_d, others) = listen(&there, "bill.*", "others").await;
    for n in 0..200_u32 {
        here.publish("order.created", &n).await.unwrap();
    }
    stock.has(200).await;
    until("all mails", async || mails_here.len() + mails_there.len() >= 200).await;
    let mut mails = [mails_here.all(), mails_there.all()].concat();
    mails.sort_unstable();
    assert_eq!(mails, (0..200).collect::<Vec<_>>(), "each once");
    assert!(mails_here.len() > 0 && mails_there.len() > 0, "both had their part");
    assert_eq!(others.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_group_every_subscription_gets_its_own_copy_and_leaves_nothing_behind() {
    let server = Server::start();
    let broker = server.broker().await;
    let handler = |log: &Log<u32>| {
        let log = log.clone();
        service_fn(move |delivery: Delivery<u32>| {
            log.note(*delivery.body());
            async { Ok::<_, BoxError>(()) }
        })
    };
    let (one, two) = (Log::default(), Log::default());
    let first = broker.subscribe("a").handle(handler(&one)).await.unwrap();
    let second = broker.subscribe("a").handle(handler(&two)).await.unwrap();
    broker.publish("a", &1).await.unwrap();
    one.has(1).await;
    two.has(1).await;
    first.close().await;
    drop(second);
    let operator = server.operator().await;
    until("no consumers", async || {
        let info = operator.api("STREAM.INFO.gusset", serde_json::json!({})).await;
        info["state"]["consumer_count"] == 0
    })
    .await;
    assert_eq!(operator.messages("gusset").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_keeps_what_is_published_while_nobody_listens() {
    let server = Server::start();
    let broker = server.broker().await;
    broker.declare("mails", "order.*", Policy::new()).await.unwrap();
    for n in 0..10 {
        server.broker().await.publish("order.created", &n).await.unwrap();
    }
    let later = server.broker().await;
    let (subscription, log) = listen(&later, "order.*", "mails").await;
    log.has(10).await;
    subscription.close().await;
    later.publish("order.created", &10).await.unwrap();
    later.close(soon()).await;
    let (_subscription, log) = listen(&server.broker().await, "order.*", "mails").await;
    log.has(1).await;
    assert_eq!(log.all(), [10], "a restart of the service misses nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_gets_nothing_new_while_too_many_of_its_messages_are_unsettled() {
    let server = Server::start();
    let broker = connect(server.options().max_unsettled(2)).await;
    let (log, gate) = (Log::default(), Arc::new(Semaphore::new(0)));
    let (noted, gated) = (log.clone(), gate.clone());
    let _subscription = broker
        .subscribe("a")
        .group("slow")
        .handle(service_fn(move |delivery: Delivery<u32>| {
            noted.note(*delivery.body());
            let gate = gated.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Ok::<_, BoxError>(())
            }
        }))
        .await
        .unwrap();
    for n in 0..5 {
        broker.publish("a", &n).await.unwrap();
    }
    log.has(2).await;
    let of_group = server.operator().await.group("slow").await;
    assert_eq!((&of_group["num_ack_pending"], &of_group["num_pending"]), (&json!(2), &json!(3)));
    gate.add_permits(5);
    log.has(5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_has_everything_that_its_publisher_gave_it() {
    let server = Server::start();
    let (here, there) = (server.broker().await, server.broker().await);
    let log = Log::default();
    let noted = log.clone();
    let _subscription = here
        .subscribe(">")
        .handle_raw(service_fn(move |delivery: Delivery<Bytes>| {
            noted.note(delivery.message().clone());
            async { Ok::<_, BoxError>(()) }
        }))
        .await
        .unwrap();
    let message = Message::new("größe.ü", &b"\0\xff\r\n"[..])
        .unwrap()
        .with_header("zebra", "z")
        .with_header("content-type", "text/plain; x=ü")
        .with_header("odd name", "two\r\nlines");
    let id = message.id();
    there.publish_message(message.clone()).await.unwrap();
    log.has(1).await;
    let got = &log.all()[0];
    assert_eq!(
        (got.id(), got.subject(), got.payload()),
        (id, message.subject(), message.payload())
    );
    assert_eq!(got.headers(), message.headers());
    let age = got.published_at().duration_since(message.published_at()).unwrap();
    assert!(age < Duration::from_secs(10), "{age:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_twice_with_its_id_is_taken_once() {
    let server = Server::start();
    let broker = server.broker().await;
    let (_subscription, log) = listen(&broker, ">", "g").await;
    let message = Message::json("a", &1).unwrap();
    let message = message.clone().with_id(message.id());
    for n in 0..3 {
        let Receipt { id, duplicate, .. } = broker.publish_message(message.clone()).await.unwrap();
        assert_eq!((id, duplicate), (message.id(), n > 0));
    }
    broker.publish("a", &2).await.unwrap();
    log.has(2).await;
    sleep(Duration::from_millis(50)).await;
    assert_eq!(log.len(), 2, "{:?}", log.all());
}

/// A bare nak uses up five attempts in a millisecond.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_message_waits_for_its_backoff_and_then_becomes_a_dead_letter() {
    let server = Server::start();
    let broker = server.broker().await;
    let policy = Policy::new().max_attempts(3);
    let log = Log::default();
    let noted = log.clone();
    let _subscription = broker
        .subscribe(">")
        .group("g")
        .policy(policy)
        .handle(service_fn(move |delivery: Delivery<u32>| {
            noted.note((delivery.attempt().number(), Instant::now()));
            async { Ok::<_, BoxError>(Reply::RetryAfter(Duration::from_millis(300))) }
        }))
        .await
        .unwrap();
    let message = Message::json("order.created", &7).unwrap().with_header("k", "v");
    broker.publish_message(message.clone()).await.unwrap();
    let letters = dead(&broker, 1).await;
    let seen = log.all();
    assert_eq!(seen.iter().map(|(attempt, _)| *attempt).collect::<Vec<_>>(), [1, 2, 3]);
    for pair in seen.windows(2) {
        let waited = pair[1].1.duration_since(pair[0].1);
        assert!(waited >= Duration::from_millis(295), "{waited:?}");
    }
    let letter = &letters[0];
    assert_eq!((&*letter.group, letter.attempts, letter.redrives), ("g", 3, 0));
    assert_eq!(letter.reason, Reason::Exhausted);
    assert_eq!(letter.message.id(), message.id());
    assert_eq!(letter.message.payload(), message.payload());
    assert_eq!(letter.message.headers(), message.headers());
    let operator = server.operator().await;
    until("the original is gone", async || operator.messages("gusset").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_message_failed_in_one_process_is_known_in_the_next() {
    let server = Server::start();
    // What is left to the ack wait never comes, except where servers do that by themselves.
    let patient = !miscounts(&server.operator().await.0);
    let ack_wait = Duration::from_secs(if patient { 600 } else { 30 });
    let connect = async || connect(server.options().ack_wait(ack_wait)).await;
    let policy = Policy::new().max_attempts(4).backoff(Duration::ZERO, Duration::ZERO);
    let broker = connect().await;
    broker.declare("g", ">", policy).await.unwrap();
    broker.publish("a", &7).await.unwrap();
    for attempt in 1..=4_u32 {
        let process = connect().await;
        let log = Log::default();
        let noted = log.clone();
        let subscription = process
            .subscribe(">")
            .group("g")
            .policy(policy)
            .handle(service_fn(move |delivery: Delivery<u32>| {
                noted.note(delivery.attempt().number());
                async { Ok::<_, BoxError>(Reply::RetryAfter(Duration::from_millis(500))) }
            }))
            .await
            .unwrap();
        log.has(1).await;
        // Ends the worker in the middle of settling, and that goes on.
        drop(subscription);
        process.close(soon()).await;
        assert_eq!(log.all(), [attempt]);
    }
    let letter = &dead(&broker, 1).await[0];
    let attempt = |failure: &Option<gusset_broker::Failure>| failure.clone().unwrap().attempt;
    assert_eq!((attempt(&letter.first_failure), attempt(&letter.last_failure)), (1, 4));
    assert_eq!(letter.attempts, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn panics_timeouts_refusals_and_garbage_become_dead_letters_that_say_so() {
    let server = Server::start();
    let broker = server.broker().await;
    let policy = hasty().max_attempts(1).attempt_timeout(Duration::from_millis(100));
    let _subscription = broker
        .subscribe(">")
        .group("g")
        .policy(policy)
        .handle(service_fn(|delivery: Delivery<u32>| async move {
            match *delivery.body() {
                1 => panic!("boom"),
                2 => sleep(Duration::from_secs(60)).await,
                3 => return Ok(Reply::reject("no such product")),
                _ => return Err("plain"),
            }
            Ok(Reply::Ack)
        }))
        .await
        .unwrap();
    for n in 1..=4 {
        broker.publish(&*format!("n.{n}"), &n).await.unwrap();
    }
    broker.publish("n.5", "text").await.unwrap();
    let letters = dead(&broker, 5).await;
    let of = |n: u32| {
        let subject = format!("n.{n}");
        letters.iter().find(|letter| letter.message.subject().as_str() == subject).unwrap()
    };
    let kind = |n: u32| of(n).last_failure.clone().unwrap().kind;
    assert_eq!(kind(1), FailureKind::Panic);
    assert_eq!(kind(2), FailureKind::Timeout);
    assert_eq!(of(3).reason, Reason::Rejected("no such product".into()));
    assert_eq!(kind(4), FailureKind::Error);
    assert!(matches!(&of(5).reason, Reason::Undecodable(why) if why.contains("invalid type")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_time_for_stays_on_the_server() {
    let server = Server::start();
    let broker = server.broker().await;
    let gate = Arc::new(Semaphore::new(0));
    let passing = gate.clone();
    let at_work = Arc::new(AtomicU32::new(0));
    let working = at_work.clone();
    let _subscription = broker
        .subscribe(">")
        .group("g")
        .concurrency(3)
        .handle(service_fn(move |_: Delivery<u32>| {
            let (passing, working) = (passing.clone(), working.clone());
            async move {
                working.fetch_add(1, SeqCst);
                passing.acquire().await.unwrap().forget();
                Ok::<_, BoxError>(())
            }
        }))
        .await
        .unwrap();
    for n in 0..50 {
        broker.publish("a", &n).await.unwrap();
    }
    until("three at work", async || at_work.load(SeqCst) == 3).await;
    sleep(Duration::from_millis(100)).await;
    let operator = server.operator().await;
    let info = operator.group("g").await;
    assert_eq!((&info["num_ack_pending"], &info["num_pending"]), (&3.into(), &47.into()));
    gate.add_permits(50);
    until("all done", async || operator.messages("gusset").await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_takes_longer_than_the_ack_wait_is_not_doubled() {
    let server = Server::start();
    let broker = connect(server.options().ack_wait(Duration::from_secs(5))).await;
    let log = Log::default();
    let noted = log.clone();
    let _subscription = broker
        .subscribe(">")
        .group("g")
        .handle(service_fn(move |delivery: Delivery<u32>| {
            noted.note(delivery.attempt().number());
            async {
                sleep(Duration::from_secs(12)).await;
                Ok::<_, BoxError>(())
            }
        }))
        .await
        .unwrap();
    broker.publish("a", &1).await.unwrap();
    let operator = server.operator().await;
    until("done", async || operator.messages("gusset").await == 0).await;
    assert_eq!(log.all(), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_cut_short_comes_back_uncharged_to_whoever_is_there() {
    let server = Server::start();
    let (here, there) = (server.broker().await, server.broker().await);
    let policy = hasty().max_attempts(1);
    let log = Log::default();
    let noted = log.clone();
    let stuck = here
        .subscribe(">")
        .group("g")
        .policy(policy)
        .handle(service_fn(move |delivery: Delivery<u32>| {
            noted.note(delivery.attempt().number());
            std::future::pending::<Result<(), BoxError>>()
        }))
        .await
        .unwrap();
    for n in 0..5 {
        here.publish("a", &n).await.unwrap();
    }
    log.has(5).await;
    drop(stuck);
    let (_subscription, log) = fail(&there, "g", policy).await;
    log.has(5).await;
    assert!(log.all().iter().all(|seen| seen.attempt == 1), "{:?}", log.all());
    assert_eq!(dead(&there, 5).await.len(), 5);
}

/// Whether the server is one that may count a delivery that nobody was given.
fn miscounts(client: &async_nats::Client) -> bool {
    let version = client.server_info().version;
    ["2.9.", "2.10."].iter().any(|old| version.starts_with(old))
}

/// As a server before 2.10.15 counts it when all requests for messages end in that moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_was_counted_and_given_to_nobody_is_charged_only_where_servers_do_not_do_that()
 {
    let server = Server::start();
    let policy = hasty().max_attempts(4);
    let here = server.broker().await;
    let log = Log::default();
    let noted = log.clone();
    let first = here
        .subscribe(">")
        .group("g")
        .policy(policy)
        .handle(service_fn(move |delivery: Delivery<u32>| {
            noted.note(delivery.attempt().number());
            async { Ok::<_, BoxError>(Reply::RetryAfter(Duration::from_secs(1))) }
        }))
        .await
        .unwrap();
    here.publish("a", &7).await.unwrap();
    log.has(1).await;
    drop(first);
    here.close(soon()).await;
    let operator = server.operator().await;
    let next = "$JS.API.CONSUMER.MSG.NEXT.gusset.g";
    let asked = json!({ "batch": 1, "expires": 60_000_000_000_u64 }).to_string();
    let (mut requests, inbox) = (operator.0.subscribe("of-nobody").await.unwrap(), "of-nobody");
    operator.0.publish_with_reply(next, inbox, asked.into()).await.unwrap();
    let taken = requests.next().await.unwrap();
    operator.0.publish(taken.reply.unwrap(), "-NAK {\"delay\":1}".into()).await.unwrap();
    let there = server.broker().await;
    let (_subscription, seen) = fail(&there, "g", policy).await;
    seen.has(1).await;
    assert_eq!(seen.all()[0].attempt, if miscounts(&operator.0) { 2 } else { 3 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_that_pauses_holds_nothing_back_from_others() {
    let server = Server::start();
    let (here, there) = (server.broker().await, server.broker().await);
    let (paused, log) = listen(&here, ">", "g").await;
    here.publish("a", &0).await.unwrap();
    log.has(1).await;
    paused.pause();
    // Workers hear of it, and what was asked for is called back.
    sleep(Duration::from_millis(800)).await;
    let (_subscription, others) = listen(&there, ">", "g").await;
    for n in 1..=20 {
        there.publish("a", &n).await.unwrap();
    }
    others.has(20).await;
    assert_eq!(log.len(), 1);
    paused.resume();
    drop(_subscription);
    for n in 21..=40 {
        there.publish("a", &n).await.unwrap();
    }
    log.has(21).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_leaves_nothing_unsaid() {
    let server = Server::start();
    let operator = server.operator().await;
    for round in 0..5 {
        let broker = server.broker().await;
        let group = format!("g{round}");
        let (_subscription, log) = listen(&broker, &format!("r{round}"), &group).await;
        let subject = Subject::new(format!("r{round}")).unwrap();
        let publishes = (0..500).map(|n| broker.publish(subject.clone(), &n).into_future());
        for result in futures_util::future::join_all(publishes).await {
            result.unwrap();
        }
        log.has(500).await;
        let leftover = broker.close(soon()).await;
        assert!(leftover.is_empty());
        drop(broker);
        let info = operator.group(&group).await;
        assert_eq!((&info["num_ack_pending"], &info["num_pending"]), (&0.into(), &0.into()));
    }
    assert!(matches!(
        {
            let broker = server.broker().await;
            broker.close(soon()).await;
            broker.publish("a", &1).await
        },
        Err(Error::Closed)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_messages_do_not_hold_up_good_ones() {
    let server = Server::start();
    let broker = server.broker().await;
    let good = Log::default();
    let noted = good.clone();
    // So long that hardly any bad one has a second attempt while the good ones are handled, however slow that is.
    let hour = Duration::from_secs(3_600);
    let policy = Policy::new().max_attempts(3).backoff(hour, hour);
    let _subscription = broker
        .subscribe(">")
        .group("g")
        .policy(policy)
        .handle(service_fn(move |delivery: Delivery<u32>| {
            let n = *delivery.body();
            let good = n % 10 == 0;
            if good {
                noted.note((n, Instant::now()));
            }
            async move { if good { Ok(()) } else { Err("bad") } }
        }))
        .await
        .unwrap();
    let publishes = (0..3_000_u32).map(|n| broker.publish("a", &n).into_future());
    for result in futures_util::future::join_all(publishes).await {
        result.unwrap();
    }
    good.has(300).await;
    let mut per_number = BTreeMap::new();
    for (n, _) in good.all() {
        *per_number.entry(n).or_insert(0) += 1;
    }
    assert!(per_number.values().all(|times| *times == 1), "{per_number:?}");
    let stats = broker.stats();
    assert!(stats.groups[0].acked >= 300);
    let none = broker.dead_letters().list(&Filter::all(), None, 10).await.unwrap();
    assert!(none.len() < 10, "the bad ones wait");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_not_early_and_what_has_expired_is_not_handled() {
    let server = Server::start();
    let broker = server.broker().await;
    broker.declare("g", ">", hasty().max_attempts(1)).await.unwrap();
    let short = Message::json("a", &1).unwrap().with_ttl(Duration::from_millis(50));
    broker.publish_message(short).await.unwrap();
    sleep(Duration::from_millis(80)).await;
    let log = Log::default();
    let noted = log.clone();
    let _subscription = broker
        .subscribe(">")
        .group("g")
        .handle(service_fn(move |delivery: Delivery<u32>| {
            let age = delivery.message().published_at().elapsed().unwrap();
            noted.note((*delivery.body(), delivery.attempt().number(), age));
            async { Ok::<_, BoxError>(()) }
        }))
        .await
        .unwrap();
    let delayed = Message::json("a", &2).unwrap().with_delay(Duration::from_secs(3));
    broker.publish_message(delayed).await.unwrap();
    broker.publish("a", &3).await.unwrap();
    log.has(2).await;
    let seen = log.all();
    assert_eq!((seen[0].0, seen[1].0, seen[1].1), (3, 2, 1), "uncharged: {seen:?}");
    assert!(seen[1].2 >= Duration::from_millis(2_999), "{seen:?}");
    let letter = &dead(&broker, 1).await[0];
    assert_eq!((&letter.reason, letter.message.payload()), (&Reason::Expired, &Bytes::from("1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_pulled_and_is_not_answered_in_time_comes_again_and_late_answers_change_nothing()
 {
    let server = Server::start();
    let broker = server.broker().await;
    let policy = hasty().max_attempts(5).attempt_timeout(Duration::from_secs(3));
    let mut pull = broker.subscribe(">").group("g").policy(policy).pull::<u32>().await.unwrap();
    broker.publish("a", &7).await.unwrap();
    let first = pull.next().await.unwrap();
    // As long as there is a word from time to time it is ours.
    for _ in 0..4 {
        sleep(Duration::from_secs(1)).await;
        first.in_progress().await.unwrap();
    }
    let second = pull.next().await.unwrap();
    assert_eq!((*second.body(), second.attempt().number()), (7, 2));
    let late = first.ack().await;
    assert!(matches!(late, Err(Error::LeaseLost)), "{late:?}");
    second.ack().await.unwrap();
    let operator = server.operator().await;
    until("settled", async || operator.messages("gusset").await == 0).await;
}

/// A drain that takes longer than the ack wait.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_finished_while_the_broker_closes_is_not_doubled() {
    let server = Server::start();
    let options = || server.options().ack_wait(Duration::from_secs(4));
    let (here, there) = (connect(options()).await, connect(options()).await);
    let slow = |log: &Log<u32>| {
        let log = log.clone();
        service_fn(move |delivery: Delivery<u32>| {
            log.note(delivery.attempt().number());
            async {
                sleep(Duration::from_secs(9)).await;
                Ok::<_, BoxError>(())
            }
        })
    };
    let log = Log::default();
    let _here = here.subscribe(">").group("g").handle(slow(&log)).await.unwrap();
    here.publish("a", &1).await.unwrap();
    log.has(1).await;
    let _there = there.subscribe(">").group("g").handle(slow(&log)).await.unwrap();
    let left = here.close(gusset_call::Deadline::after(Duration::from_secs(60))).await;
    assert!(left.is_empty(), "{left:?}");
    let operator = server.operator().await;
    until("done", async || operator.messages("gusset").await == 0).await;
    assert_eq!(log.all(), [1]);
}

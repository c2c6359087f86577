//! What every engine must do. Whoever writes one calls [`check`] in a test of his own, with a broker on a fresh engine each time.
//!
//! The suite needs a runtime with time, paused or not: it waits for what it expects, [`PATIENCE`] at most. What an engine says
//! that it cannot do it must refuse; everything else it must do.
//!
//! ```
//! use gusset_broker::{Broker, conformance};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(async {
//! for (name, case) in conformance::CASES {
//!     conformance::check(name, *case, Broker::new()).await?;
//! }
//! # Ok::<(), conformance::Failed>(())
//! # }).unwrap();
//! ```

use std::{
    fmt,
    future::{Future, Ready},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use gusset_call::Deadline;
use tokio::time::{Instant, sleep};
use tower_service::Service;

use crate::{
    Broker, DeadLetter, Delivery, Error, Filter, Message, OrderBy, Policy, Priority, Reason, Reply,
    Subscription, engine::BoxFuture,
};

/// How long the suite waits for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A promise that was not kept.
#[derive(Debug)]
pub struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self(format!("unexpected error: {error}: {error:?}"))
    }
}

type Result<T = ()> = std::result::Result<T, Failed>;

/// One promise. Its future stays on its thread.
pub type Case = fn(Broker) -> Pin<Box<dyn Future<Output = Result>>>;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// All promises, each with its name.
        pub const CASES: &[(&str, Case)] = &[$((stringify!($name), |broker| Box::pin($name(broker)))),*];
    };
}

cases![
    every_group_gets_every_message_once_and_its_members_compete,
    what_is_published_right_after_subscribing_is_not_missed,
    a_declared_group_keeps_its_backlog_while_nobody_listens,
    a_failing_message_is_tried_again_and_becomes_a_dead_letter_with_its_story,
    a_panic_is_a_failed_attempt,
    what_cannot_be_decoded_is_dead_at_once,
    the_handler_may_reject_and_say_when_to_come_back,
    failing_messages_hold_up_no_good_one,
    a_slow_group_does_not_delay_a_quick_one,
    a_dropped_subscription_gives_back_what_it_was_at_work_on,
    a_closing_subscription_finishes_what_it_was_at_work_on,
    pulled_messages_are_acknowledged_refused_or_terminated,
    dead_letters_are_paged_filtered_and_purged,
    a_redriven_message_goes_to_the_group_that_failed_and_to_no_other,
    publishers_at_the_same_time_lose_nothing,
    cancelled_publishes_do_no_harm,
    a_closed_broker_refuses,
    what_the_engine_cannot_do_it_refuses,
    what_the_engine_says_it_can_do_it_does,
];

/// Runs one case and closes the broker.
///
/// # Errors
///
/// What was promised and did not happen.
pub async fn check(name: &str, case: Case, broker: Broker) -> Result {
    let result = case(broker.clone()).await;
    broker.close(Deadline::after(Duration::from_secs(1))).await;
    result.map_err(|Failed(why)| Failed(format!("{name}: {why}")))
}

/// What a handler saw: value and attempt.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(u32, u32)>>>);

impl Seen {
    fn all(&self) -> Vec<(u32, u32)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn values(&self) -> Vec<u32> {
        let mut values: Vec<_> = self.all().iter().map(|(value, _)| *value).collect();
        values.sort_unstable();
        values
    }

    fn note(&self, delivery: &Delivery<u32>) {
        let seen = (*delivery.body(), delivery.attempt().number());
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
    }
}

/// A handler of numbers.
#[derive(Clone)]
struct Handler {
    seen: Seen,
    answer: fn(Delivery<u32>) -> BoxFuture<'static, std::result::Result<Reply, String>>,
}

impl Service<Delivery<u32>> for Handler {
    type Response = Reply;
    type Error = String;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Reply, String>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), String>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, delivery: Delivery<u32>) -> Self::Future {
        self.seen.note(&delivery);
        (self.answer)(delivery)
    }
}

type Answer = fn(Delivery<u32>) -> BoxFuture<'static, std::result::Result<Reply, String>>;

const ACK: Answer = |_| Box::pin(done(Ok(Reply::Ack)));
const FAIL: Answer =
    |delivery| Box::pin(done(Err(format!("failure {}", delivery.attempt().number()))));
const SLOW: Answer = |_| {
    Box::pin(async {
        sleep(Duration::from_secs(1)).await;
        Ok(Reply::Ack)
    })
};

fn done<T>(result: T) -> Ready<T> {
    std::future::ready(result)
}

/// Quick, so that the suite does not take long on a real clock.
const fn policy() -> Policy {
    Policy::new().backoff(Duration::from_millis(20), Duration::from_millis(40))
}

async fn listen(
    broker: &Broker,
    pattern: &str,
    group: &str,
    answer: Answer,
) -> Result<(Subscription, Seen)> {
    let seen = Seen::default();
    let handler = Handler { seen: seen.clone(), answer };
    let subscribe = broker.subscribe(pattern).group(group).policy(policy());
    Ok((subscribe.handle(handler).await?, seen))
}

async fn publish(broker: &Broker, subject: &str, numbers: std::ops::Range<u32>) -> Result {
    for number in numbers {
        broker.publish(subject, &number).await?;
    }
    Ok(())
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result {
    let began = Instant::now();
    while !holds().await {
        if began.elapsed() > PATIENCE {
            return Err(Failed(format!("not within {PATIENCE:?}: {what}")));
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result {
    if holds { Ok(()) } else { Err(Failed(what())) }
}

async fn dead(broker: &Broker, filter: &Filter) -> Result<Vec<Arc<DeadLetter>>> {
    Ok(broker.dead_letters().list(filter, None, 1_000).await?)
}

async fn until_dead(broker: &Broker, group: &str, count: usize) -> Result<Vec<Arc<DeadLetter>>> {
    let filter = Filter::all().group(group);
    eventually(&format!("{count} dead letters of {group}"), async || {
        dead(broker, &filter).await.is_ok_and(|letters| letters.len() == count)
    })
    .await?;
    dead(broker, &filter).await
}

async fn every_group_gets_every_message_once_and_its_members_compete(broker: Broker) -> Result {
    let (_a, one) = listen(&broker, "order.*", "stock", ACK).await?;
    let (_b, two) = listen(&broker, "order.*", "stock", ACK).await?;
    let (_c, mail) = listen(&broker, "order.>", "mail", ACK).await?;
    publish(&broker, "order.created", 0..100).await?;
    publish(&broker, "user.created", 100..110).await?;
    let both = || {
        let mut both = [one.values(), two.values()].concat();
        both.sort_unstable();
        both
    };
    eventually("all are handled", async || both().len() >= 100 && mail.all().len() >= 100).await?;
    sleep(Duration::from_millis(200)).await;
    let all: Vec<_> = (0..100).collect();
    ensure(both() == all && mail.values() == all, || format!("{:?} {:?}", both(), mail.values()))
}

async fn what_is_published_right_after_subscribing_is_not_missed(broker: Broker) -> Result {
    for round in 0..10 {
        let (_guard, seen) =
            listen(&broker, &format!("now.{round}"), &format!("now-{round}"), ACK).await?;
        publish(&broker, &format!("now.{round}"), 0..3).await?;
        eventually("all three came", async || seen.values() == [0, 1, 2]).await?;
    }
    Ok(())
}

async fn a_declared_group_keeps_its_backlog_while_nobody_listens(broker: Broker) -> Result {
    broker.declare("kept", "keep", policy()).await?;
    publish(&broker, "keep", 0..5).await?;
    let (guard, seen) = listen(&broker, "keep", "kept", ACK).await?;
    eventually("the backlog is handled", async || seen.values() == [0, 1, 2, 3, 4]).await?;
    guard.close().await;
    publish(&broker, "keep", 5..7).await?;
    let (_guard, seen) = listen(&broker, "keep", "kept", ACK).await?;
    eventually("what came meanwhile is handled", async || seen.values() == [5, 6]).await
}

async fn a_failing_message_is_tried_again_and_becomes_a_dead_letter_with_its_story(
    broker: Broker,
) -> Result {
    let (_guard, seen) = listen(&broker, "bad", "failing", FAIL).await?;
    let message = Message::json("bad", &7)?.with_header("k", "v");
    let id = broker.publish_message(message).await?.id;
    let letter = &until_dead(&broker, "failing", 1).await?[0];
    ensure(seen.all() == [(7, 1), (7, 2), (7, 3)], || format!("{:?}", seen.all()))?;
    let failures = [&letter.first_failure, &letter.last_failure];
    let errors = failures.map(|failure| failure.as_ref().map(|f| (f.attempt, f.error.as_str())));
    let expected = [Some((1, "failure 1")), Some((3, "failure 3"))];
    ensure(errors == expected, || format!("{errors:?}"))?;
    let message = &letter.message;
    let whole =
        message.id() == id && message.payload() == "7" && message.headers().get("k") == Some("v");
    ensure(whole && message.subject().as_str() == "bad", || format!("{message:?}"))?;
    ensure(letter.attempts == 3 && letter.reason == Reason::Exhausted, || format!("{letter:?}"))
}

#[expect(clippy::panic, reason = "what the handler does")]
async fn a_panic_is_a_failed_attempt(broker: Broker) -> Result {
    let panics: Answer = |delivery| match delivery.attempt().number() {
        1 => Box::pin(async { panic!("oh no") }),
        _ => Box::pin(done(Ok(Reply::Ack))),
    };
    let (_guard, seen) = listen(&broker, "panics", "panicking", panics).await?;
    publish(&broker, "panics", 0..3).await?;
    eventually("each was tried twice", async || seen.values() == [0, 0, 1, 1, 2, 2]).await
}

async fn what_cannot_be_decoded_is_dead_at_once(broker: Broker) -> Result {
    let (_guard, seen) = listen(&broker, "poison", "numbers", ACK).await?;
    broker.publish_message(Message::new("poison", "{")?).await?;
    let letter = &until_dead(&broker, "numbers", 1).await?[0];
    ensure(matches!(letter.reason, Reason::Undecodable(_)), || format!("{letter:?}"))?;
    ensure(letter.attempts == 1 && seen.all().is_empty(), || format!("{letter:?}"))
}

async fn the_handler_may_reject_and_say_when_to_come_back(broker: Broker) -> Result {
    let answer: Answer = |delivery| {
        Box::pin(done(Ok(match (*delivery.body(), delivery.attempt().number()) {
            (0, _) => Reply::reject("no use"),
            (_, 1) => Reply::RetryAfter(Duration::from_millis(700)),
            _ => Reply::Ack,
        })))
    };
    let (_guard, seen) = listen(&broker, "answers", "answering", answer).await?;
    let began = Instant::now();
    publish(&broker, "answers", 0..2).await?;
    eventually("the second attempt", async || seen.values() == [0, 1, 1]).await?;
    ensure(began.elapsed() >= Duration::from_millis(690), || format!("{:?}", began.elapsed()))?;
    let letter = &until_dead(&broker, "answering", 1).await?[0];
    ensure(letter.reason == Reason::Rejected("no use".into()), || format!("{letter:?}"))
}

async fn failing_messages_hold_up_no_good_one(broker: Broker) -> Result {
    let answer: Answer = |delivery| {
        Box::pin(done(match delivery.body() {
            1_000.. => Ok(Reply::Ack),
            _ => Ok(Reply::RetryAfter(Duration::from_secs(3_600))),
        }))
    };
    let (_guard, seen) = listen(&broker, "mixed", "mixing", answer).await?;
    publish(&broker, "mixed", 0..300).await?;
    publish(&broker, "mixed", 1_000..1_050).await?;
    let good = || seen.all().iter().filter(|(value, _)| *value >= 1_000).count();
    eventually("the good ones are handled while the bad ones wait", async || good() == 50).await
}

async fn a_slow_group_does_not_delay_a_quick_one(broker: Broker) -> Result {
    let (_slow, _) = listen(&broker, "race", "slow", SLOW).await?;
    let (_quick, seen) = listen(&broker, "race", "quick", ACK).await?;
    let began = Instant::now();
    publish(&broker, "race", 0..100).await?;
    eventually("the quick group is done", async || seen.all().len() == 100).await?;
    ensure(began.elapsed() < Duration::from_secs(5), || format!("{:?}", began.elapsed()))
}

async fn a_dropped_subscription_gives_back_what_it_was_at_work_on(broker: Broker) -> Result {
    broker.declare("shared", "work", policy()).await?;
    let (guard, begun) =
        listen(&broker, "work", "shared", |_| Box::pin(std::future::pending())).await?;
    publish(&broker, "work", 0..3).await?;
    eventually("all are being handled", async || begun.all().len() == 3).await?;
    drop(guard);
    let (_other, seen) = listen(&broker, "work", "shared", ACK).await?;
    eventually("another handles them", async || seen.values() == [0, 1, 2]).await
}

async fn a_closing_subscription_finishes_what_it_was_at_work_on(broker: Broker) -> Result {
    broker.declare("ending", "end", policy()).await?;
    let (guard, seen) = listen(&broker, "end", "ending", SLOW).await?;
    publish(&broker, "end", 0..3).await?;
    eventually("all are being handled", async || seen.all().len() == 3).await?;
    guard.close().await;
    let (_other, again) = listen(&broker, "end", "ending", ACK).await?;
    sleep(Duration::from_millis(500)).await;
    ensure(again.all().is_empty(), || format!("handled twice: {:?}", again.all()))
}

async fn pulled_messages_are_acknowledged_refused_or_terminated(broker: Broker) -> Result {
    let subscribe = broker.subscribe("pull").group("pulling").policy(policy().max_attempts(5));
    let mut pull = subscribe.pull::<u32>().await?;
    publish(&broker, "pull", 0..1).await?;
    let ended = || Failed("the stream ended".to_owned());
    let first = pull.next().await.ok_or_else(ended)?;
    first.in_progress().await?;
    first.nak(Some(Duration::from_millis(300))).await?;
    let began = Instant::now();
    let second = pull.next().await.ok_or_else(ended)?;
    let after = (second.attempt().number(), began.elapsed() >= Duration::from_millis(250));
    ensure(after == (2, true), || format!("{after:?}"))?;
    drop(second);
    let third = pull.next().await.ok_or_else(ended)?;
    ensure(third.attempt().number() == 3, || format!("a dropped one is charged: {third:?}"))?;
    third.ack().await?;
    publish(&broker, "pull", 1..2).await?;
    pull.next().await.ok_or_else(ended)?.term("done with it").await?;
    let letter = &until_dead(&broker, "pulling", 1).await?[0];
    ensure(letter.reason == Reason::Rejected("done with it".into()), || format!("{letter:?}"))
}

async fn dead_letters_are_paged_filtered_and_purged(broker: Broker) -> Result {
    let reject: Answer = |_| Box::pin(done(Ok(Reply::reject("no"))));
    let (_a, _) = listen(&broker, "die.*", "dying", reject).await?;
    let (_b, _) = listen(&broker, "die.*", "dying-too", reject).await?;
    for n in 0..10 {
        publish(&broker, if n % 2 == 0 { "die.even" } else { "die.odd" }, n..n + 1).await?;
    }
    until_dead(&broker, "dying", 10).await?;
    until_dead(&broker, "dying-too", 10).await?;
    let even = crate::Pattern::new("die.even").map_err(Error::from)?;
    let filter = Filter::all().group("dying").subjects(even);
    let (letters, mut seen, mut after) = (broker.dead_letters(), 0, None);
    loop {
        let page = letters.list(&filter, after, 2).await?;
        let Some(last) = page.last() else { break };
        ensure(page.len() <= 2 && after.is_none_or(|after| last.id > after), || {
            format!("{page:?}")
        })?;
        let got = letters.get(last.id).await?;
        ensure(got.is_some_and(|got| got.message.id() == last.message.id()), || "get".into())?;
        (seen, after) = (seen + page.len(), Some(last.id));
    }
    ensure(seen == 5, || format!("{seen} on the pages"))?;
    let purged = letters.purge(&filter).await?;
    ensure(purged == 5, || format!("{purged} purged"))?;
    let left = dead(&broker, &Filter::all()).await?.len();
    ensure(left == 15, || format!("{left} left"))
}

async fn a_redriven_message_goes_to_the_group_that_failed_and_to_no_other(
    broker: Broker,
) -> Result {
    let (bad, _) =
        listen(&broker, "again", "bad", |_| Box::pin(done(Ok(Reply::reject("no"))))).await?;
    broker.declare("bad", "again", policy()).await?;
    let (_good, good) = listen(&broker, "again", "good", ACK).await?;
    publish(&broker, "again", 0..3).await?;
    until_dead(&broker, "bad", 3).await?;
    bad.close().await;
    let dry = broker.dead_letters().redrive_all(&Filter::all()).dry_run().await?;
    ensure(dry.redriven == 3 && dead(&broker, &Filter::all()).await?.len() == 3, || {
        format!("{dry:?}")
    })?;
    let redriven = broker.dead_letters().redrive_all(&Filter::all()).await?;
    ensure(redriven.redriven == 3, || format!("{redriven:?}"))?;
    let (_repaired, seen) = listen(&broker, "again", "bad", ACK).await?;
    eventually("they are handled now", async || seen.values() == [0, 1, 2]).await?;
    let anew = seen.all().iter().all(|(_, attempt)| *attempt == 1);
    ensure(anew, || format!("attempts are counted anew: {:?}", seen.all()))?;
    ensure(good.values() == [0, 1, 2], || format!("the other group: {:?}", good.values()))?;
    ensure(dead(&broker, &Filter::all()).await?.is_empty(), || "letters are left".into())
}

async fn publishers_at_the_same_time_lose_nothing(broker: Broker) -> Result {
    let (_guard, seen) = listen(&broker, "many.*", "counting", ACK).await?;
    let publishers: Vec<_> = (0..4)
        .map(|part| {
            let broker = broker.clone();
            tokio::spawn(async move {
                publish(&broker, &format!("many.{part}"), part * 250..(part + 1) * 250).await
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.map_err(|error| Failed(error.to_string()))??;
    }
    eventually("all are handled", async || seen.all().len() >= 1_000).await?;
    ensure(seen.values() == (0..1_000).collect::<Vec<_>>(), || "some twice, some never".into())
}

async fn cancelled_publishes_do_no_harm(broker: Broker) -> Result {
    let (_guard, seen) = listen(&broker, "cancel", "cancelling", ACK).await?;
    for n in 0..50 {
        let publishing = broker.publish("cancel", &n);
        tokio::select! {
            biased;
            result = publishing => drop(result?),
            () = std::future::ready(()) => {}
        }
    }
    publish(&broker, "cancel", 100..110).await?;
    let whole = || (100..110).all(|n| seen.values().contains(&n));
    eventually("those that were not cancelled are handled", async || whole()).await
}

async fn a_closed_broker_refuses(broker: Broker) -> Result {
    let (_guard, seen) = listen(&broker, "close", "closing", ACK).await?;
    publish(&broker, "close", 0..1).await?;
    eventually("it is handled", async || seen.values() == [0]).await?;
    broker.close(Deadline::after(Duration::from_secs(2))).await;
    let refused = broker.publish("close", &1).await;
    ensure(matches!(refused, Err(Error::Closed)), || format!("{refused:?}"))
}

async fn what_the_engine_cannot_do_it_refuses(broker: Broker) -> Result {
    let (can, span) = (broker.capabilities(), Duration::from_millis(1));
    let message = || Message::json("unable", &0);
    let asked = [
        (can.delay, message()?.with_delay(span)),
        (can.expiry, message()?.with_ttl(span)),
        (can.priority, message()?.with_priority(Priority::High)),
        (can.dedup, message()?.with_id(message()?.id())),
    ];
    for (able, message) in asked {
        let refused =
            matches!(broker.publish_message(message.clone()).await, Err(Error::Unsupported { .. }));
        ensure(able != refused, || format!("able: {able}, refused: {refused}: {message:?}"))?;
    }
    let ordered = broker.subscribe("unable").group("unable").ordered_by(OrderBy::header("k"));
    let refused = matches!(ordered.declare().await, Err(Error::Unsupported { .. }));
    ensure(can.ordered != refused, || format!("ordered: {}, refused: {refused}", can.ordered))
}

async fn what_the_engine_says_it_can_do_it_does(broker: Broker) -> Result {
    let can = broker.capabilities();
    let (_guard, seen) = listen(&broker, "able.*", "able", ACK).await?;
    if can.delay {
        let began = Instant::now();
        let later = Message::json("able.later", &1)?.with_delay(Duration::from_millis(500));
        broker.publish_message(later).await?;
        eventually("the delayed one came", async || seen.values() == [1]).await?;
        let passed = began.elapsed();
        ensure(passed >= Duration::from_millis(490), || format!("early: {passed:?}"))?;
    }
    if can.dedup {
        let twice = Message::json("able.twice", &2)?;
        let twice = twice.clone().with_id(twice.id());
        let first = broker.publish_message(twice.clone()).await?;
        let second = broker.publish_message(twice).await?;
        ensure(!first.duplicate && second.duplicate, || format!("{first:?} {second:?}"))?;
        sleep(Duration::from_millis(200)).await;
        let times = seen.values().iter().filter(|value| **value == 2).count();
        ensure(times == 1, || format!("came {times} times"))?;
    }
    if can.expiry {
        let group = policy().when_expired(crate::WhenExpired::Bury);
        broker.subscribe("brief").group("brief").policy(group).declare().await?;
        let brief = Message::json("brief", &3)?.with_ttl(Duration::from_millis(50));
        broker.publish_message(brief).await?;
        sleep(Duration::from_millis(200)).await;
        let seen = Seen::default();
        let handler = Handler { seen: seen.clone(), answer: ACK };
        let _guard = broker.subscribe("brief").group("brief").handle(handler).await?;
        let letter = &until_dead(&broker, "brief", 1).await?[0];
        ensure(letter.reason == Reason::Expired && seen.all().is_empty(), || {
            format!("{letter:?}")
        })?;
    }
    if can.requests {
        let answers: Answer = |delivery| {
            Box::pin(done(Reply::answer(&(delivery.body() + 1)).map_err(|e| e.to_string())))
        };
        let (_guard, _) = listen(&broker, "ask", "asked", answers).await?;
        let answer: u32 = broker.request("ask", &41, PATIENCE).await?;
        ensure(answer == 42, || format!("{answer}"))?;
    }
    Ok(())
}

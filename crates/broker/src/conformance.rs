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

mod able;
mod deliveries;
mod ends;
mod failures;
mod travels;

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
    Broker, DeadLetter, Delivery, Error, Filter, Policy, Reply, Subscription, engine::BoxFuture,
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
    ($($file:ident :: $name:ident),* $(,)?) => {
        /// All promises, each with its name.
        pub const CASES: &[(&str, Case)] = &[$((stringify!($name), |broker| Box::pin($file::$name(broker)))),*];
    };
}

cases![
    deliveries::every_group_gets_every_message_once_and_its_members_compete,
    deliveries::what_is_published_right_after_subscribing_is_not_missed,
    deliveries::a_declared_group_keeps_its_backlog_while_nobody_listens,
    failures::a_failing_message_is_tried_again_and_becomes_a_dead_letter_with_its_story,
    failures::a_panic_is_a_failed_attempt,
    failures::what_cannot_be_decoded_is_dead_at_once,
    failures::the_handler_may_reject_and_say_when_to_come_back,
    failures::failing_messages_hold_up_no_good_one,
    deliveries::a_slow_group_does_not_delay_a_quick_one,
    ends::a_dropped_subscription_gives_back_what_it_was_at_work_on,
    ends::a_closing_subscription_finishes_what_it_was_at_work_on,
    deliveries::pulled_messages_are_acknowledged_refused_or_terminated,
    failures::dead_letters_are_paged_filtered_and_purged,
    failures::a_redriven_message_goes_to_the_group_that_failed_and_to_no_other,
    deliveries::publishers_at_the_same_time_lose_nothing,
    ends::cancelled_publishes_do_no_harm,
    ends::a_closed_broker_refuses,
    travels::what_travels_with_a_message_arrives,
    travels::what_follows_from_a_message_that_is_repeated_is_published_once,
    able::what_the_engine_cannot_do_it_refuses,
    able::what_the_engine_says_it_can_do_it_does,
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

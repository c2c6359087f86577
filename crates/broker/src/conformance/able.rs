//! What an engine says of itself.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    ACK, Answer, Handler, PATIENCE, Result, Seen, done, ensure, eventually, listen, policy,
    until_dead,
};
use crate::{Broker, Error, Message, OrderBy, Priority, Reason, Reply};

pub(super) async fn what_the_engine_cannot_do_it_refuses(broker: Broker) -> Result {
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

pub(super) async fn what_the_engine_says_it_can_do_it_does(broker: Broker) -> Result {
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

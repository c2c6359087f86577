//! Who gets what, and when.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{ACK, Failed, Result, SLOW, ensure, eventually, listen, policy, publish, until_dead};
use crate::{Broker, Reason};

pub(super) async fn every_group_gets_every_message_once_and_its_members_compete(
    broker: Broker,
) -> Result {
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

pub(super) async fn what_is_published_right_after_subscribing_is_not_missed(
    broker: Broker,
) -> Result {
    for round in 0..10 {
        let (_guard, seen) =
            listen(&broker, &format!("now.{round}"), &format!("now-{round}"), ACK).await?;
        publish(&broker, &format!("now.{round}"), 0..3).await?;
        eventually("all three came", async || seen.values() == [0, 1, 2]).await?;
    }
    Ok(())
}

pub(super) async fn a_declared_group_keeps_its_backlog_while_nobody_listens(
    broker: Broker,
) -> Result {
    broker.declare("kept", "keep", policy()).await?;
    publish(&broker, "keep", 0..5).await?;
    let (guard, seen) = listen(&broker, "keep", "kept", ACK).await?;
    eventually("the backlog is handled", async || seen.values() == [0, 1, 2, 3, 4]).await?;
    guard.close().await;
    publish(&broker, "keep", 5..7).await?;
    let (_guard, seen) = listen(&broker, "keep", "kept", ACK).await?;
    eventually("what came meanwhile is handled", async || seen.values() == [5, 6]).await
}

pub(super) async fn a_slow_group_does_not_delay_a_quick_one(broker: Broker) -> Result {
    let (_slow, _) = listen(&broker, "race", "slow", SLOW).await?;
    let (_quick, seen) = listen(&broker, "race", "quick", ACK).await?;
    let began = Instant::now();
    publish(&broker, "race", 0..100).await?;
    eventually("the quick group is done", async || seen.all().len() == 100).await?;
    ensure(began.elapsed() < Duration::from_secs(5), || format!("{:?}", began.elapsed()))
}

pub(super) async fn pulled_messages_are_acknowledged_refused_or_terminated(
    broker: Broker,
) -> Result {
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

pub(super) async fn publishers_at_the_same_time_lose_nothing(broker: Broker) -> Result {
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

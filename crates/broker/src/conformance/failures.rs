//! What becomes of what fails.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    ACK, Answer, FAIL, Result, dead, done, ensure, eventually, listen, policy, publish, until_dead,
};
use crate::{Broker, Error, Filter, Message, Reason, Reply};

pub(super) async fn a_failing_message_is_tried_again_and_becomes_a_dead_letter_with_its_story(
    broker: Broker,
) -> Result {
    let (_guard, seen) = listen(&broker, "bad", "failing", FAIL).await?;
    let message = Message::json("bad", &7)?.with_header("k", "v");
    let id = broker.publish_message(message).await?.id;
    let letter = &until_dead(&broker, "failing", 1).await?[0];
    ensure(seen.all() == [(7, 1), (7, 2), (7, 3)], || format!("{:?}", seen.all()))?;
    let failures = [&letter.first_failure, &letter.last_failure];
    let errors = failures.map(|failure| failure.as_ref().map(|f| (f.attempt, &*f.error)));
    let expected = [Some((1, "failure 1")), Some((3, "failure 3"))];
    ensure(errors == expected, || format!("{errors:?}"))?;
    let message = &letter.message;
    let whole =
        message.id() == id && message.payload() == "7" && message.headers().get("k") == Some("v");
    ensure(whole && message.subject().as_str() == "bad", || format!("{message:?}"))?;
    ensure(letter.attempts == 3 && letter.reason == Reason::Exhausted, || format!("{letter:?}"))
}

#[expect(clippy::panic, reason = "what the handler does")]
pub(super) async fn a_panic_is_a_failed_attempt(broker: Broker) -> Result {
    let panics: Answer = |delivery| match delivery.attempt().number() {
        1 => Box::pin(async { panic!("oh no") }),
        _ => Box::pin(done(Ok(Reply::Ack))),
    };
    let (_guard, seen) = listen(&broker, "panics", "panicking", panics).await?;
    publish(&broker, "panics", 0..3).await?;
    eventually("each was tried twice", async || seen.values() == [0, 0, 1, 1, 2, 2]).await
}

pub(super) async fn what_cannot_be_decoded_is_dead_at_once(broker: Broker) -> Result {
    let (_guard, seen) = listen(&broker, "poison", "numbers", ACK).await?;
    broker.publish_message(Message::new("poison", "{")?).await?;
    let letter = &until_dead(&broker, "numbers", 1).await?[0];
    ensure(matches!(letter.reason, Reason::Undecodable(_)), || format!("{letter:?}"))?;
    ensure(letter.attempts == 1 && seen.all().is_empty(), || format!("{letter:?}"))
}

pub(super) async fn the_handler_may_reject_and_say_when_to_come_back(broker: Broker) -> Result {
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

pub(super) async fn failing_messages_hold_up_no_good_one(broker: Broker) -> Result {
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

pub(super) async fn dead_letters_are_paged_filtered_and_purged(broker: Broker) -> Result {
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

pub(super) async fn a_redriven_message_goes_to_the_group_that_failed_and_to_no_other(
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

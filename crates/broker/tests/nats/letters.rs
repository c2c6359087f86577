use std::{num::NonZeroU32, time::Duration};

use crate::harness::{Server, dead, fail, hasty, listen, soon, until};
use gusset_broker::{
    Broker, DeadLetterId, Error, Filter, Limits, Message, NatsEngine, Pattern, Policy,
    WhenLettersFull,
};

fn once() -> Policy {
    hasty().max_attempts(1)
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_in_pages_by_group_and_by_subject() {
    let server = Server::start();
    let broker = server.broker().await;
    let (_a, _) = fail(&broker, "mails", once()).await;
    let (_b, _) = fail(&broker, "a.dotted/group*", once()).await;
    for n in 0..10_u32 {
        broker.publish(&*format!("order.{}", n % 2), &n).await.unwrap();
    }
    let all = dead(&broker, 20).await;
    assert!(all.windows(2).all(|pair| pair[0].id < pair[1].id), "oldest first");
    // From another process.
    let letters = server.broker().await.dead_letters();
    let mails = Filter::all().group("mails");
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = letters.list(&mails, after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        after = Some(last.id);
        seen.extend(page.iter().map(|letter| letter.message.payload().clone()));
    }
    seen.sort();
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    let odd = Filter::all().subjects(Pattern::new("*.1").unwrap()).group("a.dotted/group*");
    let page = letters.list(&odd, None, 100).await.unwrap();
    assert_eq!(page.len(), 5);
    assert!(page.iter().all(|letter| &*letter.group == "a.dotted/group*"));
    let one = letters.get(page[0].id).await.unwrap().unwrap();
    assert_eq!((one.message.id(), &one.reason), (page[0].message.id(), &page[0].reason));
    assert!(letters.get(DeadLetterId::new(1_000)).await.unwrap().is_none());
    assert!(letters.get(DeadLetterId::new(0)).await.unwrap().is_none());
    assert_eq!(letters.purge(&odd).await.unwrap(), 5);
    assert_eq!(letters.purge(&mails).await.unwrap(), 10);
    assert_eq!(letters.list(&Filter::all(), None, 100).await.unwrap().len(), 5);
    assert_eq!(letters.purge(&Filter::all()).await.unwrap(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_goes_back_to_the_one_group_that_failed() {
    let server = Server::start();
    let broker = server.broker().await;
    let (bad, _) = fail(&broker, "mails", once()).await;
    let (_good, stock) = listen(&broker, "order.>", "stock").await;
    let message = Message::json("order.created", &7).unwrap().with_header("k", "v");
    broker.publish_message(message.clone()).await.unwrap();
    let letter = dead(&broker, 1).await.remove(0);
    bad.close().await;

    let tool = server.broker().await.dead_letters();
    let dry = tool.redrive_all(&Filter::all()).dry_run().await.unwrap();
    assert_eq!((dry.redriven, dry.kept), (1, 0));
    tool.redrive(letter.id).await.unwrap();
    let again = tool.redrive(letter.id).await;
    assert!(matches!(again, Err(Error::NoSuchDeadLetter)), "{again:?}");

    let other = server.broker().await;
    let (_mended, mails) = listen(&other, ">", "mails").await;
    mails.has(1).await;
    let operator = server.operator().await;
    until("settled by all", async || operator.messages("gusset").await == 0).await;
    assert_eq!((mails.all(), stock.all()), (vec![7], vec![7]), "the others had it already");
    assert_eq!(tool.list(&Filter::all(), None, 10).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_dies_again_has_its_attempts_counted_anew_and_comes_back_so_often_and_no_more()
 {
    let server = Server::start();
    let engine = NatsEngine::connect(server.options(), Limits::new().redrives(2)).await.unwrap();
    let broker = Broker::on(engine);
    let (_subscription, log) = fail(&broker, "g", hasty().max_attempts(2)).await;
    broker.publish("a", &7).await.unwrap();
    for redrives in 0..2 {
        let letter = dead(&broker, 1).await.remove(0);
        assert_eq!((letter.redrives, letter.attempts), (redrives, 2));
        assert_eq!(letter.first_failure.as_ref().unwrap().error, "failure 1");
        broker.dead_letters().redrive(letter.id).await.unwrap();
        log.has((redrives as usize + 2) * 2).await;
    }
    let letter = dead(&broker, 1).await.remove(0);
    let refused = broker.dead_letters().redrive(letter.id).await;
    assert!(matches!(refused, Err(Error::RedrivenTooOften(2))), "{refused:?}");
    let attempts: Vec<_> = log.all().iter().map(|seen| seen.attempt).collect();
    assert_eq!(attempts, [1, 2, 1, 2, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_go_back_at_a_rate_and_a_letter_of_a_group_that_is_gone_stays() {
    let server = Server::start();
    let broker = server.broker().await;
    let (gone, _) = fail(&broker, "gone", once()).await;
    let (stays, _) = fail(&broker, "stays", once()).await;
    for n in 0..20 {
        broker.publish("a", &n).await.unwrap();
    }
    dead(&broker, 40).await;
    gone.close().await;
    stays.close().await;
    broker.remove("gone").await.unwrap();
    let removed = broker.remove("gone").await;
    assert!(matches!(removed, Err(Error::NoSuchGroup(_))), "{removed:?}");
    let letters = broker.dead_letters();
    let rate = NonZeroU32::new(100).unwrap();
    let begin = std::time::Instant::now();
    let result = letters.redrive_all(&Filter::all()).per_second(rate).await.unwrap();
    assert_eq!((result.redriven, result.kept), (20, 20));
    assert!(begin.elapsed() >= Duration::from_millis(190), "{:?}", begin.elapsed());
    let left = letters.list(&Filter::all(), None, 100).await.unwrap();
    assert!(left.len() == 20 && left.iter().all(|letter| &*letter.group == "gone"));
    let refused = letters.redrive(left[0].id).await;
    assert!(matches!(&refused, Err(Error::NoSuchGroup(name)) if &**name == "gone"), "{refused:?}");
    let (_subscription, log) = listen(&broker, ">", "stays").await;
    log.has(20).await;
}

/// Symfony's transport lost the message when both the handler and the store of failures failed.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_buried_is_not_lost() {
    let server = Server::start();
    let limits = Limits::new().dead_letters(1).when_letters_full(WhenLettersFull::Refuse);
    let broker = Broker::on(NatsEngine::connect(server.options(), limits).await.unwrap());
    let operator = server.operator().await;
    let (_subscription, log) = fail(&broker, "g", once()).await;
    broker.publish("a", &1).await.unwrap();
    dead(&broker, 1).await;
    broker.publish("a", &2).await.unwrap();
    until("handled", async || log.len() >= 2).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(operator.messages("gusset").await, 1, "it waits");
    assert_eq!(log.len(), 2, "and is not handled beyond its attempts");
    broker.dead_letters().purge(&Filter::all()).await.unwrap();
    let letter = dead(&broker, 1).await.remove(0);
    assert_eq!(letter.message.payload(), "2");
    assert_eq!(letter.last_failure.as_ref().unwrap().error, "failure 1");
    until("gone", async || operator.messages("gusset").await == 0).await;
    broker.close(soon()).await;
}

//! Subscriptions, publishes and brokers that end.

use std::time::Duration;

use gusset_call::Deadline;
use tokio::time::sleep;

use super::{ACK, Result, SLOW, ensure, eventually, listen, policy, publish};
use crate::{Broker, Error};

pub(super) async fn a_dropped_subscription_gives_back_what_it_was_at_work_on(
    broker: Broker,
) -> Result {
    broker.declare("shared", "work", policy()).await?;
    let (guard, begun) =
        listen(&broker, "work", "shared", |_| Box::pin(std::future::pending())).await?;
    publish(&broker, "work", 0..3).await?;
    eventually("all are being handled", async || begun.all().len() == 3).await?;
    drop(guard);
    let (_other, seen) = listen(&broker, "work", "shared", ACK).await?;
    eventually("another handles them", async || seen.values() == [0, 1, 2]).await
}

pub(super) async fn a_closing_subscription_finishes_what_it_was_at_work_on(
    broker: Broker,
) -> Result {
    broker.declare("ending", "end", policy()).await?;
    let (guard, seen) = listen(&broker, "end", "ending", SLOW).await?;
    publish(&broker, "end", 0..3).await?;
    eventually("all are being handled", async || seen.all().len() == 3).await?;
    guard.close().await;
    let (_other, again) = listen(&broker, "end", "ending", ACK).await?;
    sleep(Duration::from_millis(500)).await;
    ensure(again.all().is_empty(), || format!("handled twice: {:?}", again.all()))
}

pub(super) async fn cancelled_publishes_do_no_harm(broker: Broker) -> Result {
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

pub(super) async fn a_closed_broker_refuses(broker: Broker) -> Result {
    let (_guard, seen) = listen(&broker, "close", "closing", ACK).await?;
    publish(&broker, "close", 0..1).await?;
    eventually("it is handled", async || seen.values() == [0]).await?;
    broker.close(Deadline::after(Duration::from_secs(2))).await;
    let refused = broker.publish("close", &1).await;
    ensure(matches!(refused, Err(Error::Closed)), || format!("{refused:?}"))
}

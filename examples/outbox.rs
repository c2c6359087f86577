//! An outbox: what a saga's step emits is published if the step is done, and only then; a handler sees it once although answers are lost.
//!
//! `cargo run --example outbox`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset::{
    broker::{Broker, Delivery},
    call::BoxError,
    outbox::ToBroker,
    saga::{
        MemoryStore, Orchestrator, OutboxTarget, Outgoing, RelayOptions, Saga, StepContext,
        StepError, Store,
    },
};
use tokio::time::sleep;
use tower::service_fn;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let broker = Broker::new();
    let ledger = service_fn(async |paid: Delivery<u64>| {
        println!("ledger: {} cents, {}", paid.body(), paid.subject());
        Ok::<_, BoxError>(())
    });
    let ledger = broker.subscribe("order.*").group("ledger").handle(ledger).await?;

    let mut saga = Saga::define("order", 1);
    let paid = saga.step("pay").run(pay).no_undo();
    let order = saga.finish(&paid)?;
    let store = MemoryStore::new();
    let sagas = Orchestrator::new(store.clone());
    let sent = Arc::new(AtomicU32::new(0));
    let target = LosesAnswers { broker: ToBroker::new(broker.clone()), sent: sent.clone() };
    let relay = sagas.spawn_relay(target, RelayOptions::default());

    sagas.run(&order, 1_999).await?;
    while store.pending().await?.messages > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    println!("sent {} times, as the first answer was lost", sent.load(Relaxed));
    let handled = broker.stats().groups.iter().map(|group| group.acked).sum::<u64>();
    println!("handled: {handled}");
    sagas.shutdown().await;
    relay.close().await;
    ledger.close().await;
    Ok(())
}

/// The first attempt emits as well, and fails behind that: nobody hears of it.
async fn pay(cx: StepContext, cents: u64) -> Result<u64, StepError> {
    println!("pay: attempt {}", cx.attempt());
    cx.emit("order.paid", &cents).map_err(StepError::rejected)?;
    if cx.attempt().is_retry() { Ok(cents) } else { Err(StepError::transient("the bank is busy")) }
}

/// The broker has the message, and whoever sent it never hears so.
struct LosesAnswers {
    broker: ToBroker,
    sent: Arc<AtomicU32>,
}

impl OutboxTarget for LosesAnswers {
    async fn deliver(&self, message: Outgoing) -> Result<(), BoxError> {
        self.broker.deliver(message).await?;
        if self.sent.fetch_add(1, Relaxed) == 0 { Err("the answer is lost".into()) } else { Ok(()) }
    }
}

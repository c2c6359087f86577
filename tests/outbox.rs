//! From a saga's step to a handler of the broker.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset::{
    broker::{Broker, Delivery, Headers},
    call::{Context, TraceContext, TraceState},
    outbox::ToBroker,
    saga::{
        BoxError, MemoryStore, Orchestrator, OutboxRelay, OutboxTarget, Outgoing, RelayOptions,
        Saga, SagaId, StepContext, StepError, Store,
    },
};
use tokio::time::{sleep, timeout};
use tower::service_fn;

async fn pay(cx: StepContext, cents: u64) -> Result<u64, StepError> {
    for part in 0..3 {
        cx.emit("order.paid", &(cents, part)).map_err(StepError::rejected)?;
    }
    // What an attempt emits that is not the last is dropped.
    if cx.attempt().is_retry() { Ok(cents) } else { Err(StepError::transient("once more")) }
}

/// Every other answer is lost.
#[derive(Clone)]
struct Flaky(ToBroker, Arc<AtomicU32>);

impl OutboxTarget for Flaky {
    async fn deliver(&self, message: Outgoing) -> Result<(), BoxError> {
        self.0.deliver(message).await?;
        if self.1.fetch_add(1, Relaxed) % 2 == 0 { Err("lost".into()) } else { Ok(()) }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_step_emits_is_handled_once_and_in_order_though_answers_are_lost() {
    let broker = Broker::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let seen = seen.clone();
        service_fn(move |order: Delivery<(u64, u32)>| {
            let json = order.headers().get(Headers::CONTENT_TYPE) == Some("application/json");
            seen.lock().unwrap().push((*order.body(), order.id(), json));
            async { Ok::<_, String>(()) }
        })
    };
    let ledger = broker.subscribe("order.*").group("ledger").handle(handler).await.unwrap();

    let mut saga = Saga::define("order", 1);
    let paid = saga.step("pay").run(pay).no_undo();
    let order = saga.finish(&paid).unwrap();
    let store = MemoryStore::new();
    let sagas = Orchestrator::new(store.clone());
    let flaky = Flaky(ToBroker::new(broker.clone()), Arc::default());
    let relay: OutboxRelay = sagas.spawn_relay(flaky, RelayOptions::default());
    for cents in 0..20 {
        let id: SagaId = format!("order-{cents}").parse().unwrap();
        sagas.run_as(&order, id, cents).await.unwrap();
    }
    timeout(Duration::from_secs(600), async {
        while store.pending().await.unwrap().messages > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(relay.stats().failures, 60);
    relay.close().await;
    ledger.close().await;

    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 60, "duplicates were recognised");
    for cents in 0..20 {
        let of_it: Vec<_> = seen.iter().filter(|((of, _), ..)| *of == cents).collect();
        let parts: Vec<_> = of_it.iter().map(|((_, part), ..)| *part).collect();
        assert_eq!(parts, [0, 1, 2]);
        assert!(of_it.iter().all(|(.., json)| *json));
    }
}

#[tokio::test(start_paused = true)]
async fn the_handler_of_what_a_saga_emits_goes_on_with_the_trace_of_the_saga() {
    let broker = Broker::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    let handler = service_fn(move |order: Delivery<u64>| {
        let message = order.message();
        noted.lock().unwrap().push((message.trace(), message.trace_state(), Context::current()));
        async { Ok::<_, String>(()) }
    });
    let ledger = broker.subscribe("order.*").group("ledger").handle(handler).await.unwrap();
    let mut saga = Saga::define("order", 1);
    let paid = saga
        .step("pay")
        .run(|cx: StepContext, cents: u64| async move {
            cx.emit("order.paid", &cents).map_err(StepError::rejected)?;
            Ok::<_, StepError>(cents)
        })
        .no_undo();
    let order = saga.finish(&paid).unwrap();
    let sagas = Orchestrator::new(MemoryStore::new());
    let relay = sagas.spawn_relay(ToBroker::new(broker.clone()), RelayOptions::default());

    let (trace, state) = (TraceContext::new_root(), "rojo=1".parse::<TraceState>().unwrap());
    let cx = Context::default().with_trace(trace);
    let mut run = std::pin::pin!(sagas.run(&order, 1_999));
    std::future::poll_fn(|task| {
        let poll = || cx.sync_scope(|| run.as_mut().poll(task));
        TraceState::sync_scope(Some(state.clone()), poll)
    })
    .await
    .unwrap();
    sleep(Duration::from_secs(1)).await;
    relay.close().await;
    ledger.close().await;
    let seen = seen.lock().unwrap();
    let [(travelled, with, current)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((*travelled, with), (Some(trace), &Some(state)));
    assert_eq!(current.trace(), Some(trace), "what the handler calls belongs to it");
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_topic_is_no_subject_is_put_aside_and_holds_no_other() {
    let broker = Broker::new();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut groups = Vec::new();
    for (pattern, group) in [("order.*", "ledger"), (ToBroker::UNDELIVERABLE, "aside")] {
        let seen = seen.clone();
        let handler = service_fn(move |message: Delivery<serde_json::Value>| {
            seen.lock().unwrap().push((group, message.body().clone()));
            async { Ok::<_, String>(()) }
        });
        groups.push(broker.subscribe(pattern).group(group).handle(handler).await.unwrap());
    }
    let mut saga = Saga::define("order", 1);
    let emits = |cx: StepContext, cents: u64| async move {
        for topic in ["order \"paid\"", "order.paid"] {
            cx.emit(topic, &cents).map_err(StepError::rejected)?;
        }
        Ok::<_, StepError>(cents)
    };
    let paid = saga.step("pay").run(emits).no_undo();
    let order = saga.finish(&paid).unwrap();
    let store = MemoryStore::new();
    let sagas = Orchestrator::new(store.clone());
    let target = ToBroker::new(broker.clone());
    let relay = sagas.spawn_relay(target.clone(), RelayOptions::default());
    sagas.run(&order, 1_999).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(store.pending().await.unwrap().messages, 0);
    assert_eq!((relay.stats().failures, target.undeliverable()), (0, 1));
    relay.close().await;
    for group in groups {
        group.close().await;
    }
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    seen.sort_by_key(|(group, _)| *group);
    let aside = serde_json::json!({"topic": "order \"paid\"", "body": 1_999});
    assert_eq!(seen, [("aside", aside), ("ledger", serde_json::json!(1_999))]);
}

//! Keys and epochs reach the receiver, and an old epoch can be refused there.

#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use gusset_saga::{
    Caller, Definition, Effect, IdempotencyLayer, MemoryStore, Orchestrator, Policy, Saga,
    StepContext, StepError,
};
use http::{Request, Response};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};

/// What a bank was told, in order.
type Told = Arc<Mutex<Vec<String>>>;

async fn call(told: &Told, cx: &StepContext, request: Request<()>) -> Result<(), StepError> {
    let told = told.clone();
    let bank = service_fn(move |request: Request<()>| {
        let caller = Caller::of(request.headers()).unwrap();
        let line = caller.map_or("-".into(), |caller| format!("{} {:?}", caller.key, caller.epoch));
        told.lock().unwrap().push(format!("{} {line}", request.method()));
        async { Ok::<_, Infallible>(Response::new(())) }
    });
    IdempotencyLayer::new(cx).layer(bank).oneshot(request).await.unwrap();
    Ok(())
}

fn payment(told: &Told) -> Definition<(), ()> {
    let (pays, refunds) = (told.clone(), told.clone());
    let quick = Policy::step().attempts(2).timeout(Duration::from_secs(100));
    let mut saga = Saga::define("payment", 1);
    let pay = move |cx: StepContext, ()| {
        let told = pays.clone();
        async move {
            call(&told, &cx, Request::get("/balance").body(())?).await?;
            let own = format!("{}/fee", cx.idempotency_key());
            let fee = Request::post("/fees").header("idempotency-key", own).body(())?;
            call(&told, &cx, fee).await?;
            call(&told, &cx, Request::post("/payments").body(())?).await?;
            if cx.attempt().number() == 1 {
                sleep(Duration::from_secs(50)).await;
            }
            Err::<(), _>(StepError::unknown("lost"))
        }
    };
    let refund = move |cx: StepContext, (), _: Effect<()>| {
        let told = refunds.clone();
        async move { call(&told, &cx, Request::delete("/payments").body(())?).await }
    };
    saga.step("pay").policy(quick).run(pay).undo(refund);
    saga.finish(()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_key_stays_and_the_epoch_grows_when_another_process_takes_over() {
    let (store, told) = (MemoryStore::new(), Told::default());
    let first = Orchestrator::new(store.clone());
    first.start(&payment(&told), "o\"1".parse().unwrap(), ()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    drop(first);
    sleep(Duration::from_secs(31)).await;
    let second = Orchestrator::new(store);
    second.register(&payment(&told)).unwrap();
    second.recover().await.unwrap();
    second.settled(&"o\"1".parse().unwrap()).await.unwrap();
    let told = told.lock().unwrap().join("\n");
    let attempt = |epoch: u32| {
        format!("GET -\nPOST o\"1/pay/do/fee Some({epoch})\nPOST o\"1/pay/do Some({epoch})\n")
    };
    assert_eq!(told, format!("{}{}DELETE o\"1/pay/undo Some(2)", attempt(1), attempt(2)));
}

//! Hedging: a call that takes longer than most is made a second time, and the first answer is taken.
//!
//! `cargo run --example hedge`; its clock is paused, so it takes no time and says the same on every machine.

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use gusset::{
    call::BoxError,
    sidecar::{HedgeLayer, HedgePolicy},
};
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};

type Answer = Response<Full<Bytes>>;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<(), BoxError> {
    println!("a service that answers within 10 ms, but takes a second every fiftieth time");
    let (bare, made) = service();
    warm(bare.clone()).await?;
    println!("without: the slowest of 200 calls took {:?}", slowest_of(200, bare).await?);
    println!("         {} calls were made, 100 of them before", made.load(Relaxed));

    let (inside, made) = service();
    let layer = HedgeLayer::new(HedgePolicy::default());
    let hedged = layer.layer(inside);
    warm(hedged.clone()).await?;
    println!("hedged:  the slowest of 200 calls took {:?}", slowest_of(200, hedged).await?);
    let made = made.load(Relaxed);
    println!("         {made} calls were made, of which {} a second time", layer.stats().hedges);
    Ok(())
}

/// Its durations have to be known before any can be called long.
async fn warm<S>(service: S) -> Result<(), BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Answer, Error: Into<BoxError>> + Clone,
{
    slowest_of(100, service).await.map(drop)
}

async fn slowest_of<S>(calls: u32, service: S) -> Result<Duration, BoxError>
where
    S: Service<Request<Full<Bytes>>, Response = Answer, Error: Into<BoxError>> + Clone,
{
    let mut slowest = Duration::ZERO;
    for _ in 0..calls {
        let begun = Instant::now();
        service.clone().oneshot(Request::default()).await.map_err(Into::into)?;
        slowest = slowest.max(begun.elapsed());
    }
    Ok(slowest)
}

/// A service, and how often it was called.
fn service<B>()
-> (impl Service<Request<B>, Response = Answer, Error = BoxError> + Clone, Arc<AtomicU32>) {
    let made = Arc::new(AtomicU32::new(0));
    let counter = made.clone();
    let service = service_fn(move |_: Request<B>| {
        let call = counter.fetch_add(1, Relaxed) + 1;
        async move {
            let millis = if call.is_multiple_of(50) { 1_000 } else { u64::from(call % 10) + 1 };
            sleep(Duration::from_millis(millis)).await;
            Ok(Answer::default())
        }
    });
    (service, made)
}

//! A limit of concurrency that finds its number: a service that can do ten things at once, and a hundred callers.
//!
//! `cargo run --example adaptive_concurrency`; its clock is paused, so it takes no time.

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{sync::Arc, time::Duration};

use gusset::{
    call::BoxError,
    ratelimit::{Concurrency, ConcurrencyLimitLayer, ConcurrencyLimiter},
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep},
};
use tower::{Layer, Service, ServiceExt, service_fn};

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() {
    println!(
        "10 at once take 20 ms each; 100 callers ask for 20 s, each again when it is answered"
    );
    let (answered, mean) = crowd(service()).await;
    println!("without a limit: {answered} answers, after {} ms on average", mean.as_millis());

    let limiter = ConcurrencyLimiter::new("reports", Concurrency::gradient().initial(100));
    let limited = ConcurrencyLimitLayer::new(limiter.clone()).layer(service());
    let (answered, mean) = crowd(limited).await;
    println!("with a limit:    {answered} answers, after {} ms on average", mean.as_millis());
    println!("it began at 100 at once, and is {} now", limiter.limit());
    println!("between 10 and 30: {}", (10..=30).contains(&limiter.limit()));
}

/// How many calls were answered, and how long those took.
async fn crowd<S>(service: S) -> (u32, Duration)
where
    S: Service<(), Response = (), Error: Send, Future: Send> + Clone + Send + 'static,
{
    let mut callers = JoinSet::new();
    let end = Instant::now() + Duration::from_secs(20);
    for _ in 0..100 {
        let service = service.clone();
        callers.spawn(async move {
            let (mut answered, mut spent) = (0, Duration::ZERO);
            while Instant::now() < end {
                let begun = Instant::now();
                match service.clone().oneshot(()).await {
                    Ok(_) => (answered, spent) = (answered + 1, spent + begun.elapsed()),
                    // Refused at once. A caller may ask another instance; these have no other.
                    Err(_) => sleep(Duration::from_millis(100)).await,
                }
            }
            (answered, spent)
        });
    }
    let callers = callers.join_all().await;
    let answered = callers.iter().map(|(answered, _)| answered).sum::<u32>();
    let spent = callers.iter().map(|(_, spent)| *spent).sum::<Duration>();
    (answered, spent / answered.max(1))
}

/// Has ten workers. Who comes in addition waits.
fn service() -> impl Service<(), Response = (), Error = BoxError, Future: Send> + Clone {
    let workers = Arc::new(Semaphore::new(10));
    service_fn(move |()| {
        let workers = workers.clone();
        async move {
            let _worker = workers.acquire().await?;
            sleep(Duration::from_millis(20)).await;
            Ok::<_, BoxError>(())
        }
    })
}

//! Question and answer over the broker: whoever knows answers, within the patience of who asks.
//!
//! `cargo run --example request_reply`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::time::Duration;

use gusset::{
    broker::{Broker, Delivery, Error, Reply},
    call::{BoxError, Context},
};
use tokio::time::sleep;
use tower::service_fn;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let broker = Broker::new();

    let unheard = broker.request::<_, _, u32>("price.get", "lamp", Duration::from_secs(5)).await;
    match unheard {
        Err(error @ Error::NoResponders(_)) => println!("nobody is there, known at once: {error}"),
        other => println!("{other:?}"),
    }

    // Two of one group share the questions; each is answered once.
    let prices = || {
        service_fn(async |product: Delivery<String>| {
            let left = Context::current().deadline().map(|deadline| deadline.remaining());
            let known = left.is_some_and(|left| left <= Duration::from_secs(5));
            println!("prices: {}, and how long there is is known: {known}", product.body());
            if product.body() == "sofa" {
                sleep(Duration::from_secs(60)).await;
            }
            Reply::answer(&(product.body().len() * 10))
        })
    };
    let _one = broker.subscribe("price.get").group("prices").handle(prices()).await?;
    let _two = broker.subscribe("price.get").group("prices").handle(prices()).await?;

    let price: u32 = broker.request("price.get", "lamp", Duration::from_secs(5)).await?;
    println!("a lamp costs {price}");

    let late = broker.request::<_, _, u32>("price.get", "sofa", Duration::from_millis(200)).await;
    match late {
        Err(error @ Error::DeadlineExceeded(_)) => println!("a sofa: {error}"),
        other => println!("{other:?}"),
    }
    Ok(())
}

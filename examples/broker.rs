//! Groups, a poison message, its dead letter, and the redrive: `cargo run --example broker`.

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use gusset::{
    broker::{Broker, Delivery, Filter, Policy},
    call::{BoxError, Deadline},
};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tower::service_fn;

#[derive(Serialize, Deserialize)]
struct Order {
    number: u32,
    customer: String,
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let broker = Broker::new();

    let stock = service_fn(|order: Delivery<Order>| async move {
        println!("  stock: order {} leaves the shelf", order.body().number);
        Ok::<_, BoxError>(())
    });
    let stock = broker.subscribe("order.*").group("stock").handle(stock).await?;

    let repaired = Arc::new(AtomicBool::new(false));
    let template = repaired.clone();
    let mail = service_fn(move |order: Delivery<Order>| {
        let repaired = template.load(Relaxed);
        async move {
            let (Order { number, customer }, attempt) = (order.body(), order.attempt().number());
            if customer.contains(';') && !repaired {
                println!("  mail:  order {number}, attempt {attempt}: the template breaks");
                return Err(BoxError::from(format!("{customer:?} breaks the template")));
            }
            println!("  mail:  dear {customer}, thank you for order {number}");
            Ok(())
        }
    });
    let policy = Policy::new().backoff(Duration::from_millis(100), Duration::from_secs(1));
    let mail = broker.subscribe("order.*").group("mail").policy(policy).handle(mail).await?;

    println!("three orders; one of them is poison for the mail, and holds up nobody:");
    for (number, customer) in [(1, "Ada"), (2, "Bobby; drop table"), (3, "Grace")] {
        let order = Order { number, customer: customer.to_owned() };
        broker.publish("order.created", &order).await?;
    }
    let letters = broker.dead_letters();
    let mails = Filter::all().group("mail");
    while letters.list(&mails, None, 1).await?.is_empty() {
        sleep(Duration::from_millis(10)).await;
    }

    println!("\nits dead letter:");
    for letter in letters.list(&mails, None, 10).await? {
        println!(
            "  {} for {}: {}, {} of them",
            letter.message.subject(),
            letter.group,
            letter.reason,
            letter.attempts
        );
        println!("  payload: {}", String::from_utf8_lossy(letter.message.payload()));
        for (when, failure) in [("first", &letter.first_failure), ("last", &letter.last_failure)] {
            if let Some(failure) = failure {
                println!("  {when} error, attempt {}: {}", failure.attempt, failure.error);
            }
        }
    }

    println!("\nthe template is repaired, and the letter redriven, to the group that failed only:");
    repaired.store(true, Relaxed);
    let redriven = letters.redrive_all(&mails).await?.redriven;
    let under_way = || broker.stats().groups.iter().any(|group| group.ready + group.in_flight > 0);
    while under_way() {
        sleep(Duration::from_millis(10)).await;
    }
    println!("  {redriven} redriven, {} dead letters left", broker.stats().dead_letters);

    let left = broker.close(Deadline::after(Duration::from_secs(5))).await;
    drop((stock, mail));
    println!("\nclosed, {} messages left", left.messages());
    Ok(())
}

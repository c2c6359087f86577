//! A consumer with dead letters: a poison message holds up nobody, waits with its story, and is redriven when the handler is mended.
//!
//! `cargo run --example broker`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use gusset::{
    broker::{Broker, Delivery, Filter, Policy},
    call::{BoxError, Deadline},
};
use tokio::time::sleep;
use tower::service_fn;

static MENDED: AtomicBool = AtomicBool::new(false);

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let broker = Broker::new();
    let stock = service_fn(async |customer: Delivery<String>| {
        println!("  stock: a lamp for {}", customer.body());
        Ok::<_, BoxError>(())
    });
    let _stock = broker.subscribe("order.*").group("stock").handle(stock).await?;

    let mail = service_fn(async |customer: Delivery<String>| {
        let (name, attempt) = (customer.body(), customer.attempt());
        if name.contains(';') && !MENDED.load(Relaxed) {
            println!("  mail:  attempt {attempt}: the template breaks");
            return Err(BoxError::from(format!("{name:?} breaks the template")));
        }
        println!("  mail:  dear {name}, thank you");
        Ok(())
    });
    let policy = Policy::new().backoff(Duration::from_millis(100), Duration::from_secs(1));
    let _mail = broker.subscribe("order.*").group("mail").policy(policy).handle(mail).await?;

    println!("three orders; one of them is poison for the mail, and holds up nobody:");
    for customer in ["Ada", "Bobby; drop table", "Grace"] {
        broker.publish("order.created", customer).await?;
    }
    let letters = broker.dead_letters();
    let of_mail = Filter::all().group("mail");
    while letters.list(&of_mail, None, 1).await?.is_empty() {
        sleep(Duration::from_millis(10)).await;
    }

    println!("its dead letter:");
    for letter in letters.list(&of_mail, None, 10).await? {
        let (subject, payload) = (letter.message.subject(), letter.message.payload());
        println!("  {subject} for {}: {}", letter.group, letter.reason);
        println!("  payload: {}", String::from_utf8_lossy(payload));
        if let Some(last) = &letter.last_failure {
            println!("  last error, attempt {}: {}", last.attempt, last.error);
        }
    }

    println!("the template is mended, and the letter goes back to the group that failed:");
    MENDED.store(true, Relaxed);
    let redriven = letters.redrive_all(&of_mail).await?.redriven;
    while broker.stats().groups.iter().any(|group| group.ready + group.in_flight > 0) {
        sleep(Duration::from_millis(10)).await;
    }
    let left = broker.close(Deadline::after(Duration::from_secs(5))).await;
    println!("{redriven} redriven, {} messages left", left.messages());
    Ok(())
}

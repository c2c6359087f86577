//! The console inside of a service: one page over its circuits, limits and messages, mounted beside its own routes.
//!
//! `cargo run --example console -- --stay` serves until Ctrl-C; without it the program looks at the page itself and ends.

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use axum::{Router, routing::get};
use gusset::{
    breaker::{Circuit, Policy},
    broker::{Broker, Delivery},
    call::BoxError,
    console::{Sources, router},
    ratelimit::{Quota, RateLimiter},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::service_fn;

const TOKEN: &str = "31b8a1a7be1f5a6fbc0df3eb8ad5b27a";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let bank = Circuit::new("bank", Policy::consecutive(1));
    let broker = Broker::new();
    let mails = service_fn(async |_: Delivery<u32>| Ok::<_, BoxError>(()));
    let _mails = broker.subscribe("order.*").group("mails").handle(mails).await?;

    let sources = Sources::new()
        .circuit("payments", &bank)
        .limit("api", RateLimiter::new(Quota::per_second(100)))
        .broker(&broker)
        .operator_token(TOKEN);
    let app = Router::new()
        .route("/orders", get(async || "no orders yet"))
        .nest("/console/", router(sources));

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = format!("http://{}", listener.local_addr()?);
    println!("{server}/console/");
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });
    if std::env::args().any(|argument| argument == "--stay") {
        return Ok(serving.await??);
    }

    let page = reqwest::get(format!("{server}/console/")).await?;
    println!("the page: {}, {:?}", page.status(), page.headers()["content-type"]);
    if let Ok(permit) = bank.try_acquire() {
        permit.failure();
    }
    println!("the circuit of the bank has opened: {}", circuit(&server).await?);

    let order = json!({ "group": "payments", "name": "bank", "do": "reset" }).to_string();
    let client = reqwest::Client::new();
    for token in ["a guess", TOKEN] {
        let request = client.post(format!("{server}/console/api/breakers")).bearer_auth(token);
        let request = request.header("content-type", "application/json").body(order.clone());
        println!("an order with {token:?}: {}", request.send().await?.status());
    }
    println!("after the operator's order it is {:?}", bank.state());
    Ok(())
}

async fn circuit(server: &str) -> Result<Value, BoxError> {
    let page: Value = reqwest::get(format!("{server}/console/api/breakers")).await?.json().await?;
    Ok(page["breakers"][0]["state"].clone())
}

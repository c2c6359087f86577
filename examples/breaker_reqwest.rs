//! A circuit breaker around reqwest: a bank that fails five times in a row is left alone for a while, then tried again.
//!
//! `cargo run --example breaker_reqwest`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::get};
use gusset::{
    breaker::{BreakerLayer, Circuit, HttpStatus, Policy, State},
    call::{BoxError, Reqwest, SendThrough, refusal_in},
};
use tokio::{net::TcpListener, time::sleep};
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let balance = format!("http://{}/balance", bank().await?);
    let client = reqwest::Client::new();

    let circuit = Circuit::new("bank", Policy::consecutive(5).open_for(Duration::from_secs(2)));
    let layer = BreakerLayer::new(circuit.clone()).classify(HttpStatus);
    let bank = layer.layer(Reqwest::new(client.clone()));

    for call in 1..=8 {
        match client.get(&balance).send_through(bank.clone()).await {
            Ok(answer) => println!("call {call}: {}", answer.status()),
            Err(error) => println!("call {call}: {error}"),
        }
    }
    println!("the bank was asked {} times", ASKED.load(Relaxed));

    while circuit.state() != State::Closed {
        match client.get(&balance).send_through(bank.clone()).await {
            Ok(answer) => println!("a probe: {}", answer.status()),
            // The refusal says when the next try makes sense.
            Err(error) => {
                let wait = refusal_in(&*error).and_then(|refusal| refusal.retry_after());
                sleep(wait.ok_or(error)?).await;
            }
        }
    }
    println!("the circuit is closed again");
    Ok(())
}

static ASKED: AtomicU32 = AtomicU32::new(0);

/// Fails five times, and is well from then on.
async fn bank() -> std::io::Result<std::net::SocketAddr> {
    let balance = get(async || match ASKED.fetch_add(1, Relaxed) {
        0..5 => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::OK,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/balance", balance);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

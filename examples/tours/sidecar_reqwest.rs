//! A reqwest client with all layers: what is retried and what is not, within which budget, and what a failure says.
//!
//! `cargo run --example sidecar_reqwest`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use gusset::{
    breaker::{BreakerLayer, Circuit, HttpStatus, Policy},
    call::{BoxError, Reqwest, SendThrough, refusal_in},
    sidecar::{Sidecar, Waterfall, carry},
};
use reqwest::Client;
use tokio::{net::TcpListener, task::JoinSet};
use tower::{Layer, ServiceBuilder};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let bank = Sidecar::new("bank");
    let addr = serve(&bank).await?;
    let (pay, down) = (format!("http://{addr}/payments"), format!("http://{addr}/down"));

    let sidecar = Sidecar::new("till");
    let http = Client::new();
    let layered = sidecar.outbound("bank").layer(Reqwest::new(http.clone()));

    println!("a payment is not repeated, for nobody knows what came of it:");
    let answer = http.post(&pay).body("42 EUR").send_through(layered.clone()).await?;
    println!("  till: {}", answer.status());

    println!("\nwith a key by which the bank can tell, it is, as a whole:");
    let request = http.post(&pay).header("idempotency-key", "order-4711").body("42 EUR");
    let answer = request.send_through(layered.clone()).await?;
    println!("  till: {}, {}", answer.status(), answer.text().await?);

    println!("\ntwo at once within an operation; tasks stay in its trace:");
    let closing = sidecar.intercept("close the till", async {
        let mut payments = JoinSet::new();
        for key in ["a", "b"] {
            let request = http.post(&pay).header("idempotency-key", key).body("1 EUR");
            let sent = request.send_through(layered.clone());
            payments.spawn(carry(async { Ok::<_, BoxError>(sent.await?.text().await?) }));
        }
        payments.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()
    });
    println!("  till: {:?}", closing.await?);
    let trace = sidecar.recorder().recent(1)[0].trace_id;
    let records = [sidecar.recorder().trace(trace), bank.recorder().trace(trace)].concat();
    print!("{}", Waterfall::new(&records));

    println!("\na bank that is down: 200 calls that may be repeated, and the budget for retries:");
    let mut calls = JoinSet::new();
    let before = DOWN.load(Relaxed);
    for _ in 0..200 {
        calls.spawn(http.get(&down).send_through(layered.clone()));
    }
    calls.join_all().await;
    let attempts = DOWN.load(Relaxed) - before;
    println!("  {attempts} attempts instead of {}, all answered 503", 200 * 4);
    let within = attempts <= 200 + 100 + 200 / 5;
    println!("  within 20 % of the calls and 10 in each second: {within}");

    println!("\nbehind a circuit breaker a failure says when to come back:");
    let circuit = Circuit::new("bank", Policy::consecutive(4));
    let guarded = ServiceBuilder::new()
        .layer(sidecar.outbound("guarded bank"))
        .layer(BreakerLayer::new(circuit).classify(HttpStatus))
        .service(Reqwest::new(http.clone()));
    for _ in 0..2 {
        match http.get(&down).send_through(guarded.clone()).await {
            Ok(answer) => println!("  till: {}", answer.status()),
            Err(error) => {
                let wait = refusal_in(&*error).and_then(|refusal| refusal.retry_after());
                let wait = wait.map_or(0, |wait| wait.as_secs_f64().ceil() as u64);
                println!("  till: {error}, come back in {wait} s");
            }
        }
    }
    Ok(())
}

static DOWN: AtomicU32 = AtomicU32::new(0);

/// A bank on a free port that fails at every other payment.
async fn serve(sidecar: &Sidecar) -> Result<SocketAddr, BoxError> {
    static PAYMENTS: AtomicU32 = AtomicU32::new(0);
    let pay = post(async |headers: HeaderMap, body: String| {
        let key = headers.get("idempotency-key").and_then(|key| key.to_str().ok());
        println!("  bank: {body}, key {}", key.unwrap_or("none"));
        let fails = PAYMENTS.fetch_add(1, Relaxed) < 2;
        if fails { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok("paid") }
    });
    let down = get(async || {
        DOWN.fetch_add(1, Relaxed);
        StatusCode::SERVICE_UNAVAILABLE
    });
    let router = Router::new().route("/payments", pay).route("/down", down);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let router = router.layer(sidecar.inbound());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(addr)
}

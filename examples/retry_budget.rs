//! Retries within a budget: a failure now and then is seen by nobody, and an outage is made a fifth larger instead of four times as large.
//!
//! `cargo run --example retry_budget`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use axum::{Router, http::StatusCode, routing::any};
use gusset::{
    call::{BoxError, Reqwest, SendThrough},
    sidecar::{Backoff, Budget, Outbound, Ratio, RetryPolicy, Sidecar},
};
use reqwest::{Client, Method};
use tokio::net::TcpListener;
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let stock = format!("http://{}/lamp", stock().await?);
    let client = Client::new();

    // The default is this share as well, and 10 retries a second besides; none besides shows the share alone.
    let stack = || {
        let budget = Budget::new(Ratio::percent(20), 0, Duration::from_secs(10));
        let pause = Backoff::exponential(Duration::from_millis(5), Duration::from_millis(20));
        let retry = RetryPolicy::default().retries(3).backoff(pause).budget(budget);
        let sidecar = Sidecar::new("shop").retry(retry);
        sidecar.outbound("stock").layer(Reqwest::new(client.clone()))
    };
    let ask = async |method: Method, stack: &Stack| {
        let answer = client.request(method, &stock).send_through(stack.clone()).await?;
        Ok::<_, BoxError>(u32::from(answer.status().is_success()))
    };

    for (what, down) in [("one in ten fails", false), ("all fail", true)] {
        DOWN.store(down, Relaxed);
        let (stack, mut answered) = (stack(), 0);
        for _ in 0..100 {
            answered += ask(Method::GET, &stack).await?;
        }
        let attempts = attempts();
        println!("{what}: {answered} of 100 calls answered");
        println!("  by no more than 120 attempts: {}", attempts <= 120);
    }
    ask(Method::POST, &stack()).await?;
    println!("a POST, which the stock may have acted on: {} attempt", attempts());
    Ok(())
}

type Stack = Outbound<Reqwest>;

static DOWN: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicU32 = AtomicU32::new(0);

/// Those since it was last asked for.
fn attempts() -> u32 {
    ASKED.swap(0, Relaxed)
}

async fn stock() -> std::io::Result<SocketAddr> {
    let lamp = any(async || {
        let fails = DOWN.load(Relaxed) || ASKED.load(Relaxed) % 10 == 9;
        ASKED.fetch_add(1, Relaxed);
        if fails { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/lamp", lamp);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

//! Load shedding by priority: when places get scarce, reports are refused first and orders last.
//!
//! `cargo run --example shed_by_priority`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{num::NonZeroU32, sync::Arc};

use axum::{Router, body::Body, http::Request, routing::get};
use gusset::{
    call::{AnswerLayer, BoxError},
    ratelimit::{Concurrency, ConcurrencyLimitLayer, ConcurrencyLimiter, Priority, Ratio},
};
use http_body_util::BodyExt;
use tokio::{sync::Semaphore, task::JoinSet};
use tower::{ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let ten = Concurrency::fixed(NonZeroU32::MIN.saturating_add(9)).low_share(Ratio::percent(80));
    let limiter = ConcurrencyLimiter::new("shop", ten);
    let limit =
        ConcurrencyLimitLayer::new(limiter.clone()).priority(
            |request: &Request<Body>| match request.uri().path() {
                "/reports" => Priority::Low,
                _ => Priority::Normal,
            },
        );

    let finish = Arc::new(Semaphore::new(0));
    let worker = finish.clone();
    let work = get(async move || worker.acquire().await.map_or("closed", |_place| "done"));
    let shop: Router = Router::new()
        .route("/orders", work.clone())
        .route("/reports", work)
        .layer(ServiceBuilder::new().layer(AnswerLayer::new()).layer(limit));

    println!("ten places; eight orders are worked on");
    let mut orders = JoinSet::new();
    for _ in 0..8 {
        orders.spawn(ask(shop.clone(), "/orders"));
    }
    while limiter.in_flight() < 8 {
        tokio::task::yield_now().await;
    }
    println!("a report: {}", ask(shop.clone(), "/reports").await?);
    for _ in 0..2 {
        orders.spawn(ask(shop.clone(), "/orders"));
    }
    while limiter.in_flight() < 10 {
        tokio::task::yield_now().await;
    }
    println!(
        "two more orders found their places; the eleventh: {}",
        ask(shop.clone(), "/orders").await?
    );

    finish.add_permits(1);
    let done: Vec<_> = orders.join_all().await.into_iter().collect::<Result<_, _>>()?;
    println!("all ten orders: {}", done.iter().all(|answer| answer == "200 OK done"));
    println!("a report now: {}", ask(shop, "/reports").await?);
    Ok(())
}

async fn ask(shop: Router, path: &str) -> Result<String, BoxError> {
    let answer = shop.oneshot(Request::get(path).body(Body::empty())?).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(format!("{status} {}", String::from_utf8_lossy(&body)))
}

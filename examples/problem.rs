//! Problem answers (RFC 9457): what a handler says, and what layers refuse, in one shape that tells when to come back.
//!
//! `cargo run --example problem`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::time::Duration;

use axum::{Router, body::Body, extract::Path, routing::get};
use gusset::{
    call::{AnswerLayer, BoxError, Open},
    problem::Problem,
    ratelimit::{Quota, RateLimitLayer, RateLimiter},
};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::{ServiceBuilder, ServiceExt};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let limit = RateLimitLayer::new(RateLimiter::new(Quota::per_hour(3)));
    let shop: Router = Router::new()
        .route("/items/{id}", get(item))
        .layer(ServiceBuilder::new().layer(AnswerLayer::new()).layer(limit));

    for (path, what) in [
        ("/items/0", "of the handler's own"),
        ("/items/1", "a refusal within the handler: a circuit is open"),
        ("/items/2", "an error of the inside, of which clients learn nothing"),
        ("/items/3", "a refusal of a layer: the limit"),
    ] {
        println!("{what}:");
        let answer = shop.clone().oneshot(Request::get(path).body(Body::empty())?).await?;
        println!("  {}, {:?}", answer.status(), answer.headers()["content-type"]);
        if let Some(wait) = answer.headers().get("retry-after") {
            println!("  retry-after: {}", wait.to_str()?);
        }
        let body = answer.into_body().collect().await?.to_bytes();
        println!("  {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

async fn item(Path(id): Path<u32>) -> Result<String, Problem> {
    if id == 0 {
        return Err(Problem::new(StatusCode::NOT_FOUND).detail("there is no item 0"));
    }
    // Any error becomes one: a refusal as what it is, all else as 500.
    Ok(stock(id).await?)
}

async fn stock(id: u32) -> Result<String, BoxError> {
    match id {
        1 => Err(Open::new("stock").with_retry_after(Duration::from_secs(7)).into()),
        2 => Err("password authentication failed for user \"stock\"".into()),
        _ => Ok("a lamp".to_owned()),
    }
}

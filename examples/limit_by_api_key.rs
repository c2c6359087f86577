//! A limit for each API key on a route of axum: two requests a minute for each, and who has none is refused.
//!
//! `cargo run --example limit_by_api_key`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::num::NonZeroUsize;

use axum::{Router, routing::get};
use gusset::{
    call::{AnswerLayer, BoxError},
    ratelimit::{Header, Keyed, Quota, RateLimitLayer, WithoutKey},
};
use http::{HeaderName, HeaderValue};
use reqwest::Client;
use tokio::net::TcpListener;
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // Memory for so many keys, however many there are. Something outside has to have checked them: who can invent keys can invent quotas.
    let keys =
        Keyed::<HeaderValue>::new(Quota::per_minute(2), NonZeroUsize::MIN.saturating_add(9_999));
    let by_key = RateLimitLayer::keyed(keys, Header::new(HeaderName::from_static("x-api-key")))
        .without_key(WithoutKey::Refuse)
        .headers("minute");
    let router = Router::new()
        .route("/quote", get(async || "All happy families are alike."))
        .route_layer(ServiceBuilder::new().layer(AnswerLayer::new()).layer(by_key))
        .route("/livez", get(async || "ok"));

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });

    let client = Client::new();
    for (who, path) in [
        ("ann", "/quote"),
        ("ann", "/quote"),
        ("ann", "/quote"),
        ("bob", "/quote"),
        ("nobody", "/quote"),
        ("nobody", "/livez"),
    ] {
        let mut request = client.get(format!("{server}{path}"));
        if who != "nobody" {
            request = request.header("x-api-key", who);
        }
        let answer = request.send().await?;
        print!("{who} {path}: {}", answer.status());
        for name in ["ratelimit", "retry-after"] {
            if let Some(value) = answer.headers().get(name) {
                print!(", {name}: {}", value.to_str()?);
            }
        }
        println!();
    }
    Ok(())
}

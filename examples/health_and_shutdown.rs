//! A process that leaves in order: unready at once, still serving for a notice period, ended when its last request is answered.
//!
//! `cargo run --example health_and_shutdown`; in a service `shutdown.signalled().await` waits for SIGTERM or Ctrl-C instead of `begin`.

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::time::Duration;

use axum::{Router, routing::get};
use gusset::{call::BoxError, health::Health, shutdown::Shutdown};
use tokio::{
    net::TcpListener,
    time::{sleep, timeout},
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let shutdown = Shutdown::new(Duration::from_secs(2));
    let health = Health::new(&shutdown).check("database", || Ok(()));
    let arrived = std::sync::Arc::new(tokio::sync::Notify::new());
    let told = arrived.clone();
    let slow = async move || {
        told.notify_one();
        sleep(Duration::from_secs(3)).await;
        "the report"
    };
    let app = Router::new().route("/report", get(slow)).merge(health.router());

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = format!("http://{}", listener.local_addr()?);
    let work = shutdown.guard();
    let serving = axum::serve(listener, app).with_graceful_shutdown(shutdown.noticed());
    tokio::spawn(async move {
        let _until_it_ends = work;
        serving.await
    });

    show(&server).await?;
    let report = tokio::spawn(reqwest::get(format!("{server}/report")));
    arrived.notified().await;

    println!("it is told to leave while a report is being made");
    shutdown.begin();
    show(&server).await?;
    println!("  /health: {}", reqwest::get(format!("{server}/health")).await?.text().await?);

    shutdown.finished(Duration::from_secs(30)).await?;
    println!("all work has ended; the client got {}", report.await??.text().await?);
    let refused = timeout(Duration::from_secs(5), reqwest::get(format!("{server}/livez"))).await?;
    println!("nobody listens any more: {}", refused.is_err());
    Ok(())
}

/// What probers see.
async fn show(server: &str) -> Result<(), BoxError> {
    for path in ["/livez", "/readyz"] {
        let answer = reqwest::get(format!("{server}{path}")).await?;
        println!("  {path}: {}", answer.status());
    }
    Ok(())
}

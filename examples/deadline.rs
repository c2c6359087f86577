//! A deadline that travels: the browser waits two seconds, and all three services behind it stop working when that is over.
//!
//! `cargo run --example deadline`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{net::SocketAddr, time::Duration};

use axum::{Router, http::StatusCode, routing::get};
use gusset::{
    call::{BoxError, Context, Deadline, Problem, Reqwest, SendThrough},
    sidecar::Sidecar,
};
use tokio::{net::TcpListener, sync::mpsc, time::sleep};
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (left, mut leaves) = mpsc::unbounded_channel();
    let stock = serve("stock", None, left.clone()).await?;
    let shop = serve("shop", Some(stock), left.clone()).await?;
    let front = serve("front", Some(shop), left).await?;

    let patience = Context::default().with_deadline(Deadline::after(Duration::from_secs(2)));
    match patience.scope(ask("browser", front)).await {
        Ok(status) => println!("browser: {status}"),
        Err(error) => println!("browser: {error}"),
    }
    for _ in 0..3 {
        leaves.recv().await;
    }
    println!("nobody works any more for who has gone");
    Ok(())
}

/// A service that asks the next one, or takes a minute.
async fn serve(
    name: &'static str,
    next: Option<SocketAddr>,
    left: mpsc::UnboundedSender<()>,
) -> std::io::Result<SocketAddr> {
    let handler = get(move || async move {
        let _left = Left(left);
        let had = Context::current().deadline().map(|deadline| deadline.remaining());
        let within = had.is_some_and(|left| left <= Duration::from_secs(2));
        println!("{name}: has no more than the browser's two seconds: {within}");
        match next {
            Some(next) => Ok::<_, Problem>(ask(name, next).await?),
            None => {
                sleep(Duration::from_secs(60)).await;
                Ok(StatusCode::OK)
            }
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/", handler).layer(Sidecar::new(name).inbound());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn ask(who: &'static str, whom: SocketAddr) -> Result<StatusCode, BoxError> {
    let client = reqwest::Client::new();
    let layered = Sidecar::new(who).outbound("next").layer(Reqwest::new(client.clone()));
    let answer = client.get(format!("http://{whom}/")).send_through(layered).await?;
    Ok(answer.status())
}

/// Dropped with the handler that it is in.
struct Left(mpsc::UnboundedSender<()>);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

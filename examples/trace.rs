//! One trace over two services: each call, each attempt and each piece of work below its cause, without a collector.
//!
//! `cargo run --example trace`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use axum::{Router, extract::MatchedPath, http::StatusCode, routing::get};
use gusset::{
    call::{BoxError, Problem, Reqwest, SendThrough},
    sidecar::{Sidecar, Waterfall},
};
use tokio::net::TcpListener;
use tower::Layer;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (shop, stock) = (sidecar("shop"), sidecar("stock"));

    // Fails once, so that there are two attempts.
    static STARTS: AtomicBool = AtomicBool::new(true);
    let items = get(async || match STARTS.swap(false, Relaxed) {
        true => Err(StatusCode::SERVICE_UNAVAILABLE),
        false => Ok("3"),
    });
    let stock_at = serve(Router::new().route("/items/{item}", items), &stock).await?;

    let asking = shop.clone();
    let offers = get(async move || {
        let client = reqwest::Client::new();
        let to_stock = asking.outbound("stock").layer(Reqwest::new(client.clone()));
        let url = format!("http://{stock_at}/items/lamp");
        let answer = client.get(url).send_through(to_stock).await?;
        let count = answer.text().await.map_err(BoxError::from)?;
        // Work that is no HTTP.
        let price = async { Ok::<_, BoxError>(40) };
        let price = asking.intercept("SELECT price", price).await?;
        Ok::<_, Problem>(format!("{count} lamps at {price} €"))
    });
    let shop_at = serve(Router::new().route("/offers/{item}", offers), &shop).await?;

    let answer = reqwest::get(format!("http://{shop_at}/offers/lamp")).await?;
    println!("{}", answer.text().await?);

    let all = [&shop, &stock].map(|sidecar| sidecar.recorder().recent(10)).concat();
    let traces: std::collections::HashSet<_> = all.iter().map(|record| record.trace_id).collect();
    println!("{} records of two services, {} trace:", all.len(), traces.len());
    print!("{}", Waterfall::new(&all));
    Ok(())
}

/// With the routes that axum has matched.
fn sidecar(service: &'static str) -> Sidecar {
    Sidecar::new(service)
        .route_of(|extensions| Some(extensions.get::<MatchedPath>()?.as_str().to_owned().into()))
}

async fn serve(router: Router, sidecar: &Sidecar) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = router.layer(sidecar.inbound());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

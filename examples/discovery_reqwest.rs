//! Client-side discovery with reqwest: calls go to who is registered, and to nobody who is about to leave.
//!
//! `cargo run --example discovery_reqwest`

use std::{
    error::Error,
    io::{self, Write},
    time::Duration,
};

use axum::{Router, routing::get};
use gusset::{
    call::Reqwest,
    registry::{
        Balance, Http, Instance, LeastLoaded, MemoryRegistry, Registration, Registry, ToInstance,
    },
};
use http::Request;
use http_body_util::BodyExt;
use reqwest::{Body, Client};
use tokio::net::TcpListener;
use tower::ServiceExt;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    // Any engine does: `EtcdRegistry` and `RemoteRegistry` are used in the same way.
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    let one = start(&registry, "one").await?;
    let _two = start(&registry, "two").await?;

    // One client with one pool of connections; each endpoint points the request at its instance.
    let client = Reqwest::new(Client::new());
    let shop = Balance::new(registry.watch("shop"), move |instance: &Instance| {
        ToInstance::new(client.clone(), instance)
    })
    .protocol(Http)
    .pick(LeastLoaded::new());

    let mut one = Some(one);
    for call in 0..12 {
        if let Some(one) = one.take_if(|_| call == 6) {
            // It says that it leaves, and serves on until all callers know.
            one.close_after(Duration::from_millis(100)).await?;
            writeln!(io::stdout(), "one has left")?;
        }
        let response = shop.clone().oneshot(Request::new(Body::default())).await?;
        let body = response.into_body().collect().await?.to_bytes();
        writeln!(io::stdout(), "{} answers", String::from_utf8_lossy(&body))?;
    }
    Ok(())
}

/// Serves on a free port and says so.
async fn start(registry: &MemoryRegistry, name: &'static str) -> Result<Registration> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let router = Router::new().route("/", get(move || async move { name }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let instance = Instance::new("shop", "127.0.0.1", port);
    let registration = Registration::spawn(registry.clone(), instance);
    registration.registered().await?;
    Ok(registration)
}

//! The standard stacks: a server, and its client by name. Two of three instances are killed, and no call fails.
//!
//! `cargo run --example standard`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use axum::{Router, routing::get};
use bytes::Bytes;
use gusset::{
    breaker::Policy,
    call::BoxError,
    registry::{Instance, MemoryRegistry, Registration, Registry},
    sidecar::{Sidecar, SpanKind},
    standard::{circuits, server, standard},
};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, task::JoinHandle};
use tower::ServiceExt;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    let mut servers = Vec::new();
    for name in ["one", "two", "three"] {
        servers.push(serve(&registry, name).await?);
    }

    // trace → metrics → retry → deadline → balance → circuit of the instance → connection
    let sidecar = Sidecar::new("shop");
    let circuits = circuits(&sidecar, Policy::instance());
    let http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
    let quotes = standard(&sidecar, registry.watch("quotes"), &circuits, http);

    let (mut answered, mut failed) = (0, 0);
    for call in 0..300 {
        if call == 100 {
            println!("two of three are killed; the registry does not know it yet");
            for (server, _) in servers.drain(..2) {
                server.abort();
                let _ = server.await;
            }
        }
        // A path only: the host is that of an instance.
        let request = Request::get("/quote").body(Full::<Bytes>::default())?;
        match quotes.clone().oneshot(request).await {
            Ok(answer) if answer.status().is_success() => {
                answer.into_body().collect().await?;
                answered += 1;
            }
            _ => failed += 1,
        }
    }
    println!("{answered} calls answered, {failed} failed");
    let calls = sidecar.metrics().snapshot().total(SpanKind::Client).count();
    println!("{calls} calls in the client's metrics");
    Ok(())
}

/// One instance, whose registration outlives it as that of a killed process does.
async fn serve(
    registry: &MemoryRegistry,
    name: &'static str,
) -> Result<(JoinHandle<std::io::Result<()>>, Registration), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = Instance::new("quotes", "127.0.0.1", listener.local_addr()?.port());
    // trace → metrics → answers → deadline → limit of calls at once
    let layers = server(&Sidecar::new("quotes"));
    let router = Router::new().route("/quote", get(async move || name)).layer(layers);
    let serving = tokio::spawn(async move { axum::serve(listener, router).await });
    let registration = Registration::spawn(registry.clone(), at);
    registration.registered().await?;
    Ok((serving, registration))
}

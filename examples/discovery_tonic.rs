//! Client-side discovery with tonic: a channel for each instance, the generated client around a balancer over them.
//!
//! `cargo run --example discovery_tonic`

use std::{
    error::Error,
    io::{self, Write},
    time::Duration,
};

use gusset::registry::{
    Balance, Http, Instance, LeastLoaded, MemoryRegistry, Registration, Registry,
};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint, Server, server::TcpIncoming};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    // Any engine does: `EtcdRegistry` and `RemoteRegistry` are used in the same way.
    let registry = MemoryRegistry::default();
    let _sweeper = registry.spawn_sweeper();
    let one = start(&registry, "one").await?;
    let _two = start(&registry, "two").await?;

    let channel = |instance: &Instance| -> Channel {
        let place = Endpoint::from_shared(format!("http://{}", instance.authority()));
        place.unwrap_or_else(|_| Endpoint::from_static("http://invalid")).connect_lazy()
    };
    let balance = Balance::new(registry.watch("health"), channel)
        // Codes of gRPC tell whether an instance failed.
        .protocol(Http)
        .pick(LeastLoaded::new());
    let mut client = HealthClient::new(balance);

    let mut one = Some(one);
    for call in 0..12 {
        if let Some(one) = one.take_if(|_| call == 6) {
            // It says that it leaves, and serves on until all callers know.
            one.close_after(Duration::from_millis(100)).await?;
            writeln!(io::stdout(), "one has left")?;
        }
        // Each server knows its own name only.
        let answer = client.check(HealthCheckRequest { service: "one".into() }).await;
        let who = match answer {
            Ok(_) => "one",
            Err(status) if status.code() == tonic::Code::NotFound => "two",
            Err(status) => return Err(status.into()),
        };
        writeln!(io::stdout(), "{who} answers")?;
    }
    Ok(())
}

/// Serves on a free port and says so.
async fn start(registry: &MemoryRegistry, name: &'static str) -> Result<Registration> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(name, ServingStatus::Serving).await;
    let server = Server::builder().add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    let instance = Instance::new("health", "127.0.0.1", port);
    let registration = Registration::spawn(registry.clone(), instance);
    registration.registered().await?;
    Ok(registration)
}

//! Puts the parts together, serves until it is told to leave, and leaves in order.

use std::{error::Error, sync::Arc, time::Duration};

use gusset::{
    health::Health,
    registry::{Instance, Registration, RemotePolicy, RemoteRegistry},
    shutdown::Shutdown,
    sidecar::Sidecar,
};
use items::{handler, repository::InMemory, service::Items, settings::Settings};
use tokio::net::TcpListener;

/// How long what is under way may take at the end. Keep the orchestrator's own limit above it.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let settings = Settings::from_env(|name| std::env::var(name).ok())?;
    let sidecar = Sidecar::new("items").route_of(handler::route);
    let items = Items::new(Arc::new(InMemory::default()));

    let shutdown = Shutdown::new(settings.notice);
    let health = Health::new(&shutdown);
    let app = handler::router(items, &sidecar)
        .merge(health.router())
        .route_service("/metrics", sidecar.metrics().endpoint());

    let listener = TcpListener::bind(("0.0.0.0", settings.port)).await?;
    let port = listener.local_addr()?.port();
    let registration = match &settings.registry {
        None => None,
        Some(url) => {
            let registry = RemoteRegistry::new(url, RemotePolicy::default())?;
            Some(Registration::spawn(registry, Instance::new("items", settings.host, port)))
        }
    };
    println!("listens on port {port}");

    let work = shutdown.guard();
    let server = axum::serve(listener, app).with_graceful_shutdown(shutdown.noticed());
    let serving = tokio::spawn(async move {
        let _until_it_ends = work;
        server.await
    });

    shutdown.signalled().await?;
    if let Some(registration) = registration {
        registration.close().await?;
    }
    shutdown.finished(LIMIT).await?;
    serving.await??;
    Ok(())
}

//! gRPC with all layers on both sides: retries of what may be repeated, deadlines that travel, refusals as codes.
//!
//! `cargo run --example sidecar_tonic`

#![allow(clippy::print_stdout, reason = "a program that tells a story")]

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use gusset::{
    call::{Attempt, BoxError, Context, Deadline, Tonic, to_status},
    sidecar::{Idempotent, Sidecar, Waterfall},
};
use tokio::net::TcpListener;
use tonic::{
    Request, Status,
    service::interceptor::InterceptedService,
    transport::{Endpoint, Server, server::TcpIncoming},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::ServiceBuilder;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (client, server) = (Sidecar::new("client"), Sidecar::new("server"));
    let addr = serve(&server).await?;

    let channel = Endpoint::from_shared(format!("http://{addr}"))?.connect_lazy();
    let stack = ServiceBuilder::new()
        .map_err(to_status)
        .layer(client.outbound("health"))
        .service(Tonic::new(channel));
    let mut health = HealthClient::new(stack);
    let ask = |name: &str| Request::new(HealthCheckRequest { service: name.into() });

    println!("a call that may be repeated, and a server that is not there yet:");
    let mut repeatable = ask("");
    repeatable.extensions_mut().insert(Idempotent(true));
    let answer = health.check(repeatable).await?.into_inner();
    println!("  client: {:?}", answer.status());

    println!("\nits trace; two answers were 14, UNAVAILABLE:");
    let mut records = [client.recorder().recent(1), server.recorder().recent(3)].concat();
    records.sort_by_key(|record| record.start_unix_nanos);
    print!("{}", Waterfall::new(&records));

    println!("\na call that may not be repeated is made once, for every method of gRPC is POST:");
    NOT_THERE.store(1, Relaxed);
    println!("  client: {}", code(health.check(ask("")).await));

    println!("\nwhat asks for the impossible is not repeated either:");
    println!("  client: {}", code(health.check(ask("no.such.Service")).await));

    println!("\nwho handles a call with a deadline passes it on:");
    let cx = Context::default().with_deadline(Deadline::after(Duration::from_secs(7)));
    println!("  client: {}", code(cx.scope(health.check(ask(""))).await));

    println!("\nand calls nobody when it has passed:");
    let cx = Context::default().with_deadline(Deadline::after(Duration::ZERO));
    println!("  client: {}", code(cx.scope(health.check(ask(""))).await));
    Ok(())
}

fn code<T>(result: Result<T, Status>) -> String {
    result.map_or_else(|status| format!("{:?}", status.code()), |_| "Ok".to_owned())
}

/// So many calls will find nobody.
static NOT_THERE: AtomicU32 = AtomicU32::new(2);

/// tonic's health service on a free port, with all layers around it.
async fn serve(sidecar: &Sidecar) -> Result<SocketAddr, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder()
        .layer(sidecar.inbound())
        .add_service(InterceptedService::new(health, arrived));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    Ok(addr)
}

/// Each call on its way into the service.
fn arrived(request: Request<()>) -> Result<Request<()>, Status> {
    let left = Context::current().deadline().map(|deadline| deadline.remaining().as_secs() + 1);
    println!("  server: attempt {}, up to {} s left", Attempt::current(), left.unwrap_or_default());
    if NOT_THERE.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
        return Err(Status::unavailable("it starts"));
    }
    Ok(request)
}

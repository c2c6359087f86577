//! Every layer works unchanged in the five places where services live: an axum router, a tonic server, a tonic channel,
//! reqwest, and hyper-util's client. All over real sockets.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};

use axum::{Router, http::StatusCode, routing::get};
use tokio::net::TcpListener;

/// tonic's health service with `$layer` around it, and how many requests reach it. It knows only the empty name, every other is
/// `NOT_FOUND`.
macro_rules! grpc_server {
    ($layer:expr) => {{
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let reached = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counter = reached.clone();
        let counting = tower::util::MapRequestLayer::new(move |request: http::Request<_>| {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            request
        });
        let (_, health) = tonic_health::server::health_reporter();
        let server = tonic::transport::Server::builder();
        let server = server.layer($layer).layer(counting).add_service(health);
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tokio::spawn(server.serve_with_incoming(incoming));
        let endpoint = tonic::transport::Endpoint::try_from(format!("http://{addr}")).unwrap();
        (endpoint, reached)
    }};
}

mod breaker;
mod family;
mod ratelimit;

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async move { axum::serve(listener, service).await });
    addr
}

/// A server that answers with `status` and counts the requests that reach it.
async fn answering(status: StatusCode) -> (SocketAddr, Arc<AtomicU32>) {
    let reached = Arc::new(AtomicU32::new(0));
    let counter = reached.clone();
    let handler = get(async move || {
        counter.fetch_add(1, SeqCst);
        status
    });
    (serve(Router::new().route("/", handler)).await, reached)
}

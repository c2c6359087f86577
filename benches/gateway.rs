//! What does a gateway add to a GET that is answered with 1 KiB?
//!
//! Everything runs over loopback sockets in this process, on a runtime with two workers: a client with raw HTTP/1.1 connections, the
//! front, and an upstream of axum. `1_connection` sends one request after the other; `32_connections` do so at once, and the
//! time is that of all divided by the number of requests.
//!
//! - `gusset`: routed, with a deadline, a circuit, retries, metrics and trace headers, to the one instance in a registry; no quota.
//! - `bare` is a hyper server that forwards by hyper-util's legacy client, with connections kept, and does nothing else: not even the
//!   headers of the connection are removed.
//! - `direct` has nothing between the client and the upstream: what the sockets and axum cost.

#![allow(clippy::expect_used, reason = "a bench that cannot be set up has nothing to measure")]

mod common;

use std::{
    convert::Infallible,
    future::pending,
    net::SocketAddr,
    time::{Duration, Instant},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use gusset_gateway::{FixedAnswer, Gateway, Route, serve};
use gusset_registry::{Health, Instance, MemoryRegistry, Registry};
use http::{Request, Response, StatusCode, Uri, uri::Scheme};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
};
use tower::ServiceExt;

type Body = Empty<Bytes>;

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it listens");
    (listener, address)
}

async fn upstream() -> SocketAddr {
    let app = Router::new().route("/orders/7", get(|| async { Bytes::from_static(&[b'x'; 1024]) }));
    let (listener, address) = listen().await;
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        let _ = stream.set_nodelay(true);
    });
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

async fn gusset(upstream: SocketAddr) -> SocketAddr {
    let registry = MemoryRegistry::default();
    let instance = Instance::new("orders", upstream.ip().to_string(), upstream.port());
    let registered = registry.register(instance.with_health(Health::Healthy)).await;
    registered.expect("there is room");
    let route = Route::new("/orders/{id}").to("orders");
    let gateway = Gateway::builder(registry).route(route).build().expect("the route is valid");
    let (listener, address) = listen().await;
    tokio::spawn(serve(listener, gateway, pending()));
    address
}

async fn bare(upstream: SocketAddr) -> SocketAddr {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build::<_, Incoming>(connector);
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let client = client.clone();
            let forward = service_fn(move |request| forward(client.clone(), upstream, request));
            let mut server = http1::Builder::new();
            server.timer(TokioTimer::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), forward));
        }
    });
    address
}

async fn forward(
    client: Client<HttpConnector, Incoming>,
    upstream: SocketAddr,
    mut request: Request<Incoming>,
) -> Result<Response<http_body_util::Either<Incoming, Full<Bytes>>>, Infallible> {
    let mut uri = request.uri().clone().into_parts();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = upstream.to_string().parse().ok();
    *request.uri_mut() = Uri::from_parts(uri).expect("it has all parts");
    Ok(match client.request(request).await {
        Ok(response) => response.map(http_body_util::Either::Left),
        Err(error) => {
            let body = Full::from(error.to_string());
            let mut response = Response::new(http_body_util::Either::Right(body));
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            response
        }
    })
}

async fn connect(address: SocketAddr) -> SendRequest<Body> {
    let stream = TcpStream::connect(address).await.expect("somebody listens");
    stream.set_nodelay(true).expect("it is a TCP socket");
    let (client, connection) = handshake(TokioIo::new(stream)).await.expect("it is open");
    tokio::spawn(connection);
    client
}

async fn fetch(client: &mut SendRequest<Body>) {
    client.ready().await.expect("the connection is kept");
    let request = Request::get("/orders/7").header("host", "shop.example").body(Body::new());
    let response = client.send_request(request.expect("it is valid")).await;
    let response = response.expect("it is answered");
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.expect("it comes whole");
    assert_eq!(body.to_bytes().len(), 1024);
}

/// How long `requests` take over connections that are shared out evenly, extrapolated where that does not divide them.
async fn load(clients: &mut Vec<SendRequest<Body>>, requests: u64) -> Duration {
    let each = requests.div_ceil(clients.len() as u64);
    let made = each * clients.len() as u64;
    let began = Instant::now();
    let tasks = clients.drain(..).map(|mut client| {
        tokio::spawn(async move {
            for _ in 0..each {
                fetch(&mut client).await;
            }
            client
        })
    });
    let tasks: Vec<_> = tasks.collect();
    for task in tasks {
        clients.push(task.await.expect("no task panics"));
    }
    began.elapsed().mul_f64(requests as f64 / made as f64)
}

fn gateway(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gateway");
    group.throughput(Throughput::Elements(1));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime: Runtime = runtime.expect("two threads can be started");
    let upstream = runtime.block_on(upstream());
    let fronts = [
        ("gusset", runtime.block_on(gusset(upstream))),
        ("bare", runtime.block_on(bare(upstream))),
        ("direct", upstream),
    ];
    for (case, connections) in [("get_1kib_1_connection", 1), ("get_1kib_32_connections", 32)] {
        for (who, address) in fronts {
            let mut clients: Vec<_> =
                (0..connections).map(|_| runtime.block_on(connect(address))).collect();
            group.bench_function(format!("{case}/{who}"), |bencher| {
                bencher.iter_custom(|requests| runtime.block_on(load(&mut clients, requests)));
            });
        }
    }
    group.finish();
}

/// A gateway with these many routes, `/service-7/orders/{id}` and so on, that answers itself.
fn routed(routes: usize) -> Gateway {
    let builder = Gateway::builder(MemoryRegistry::default());
    let route = |number| {
        Route::new(format!("/service-{number}/orders/{{id}}")).answer(FixedAnswer::text("ok"))
    };
    let builder = (0..routes).map(route).fold(builder, gusset_gateway::Builder::route);
    builder.build().expect("the routes are valid")
}

/// What does it cost to find one of many routes? No sockets: all of it is the gateway's, with metrics and a fixed answer. Requests go to one route after the other, so that
/// nothing of the table is in a cache by chance.
fn routes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("gateway_routes");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime: Runtime = runtime.expect("a runtime can be made");
    for count in [10, 1_000, 10_000] {
        let gateway = routed(count);
        // A stride that meets all of them in an order that is none.
        let target = |turn: usize| format!("/service-{}/orders/7", turn * 7_919 % count);
        let targets: Vec<Uri> =
            (0..count).map(|turn| target(turn).parse().expect("it is a path")).collect();
        let mut turn = 0;
        group.bench_function(format!("{count}_routes/gusset"), |bencher| {
            bencher.iter(|| {
                turn = (turn + 1) % count;
                let request = Request::get(targets[turn].clone()).header("host", "shop.example");
                let request = request.body(Body::new()).expect("it is valid");
                let answer = runtime.block_on(gateway.clone().oneshot(request));
                assert_eq!(answer.map(|answer| answer.status()), Ok(StatusCode::OK));
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = common::config();
    targets = gateway, routes
}
criterion_main!(benches);

//! Every layer of the family in every place where one may stand, over real sockets, on a runtime with one thread and on one with several. The
//! tables of the book are those of this test.

#![allow(clippy::unwrap_used, reason = "a test")]

mod grpc;
mod places;

use std::{fs, future::Future, net::SocketAddr, path::Path};

use bytes::Bytes;
use gusset::{
    breaker::{BreakerLayer, Circuit, HttpStatus, Policy},
    call::{AnswerLayer, Reqwest, SendThrough, Tonic},
    ratelimit::{
        Concurrency, ConcurrencyLimitLayer, ConcurrencyLimiter, Quota, RateLimitLayer, RateLimiter,
    },
    registry::{Balance, Http, Instance, Watch},
    sidecar::{FaultLayer, HedgePolicy, Sidecar},
    standard::{ToInstance, circuits, standard},
};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, runtime::Builder};
use tonic::transport::{Endpoint, Server, server::TcpIncoming};
use tower::{Layer, ServiceBuilder, service_fn};

use places::{answers, echo, echoes, every_body, in_a_router, long, serve, streamed};

/// On a runtime with one thread, and on one with several.
fn on_both<F: Future<Output = ()>>(test: impl Fn() -> F) {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(test());
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(test());
}

/// A test in each place for each layer of a server.
macro_rules! servers {
    ($($row:ident $title:literal: $layer:expr;)*) => {
        $(mod $row {
            use super::*;

            #[test]
            fn in_an_axum_router() {
                on_both(|| async { in_a_router($layer).await });
            }

            #[test]
            fn in_a_tonic_server() {
                on_both(|| async {
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let address = listener.local_addr().unwrap();
                    let server = Server::builder().layer($layer).add_service(grpc::Echo);
                    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
                    grpc::speaks(channel(address)).await;
                });
            }

            #[test]
            fn in_a_server_of_hyper() {
                on_both(|| async {
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let address = listener.local_addr().unwrap();
                    let echo = service_fn(async |request: http::Request<_>| {
                        Ok::<_, std::convert::Infallible>(http::Response::new(request.into_body()))
                    });
                    let service = TowerToHyperService::new($layer.layer(echo));
                    tokio::spawn(async move {
                        loop {
                            let (stream, _) = listener.accept().await.unwrap();
                            let service = service.clone();
                            tokio::spawn(async move {
                                let server = auto::Builder::new(TokioExecutor::new());
                                server.serve_connection(TokioIo::new(stream), service).await
                            });
                        }
                    });
                    answers(address).await;
                });
            }
        })*

        const SERVERS: &[&str] = &[$($title),*];
    };
}

/// A test in each place for each layer of a client, which is a stack around `$inner` that calls `$at`.
macro_rules! clients {
    (|$inner:ident, $at:ident| $($row:ident $title:literal: $stack:expr;)*) => {
        $(mod $row {
            use super::*;

            #[test]
            fn around_reqwest_with_every_body() {
                on_both(|| async {
                    let $at = serve(echo()).await;
                    let client = reqwest::Client::new();
                    let $inner = Reqwest::new(client.clone());
                    let service = $stack;
                    every_body!(service, $at);
                    let request = client.post(format!("http://{}/echo", $at)).body("hello");
                    let answer = request.send_through(service.clone()).await.unwrap();
                    assert_eq!(answer.text().await.unwrap(), "hello");
                });
            }

            #[test]
            fn around_the_client_of_hyper_util() {
                on_both(|| async {
                    let $at = serve(echo()).await;
                    let $inner = Client::builder(TokioExecutor::new()).build_http();
                    echoes(&$stack, $at, Full::<Bytes>::from(long()), long()).await;
                    let $inner = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
                    echoes(&$stack, $at, axum::body::Body::new(streamed()), "hello").await;
                });
            }

            #[test]
            fn around_a_tonic_channel() {
                on_both(|| async {
                    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                    let $at = listener.local_addr().unwrap();
                    let server = Server::builder().add_service(grpc::Echo);
                    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
                    let $inner = Tonic::new(channel($at));
                    grpc::speaks($stack).await;
                });
            }
        })*

        const CLIENTS: &[&str] = &[$($title),*];
    };
}

fn channel(at: SocketAddr) -> tonic::transport::Channel {
    Endpoint::try_from(format!("http://{at}")).unwrap().connect_lazy()
}

fn breaker() -> BreakerLayer<HttpStatus> {
    BreakerLayer::new(Circuit::new("peer", Policy::default())).classify(HttpStatus)
}

fn limit() -> RateLimitLayer {
    RateLimitLayer::new(RateLimiter::new(Quota::per_second(1_000_000)))
}

fn places_for_calls() -> ConcurrencyLimitLayer {
    ConcurrencyLimitLayer::new(ConcurrencyLimiter::new("peer", Concurrency::gradient()))
}

fn only(at: SocketAddr) -> Watch {
    Watch::fixed("peer", [Instance::new("peer", at.ip().to_string(), at.port())])
}

servers! {
    answer "`AnswerLayer`": AnswerLayer::new();
    breaker_in "`BreakerLayer`": ServiceBuilder::new().layer(AnswerLayer::new()).layer(breaker()).into_inner();
    rate_limit_in "`RateLimitLayer`": ServiceBuilder::new().layer(AnswerLayer::new()).layer(limit().headers("default")).into_inner();
    concurrency_in "`ConcurrencyLimitLayer`": ServiceBuilder::new().layer(AnswerLayer::new()).layer(places_for_calls()).into_inner();
    inbound "`Sidecar::inbound`": Sidecar::new("peer").inbound();
    inbound_with_all "the same with deadlines of bodies and faults": Sidecar::new("peer").inbound().body_deadline().fault(FaultLayer::new());
    all_in "`ServiceBuilder` with all of them": ServiceBuilder::new()
        .layer(Sidecar::new("peer").inbound())
        .layer(limit().headers("default"))
        .layer(places_for_calls())
        .layer(breaker())
        .into_inner();
}

clients! { |inner, at|
    breaker_out "`BreakerLayer`": breaker().layer(inner);
    rate_limit_out "`RateLimitLayer`": limit().layer(inner);
    concurrency_out "`ConcurrencyLimitLayer`": places_for_calls().layer(inner);
    outbound "`Sidecar::outbound`": Sidecar::new("caller").outbound("peer").layer(inner);
    outbound_with_all "the same with hedges, deadlines of bodies and faults":
        Sidecar::new("caller").outbound("peer").body_deadline().fault(FaultLayer::new()).hedge(HedgePolicy::default()).layer(inner);
    balance "`Balance`": Balance::new(only(at), move |to: &Instance| ToInstance::new(inner.clone(), to)).protocol(Http);
    standard_client "`standard`": {
        let sidecar = Sidecar::new("caller");
        standard(&sidecar, only(at), &circuits(&sidecar, Policy::default()), inner)
    };
    all_out "`ServiceBuilder` with several": ServiceBuilder::new()
        .layer(Sidecar::new("caller").outbound("peer"))
        .layer(limit())
        .layer(places_for_calls())
        .layer(breaker())
        .service(inner);
}

/// Every cell of the tables in the book is a test above, and every test above a cell.
#[test]
fn the_tables_of_the_book_are_those_of_this_test() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/interoperability.md");
    let page = fs::read_to_string(page).unwrap();
    let tables = [
        (
            SERVERS,
            &[
                "axum's `Router::layer`",
                "`Router::route_layer`",
                "tonic's server",
                "hyper's server",
            ][..],
        ),
        (
            CLIENTS,
            &["reqwest", "hyper-util, HTTP/1.1", "hyper-util, HTTP/2", "tonic's channel"][..],
        ),
    ];
    for (rows, columns) in tables {
        let mut table =
            format!("| | {} |\n|---|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
        for row in rows {
            table += &format!("| {row} |{}\n", " yes |".repeat(columns.len()));
        }
        assert!(page.contains(&table), "{} lacks\n{table}", "docs/src/interoperability.md");
    }
}

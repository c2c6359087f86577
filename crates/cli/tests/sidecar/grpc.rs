//! tonic's four kinds of calls, in and out.

use std::{convert::Infallible, future::Future, net::SocketAddr, pin::Pin, task, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use http::uri::PathAndQuery;
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    client::Grpc,
    server::{Grpc as Server, NamedService},
    transport::{Channel, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::harness::{Registry, Sidecar};

#[derive(Clone, PartialEq, prost::Message)]
struct Number {
    #[prost(int32, tag = "1")]
    value: i32,
}

fn number(value: i32) -> Number {
    Number { value }
}

type Numbers = Pin<Box<dyn Stream<Item = Result<Number, Status>> + Send>>;

fn codec() -> ProstCodec<Number, Number> {
    ProstCodec::default()
}

#[derive(Clone)]
struct Sums;

impl NamedService for Sums {
    const NAME: &'static str = "sums.Sums";
}

impl Service<http::Request<Body>> for Sums {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut server = Server::new(codec());
            Ok(match request.uri().path() {
                "/sums.Sums/Double" => {
                    let double = service_fn(|request: Request<Number>| async move {
                        match request.into_inner().value {
                            0 => Err(Status::failed_precondition("nothing to double")),
                            value => Ok(Response::new(number(2 * value))),
                        }
                    });
                    server.unary(double, request).await
                }
                "/sums.Sums/Sum" => {
                    let sum = service_fn(|request: Request<Streaming<Number>>| async move {
                        let numbers = request.into_inner();
                        let sum = numbers.fold(0, async |sum, n| sum + n.unwrap().value).await;
                        Ok::<_, Status>(Response::new(number(sum)))
                    });
                    server.client_streaming(sum, request).await
                }
                "/sums.Sums/Count" => {
                    let count = service_fn(|request: Request<Number>| async move {
                        let until = request.into_inner().value;
                        let numbers = stream::iter(0..until).map(|n| Ok(number(n)));
                        let numbers: Numbers = Box::pin(
                            numbers.chain(stream::iter([Err(Status::out_of_range("end"))])),
                        );
                        Ok::<_, Status>(Response::new(numbers))
                    });
                    server.server_streaming(count, request).await
                }
                _ => {
                    let echo = service_fn(|request: Request<Streaming<Number>>| async {
                        let numbers: Numbers = Box::pin(request.into_inner());
                        Ok::<_, Status>(Response::new(numbers))
                    });
                    server.streaming(echo, request).await
                }
            })
        })
    }
}

async fn sums() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = tonic::transport::Server::builder()
        .add_service(Sums)
        .serve_with_incoming(TcpIncoming::from(listener));
    tokio::spawn(serve);
    address
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

/// Each kind, whole and with errors. `origin` is whom the client calls, wherever `at` leads.
async fn each_kind(at: SocketAddr, origin: &str) {
    let endpoint = Channel::from_shared(format!("http://{at}")).unwrap();
    let endpoint = endpoint.origin(format!("http://{origin}").parse().unwrap());
    let mut client = Grpc::new(endpoint.connect().await.unwrap());
    client.ready().await.unwrap();
    let doubled = loop {
        let double = Request::new(number(4));
        match client.unary(double, path("/sums.Sums/Double"), codec()).await {
            // It is found by the first who asks, and not in no time.
            Err(status) if status.code() == Code::Unavailable => client.ready().await.unwrap(),
            doubled => break doubled,
        }
    };
    assert_eq!(doubled.unwrap().into_inner(), number(8));
    client.ready().await.unwrap();
    let nothing = client.unary(Request::new(number(0)), path("/sums.Sums/Double"), codec()).await;
    let nothing = nothing.unwrap_err();
    assert_eq!(
        (nothing.code(), nothing.message()),
        (Code::FailedPrecondition, "nothing to double")
    );

    client.ready().await.unwrap();
    let all = Request::new(stream::iter((0..2_000).map(number)));
    let sum = client.client_streaming(all, path("/sums.Sums/Sum"), codec()).await.unwrap();
    assert_eq!(sum.into_inner(), number(1_999_000));

    client.ready().await.unwrap();
    let count = Request::new(number(2_000));
    let count = client.server_streaming(count, path("/sums.Sums/Count"), codec()).await.unwrap();
    let mut count = count.into_inner();
    for n in 0..2_000 {
        assert_eq!(count.message().await.unwrap(), Some(number(n)));
    }
    assert_eq!(count.message().await.unwrap_err().code(), Code::OutOfRange, "in trailers");

    // One after the other: each answer comes before the next question.
    client.ready().await.unwrap();
    let (ask, asked) = mpsc::channel::<Number>(1);
    let asked = stream::unfold(asked, async |mut asked| Some((asked.recv().await?, asked)));
    let echo = client.streaming(Request::new(asked), path("/sums.Sums/Echo"), codec());
    ask.send(number(-1)).await.unwrap();
    let mut echo = echo.await.unwrap().into_inner();
    assert_eq!(echo.message().await.unwrap(), Some(number(-1)));
    for n in 0..50 {
        ask.send(number(n)).await.unwrap();
        assert_eq!(echo.message().await.unwrap(), Some(number(n)));
    }
    drop(ask);
    assert_eq!(echo.message().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_of_all_four_kinds_passes_in_and_out_and_through_both() {
    let app = sums().await;
    let sides = tokio::task::spawn_blocking(move || {
        let registry = Registry::start();
        let health = ["--health", "tcp"];
        let sums = Sidecar::start("sums", app, &registry, &health);
        let shop = Sidecar::start("shop", app, &registry, &health);
        registry.wait_for("sums", 1);
        (registry, sums, shop)
    });
    let (_registry, sums, shop) = sides.await.unwrap();
    let bound = Duration::from_secs(120);
    tokio::time::timeout(bound, each_kind(sums.inbound, "sums")).await.unwrap();
    tokio::time::timeout(bound, each_kind(shop.outbound, "sums")).await.unwrap();
}

//! tonic's four kinds of calls through the layers of client and server, over a real connection.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use gusset_call::{AnswerLayer, Context as CallContext, Deadline};
use gusset_sidecar::{
    Backoff, BodyDeadlineLayer, DeadlineLayer, Idempotent, ReplayBody, RetryLayer, RetryPolicy,
};
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
use tower::{Service, ServiceBuilder, service_fn, util::BoxCloneService};

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

/// Calls of each kind; the first `faults` calls fail, those that stream in their trailers.
#[derive(Clone, Default)]
struct Sums {
    calls: Arc<AtomicU32>,
    faults: u32,
}

impl NamedService for Sums {
    const NAME: &'static str = "sums.Sums";
}

impl Sums {
    fn fails(&self) -> Result<(), Status> {
        let fails = self.calls.fetch_add(1, SeqCst) < self.faults;
        if fails { Err(Status::unavailable("away")) } else { Ok(()) }
    }
}

impl Service<http::Request<Body>> for Sums {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let sums = self.clone();
        Box::pin(async move {
            let mut server = Server::new(codec());
            Ok(match request.uri().path() {
                "/sums.Sums/Double" => {
                    let double = service_fn(move |request: Request<Number>| {
                        let fails = sums.fails();
                        async move {
                            fails?;
                            Ok::<_, Status>(Response::new(number(2 * request.into_inner().value)))
                        }
                    });
                    server.unary(double, request).await
                }
                "/sums.Sums/Left" => {
                    let left = service_fn(|_: Request<Number>| async move {
                        let left = CallContext::current().deadline().unwrap().remaining();
                        Ok::<_, Status>(Response::new(number(left.as_millis() as i32)))
                    });
                    server.unary(left, request).await
                }
                "/sums.Sums/Sum" => {
                    let sum = service_fn(move |request: Request<Streaming<Number>>| {
                        let fails = sums.fails();
                        async move {
                            let numbers = request.into_inner();
                            let sum = numbers.fold(0, async |sum, n| sum + n.unwrap().value).await;
                            fails?;
                            Ok::<_, Status>(Response::new(number(sum)))
                        }
                    });
                    server.client_streaming(sum, request).await
                }
                "/sums.Sums/Count" => {
                    let count = service_fn(move |request: Request<Number>| {
                        let fails = sums.fails();
                        async move {
                            let until = request.into_inner().value;
                            let numbers: Numbers = match fails {
                                Ok(()) => Box::pin(stream::iter(0..until).map(|n| Ok(number(n)))),
                                Err(status) => Box::pin(stream::iter([Err(status)])),
                            };
                            Ok::<_, Status>(Response::new(numbers))
                        }
                    });
                    server.server_streaming(count, request).await
                }
                "/sums.Sums/Forever" => {
                    let forever = service_fn(|_: Request<Number>| async {
                        let numbers: Numbers =
                            Box::pin(stream::iter([Ok(number(1))]).chain(stream::pending()));
                        Ok::<_, Status>(Response::new(numbers))
                    });
                    server.server_streaming(forever, request).await
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

type Client =
    Grpc<BoxCloneService<http::Request<Body>, http::Response<Body>, gusset_call::BoxError>>;

/// A server whose first calls fail, behind its layers, and a client behind its own.
async fn connected(faults: u32) -> (Client, RetryLayer) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder()
        .layer(AnswerLayer::new())
        .layer(DeadlineLayer::server(Duration::from_secs(30)))
        .layer(BodyDeadlineLayer::new())
        .add_service(Sums { faults, ..Sums::default() });
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

    let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let backoff = Backoff::exponential(Duration::from_millis(1), Duration::from_millis(2));
    let retry = RetryLayer::new(RetryPolicy::default().backoff(backoff));
    let client = ServiceBuilder::new()
        .map_response(|response: http::Response<_>| response.map(Body::new))
        .layer(retry.clone())
        .layer(DeadlineLayer::client())
        .map_request(|request: http::Request<ReplayBody<Body>>| request.map(Body::new))
        .service(channel);
    (Grpc::new(BoxCloneService::new(client)), retry)
}

fn path(method: &'static str) -> PathAndQuery {
    PathAndQuery::from_static(method)
}

/// A request that may be made twice.
fn repeatable<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Idempotent(true));
    request
}

#[tokio::test]
async fn a_unary_call_is_made_again() {
    let (mut client, retry) = connected(2).await;
    client.ready().await.unwrap();
    let request = repeatable(number(21));
    let answer = client.unary(request, path("/sums.Sums/Double"), codec()).await.unwrap();
    assert_eq!((answer.into_inner().value, retry.stats().retries), (42, 2));
}

#[tokio::test]
async fn a_unary_call_that_may_not_be_made_twice_is_not() {
    let (mut client, retry) = connected(1).await;
    client.ready().await.unwrap();
    let request = Request::new(number(21));
    let status = client.unary(request, path("/sums.Sums/Double"), codec()).await.unwrap_err();
    assert_eq!((status.code(), retry.stats().retries), (Code::Unavailable, 0));
}

#[tokio::test]
async fn a_stream_of_requests_is_sent_again_as_a_whole() {
    let (mut client, retry) = connected(1).await;
    client.ready().await.unwrap();
    let request = repeatable(stream::iter((1..=100).map(number)));
    let path = path("/sums.Sums/Sum");
    let answer = client.client_streaming(request, path, codec()).await.unwrap();
    assert_eq!((answer.into_inner().value, retry.stats().retries), (5_050, 1));
}

#[tokio::test]
async fn a_stream_of_answers_that_fails_before_its_first_is_asked_for_again() {
    let (mut client, retry) = connected(2).await;
    client.ready().await.unwrap();
    let path = path("/sums.Sums/Count");
    let answers = client.server_streaming(repeatable(number(50)), path, codec()).await.unwrap();
    let sum =
        answers.into_inner().fold(0, async |sum, n: Result<Number, _>| sum + n.unwrap().value);
    assert_eq!((sum.await, retry.stats().retries), (1_225, 2));
}

#[tokio::test]
async fn in_a_conversation_every_answer_comes_before_the_next_question() {
    let (mut client, _) = connected(0).await;
    client.ready().await.unwrap();
    let (ask, questions) = mpsc::channel(1);
    let questions = stream::unfold(questions, async |mut q| Some((q.recv().await?, q)));
    let request = repeatable(Box::pin(questions));
    let answers = client.streaming(request, path("/sums.Sums/Echo"), codec()).await.unwrap();
    let mut answers = answers.into_inner();
    for n in 0..20 {
        ask.send(number(n)).await.unwrap();
        let answer: Number = answers.next().await.unwrap().unwrap();
        assert_eq!(answer.value, n);
    }
    drop(ask);
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn what_is_left_of_the_deadline_reaches_the_handler_and_ends_a_stream_with_its_status() {
    let (mut client, _) = connected(0).await;
    client.ready().await.unwrap();
    let within = |millis| {
        CallContext::default().with_deadline(Deadline::after(Duration::from_millis(millis)))
    };
    let call = client.unary(Request::new(number(0)), path("/sums.Sums/Left"), codec());
    let left = within(5_000).scope(call).await.unwrap().into_inner().value;
    assert!((3_000..=5_000).contains(&left), "{left}");

    client.ready().await.unwrap();
    let call =
        client.server_streaming(Request::new(number(0)), path("/sums.Sums/Forever"), codec());
    let mut answers = within(300).scope(call).await.unwrap().into_inner();
    assert_eq!(answers.next().await.unwrap().unwrap(), number(1));
    let end: Result<Number, Status> = answers.next().await.unwrap();
    assert_eq!(end.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_layer_of_the_server_alone_is_enough_for_grpc_timeout() {
    let (mut client, _) = connected(0).await;
    client.ready().await.unwrap();
    let mut request = Request::new(number(0));
    request.set_timeout(Duration::from_millis(300));
    let path = path("/sums.Sums/Forever");
    let mut answers = client.server_streaming(request, path, codec()).await.unwrap().into_inner();
    answers.next().await.unwrap().unwrap();
    let end: Result<Number, Status> = answers.next().await.unwrap();
    assert_eq!(end.unwrap_err().code(), Code::DeadlineExceeded);
}

//! A service of gRPC with all four kinds of calls, and who makes them.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use http::uri::PathAndQuery;
use http_body::Body as HttpBody;
use tokio::sync::mpsc;
use tonic::{
    Request, Response, Status, Streaming, body::Body, client::GrpcService, server::NamedService,
};
use tonic_health::pb::HealthCheckRequest as Message;
use tonic_prost::ProstCodec;
use tower::{BoxError, Service, service_fn};

const UNARY: &str = "/interop.Echo/Unary";
const FROM_CLIENT: &str = "/interop.Echo/FromClient";
const FROM_SERVER: &str = "/interop.Echo/FromServer";
const BOTH_WAYS: &str = "/interop.Echo/BothWays";

/// Says what it hears: at once, all together, letter by letter, or one by one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "interop.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<Message, Message>::default());
            let one = |request: Request<Message>| async {
                Ok::<_, Status>(Response::new(request.into_inner()))
            };
            let gathered = |request: Request<Streaming<Message>>| async {
                let heard: Vec<_> = request.into_inner().try_collect().await?;
                let words: Vec<_> = heard.into_iter().map(|message| message.service).collect();
                Ok::<_, Status>(Response::new(message(&words.concat())))
            };
            let letters = |request: Request<Message>| async {
                let word: Vec<_> = request.into_inner().service.chars().collect();
                let letters = word.into_iter().map(|letter| Ok(message(&letter.to_string())));
                Ok::<_, Status>(Response::new(stream::iter(letters)))
            };
            let each = |request: Request<Streaming<Message>>| async {
                Ok::<_, Status>(Response::new(request.into_inner().boxed()))
            };
            Ok(match request.uri().path() {
                UNARY => grpc.unary(service_fn(one), request).await,
                FROM_CLIENT => grpc.client_streaming(service_fn(gathered), request).await,
                FROM_SERVER => grpc.server_streaming(service_fn(letters), request).await,
                BOTH_WAYS => grpc.streaming(service_fn(each), request).await,
                other => unreachable!("{other}"),
            })
        })
    }
}

fn message(text: &str) -> Message {
    Message { service: text.into() }
}

fn codec() -> ProstCodec<Message, Message> {
    ProstCodec::default()
}

/// Calls [`Echo`] in all four ways through `service`; both ways means that an answer comes before the next word is said.
pub(crate) async fn speaks<S>(service: S)
where
    S: GrpcService<Body>,
    S::ResponseBody: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut grpc = tonic::client::Grpc::new(service);
    let at = PathAndQuery::from_static;
    assert!(grpc.ready().await.is_ok());
    let answer = grpc.unary(Request::new(message("hello")), at(UNARY), codec()).await.unwrap();
    assert_eq!(answer.into_inner(), message("hello"));

    assert!(grpc.ready().await.is_ok());
    let words = stream::iter(["one", "two", "three"].map(message));
    let answer = grpc.client_streaming(Request::new(words), at(FROM_CLIENT), codec()).await;
    assert_eq!(answer.unwrap().into_inner(), message("onetwothree"));

    assert!(grpc.ready().await.is_ok());
    let word = Request::new(message("abc"));
    let letters = grpc.server_streaming(word, at(FROM_SERVER), codec()).await.unwrap();
    let letters: Vec<_> = letters.into_inner().try_collect().await.unwrap();
    assert_eq!(letters, ["a", "b", "c"].map(message));

    assert!(grpc.ready().await.is_ok());
    let (say, mut said) = mpsc::channel(1);
    let words = stream::poll_fn(move |cx| said.poll_recv(cx));
    say.send(message("1")).await.unwrap();
    let answers = grpc.streaming(Request::new(words), at(BOTH_WAYS), codec()).await.unwrap();
    let mut answers = answers.into_inner();
    for next in ["2", "3", "4"] {
        assert!(answers.message().await.unwrap().is_some());
        say.send(message(next)).await.unwrap();
    }
    drop(say);
    assert_eq!(answers.message().await.unwrap(), Some(message("4")));
    assert_eq!(answers.message().await.unwrap(), None);
}

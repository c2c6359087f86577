//! Servers and clients that have a layer around them, over sockets.

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    Router,
    extract::Request as AxumRequest,
    response::IntoResponse,
    routing::{Route, post},
};
use bytes::Bytes;
use futures_util::stream;
use gusset::call::BoxError;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::net::TcpListener;
use tower::{Layer, Service, ServiceExt};

/// Longer than one frame.
pub(crate) fn long() -> Bytes {
    Bytes::from("all happy families are alike ".repeat(5_000))
}

pub(crate) fn echo() -> Router {
    Router::new().route("/echo", post(async |body: Bytes| body))
}

pub(crate) async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A server is well if a client without layers gets back what it sends.
pub(crate) async fn answers(server: SocketAddr) {
    let client = reqwest::Client::new();
    for body in [Bytes::new(), Bytes::from("hello"), long()] {
        let request = client.post(format!("http://{server}/echo")).body(body.clone());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.bytes().await.unwrap(), body);
    }
}

/// Around all routes, or around those that there are so far.
pub(crate) async fn in_a_router<L>(layer: L)
where
    L: Layer<Route> + Clone + Send + Sync + 'static,
    L::Service: Service<AxumRequest, Response: IntoResponse + 'static, Error: Into<Infallible> + 'static>
        + Clone
        + Send
        + Sync
        + 'static,
    <L::Service as Service<AxumRequest>>::Future: Send + 'static,
{
    answers(serve(echo().layer(layer.clone())).await).await;
    answers(serve(echo().route_layer(layer)).await).await;
}

/// Sends `body`, which says `what`, to an [`echo`] server through `service`.
pub(crate) async fn echoes<S, B, RB>(
    service: &S,
    server: SocketAddr,
    body: B,
    what: impl Into<Bytes>,
) where
    S: Service<Request<B>, Response = Response<RB>, Error: Into<BoxError>> + Clone,
    RB: Body<Error: std::fmt::Debug>,
{
    let request = Request::post(format!("http://{server}/echo")).body(body).unwrap();
    let answer = service.clone().oneshot(request).await.map_err(Into::into).unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), what.into());
}

/// Sends bodies of all types that callers have. `S` is one service for them all.
macro_rules! every_body {
    ($service:expr, $server:expr) => {{
        let (service, server) = (&$service, $server);
        echoes(service, server, Full::<Bytes>::from("hello"), "hello").await;
        echoes(service, server, Empty::<Bytes>::new(), "").await;
        echoes(service, server, "hello".to_owned(), "hello").await;
        echoes(service, server, Full::<Bytes>::from("hello").boxed(), "hello").await;
        echoes(service, server, Full::<Bytes>::from("hello").boxed_unsync(), "hello").await;
        echoes(service, server, streamed(), "hello").await;
        echoes(service, server, axum::body::Body::from("hello"), "hello").await;
        echoes(service, server, tonic::body::Body::new(Full::<Bytes>::from("hello")), "hello")
            .await;
        echoes(service, server, reqwest::Body::from("hello"), "hello").await;
        echoes(service, server, Full::<Bytes>::from(long()), long()).await;
    }};
}
pub(crate) use every_body;

pub(crate) type Streamed =
    StreamBody<stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

pub(crate) fn streamed() -> Streamed {
    let frames = ["he", "ll", "o"].map(|part| Ok(Frame::data(Bytes::from(part))));
    StreamBody::new(stream::iter(Vec::from(frames)))
}

//! Clients that send JSON ask a service that speaks gRPC (tonic), by its descriptors.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    convert::Infallible,
    future::{Future, pending},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use common::*;
use futures_util::{Stream, StreamExt};
use gusset_gateway::{Descriptors, Gateway, Route, Server, Upstream};
use gusset_registry::MemoryRegistry;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{client::legacy, rt::TokioExecutor};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tonic::{Status, Streaming, body::Body, server::Grpc};
use tonic_prost::ProstCodec;

const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, prost::Message)]
struct GetRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int32, tag = "3")]
    page_size: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Order {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(int64, tag = "2")]
    total_cents: i64,
    #[prost(string, repeated, tag = "5")]
    tags: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateRequest {
    #[prost(message, optional, tag = "2")]
    order: Option<Order>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(int32, tag = "1")]
    orders: i32,
    #[prost(int64, tag = "2")]
    total_cents: i64,
}

type Orders = Pin<Box<dyn Stream<Item = Result<Order, Status>> + Send>>;

fn order(id: impl Into<String>) -> Order {
    Order { id: id.into(), total_cents: 1 << 60, tags: Vec::new() }
}

/// A service as tonic's generated code would make it.
#[derive(Clone)]
struct Shop {
    /// What `List` says of `told`, one by one.
    told: Arc<Mutex<Option<mpsc::Receiver<Order>>>>,
}

impl Shop {
    async fn get(request: tonic::Request<GetRequest>) -> Result<tonic::Response<Order>, Status> {
        let metadata = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
        let seen = ["x-mine", "accept", "x-gusset-subject"]
            .map(|name| metadata(name).unwrap_or("-").to_owned());
        match &*request.get_ref().id {
            "missing" => Err(Status::not_found("no order ü")),
            "late" => pending().await,
            id => {
                let mut answer = tonic::Response::new(Order { tags: seen.into(), ..order(id) });
                answer.metadata_mut().insert("x-shop", "7".parse().unwrap());
                Ok(answer)
            }
        }
    }

    async fn list(
        self,
        request: tonic::Request<GetRequest>,
    ) -> Result<tonic::Response<Orders>, Status> {
        let told = self.told.lock().unwrap().take();
        let of = |n: i32| Ok(order(n.to_string()));
        let numbers = futures_util::stream::iter((0..request.get_ref().page_size).map(of));
        Ok(tonic::Response::new(match (&*request.get_ref().id, told) {
            ("told", Some(mut told)) => Box::pin(futures_util::stream::poll_fn(move |cx| {
                told.poll_recv(cx).map(|order| order.map(Ok))
            })),
            ("fails", _) => Box::pin(
                numbers.chain(futures_util::stream::iter([Err(Status::aborted("no more"))])),
            ),
            ("refused", _) => return Err(Status::resource_exhausted("too much")),
            _ => Box::pin(numbers),
        }))
    }

    async fn import(
        request: tonic::Request<Streaming<Order>>,
    ) -> Result<tonic::Response<Summary>, Status> {
        let mut orders = request.into_inner();
        let mut summary = Summary::default();
        while let Some(order) = orders.message().await? {
            summary.orders += 1;
            summary.total_cents += order.total_cents;
        }
        Ok(tonic::Response::new(summary))
    }

    async fn talk(
        request: tonic::Request<Streaming<Order>>,
    ) -> Result<tonic::Response<Orders>, Status> {
        Ok(tonic::Response::new(Box::pin(request.into_inner())))
    }
}

impl tower::Service<Request<Body>> for Shop {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shop = self.clone();
        let get = tower::service_fn(Self::get);
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/shop.v1.Orders/Get" => {
                    Grpc::new(ProstCodec::<Order, GetRequest>::default()).unary(get, request).await
                }
                "/shop.v1.Orders/Create" => {
                    let create = async |request: tonic::Request<CreateRequest>| {
                        Ok(tonic::Response::new(request.into_inner().order.unwrap_or_default()))
                    };
                    let create = tower::service_fn(move |request| Box::pin(create(request)));
                    Grpc::new(ProstCodec::<Order, CreateRequest>::default())
                        .unary(create, request)
                        .await
                }
                "/shop.v1.Orders/List" => {
                    let list = tower::service_fn(move |request| shop.clone().list(request));
                    Grpc::new(ProstCodec::<Order, GetRequest>::default())
                        .server_streaming(list, request)
                        .await
                }
                "/shop.v1.Orders/Import" => {
                    let import = tower::service_fn(Self::import);
                    Grpc::new(ProstCodec::<Summary, Order>::default())
                        .client_streaming(import, request)
                        .await
                }
                "/shop.v1.Orders/Talk" => {
                    let talk = tower::service_fn(Self::talk);
                    Grpc::new(ProstCodec::<Order, Order>::default()).streaming(talk, request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

impl tonic::server::NamedService for Shop {
    const NAME: &'static str = "shop.v1.Orders";
}

/// A gateway before the shop, which tells what `told` says.
async fn front_of_shop(told: Option<mpsc::Receiver<Order>>, limit: Duration) -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = Upstream::fixed([listener.local_addr().unwrap()]);
    let shop = Shop { told: Arc::new(Mutex::new(told)) };
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_service(shop);
    tokio::spawn(server.serve_with_incoming(incoming));
    let descriptors = Descriptors::from_bytes(include_bytes!("shop/shop.binpb")).unwrap();
    let mut builder = Gateway::builder(MemoryRegistry::default());
    for route in descriptors.routes("shop.v1.Orders", to.clone()).unwrap() {
        builder = builder.route(route.timeout(limit).body_limit(1_000));
    }
    let bare = Route::new("/bare").methods([Method::GET]).to(to);
    let bare = bare.grpc(descriptors.method("shop.v1.Orders/Bare").unwrap());
    front_by(Server::new(), builder.route(bare).build().unwrap()).await
}

async fn front_of_the_shop() -> Front {
    front_of_shop(None, LONG).await
}

async fn sent(
    front: &Front,
    method: Method,
    path: &str,
    kind: &str,
    body: &str,
) -> Response<Incoming> {
    let request =
        Request::builder().method(method).uri(front.url(path)).header("content-type", kind);
    client().request(request.body(Full::from(body.to_owned())).unwrap()).await.unwrap()
}

async fn json_of(answer: Response<Incoming>) -> Value {
    serde_json::from_str(&text(answer).await).unwrap()
}

#[tokio::test]
async fn a_get_is_a_call_and_its_message_json() {
    let front = front_of_the_shop().await;
    let request = Request::get(front.url("/v1/orders/a%20b?page_size=3"))
        .header("x-mine", "1")
        .header("accept", "application/json")
        .header("grpc-encoding", "gzip")
        .header("x-gusset-subject", "root")
        .body(Full::default())
        .unwrap();
    let answer = client().request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!((header("content-type"), header("x-shop")), (Some("application/json"), Some("7")));
    assert_eq!((header("grpc-status"), header("trailer")), (None, None));
    let order = json_of(answer).await;
    assert_eq!(
        order,
        json!({"id": "a b", "totalCents": "1152921504606846976", "tags": ["1", "-", "-"]})
    );

    let tags = fetch(&front, "/v1/tags/7").await;
    assert_eq!(json_of(tags).await, json!(["-", "-", "-"]));
    let head = "HEAD /v1/orders/7 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let head = raw(front.address, head).await;
    assert!(
        head.starts_with("HTTP/1.1 200")
            && head.contains("content-length: ")
            && head.ends_with("\r\n\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_status_is_a_problem_under_the_status_of_http() {
    let front = front_of_the_shop().await;
    let answer = fetch(&front, "/v1/orders/missing").await;
    assert_eq!(answer.status(), 404);
    let problem_of = problem(answer).await;
    assert_eq!(
        (&problem_of["code"], &problem_of["detail"]),
        (&json!("NOT_FOUND"), &json!("no order ü"))
    );
    assert!(problem_of["trace_id"].is_string());
    let answer = fetch(&front, "/bare").await;
    assert_eq!(answer.status(), 501);
    assert_eq!(problem(answer).await["code"], "UNIMPLEMENTED");
}

#[tokio::test]
async fn a_body_must_fit_and_say_that_it_is_json() {
    let front = front_of_the_shop().await;
    let path = "/v1/customers/ann/orders";
    let post = async |kind: &str, body: &str| sent(&front, Method::POST, path, kind, body).await;
    let answer = post("application/json; charset=utf-8", r#"{"id": "7"}"#).await;
    assert_eq!((answer.status().as_u16(), json_of(answer).await), (200, json!({"id": "7"})));
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        assert_eq!(post(kind, "{}").await.status(), 415, "{kind}");
    }
    let answer = post("application/json", r#"{"idd": "7"}"#).await;
    assert_eq!(answer.status(), 400);
    let detail = problem(answer).await["detail"].to_string();
    assert!(detail.contains("idd"), "{detail}");
    let large = format!(r#"{{"id": "{}"}}"#, "x".repeat(1_000));
    assert_eq!(post("application/json", &large).await.status(), 413);
}

#[tokio::test]
async fn a_method_that_takes_too_long_is_504() {
    let front = front_of_shop(None, Duration::from_millis(300)).await;
    let answer = fetch(&front, "/v1/orders/late").await;
    assert_eq!(answer.status(), 504);
    problem(answer).await;
}

async fn next(body: &mut Incoming) -> Bytes {
    let frame = timeout(LONG, body.frame()).await.unwrap().unwrap().unwrap();
    frame.into_data().unwrap()
}

#[tokio::test]
async fn messages_of_a_stream_are_lines_or_events_that_go_out_as_they_come_in() {
    for (accept, kind, around) in [
        ("*/*", "application/x-ndjson", ["", "\n"]),
        ("text/event-stream", "text/event-stream", ["data: ", "\n\n"]),
    ] {
        let (told, receiver) = mpsc::channel(1);
        let front = front_of_shop(Some(receiver), LONG * 10).await;
        let request = Request::get(front.url("/v1/orders?id=told")).header("accept", accept);
        let answer = client().request(request.body(Full::default()).unwrap());
        // Before the first message, too.
        let answer = timeout(LONG, answer).await.unwrap().unwrap();
        assert_eq!(answer.headers()["content-type"], kind);
        let mut body = answer.into_body();
        for id in ["a", "b"] {
            told.send(order(id)).await.unwrap();
            let line = format!(
                r#"{}{{"id":"{id}","totalCents":"1152921504606846976"}}{}"#,
                around[0], around[1]
            );
            assert_eq!(next(&mut body).await, line);
        }
        drop(body);
        timeout(LONG, told.closed()).await.expect("a reader that leaves ends the call");
    }
}

#[tokio::test]
async fn a_stream_ends_as_its_status_says() {
    let front = front_of_the_shop().await;
    let head = "HEAD /v1/orders?page_size=2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let head = raw(front.address, head).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    let whole = text(fetch(&front, "/v1/orders?page_size=2").await).await;
    assert_eq!(whole.lines().count(), 2);
    assert_eq!(text(fetch(&front, "/v1/orders").await).await, "");
    let refused = fetch(&front, "/v1/orders?id=refused").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(problem(refused).await["code"], "RESOURCE_EXHAUSTED");

    let cut = fetch(&front, "/v1/orders?id=fails&page_size=1").await;
    assert!(cut.into_body().collect().await.is_err(), "it does not end as if it were whole");
    let request = Request::get(front.url("/v1/orders?id=fails&page_size=1"));
    let request = request.header("accept", "text/event-stream").body(Full::default()).unwrap();
    let events = text(client().request(request).await.unwrap()).await;
    let (_, last) = events.split_once("event: error\ndata: ").unwrap();
    let problem: Value = serde_json::from_str(last.trim()).unwrap();
    assert_eq!((&problem["code"], &problem["detail"]), (&json!("ABORTED"), &json!("no more")));
}

#[tokio::test]
async fn lines_of_a_body_are_messages_of_a_stream() {
    let front = front_of_the_shop().await;
    let import = async |kind: &str, body: &str| {
        sent(&front, Method::POST, "/v1/orders:import", kind, body).await
    };
    let body = "{\"totalCents\": 5}\n\n  \r\n{\"total_cents\": \"6\"}";
    let answer = import("application/x-ndjson", body).await;
    assert_eq!(json_of(answer).await, json!({"orders": 2, "totalCents": "11"}));
    let answer = import("application/json", "").await;
    assert_eq!(json_of(answer).await, json!({}));
    assert_eq!(import("application/x-ndjson", "{}\n{\"x\": 1}\n").await.status(), 400);
    assert_eq!(import("application/x-ndjson", "{} {}").await.status(), 400);
    assert_eq!(import("text/plain", "{}").await.status(), 415);
    assert_eq!(import("application/x-ndjson", &"{}\n".repeat(500)).await.status(), 413);
}

#[tokio::test]
async fn both_directions_of_a_stream_flow_at_once() {
    let front = front_of_the_shop().await;
    let (lines, mut receiver) = mpsc::channel::<&str>(1);
    let lines_of = futures_util::stream::poll_fn(move |cx| {
        receiver
            .poll_recv(cx)
            .map(|line| line.map(|line| Ok::<_, Infallible>(Frame::data(Bytes::from(line)))))
    });
    let http2: legacy::Client<_, _> =
        legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request =
        Request::post(front.url("/v1/orders:talk")).header("content-type", "application/x-ndjson");
    let request = request.body(StreamBody::new(lines_of)).unwrap();
    let answer = timeout(LONG, http2.request(request)).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    let mut body = answer.into_body();
    for (line, said) in
        [("{\"id\": \"a\"}\n", "{\"id\":\"a\"}\n"), ("{\"id\": \"b\"}\n", "{\"id\":\"b\"}\n")]
    {
        lines.send(line).await.unwrap();
        assert_eq!(next(&mut body).await, said);
    }
    lines.send("{\"id\": \"c\"}").await.unwrap();
    drop(lines);
    assert_eq!(next(&mut body).await, "{\"id\":\"c\"}\n");
    let rest = timeout(LONG, body.collect()).await.unwrap().unwrap();
    assert!(rest.to_bytes().is_empty());
}

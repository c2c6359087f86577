//! Clients of gRPC-Web before a service that speaks gRPC alone (tonic): tonic's own, and the bytes that a browser sends.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use common::*;
use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use gusset_gateway::{AuthError, Builder, Cors, Gateway, Identity, Route, Upstream};
use gusset_registry::MemoryRegistry;
use http::{Request, Response, request::Parts, uri::PathAndQuery};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{client::legacy, rt::TokioExecutor};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};
use tonic::{Code, Status, body::Body, server::Grpc};
use tonic_prost::ProstCodec;

const LONG: Duration = Duration::from_secs(60);
const PAGE: &str = "https://shop.example";

#[derive(Clone, PartialEq, prost::Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn said(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

type Texts = Pin<Box<dyn Stream<Item = Result<Text, Status>> + Send>>;

/// Says back what it is told.
#[derive(Clone, Default)]
struct Echo {
    /// What `Told` says, one by one.
    told: Arc<std::sync::Mutex<Option<mpsc::Receiver<Text>>>>,
    /// Messages that `Flood` has made.
    made: Arc<AtomicU64>,
}

impl Echo {
    async fn say(request: tonic::Request<Text>) -> Result<tonic::Response<Text>, Status> {
        let seen = |name| request.metadata().get(name).and_then(|value| value.to_str().ok());
        match &*request.get_ref().text {
            "seen" => Ok(tonic::Response::new(said(format!(
                "{:?} {:?} {:?}",
                seen("x-mine"),
                seen("x-grpc-web"),
                seen("te"),
            )))),
            "refused" => Err(Status::failed_precondition("no ü")),
            text => Ok(tonic::Response::new(said(text))),
        }
    }

    async fn tell(self, request: tonic::Request<Text>) -> Result<tonic::Response<Texts>, Status> {
        let told = self.told.lock().unwrap().take();
        let words: Vec<_> = request.get_ref().text.split(' ').map(|word| Ok(said(word))).collect();
        Ok(tonic::Response::new(match (&*request.get_ref().text, told) {
            ("told", Some(mut told)) => {
                Box::pin(stream::poll_fn(move |cx| told.poll_recv(cx).map(|text| text.map(Ok))))
            }
            ("flood", _) => Box::pin(stream::repeat_with(move || {
                self.made.fetch_add(1, SeqCst);
                Ok(said("x".repeat(16 * 1024)))
            })),
            ("breaks", _) => {
                let ends = [Ok(said("one")), Err(Status::data_loss("gone"))];
                Box::pin(stream::iter(ends))
            }
            _ => Box::pin(stream::iter(words)),
        }))
    }
}

impl tower::Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Text, Text>::default());
            Ok(match request.uri().path() {
                "/test.Echo/Say" => grpc.unary(tower::service_fn(Self::say), request).await,
                "/test.Echo/Tell" => {
                    let tell = tower::service_fn(move |request| echo.clone().tell(request));
                    grpc.server_streaming(tell, request).await
                }
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

impl tonic::server::NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

/// `/closed/…` is for known senders, and there are none.
async fn builder(echo: Echo) -> Builder {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = Upstream::fixed([listener.local_addr().unwrap()]);
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_service(echo);
    tokio::spawn(server.serve_with_incoming(incoming));
    let nobody = |_: &Parts| Err::<Identity, _>(AuthError::Missing);
    let route = |path: &str| Route::new(path).to(to.clone()).grpc_web().body_limit(1_000);
    Gateway::builder(MemoryRegistry::default())
        .cors(Cors::origins([PAGE]))
        .authenticate(nobody)
        .route(route("/test.Echo/{method}"))
        .route(route("/closed/{method}").authenticated())
}

async fn echo() -> Front {
    front(builder(Echo::default()).await).await
}

type Tonic = tonic::client::Grpc<
    tonic_web::GrpcWebClientService<
        legacy::Client<legacy::connect::HttpConnector, tonic_web::GrpcWebCall<Body>>,
    >,
>;

/// tonic's client, which speaks gRPC-Web by HTTP/1.1.
async fn tonic(front: &Front) -> Tonic {
    let client = legacy::Client::builder(TokioExecutor::new()).build_http();
    let client = tonic_web::GrpcWebClientService::new(client);
    let mut client = tonic::client::Grpc::with_origin(client, front.url("").parse().unwrap());
    client.ready().await.unwrap();
    client
}

fn path(method: &str) -> PathAndQuery {
    format!("/test.Echo/{method}").parse().unwrap()
}

fn codec() -> ProstCodec<Text, Text> {
    ProstCodec::default()
}

#[tokio::test]
async fn tonics_client_of_grpc_web_calls_a_service_that_speaks_grpc_alone() {
    let front = echo().await;
    let mut client = tonic(&front).await;
    let mut request = tonic::Request::new(said("seen"));
    request.metadata_mut().insert("x-mine", "1".parse().unwrap());
    let answer = client.unary(request, path("Say"), codec()).await.unwrap();
    assert_eq!(answer.get_ref().text, "Some(\"1\") None Some(\"trailers\")");

    let refused = client.unary(tonic::Request::new(said("refused")), path("Say"), codec()).await;
    let refused: Result<tonic::Response<Text>, _> = refused;
    let status = refused.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "no ü"));

    let words = tonic::Request::new(said("one two three"));
    let words = client.server_streaming(words, path("Tell"), codec()).await.unwrap();
    let words: Vec<Text> = words.into_inner().try_collect().await.unwrap();
    assert_eq!(words, ["one", "two", "three"].map(said));

    let breaks = tonic::Request::new(said("breaks"));
    let breaks = client.server_streaming(breaks, path("Tell"), codec()).await.unwrap();
    let said_first: Vec<Result<Text, Status>> = breaks.into_inner().collect().await;
    assert_eq!(said_first[0].as_ref().unwrap().text, "one");
    assert_eq!(said_first[1].as_ref().unwrap_err().code(), Code::DataLoss);

    let large = tonic::Request::new(said("x".repeat(2_000)));
    let large: Result<tonic::Response<Text>, _> = client.unary(large, path("Say"), codec()).await;
    assert_eq!(large.unwrap_err().code(), Code::ResourceExhausted, "the gateway's own answer");
}

/// A message of [`Text`], whose text is short, as it goes over the wire.
fn message(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len()).unwrap();
    [&[0, 0, 0, 0, length + 2, 0x0a, length], text.as_bytes()].concat()
}

/// What Chrome sends for a page: by `XMLHttpRequest`, in base64.
async fn browser(front: &Front, path: &str, kind: &str, body: Vec<u8>) -> Response<Incoming> {
    let request = Request::post(front.url(path))
        .header("content-type", kind)
        .header("accept", kind)
        .header("origin", PAGE)
        .header("referer", "https://shop.example/")
        .header("x-grpc-web", "1")
        .header("x-user-agent", "grpc-web-javascript/0.1");
    client().request(request.body(Full::from(body)).unwrap()).await.unwrap()
}

const TEXT: &str = "application/grpc-web-text";

/// The bytes of pieces of base64, each padded for itself.
fn decoded(pieces: &[u8]) -> Vec<u8> {
    let groups = pieces.chunks(4).map(|group| STANDARD.decode(group).unwrap());
    groups.collect::<Vec<_>>().concat()
}

#[tokio::test]
async fn a_browser_that_sends_base64_gets_base64_and_may_read_the_status() {
    let front = echo().await;
    let body = STANDARD.encode(message("hello")).into_bytes();
    let answer = browser(&front, "/test.Echo/Say", TEXT, body).await;
    assert_eq!(answer.status(), 200);
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap());
    assert_eq!(header("content-type"), Some(TEXT));
    assert_eq!(header("access-control-allow-origin"), Some(PAGE));
    let exposed = header("access-control-expose-headers").unwrap();
    assert!(exposed.contains("grpc-status") && exposed.contains("grpc-message"), "{exposed}");
    assert_eq!((header("content-length"), header("trailer")), (None, None));
    let bytes = decoded(&answer.into_body().collect().await.unwrap().to_bytes());
    let message = message("hello");
    let (first, rest) = bytes.split_at(message.len());
    assert_eq!(first, message);
    assert_eq!((rest[0], &rest[5..]), (0x80, &b"grpc-status:0\r\n"[..]));

    // Both forms at once, as clients do that ask for bytes.
    let answer = browser(&front, "/test.Echo/Say", "application/grpc-web+proto", message.clone());
    let answer = answer.await;
    assert_eq!(answer.headers()["content-type"], "application/grpc-web");
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(bytes.starts_with(&message) && bytes.ends_with(b"grpc-status:0\r\n"), "{bytes:?}");
}

#[tokio::test]
async fn what_is_wrong_is_told_in_the_head_that_a_page_may_read() {
    let front = echo().await;
    let good = || STANDARD.encode(message("hello")).into_bytes();
    for (path, body, code) in [
        ("/test.Echo/Say", b"not base64!!".to_vec(), "3"),
        ("/test.Echo/Say", STANDARD.encode("x".repeat(900)).into_bytes(), "8"),
        ("/closed/Say", good(), "16"),
        ("/nowhere", good(), "12"),
        ("/test.Echo/None", good(), "12"),
        ("/test.Echo/Say", STANDARD.encode(message("refused")).into_bytes(), "9"),
    ] {
        let answer = browser(&front, path, TEXT, body).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.headers()["content-type"], TEXT, "{path}");
        assert_eq!(answer.headers()["grpc-status"], code, "{path}");
        let exposed = answer.headers().get_all("access-control-expose-headers").iter();
        assert!(exposed.into_iter().any(|line| line.to_str().unwrap().contains("grpc-status")));
    }
}

#[tokio::test]
async fn each_message_of_a_stream_arrives_before_the_next_one_is_sent() {
    let (tell, told) = mpsc::channel(1);
    let echo = Echo { told: Arc::new(Some(told).into()), ..Echo::default() };
    let front = front(builder(echo).await).await;
    let body = STANDARD.encode(message("told")).into_bytes();
    tell.send(said("first")).await.unwrap();
    let asked = browser(&front, "/test.Echo/Tell", TEXT, body);
    let mut answer = timeout(LONG, asked).await.unwrap();
    for word in ["first", "second", "third"] {
        let frame = timeout(LONG, answer.body_mut().frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(decoded(&frame.into_data().unwrap()), message(word));
        tell.send(said(if word == "first" { "second" } else { "third" })).await.unwrap();
    }
    drop(answer);
    timeout(LONG, tell.closed()).await.expect("the stream ends with its reader");
}

#[tokio::test]
async fn a_page_that_does_not_read_stops_the_service() {
    let echo = Echo::default();
    let made = echo.made.clone();
    let front = front(builder(echo).await).await;
    let body = STANDARD.encode(message("flood")).into_bytes();
    let mut answer = browser(&front, "/test.Echo/Tell", TEXT, body).await;
    let _: Option<Result<http_body::Frame<Bytes>, _>> = answer.body_mut().frame().await;
    // Buffers of two connections fill up, and then nothing more is made.
    let mut before = 0;
    let stands = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = made.load(SeqCst);
            if now == before {
                return;
            }
            before = now;
        }
    };
    timeout(LONG, stands).await.expect("it stops");
    assert!(before * 16 * 1024 < 64 * 1024 * 1024, "{before} messages");
}

#[tokio::test]
async fn a_route_that_does_not_say_so_passes_grpc_web_on_as_it_is() {
    let (address, mut seen) = canned(
        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc-web\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let route = Route::new("/{*rest}").to(Upstream::fixed([address]));
    let front = front(Gateway::builder(MemoryRegistry::default()).route(route)).await;
    let answer = browser(&front, "/test.Echo/Say", TEXT, b"AAAAAAA=".to_vec()).await;
    assert_eq!(answer.headers()["content-type"], "application/grpc-web");
    let head = seen.recv().await.unwrap();
    assert!(head.contains(&format!("\r\ncontent-type: {TEXT}\r\n")), "{head}");
}

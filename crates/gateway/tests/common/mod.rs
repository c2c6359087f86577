//! Services behind a gateway, on real sockets.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test file uses its part"
)]

#[cfg(feature = "tls")]
pub mod certs;

use std::{future::pending, net::SocketAddr, time::Duration};

use axum::Router;
use bytes::Bytes;
use gusset_gateway::{Builder, Gateway, GatewayBody, Server, Undrained, serve};
use gusset_registry::{Health, Instance, MemoryRegistry, Registry};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tower::ServiceExt;

/// A service on a port of its own; dropping it kills it, connections and all.
pub struct Running {
    pub address: SocketAddr,
    _tasks: tokio::task::JoinSet<()>,
}

/// Serves `router` by the gateway's own server, whose connections end with it.
pub async fn upstream(router: Router) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let _ = serve(listener, router, pending()).await;
    });
    Running { address, _tasks: tasks }
}

/// Registers the addresses as healthy instances of `service`.
pub async fn registry(service: &str, addresses: &[SocketAddr]) -> MemoryRegistry {
    let registry = MemoryRegistry::default();
    for address in addresses {
        let instance = Instance::new(service, address.ip().to_string(), address.port());
        registry.register(instance.with_health(Health::Healthy)).await.unwrap();
    }
    registry
}

/// A port at which nobody listens.
pub async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A gateway with one registry, served on a port of its own.
pub struct Front {
    pub address: SocketAddr,
    pub stop: oneshot::Sender<()>,
    pub ended: JoinHandle<Result<(), Undrained>>,
}

pub async fn front(builder: Builder) -> Front {
    front_by(Server::new(), builder.build().unwrap()).await
}

pub async fn front_by(server: Server, gateway: Gateway) -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let stopped = async {
        if stopped.await.is_err() {
            pending().await
        }
    };
    Front { address, stop, ended: tokio::spawn(server.run(listener, gateway, stopped)) }
}

impl Front {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

pub type HttpClient = legacy::Client<HttpConnector, Full<Bytes>>;

pub fn client() -> HttpClient {
    legacy::Client::builder(TokioExecutor::new()).build_http()
}

pub async fn fetch(front: &Front, path: &str) -> Response<Incoming> {
    client().get(front.url(path).parse().unwrap()).await.unwrap()
}

pub async fn text<B>(response: Response<B>) -> String
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Checks that an answer is a problem of its status, and returns it.
pub async fn problem<B>(response: Response<B>) -> Value
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let status = response.status().as_u16();
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let problem: Value = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(problem["status"], status);
    problem
}

/// Asks a gateway without sockets before it.
pub async fn ask(gateway: &Gateway, request: http::request::Builder) -> Response<GatewayBody> {
    let request = request.body(Full::<Bytes>::default()).unwrap();
    gateway.clone().oneshot(request).await.unwrap()
}

pub fn to(path: &str) -> http::request::Builder {
    Request::get(format!("http://gateway{path}"))
}

/// Sends bytes as they are and returns what comes back until the connection ends or is quiet.
pub async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// A service that writes `answer` to every request as it is, ends the connection, and shows the requests it saw.
pub async fn canned(
    answer: &'static str,
) -> (SocketAddr, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !complete(&request) {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => request.extend_from_slice(&buffer[..read]),
                }
            }
            if seen.send(String::from_utf8_lossy(&request).into_owned()).is_err() {
                break;
            }
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, requests)
}

/// Whether a request without a body, or with one in chunks, is there as a whole.
fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let chunked = text.to_ascii_lowercase().contains("transfer-encoding: chunked");
    match text.split_once("\r\n\r\n") {
        Some((_, body)) if chunked => body.contains("0\r\n") && body.ends_with("\r\n\r\n"),
        whole => whole.is_some(),
    }
}

//! How upstreams are called: version, host, picker, each as it says for itself.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::collections::BTreeSet;

use axum::{Router, extract::Request, routing::any};
use common::*;
use gusset_gateway::{Gateway, HostHeader, Picker, Route, Transport, Upstream, UpstreamPolicy};
use gusset_registry::{
    LocalRoundRobin, MemoryRegistry, Random, RoundRobin, WeightedRoundRobin, hash_key,
};
use http::{HeaderName, HeaderValue};

/// Tells the version and the host that an instance sees.
async fn seen(request: Request) -> String {
    let host = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
    let authority = request.uri().authority().map(ToString::to_string);
    format!("{:?} {}", request.version(), host.or(authority).unwrap_or_default())
}

async fn gateway_to(router: Router, transport: Transport) -> (Running, Gateway) {
    let service = upstream(router).await;
    let to = Upstream::fixed([service.address]);
    let gateway = Gateway::builder(MemoryRegistry::default())
        .upstream(to.clone(), UpstreamPolicy::new().transport(transport))
        .route(Route::new("/{*rest}").to(to))
        .build()
        .unwrap();
    (service, gateway)
}

#[tokio::test]
async fn an_instance_sees_its_own_host_that_of_the_client_or_a_fixed_one() {
    let fixed = HostHeader::Fixed(HeaderValue::from_static("shop.internal"));
    for (host, expected) in [
        (HostHeader::Instance, None),
        (HostHeader::Client, Some("gateway")),
        (fixed, Some("shop.internal")),
    ] {
        let router = Router::new().route("/{*rest}", any(seen));
        let transport = Transport::http1().host(host);
        let (service, gateway) = gateway_to(router, transport).await;
        let expected = expected.map_or(service.address.to_string(), Into::into);
        let told = text(ask(&gateway, to("/a")).await).await;
        assert_eq!(told, format!("HTTP/1.1 {expected}"));
    }
}

#[tokio::test]
async fn hosts_are_found_by_their_names_and_asked_by_them() {
    let service = upstream(Router::new().route("/{*rest}", any(seen))).await;
    let port = service.address.port();
    let gateway = |name: &str| {
        Gateway::builder(MemoryRegistry::default())
            .route(Route::new("/{*rest}").to(Upstream::hosts([(name, port)])))
            .build()
            .unwrap()
    };
    let (named, numbered) = (gateway("localhost"), gateway("127.0.0.1"));
    let told = text(ask(&named, to("/a")).await).await;
    assert_eq!(told, format!("HTTP/1.1 localhost:{port}"));
    let told = text(ask(&numbered, to("/a")).await).await;
    assert_eq!(told, format!("HTTP/1.1 127.0.0.1:{port}"));
    let breakers = named.breakers();
    assert_eq!(breakers[0].upstream.to_string(), format!("localhost:{port}"));
    assert_eq!(breakers[0].instance.authority(), format!("127.0.0.1:{port}"));
    // A name by RFC 2606 that nobody has.
    assert_eq!(ask(&gateway("shop.invalid"), to("/a")).await.status(), 503);
}

#[cfg(feature = "http2")]
mod http2 {
    use std::time::Duration;

    use super::*;
    use bytes::Bytes;
    use http::{HeaderMap, Request};
    use http_body::Frame;
    use http_body_util::{BodyExt, Full, StreamBody};
    use tokio::time::timeout;
    use tower::ServiceExt;

    #[tokio::test]
    async fn instances_are_called_by_http_2_where_their_upstream_says_so() {
        let host = HostHeader::Client;
        for (transport, expected) in [
            (Transport::http2().host(host.clone()), "HTTP/2.0 gateway"),
            (Transport::http1().host(host.clone()), "HTTP/1.1 gateway"),
        ] {
            let router = Router::new().route("/{*rest}", any(seen));
            let (_service, gateway) = gateway_to(router, transport).await;
            for _ in 0..3 {
                let answer = ask(&gateway, to("/a")).await;
                let via = format!(
                    "{} gusset",
                    &expected[5..][..if expected.starts_with("HTTP/2") { 1 } else { 3 }]
                );
                assert_eq!(answer.headers()["via"], via);
                assert_eq!(text(answer).await, expected);
            }
        }
    }

    /// Answers as a service of gRPC does: with its status behind the body.
    async fn grpc(request: axum::extract::Request) -> http::Response<axum::body::Body> {
        let version = format!("{:?}", request.version());
        let te = request.headers().get("te").cloned();
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let frames = [Ok::<_, std::io::Error>(Frame::data(body)), Ok(Frame::trailers(trailers))];
        let frames = futures_of(frames);
        http::Response::builder()
            .header("content-type", "application/grpc")
            .header("x-version", version)
            .header("x-te", te.unwrap_or(HeaderValue::from_static("none")))
            .body(axum::body::Body::new(StreamBody::new(frames)))
            .unwrap()
    }

    fn futures_of<T, const N: usize>(items: [T; N]) -> impl futures_core::Stream<Item = T> + Send
    where
        T: Send + Unpin,
    {
        struct Items<T>(std::vec::IntoIter<T>);
        impl<T: Unpin> futures_core::Stream for Items<T> {
            type Item = T;
            fn poll_next(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<T>> {
                std::task::Poll::Ready(self.0.next())
            }
        }
        Items(Vec::from(items).into_iter())
    }

    #[tokio::test]
    async fn grpc_goes_by_http_2_always_and_its_status_comes_back() {
        let router = Router::new().route("/{*rest}", any(grpc));
        let (_service, gateway) = gateway_to(router, Transport::http1()).await;
        for (kind, version) in [
            ("application/grpc", "HTTP/2.0"),
            ("application/grpc+proto", "HTTP/2.0"),
            ("application/grpc-web", "HTTP/1.1"),
        ] {
            let request = Request::post("http://gateway/shop.Cart/Add")
                .header("content-type", kind)
                .header("te", "trailers")
                .body(Full::new(Bytes::from_static(b"\0\0\0\0\x02hi")))
                .unwrap();
            let answer = timeout(Duration::from_secs(30), gateway.clone().oneshot(request));
            let answer = answer.await.unwrap().unwrap();
            assert_eq!(answer.headers()["x-version"], version, "{kind}");
            assert_eq!(answer.headers()["x-te"], "trailers");
            let body = answer.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(body.to_bytes(), &b"\0\0\0\0\x02hi"[..]);
        }
    }

    #[tokio::test]
    async fn an_instance_that_ends_costs_no_call_by_http_2() {
        let router = || Router::new().route("/{*rest}", any(async || "ok"));
        let (one, other) = (upstream(router()).await, upstream(router()).await);
        let to_both = Upstream::fixed([one.address, other.address]);
        let gateway = Gateway::builder(MemoryRegistry::default())
            .upstream(to_both.clone(), UpstreamPolicy::new().transport(Transport::http2()))
            .route(Route::new("/{*rest}").to(to_both))
            .build()
            .unwrap();
        for round in 0..100 {
            assert_eq!(text(ask(&gateway, to("/a")).await).await, "ok", "{round}");
        }
        drop(one);
        for round in 0..100 {
            assert_eq!(text(ask(&gateway, to("/a")).await).await, "ok", "{round}");
        }
    }
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_go_on_by_its_instance_and_not_before() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for wanted in [true, false] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let service = listener.local_addr().unwrap();
        let instance = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                seen.push(stream.read_u8().await.unwrap());
            }
            if wanted {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                stream.read_exact(&mut [0; 3]).await.unwrap();
            }
            let answer = if wanted { "200 OK" } else { "401 No" };
            let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(seen).unwrap()
        });
        let route = Route::new("/a").to(Upstream::fixed([service]));
        let front = front(Gateway::builder(MemoryRegistry::default()).route(route)).await;
        let mut client = tokio::net::TcpStream::connect(front.address).await.unwrap();
        let head = "POST /a HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 3\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        client.read_exact(&mut answer).await.unwrap();
        if wanted {
            assert_eq!(answer, b"HTTP/1.1 100");
            client.write_all(b"pay").await.unwrap();
        } else {
            assert_eq!(answer, b"HTTP/1.1 401");
        }
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest.contains("HTTP/1.1 200"), wanted, "{rest}");
        assert!(instance.await.unwrap().contains("expect: 100-continue\r\n"));
    }
}

/// Three instances, each answering with its number.
async fn three() -> (Vec<Running>, Upstream) {
    let mut running = Vec::new();
    for number in 0..3 {
        let answer = async move || number.to_string();
        running.push(upstream(Router::new().route("/{*rest}", any(answer))).await);
    }
    let to = Upstream::fixed(running.iter().map(|running| running.address));
    (running, to)
}

fn picking(to: &Upstream, picker: impl Into<Picker>) -> Gateway {
    Gateway::builder(MemoryRegistry::default())
        .upstream(to.clone(), UpstreamPolicy::new().pick(picker))
        .route(Route::new("/{*rest}").to(to.clone()))
        .build()
        .unwrap()
}

#[tokio::test]
async fn every_picker_of_the_registry_spreads_the_calls_of_an_upstream() {
    let (_running, upstream) = three().await;
    for picker in [
        Picker::default(),
        RoundRobin.into(),
        LocalRoundRobin.into(),
        WeightedRoundRobin.into(),
        Random.into(),
    ] {
        let gateway = picking(&upstream, picker.clone());
        let mut answers = BTreeSet::new();
        // That one of three is never met by chance happens once in 10^26 runs.
        for _ in 0..150 {
            answers.insert(text(ask(&gateway, to("/a")).await).await);
        }
        assert_eq!(answers.len(), 3, "{picker:?}");
    }
}

#[tokio::test]
async fn in_turn_each_instance_has_as_many_calls() {
    let (_running, upstream) = three().await;
    let gateway = picking(&upstream, RoundRobin);
    let mut counts = std::collections::BTreeMap::<_, u32>::new();
    for _ in 0..30 {
        *counts.entry(text(ask(&gateway, to("/a")).await).await).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [10, 10, 10]);
}

#[tokio::test]
async fn the_same_key_goes_to_the_same_instance() {
    let (_running, upstream) = three().await;
    let header = Picker::by_header(HeaderName::from_static("x-cart"));
    let cookie = Picker::by_cookie("cart");
    let own = Picker::consistent(|_, uri| Some(hash_key(uri.query()?)));
    for picker in [header, cookie, own] {
        let gateway = picking(&upstream, picker);
        let mut met = BTreeSet::new();
        for key in 0..20 {
            let mut of_key = BTreeSet::new();
            for turn in 0..5 {
                let request = to(&format!("/a?{key}"))
                    .header("x-cart", key)
                    .header("cookie", format!("other={turn}; cart={key}"));
                of_key.insert(text(ask(&gateway, request).await).await);
            }
            assert_eq!(of_key.len(), 1, "{key}");
            met.extend(of_key);
        }
        assert!(met.len() > 1);
    }
}

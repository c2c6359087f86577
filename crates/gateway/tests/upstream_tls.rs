//! TLS towards instances, with certificates made by openssl.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{fs, time::Duration};

use axum::{Router, extract::Request, routing::any};
use common::{certs::Folder, *};
use gusset_gateway::{
    Gateway, PeerCertificate, Route, Server, Tls, Transport, Upstream, UpstreamPolicy, UpstreamTls,
    UpstreamTlsFiles,
};
use gusset_registry::MemoryRegistry;
use http::Response;
use tokio::{net::TcpListener, sync::oneshot};

/// An instance that tells the version it is asked by, and by whom.
struct Secure {
    address: std::net::SocketAddr,
    _stop: oneshot::Sender<()>,
}

async fn secure(tls: Tls) -> Secure {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let seen = async |request: Request| {
        let peer = request.extensions().get::<PeerCertificate>();
        let peer = peer.and_then(|peer| peer.uris().next().map(ToOwned::to_owned));
        format!("{:?} {}", request.version(), peer.as_deref().unwrap_or("nobody"))
    };
    let router = Router::new().route("/{*rest}", any(seen));
    let server = Server::new().tls(tls).linger(Duration::ZERO).drain_limit(Duration::ZERO);
    tokio::spawn(server.run(listener, router, async {
        let _ = stopped.await;
    }));
    Secure { address, _stop: stop }
}

fn gateway_to(secure: &Secure, http2: bool, tls: UpstreamTlsFiles) -> Gateway {
    let transport = if http2 { Transport::http2() } else { Transport::http1() };
    let transport = transport.tls(tls.read().unwrap()).connect_timeout(Duration::from_secs(60));
    let to = Upstream::fixed([secure.address]);
    Gateway::builder(MemoryRegistry::default())
        .upstream(to.clone(), UpstreamPolicy::new().transport(transport))
        .route(Route::new("/{*rest}").to(to).timeout(Duration::from_secs(120)))
        .build()
        .unwrap()
}

async fn asked(gateway: &Gateway) -> Result<String, u16> {
    let answer: Response<_> = ask(gateway, to("/a")).await;
    match answer.status().as_u16() {
        200 => Ok(text(answer).await),
        status => Err(status),
    }
}

#[tokio::test]
async fn an_instance_is_who_its_certificate_says_or_is_not_called() {
    let (folder, stranger) = (Folder::new("up"), Folder::new("up-stranger"));
    folder.certificate("orders", "orders.internal spiffe://shop.example/orders");
    let secure = secure(folder.files("orders").read().unwrap()).await;
    let trusting = || UpstreamTls::trusting(folder.file("ca.pem"));
    for http2 in [false, true] {
        let version = if http2 { "HTTP/2.0" } else { "HTTP/1.1" };
        let good = Ok(format!("{version} nobody"));
        for (tls, expected) in [
            (trusting().name("orders.internal"), good.clone()),
            (trusting().name("stock.internal"), Err(502)),
            // It is at 127.0.0.1, for which it has no certificate.
            (trusting(), Err(502)),
            (trusting().spiffe_id("spiffe://shop.example/orders"), good.clone()),
            (trusting().spiffe_id("spiffe://shop.example/order"), Err(502)),
            (trusting().trust_domain("shop.example"), good),
            (trusting().trust_domain("shop.exampl"), Err(502)),
            (UpstreamTls::trusting(stranger.file("ca.pem")).name("orders.internal"), Err(502)),
            (
                UpstreamTls::trusting(stranger.file("ca.pem"))
                    .spiffe_id("spiffe://shop.example/orders"),
                Err(502),
            ),
        ] {
            let shown = format!("{version} {tls:?}");
            let gateway = gateway_to(&secure, http2, tls);
            assert_eq!(asked(&gateway).await, expected, "{shown}");
        }
    }
}

#[tokio::test]
async fn an_instance_found_by_its_name_has_a_certificate_for_that_or_is_not_called() {
    let folder = Folder::new("up-named");
    folder.certificate("right", "localhost");
    folder.certificate("wrong", "orders.internal");
    for (certificate, expected) in
        [("right", Ok("HTTP/1.1 nobody".to_owned())), ("wrong", Err(502))]
    {
        let secure = secure(folder.files(certificate).read().unwrap()).await;
        let tls = UpstreamTls::trusting(folder.file("ca.pem")).read().unwrap();
        let transport = Transport::http1().tls(tls).connect_timeout(Duration::from_secs(60));
        let named = Upstream::hosts([("localhost", secure.address.port())]);
        let gateway = Gateway::builder(MemoryRegistry::default())
            .upstream(named.clone(), UpstreamPolicy::new().transport(transport))
            .route(Route::new("/{*rest}").to(named).timeout(Duration::from_secs(120)))
            .build()
            .unwrap();
        assert_eq!(asked(&gateway).await, expected, "{certificate}");
    }
}

#[tokio::test]
async fn a_gateway_without_a_certificate_that_is_believed_gets_nowhere() {
    let (folder, stranger) = (Folder::new("mup"), Folder::new("mup-stranger"));
    folder.certificate("orders", "orders.internal");
    folder.certificate("gateway", "spiffe://shop.example/gateway");
    stranger.certificate("gateway", "spiffe://shop.example/gateway");
    let tls = folder.files("orders").require_clients(folder.file("ca.pem")).read().unwrap();
    let secure = secure(tls).await;
    let trusting = || UpstreamTls::trusting(folder.file("ca.pem")).name("orders.internal");
    let by = |folder: &Folder| {
        trusting().certificate(folder.file("gateway.pem"), folder.file("gateway.key"))
    };
    for http2 in [false, true] {
        let version = if http2 { "HTTP/2.0" } else { "HTTP/1.1" };
        let asked = async |tls| asked(&gateway_to(&secure, http2, tls)).await;
        assert_eq!(
            asked(by(&folder)).await,
            Ok(format!("{version} spiffe://shop.example/gateway"))
        );
        assert_eq!(asked(trusting()).await, Err(502), "{version}");
        assert_eq!(asked(by(&stranger)).await, Err(502), "{version}");
    }
}

#[tokio::test]
async fn a_changed_certificate_is_shown_by_new_connections_and_a_broken_one_never() {
    let folder = Folder::new("up-reload");
    folder.certificate("orders", "orders.internal");
    folder.certificate("one", "spiffe://shop.example/one");
    folder.certificate("two", "spiffe://shop.example/two");
    let put = |pem: &str, key: &str| {
        fs::copy(folder.file(pem), folder.file("own.pem")).unwrap();
        fs::copy(folder.file(key), folder.file("own.key")).unwrap();
    };
    put("one.pem", "one.key");
    let tls = folder.files("orders").require_clients(folder.file("ca.pem")).read().unwrap();
    let secure = secure(tls).await;
    let tls = UpstreamTls::trusting(folder.file("ca.pem"))
        .name("orders.internal")
        .certificate(folder.file("own.pem"), folder.file("own.key"))
        .read()
        .unwrap();
    let connections = gusset_gateway::Connections::new().max_idle(0);
    let transport = Transport::http1().tls(tls.clone()).connections(connections);
    let transport = transport.connect_timeout(Duration::from_secs(60));
    let to = Upstream::fixed([secure.address]);
    let gateway = Gateway::builder(MemoryRegistry::default())
        .upstream(to.clone(), UpstreamPolicy::new().transport(transport))
        .route(Route::new("/{*rest}").to(to).timeout(Duration::from_secs(120)))
        .build()
        .unwrap();
    let one = Ok("HTTP/1.1 spiffe://shop.example/one".to_owned());
    assert_eq!(asked(&gateway).await, one);
    put("two.pem", "one.key");
    assert_eq!(tls.reload().unwrap_err().file(), folder.file("own.key"));
    assert_eq!(asked(&gateway).await, one);
    put("two.pem", "two.key");
    // It is found when connections are made.
    let changed = async {
        while asked(&gateway).await != Ok("HTTP/1.1 spiffe://shop.example/two".to_owned()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), changed).await.unwrap();
}

#[tokio::test]
async fn bodies_pass_through_tls_both_ways() {
    use http_body_util::{BodyExt, Full};
    use tower::ServiceExt;
    let folder = Folder::new("up-bodies");
    folder.certificate("orders", "orders.internal");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_stop, stopped) = oneshot::channel::<()>();
    let router = Router::new().route("/{*rest}", any(async |body: axum::body::Body| body));
    let server = Server::new().tls(folder.files("orders").read().unwrap());
    tokio::spawn(server.run(listener, router, async {
        let _ = stopped.await;
    }));
    for http2 in [false, true] {
        let secure = Secure { address, _stop: oneshot::channel().0 };
        let tls = UpstreamTls::trusting(folder.file("ca.pem")).name("orders.internal");
        let gateway = gateway_to(&secure, http2, tls);
        for size in [0, 1, 16_384, 100_000, 2_000_000] {
            let body: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
            let request = http::Request::post("http://gateway/a");
            let request = request.body(Full::new(bytes::Bytes::from(body.clone()))).unwrap();
            let answer = gateway.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), 200);
            let back = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(back == body, "{size} {}", back.len());
        }
    }
}

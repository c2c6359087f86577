//! A gateway as a hop between services: what goes on as it came, and where to.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex},
};

use axum::{Router, routing::get};
use common::*;
use gusset_gateway::{ByHost, Gateway, Network, Route, Server, Upstream};
use gusset_registry::MemoryRegistry;
use http::{Method, Request};
use tokio::net::TcpListener;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn hop(registry: &MemoryRegistry, to: impl Into<Upstream>) -> Gateway {
    let to = to.into();
    let routes = ["/", "/{*path}"].map(|path| Route::new(path).to(to.clone()));
    let builder = Gateway::builder(registry.clone()).between_services();
    routes.into_iter().fold(builder, gusset_gateway::Builder::route).build().unwrap()
}

fn by_host(registry: &MemoryRegistry) -> ByHost {
    let fallback = Gateway::builder(registry.clone()).build().unwrap();
    let registry = registry.clone();
    ByHost::new(fallback, move |service: &str| Some(hop(&registry, service)))
}

#[tokio::test]
async fn between_services_a_request_goes_on_as_it_came() {
    let (service, mut requests) = canned(OK).await;
    let gateway = hop(&MemoryRegistry::default(), Upstream::fixed([service]));
    let front = front_by(Server::new(), gateway).await;
    for path in ["/", "/a%2fb//c/../d%2E;x?q=%2f", "/%00", "//"] {
        let answer = raw(
            front.address,
            &format!(
                "GET {path} HTTP/1.1\r\nHost: Cart.example:80\r\nConnection: close\r\nX-Forwarded-For: 203.0.113.9\r\n\
                 X-Gusset-Subject: ann\r\nX-Request-Timeout-Ms: 4000\r\n\r\n"
            ),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        let request = requests.recv().await.unwrap().to_ascii_lowercase();
        let expected = format!("get {} http/1.1\r\n", path.to_ascii_lowercase());
        assert!(request.starts_with(&expected), "{request}");
        for kept in [
            "\r\nhost: cart.example:80\r\n",
            "\r\nx-forwarded-for: 203.0.113.9\r\n",
            "\r\nx-gusset-subject: ann\r\n",
            "\r\nvia: 1.1 gusset\r\n",
        ] {
            assert!(request.contains(kept), "{kept} in {request}");
        }
        assert!(!request.contains("x-forwarded-host"), "{request}");
        let left = request.split("x-request-timeout-ms: ").nth(1).unwrap();
        let left: u32 = left.split('\r').next().unwrap().parse().unwrap();
        assert!(left <= 4000, "{left}");
    }
}

#[tokio::test]
async fn the_host_of_an_absolute_target_goes_on_as_the_host() {
    let (service, mut requests) = canned(OK).await;
    let gateway = hop(&MemoryRegistry::default(), Upstream::fixed([service]));
    let front = front_by(Server::new(), gateway).await;
    raw(front.address, "GET http://cart/a HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n")
        .await;
    let request = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(request.starts_with("get /a http/1.1\r\n"), "{request}");
    assert_eq!(request.matches("host: ").count(), 1, "{request}");
    assert!(request.contains("\r\nhost: cart\r\n"), "{request}");
}

/// A service that says its name.
async fn named(name: &'static str, registry: &MemoryRegistry) -> Running {
    use gusset_registry::{Health, Instance, Registry};
    let running = upstream(Router::new().route("/", get(move || async move { name }))).await;
    let instance = Instance::at(name, running.address).with_health(Health::Healthy);
    registry.register(instance).await.unwrap();
    running
}

#[tokio::test]
async fn each_request_goes_to_the_service_that_its_host_names() {
    let registry = MemoryRegistry::default();
    let _cart = named("cart", &registry).await;
    let _mail = named("mail", &registry).await;
    let outbound = by_host(&registry);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _serving =
        tokio::spawn(Server::new().run(listener, outbound.clone(), std::future::pending()));
    for (target, host, expected) in [
        ("/", "cart", "\r\n\r\ncart"),
        ("/", "mail:80", "\r\n\r\nmail"),
        ("/", "mail.", "\r\n\r\nmail"),
        ("http://cart/", "mail", "\r\n\r\ncart"),
        ("http://mail:4140/", "mail:4140", "\r\n\r\nmail"),
        ("/", "[::1]:80", "HTTP/1.1 503"),
        ("/", "nobody", "HTTP/1.1 503"),
        ("/", "a b", "HTTP/1.1 400"),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = raw(address, &request).await;
        assert!(answer.contains(expected), "{host}: {answer}");
    }
    let names: Vec<_> = outbound.services().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names.iter().map(|name| &**name).collect::<Vec<_>>(),
        ["[::1]", "cart", "mail", "nobody"]
    );
}

#[tokio::test]
async fn a_tunnel_is_refused_and_no_service_is_made_of_it() {
    let outbound = by_host(&MemoryRegistry::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _serving =
        tokio::spawn(Server::new().run(listener, outbound.clone(), std::future::pending()));
    let answer = raw(address, "CONNECT cart:443 HTTP/1.1\r\nHost: cart:443\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert_eq!(outbound.stats().services, 0);
}

#[tokio::test]
async fn beyond_the_bound_the_service_goes_that_was_not_asked_for_the_longest() {
    let registry = MemoryRegistry::default();
    let made = Arc::new(Mutex::new(Vec::new()));
    let noted = made.clone();
    let nowhere = nowhere().await;
    let fallback = Gateway::builder(registry.clone()).build().unwrap();
    let two = NonZeroUsize::new(2).unwrap();
    let outbound = ByHost::new(fallback, move |service: &str| {
        noted.lock().unwrap().push(service.to_owned());
        (service != "none").then(|| hop(&registry, Upstream::fixed([nowhere])))
    })
    .most(two);
    let ask = |name: &'static str| {
        let request = Request::builder().method(Method::GET).uri(format!("http://{name}/"));
        let request = request.body(http_body_util::Full::<bytes::Bytes>::default()).unwrap();
        tower::ServiceExt::oneshot(outbound.clone(), request)
    };
    for name in ["a", "b", "a", "c", "a", "b", "c"] {
        assert!(ask(name).await.unwrap().status().is_server_error(), "{name}");
    }
    assert_eq!(*made.lock().unwrap(), ["a", "b", "c", "b", "c"]);
    assert_eq!((outbound.stats().services, outbound.stats().replaced), (2, 3));
    assert_eq!(
        ask("none").await.unwrap().status(),
        404,
        "where there is none, the fallback answers"
    );
    assert_eq!(outbound.stats().services, 2);
}

#[tokio::test]
async fn the_door_believes_nobody_and_a_hop_everybody() {
    let (service, mut requests) = canned(OK).await;
    let door = Gateway::builder(MemoryRegistry::default())
        .trusted_proxies(Vec::<Network>::new())
        .route(Route::new("/{*path}").to(Upstream::fixed([service])));
    let front = front(door).await;
    let forged =
        "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Gusset-Subject: root\r\n\r\n";
    raw(front.address, forged).await;
    assert!(!requests.recv().await.unwrap().contains("root"));
    let answer =
        raw(front.address, "GET /a%2fb HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

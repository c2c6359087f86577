//! What a gateway answers by itself: each failure distinct, and nothing told of the inside.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    routing::{get, post},
};
use bytes::Bytes;
use common::*;
use gusset_breaker::{Policy, State};
use gusset_gateway::{AuthError, CommonQuota, Gateway, Identity, PeerAddr, Route, UpstreamPolicy};
use gusset_ratelimit::Quota;
use gusset_registry::MemoryRegistry;
use gusset_sidecar::RetryPolicy;
use http::{Method, Request, StatusCode, request::Parts};
use http_body_util::Full;
use tokio::time::{Instant, timeout};
use tower::ServiceExt;

fn orders() -> Router {
    Router::new().route("/orders", get(async || "list").post(async |body: Bytes| body))
}

fn by_token(head: &Parts) -> Result<Identity, AuthError> {
    match head.headers.get("authorization").map(|token| token.as_bytes()) {
        None => Err(AuthError::Missing),
        Some(b"Bearer alice") => Ok(Identity::new("alice")),
        Some(b"Bearer mallory") => Err(AuthError::Forbidden),
        Some(_) => Err(AuthError::Invalid),
    }
}

#[tokio::test]
async fn a_known_path_is_proxied() {
    let service = upstream(orders()).await;
    let registry = registry("orders", &[service.address]).await;
    let gateway =
        Gateway::builder(registry).route(Route::new("/orders").to("orders")).build().unwrap();
    let answer = ask(&gateway, to("/orders")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["via"], "1.1 gusset");
    assert_eq!(text(answer).await, "list");
    assert_eq!(gateway.stats()[0].answers, [0, 1, 0, 0, 0]);
}

#[tokio::test]
async fn an_unknown_path_is_404_and_a_known_one_with_another_method_405() {
    let registry = registry("orders", &[]).await;
    let route = Route::new("/orders/{id}").methods([Method::GET, Method::DELETE]).to("orders");
    let gateway = Gateway::builder(registry).route(route).build().unwrap();

    let unknown = ask(&gateway, to("/order/7")).await;
    assert_eq!(unknown.status(), 404);
    let unknown = problem(unknown).await;

    let wrong = ask(&gateway, to("/orders/7").method("PUT")).await;
    assert_eq!(wrong.status(), 405);
    assert_eq!(wrong.headers()["allow"], "GET, HEAD, DELETE");
    assert_ne!(problem(wrong).await["detail"], unknown["detail"]);
}

#[tokio::test]
async fn without_one_valid_host_or_with_an_ambiguous_path_it_is_400() {
    let registry = registry("orders", &[]).await;
    let front = front(Gateway::builder(registry).route(Route::new("/{*all}").to("orders"))).await;
    for request in [
        "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: me@a\r\nConnection: close\r\n\r\n",
        "GET /a%2fb HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET /a/..;/b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ] {
        let answer = raw(front.address, request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request}{answer}");
        assert!(answer.contains("application/problem+json"), "{answer}");
    }
}

#[tokio::test]
async fn an_unknown_sender_is_401_and_one_that_may_not_403() {
    let service = upstream(Router::new().route("/whoami", get(whoami))).await;
    let registry = registry("users", &[service.address]).await;
    let gateway = Gateway::builder(registry)
        .route(Route::new("/whoami").to("users").authenticated())
        .authenticate(by_token)
        .build()
        .unwrap();
    let with = |token: &str| to("/whoami").header("authorization", token);

    let missing = ask(&gateway, to("/whoami")).await;
    assert_eq!(
        (missing.status().as_u16(), &missing.headers()["www-authenticate"]),
        (401, &"Bearer".parse().unwrap())
    );
    problem(missing).await;
    let invalid = ask(&gateway, with("Bearer forged")).await;
    assert_eq!(invalid.status(), 401);
    assert_eq!(
        invalid.headers()["www-authenticate"],
        r#"Bearer error="invalid_token", error_description="the token is not valid""#
    );
    let forbidden = ask(&gateway, with("Bearer mallory")).await;
    assert_eq!(forbidden.status(), 403);
    problem(forbidden).await;

    let known = ask(&gateway, with("Bearer alice").header("x-gusset-subject", "root")).await;
    assert_eq!(text(known).await, "alice", "the gateway says who it is, not the client");
    assert_eq!(gateway.stats()[0].refused, 3);
}

async fn whoami(headers: http::HeaderMap) -> String {
    let subjects = headers.get_all("x-gusset-subject").iter();
    subjects.map(|subject| subject.to_str().unwrap()).collect::<Vec<_>>().join(",")
}

#[tokio::test]
async fn nobody_is_anybody_on_a_route_without_authentication() {
    let service = upstream(Router::new().route("/whoami", get(whoami))).await;
    let registry = registry("users", &[service.address]).await;
    let gateway =
        Gateway::builder(registry).route(Route::new("/whoami").to("users")).build().unwrap();
    let answer = ask(&gateway, to("/whoami").header("x-gusset-subject", "root")).await;
    assert_eq!(text(answer).await, "");
}

#[tokio::test]
async fn a_body_above_the_limit_is_413_with_a_length_and_without() {
    let service = upstream(orders()).await;
    let registry = registry("orders", &[service.address]).await;
    let route = Route::new("/orders").to("orders").body_limit(1_000);
    let front = front(Gateway::builder(registry).route(route)).await;

    let send = |size: usize| {
        let request = Request::post(front.url("/orders")).body(Full::from(vec![0; size])).unwrap();
        async move { client().request(request).await.unwrap() }
    };
    assert_eq!(send(1_000).await.status(), 200);
    let large = send(1_001).await;
    assert_eq!(large.status(), 413);
    problem(large).await;

    let chunk = format!("258\r\n{}\r\n", "x".repeat(600));
    let head = "POST /orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    let answer = raw(front.address, &format!("{head}{chunk}{chunk}0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn a_malformed_body_is_400_and_no_fault_of_the_instance() {
    let service = upstream(orders()).await;
    let registry = registry("orders", &[service.address]).await;
    let builder = Gateway::builder(registry).route(Route::new("/orders").to("orders"));
    let gateway = builder.breaker(Policy::consecutive(1)).build().unwrap();
    let front = front_by(gusset_gateway::Server::new(), gateway.clone()).await;
    let head = "POST /orders HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = raw(front.address, &format!("{head}3\r\nabc\r\nnonsense\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(gateway.breakers()[0].circuit.state(), State::Closed);
}

fn from(address: &str, path: &str) -> http::request::Builder {
    let address: SocketAddr = format!("{address}:1000").parse().unwrap();
    to(path).extension(PeerAddr(address))
}

#[tokio::test]
async fn above_the_quota_it_is_429_for_that_client_on_that_route_only() {
    let service = upstream(Router::new().route("/{*all}", get(async || "ok"))).await;
    let registry = registry("shop", &[service.address]).await;
    let two = Quota::per_minute(2);
    let gateway = Gateway::builder(registry)
        .route(Route::new("/a").to("shop").quota(two))
        .route(Route::new("/b").to("shop").quota(two))
        .build()
        .unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&gateway, from("192.0.2.1", "/a")).await.status(), 200);
    }
    let limited = ask(&gateway, from("192.0.2.1", "/a")).await;
    assert_eq!(limited.status(), 429);
    let wait = limited.headers()["retry-after"].to_str().unwrap().to_owned();
    // 30, unless the machine was busy in between.
    assert!((1..=30).contains(&wait.parse::<u32>().unwrap()), "{wait}");
    assert_eq!(limited.headers()["ratelimit-policy"], "\"default\";q=2;w=60");
    assert_eq!(limited.headers()["ratelimit"], format!("\"default\";r=0;t={wait}"));
    let problem = problem(limited).await;
    assert_eq!(problem["violated-policies"][0], "default");
    assert_eq!(problem["detail"], "too many requests of this client");

    assert_eq!(ask(&gateway, from("192.0.2.2", "/a")).await.status(), 200, "another client");
    assert_eq!(ask(&gateway, from("192.0.2.1", "/b")).await.status(), 200, "another route");
}

#[tokio::test]
async fn a_shared_quota_is_of_all_its_routes_and_of_the_gateway_that_comes_next() {
    let service = upstream(Router::new().route("/{*all}", get(async || "ok"))).await;
    let quota = CommonQuota::new(Quota::per_hour(2));
    let gateway = async || {
        let route = |path| Route::new(path).to("shop").quota_in_common(quota.clone());
        let registry = registry("shop", &[service.address]).await;
        Gateway::builder(registry).route(route("/a")).route(route("/b")).build().unwrap()
    };
    let first = gateway().await;
    assert_eq!(ask(&first, from("192.0.2.1", "/a")).await.status(), 200);
    assert_eq!(ask(&first, from("192.0.2.1", "/b")).await.status(), 200);
    assert_eq!(ask(&first, from("192.0.2.1", "/a")).await.status(), 429);
    let next = gateway().await;
    assert_eq!(ask(&next, from("192.0.2.1", "/b")).await.status(), 429);
    assert_eq!(ask(&next, from("192.0.2.2", "/b")).await.status(), 200, "another client");
}

#[tokio::test]
async fn a_quota_follows_the_subject_and_a_custom_key() {
    let service = upstream(Router::new().route("/{*all}", get(async || "ok"))).await;
    let registry = registry("shop", &[service.address]).await;
    let one = Quota::per_minute(1);
    let gateway =
        Gateway::builder(registry)
            .route(Route::new("/mine").to("shop").quota(one).authenticated())
            .route(Route::new("/keyed").to("shop").quota_by(one, |client| {
                client.head.headers["x-tenant"].to_str().unwrap().to_owned()
            }))
            .authenticate(|head: &Parts| {
                Ok(Identity::new(head.headers["authorization"].to_str().unwrap()))
            })
            .build()
            .unwrap();
    let status = async |request| ask(&gateway, request).await.status().as_u16();

    let mine = |user: &str, from_address| from(from_address, "/mine").header("authorization", user);
    assert_eq!(status(mine("alice", "192.0.2.1")).await, 200);
    assert_eq!(status(mine("alice", "192.0.2.2")).await, 429, "one subject at two addresses");
    assert_eq!(status(mine("bob", "192.0.2.1")).await, 200, "two subjects at one address");

    let keyed = |tenant: &str| from("192.0.2.1", "/keyed").header("x-tenant", tenant);
    assert_eq!(status(keyed("x")).await, 200);
    assert_eq!(status(keyed("x")).await, 429);
    assert_eq!(status(keyed("y")).await, 200);
}

#[tokio::test]
async fn an_instance_that_cannot_be_reached_is_502_and_its_address_is_not_told() {
    let gone = nowhere().await;
    let registry = registry("secret-service", &[gone]).await;
    let gateway =
        Gateway::builder(registry).route(Route::new("/a").to("secret-service")).build().unwrap();
    let answer = ask(&gateway, to("/a")).await;
    assert_eq!(answer.status(), 502);
    let problem = problem(answer).await.to_string();
    assert!(
        !problem.contains("secret") && !problem.contains(&gone.port().to_string()),
        "{problem}"
    );
}

#[tokio::test]
async fn no_instance_is_503() {
    let registry = registry("other", &[]).await;
    let gateway = Gateway::builder(registry).route(Route::new("/a").to("secret")).build().unwrap();
    tokio::time::pause();
    let answer = ask(&gateway, to("/a")).await;
    assert_eq!(answer.status(), 503);
    assert!(!problem(answer).await.to_string().contains("secret"));
}

#[tokio::test]
async fn a_call_waits_for_a_first_instance_as_long_as_its_upstream_says() {
    for (wait, waited) in [(None, 1_000), (Some(0), 0), (Some(3_000), 3_000)] {
        let policy = UpstreamPolicy::new();
        let policy = match wait {
            Some(millis) => policy.wait(Duration::from_millis(millis)),
            None => policy,
        };
        let builder = Gateway::builder(MemoryRegistry::default()).upstream("none", policy);
        let gateway = builder.route(Route::new("/a").to("none")).build().unwrap();
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        assert_eq!(ask(&gateway, to("/a")).await.status(), 503);
        let took = begun.elapsed().as_millis();
        assert!((waited..waited + 50).contains(&took), "{took} ms for {wait:?}");
        tokio::time::resume();
    }
}

#[tokio::test]
async fn the_only_instance_is_tried_again_soon_after_it_failed() {
    let ails = Arc::new(AtomicBool::new(true));
    let health = ails.clone();
    let answer = get(async move || match health.load(SeqCst) {
        true => StatusCode::INTERNAL_SERVER_ERROR,
        false => StatusCode::OK,
    });
    let service = upstream(Router::new().route("/a", answer)).await;
    let registry = registry("shop", &[service.address]).await;
    let gateway = Gateway::builder(registry).route(Route::new("/a").to("shop")).build().unwrap();
    let (mut failed, begun) = (0, Instant::now());
    while gateway.breakers()[0].circuit.state() != State::Open {
        failed += 1;
        assert_eq!(ask(&gateway, to("/a")).await.status(), 500);
        // A hiccup of some milliseconds is no reason, however much comes in these.
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert!(failed >= 5 && begun.elapsed() >= Duration::from_millis(20));
    ails.store(false, SeqCst);
    let open = ask(&gateway, to("/a")).await;
    let again = open.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap();
    assert!(open.status() == 503 && again <= 2, "{again}");
    let back = async { while ask(&gateway, to("/a")).await.status() != 200 {} };
    timeout(Duration::from_secs(10), back).await.unwrap();
}

#[tokio::test]
async fn an_open_circuit_is_503_and_says_when_to_come_back() {
    let service =
        upstream(Router::new().route("/a", get(async || StatusCode::INTERNAL_SERVER_ERROR))).await;
    let registry = registry("shop", &[service.address]).await;
    let gateway = Gateway::builder(registry)
        .route(Route::new("/a").to("shop"))
        .breaker(Policy::consecutive(2).open_for(Duration::from_secs(60)))
        .build()
        .unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&gateway, to("/a")).await.status(), 500, "the upstream's own answer");
    }
    let open = ask(&gateway, to("/a")).await;
    assert_eq!(open.status(), 503);
    assert_eq!(open.headers()["retry-after"], "60");
    problem(open).await;
    assert_eq!(gateway.breakers()[0].circuit.state(), State::Open);
}

#[tokio::test]
async fn a_grpc_code_counts_in_the_circuit_as_5xx_does() {
    let said = async |code: http::HeaderMap| [("grpc-status", code["code"].clone())];
    let service = upstream(Router::new().route("/a", get(said))).await;
    let registry = registry("shop", &[service.address]).await;
    let gateway = Gateway::builder(registry)
        .route(Route::new("/a").to("shop"))
        .breaker(Policy::consecutive(2))
        .build()
        .unwrap();
    // 9 is FAILED_PRECONDITION, a decision of a service that works; 13 is INTERNAL.
    for (code, state) in
        [("13", State::Closed), ("9", State::Closed), ("13", State::Closed), ("13", State::Open)]
    {
        assert_eq!(ask(&gateway, to("/a").header("code", code)).await.status(), 200);
        assert_eq!(gateway.breakers()[0].circuit.state(), state, "{code}");
    }
}

#[tokio::test]
async fn an_upstream_that_hangs_is_504_and_counts_as_a_failure_while_an_impatient_client_does_not()
{
    let service = upstream(Router::new().route("/{*all}", get(std::future::pending::<()>))).await;
    let registry = registry("shop", &[service.address]).await;
    let gateway = Gateway::builder(registry)
        .route(Route::new("/a").to("shop").timeout(Duration::from_millis(100)))
        .route(Route::new("/patient").to("shop").timeout(Duration::from_secs(600)))
        .breaker(Policy::consecutive(2))
        .build()
        .unwrap();
    for _ in 0..3 {
        let call = ask(&gateway, to("/patient").header("x-request-timeout-ms", "1"));
        let _ = tokio::time::timeout(Duration::from_millis(20), call).await;
    }
    assert_eq!(gateway.breakers()[0].circuit.state(), State::Closed);

    for _ in 0..2 {
        let late = ask(&gateway, to("/a")).await;
        assert_eq!(late.status(), 504);
        problem(late).await;
    }
    assert_eq!(gateway.breakers()[0].circuit.state(), State::Open);
}

#[tokio::test]
async fn a_post_that_may_have_been_acted_on_is_not_made_again() {
    let calls = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let seen = calls.clone();
    let busy = move || {
        seen.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async { StatusCode::SERVICE_UNAVAILABLE }
    };
    let service = upstream(Router::new().route("/a", post(busy.clone()).get(busy))).await;
    let registry = registry("shop", &[service.address]).await;
    let route = Route::new("/a").to("shop").retry(RetryPolicy::default().retries(2));
    let gateway = Gateway::builder(registry).route(route).build().unwrap();
    let post = Request::post("http://gateway/a").body(Full::<Bytes>::from("pay")).unwrap();
    assert_eq!(gateway.clone().oneshot(post).await.unwrap().status(), 503);
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(ask(&gateway, to("/a")).await.status(), 503);
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 4, "a GET is");
}

#[tokio::test]
async fn a_client_that_sends_slowly_is_408_and_no_fault_of_the_instance() {
    let service = upstream(orders()).await;
    let registry = registry("orders", &[service.address]).await;
    let route = Route::new("/orders").to("orders").timeout(Duration::from_millis(100));
    let gateway =
        Gateway::builder(registry).route(route).breaker(Policy::consecutive(1)).build().unwrap();
    let front = front_by(gusset_gateway::Server::new(), gateway.clone()).await;
    let begun = "POST /orders HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nonly";
    let answer = raw(front.address, begun).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(gateway.breakers()[0].circuit.state(), State::Closed);
}

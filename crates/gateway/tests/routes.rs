//! Which route takes a request, what it changes in it, and what it answers by itself.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use common::*;
use gusset_gateway::{
    AuthError, Condition, Cors, FixedAnswer, Gateway, HeaderEdits, Identity, Redirect, Route,
    Upstream,
};
use gusset_ratelimit::Quota;
use gusset_registry::MemoryRegistry;
use http::{HeaderValue, Request, StatusCode, header, request::Parts};

fn gateway(routes: impl IntoIterator<Item = Route>) -> Gateway {
    let builder = Gateway::builder(MemoryRegistry::default());
    routes.into_iter().fold(builder, gusset_gateway::Builder::route).build().unwrap()
}

/// A route that says which one it is.
fn named(path: &str, name: &'static str) -> Route {
    Route::new(path).answer(FixedAnswer::text(name))
}

async fn said(gateway: &Gateway, request: http::request::Builder) -> String {
    let answer = ask(gateway, request).await;
    match answer.status() {
        StatusCode::OK => text(answer).await,
        status => status.as_u16().to_string(),
    }
}

const OK: &str =
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: inner/1.0\r\nX-Inner: 1\r\n\r\nok";

#[tokio::test]
async fn the_most_specific_route_takes_a_request_in_whatever_order_they_were_added() {
    let mut routes = vec![
        named("/{*rest}", "any"),
        named("/orders/{id}", "order").host("*.shop.example"),
        named("/orders/{id}", "german order").host("de.shop.example"),
        named("/orders/{id}", "beta order")
            .host("*.shop.example")
            .when(Condition::header("x-beta").is("1")),
        named("/orders/latest", "latest"),
    ];
    for _ in 0..routes.len() {
        routes.rotate_left(1);
        let gateway = gateway(routes.clone());
        let get = |host: &str, path: &str| Request::get(format!("http://{host}{path}"));
        for (request, name) in [
            (get("de.shop.example", "/orders/7"), "german order"),
            (get("fr.shop.example", "/orders/7"), "order"),
            (get("fr.shop.example", "/orders/7").header("x-beta", "1"), "beta order"),
            (get("fr.shop.example", "/orders/latest"), "order"),
            (get("other.example", "/orders/latest"), "latest"),
            (get("other.example", "/orders/7"), "any"),
            (get("other.example", "/"), "any"),
        ] {
            assert_eq!(said(&gateway, request).await, name);
        }
    }
}

#[tokio::test]
async fn versions_are_told_apart_by_path_field_media_type_and_query() {
    let v2 = Condition::header("accept").has("application/vnd.shop.v2+json");
    let gateway = gateway([
        named("/orders", "1"),
        named("/v2/orders", "2 by path"),
        named("/orders", "2 by field").when(Condition::header("api-version").is("2")).rank(2),
        named("/orders", "2 by type").when(v2).rank(1),
        named("/orders", "2 by query").when(Condition::query("v").is("2")),
    ]);
    for (request, version) in [
        (to("/orders"), "1"),
        (to("/v2/orders"), "2 by path"),
        (to("/orders").header("api-version", "2"), "2 by field"),
        (to("/orders").header("api-version", "3"), "1"),
        (to("/orders").header("accept", "application/vnd.shop.v2+json, */*;q=0.1"), "2 by type"),
        (to("/orders?a=b&v=%32"), "2 by query"),
    ] {
        assert_eq!(said(&gateway, request).await, version);
    }
}

#[tokio::test]
async fn conditions_do_not_see_what_strangers_may_not_say() {
    let gateway = gateway([
        named("/a", "outside"),
        named("/a", "inside").when(Condition::header("x-forwarded-proto").is("https")),
        named("/a", "root").when(Condition::header("x-gusset-subject").is("root")).rank(1),
    ]);
    for field in ["x-forwarded-proto", "x-gusset-subject", "x_gusset_subject"] {
        let request = to("/a").header(field, "https").header(field, "root");
        assert_eq!(said(&gateway, request).await, "outside");
        assert_eq!(said(&gateway, to("/a").header(field, "root")).await, "outside");
        assert_eq!(said(&gateway, to("/a").header(field, "https")).await, "outside");
    }
}

#[tokio::test]
async fn a_preflight_finds_the_route_that_the_request_will() {
    let beta = Route::new("/a").when(Condition::header("x-beta")).to("shop");
    let gateway = gateway([beta.cors(Cors::origins(["https://shop.example"]))]);
    let preflight = Request::options("http://gateway/a")
        .header("origin", "https://shop.example")
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "x-beta");
    assert_eq!(ask(&gateway, preflight).await.status(), 204);
}

#[tokio::test]
async fn fields_are_changed_on_both_sides() {
    let (service, mut requests) = canned(OK).await;
    let request = HeaderEdits::new()
        .set("x-tenant", "t-{tenant}")
        .set("x-asked", "{request.method} {request.host}{request.path}?{request.query}")
        .add("x-more", "2")
        .set_if_absent("x-more", "3")
        .set_if_absent("x-new", "{client.address}")
        .remove("x-debug");
    let answer =
        HeaderEdits::new().set("x-tenant", "{tenant}").remove("server").add("x-inner", "2");
    let route = Route::new("/{tenant}/{*rest}")
        .to(Upstream::fixed([service]))
        .rewrite("/{rest}")
        .request_headers(request)
        .answer_headers(answer);
    let front = front(Gateway::builder(MemoryRegistry::default()).route(route)).await;
    let answer = raw(
        front.address,
        "GET /blue/orders?x=1 HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\nX-Tenant: red\r\nX-More: 1\r\nX-Debug: 1\r\n\r\n",
    )
    .await;
    let request = requests.recv().await.unwrap().to_ascii_lowercase();
    for line in [
        "get /orders?x=1 http/1.1\r\n",
        "x-tenant: t-blue\r\n",
        "x-asked: get shop.example/blue/orders?x=1\r\n",
        "x-more: 1\r\n",
        "x-more: 2\r\n",
        "x-new: 127.0.0.1\r\n",
    ] {
        assert!(request.contains(line), "{line} in {request}");
    }
    for gone in ["red", "x-debug", "x-more: 3"] {
        assert!(!request.contains(gone), "{gone} in {request}");
    }
    let answer = answer.to_ascii_lowercase();
    for line in ["x-tenant: blue\r\n", "x-inner: 1\r\n", "x-inner: 2\r\n"] {
        assert!(answer.contains(line), "{line} in {answer}");
    }
    assert!(!answer.contains("inner/1.0"), "{answer}");
}

#[tokio::test]
async fn the_upstream_sees_the_host_that_the_route_says() {
    let (service, mut requests) = canned(OK).await;
    let to = || Upstream::fixed([service]);
    let front = front(
        Gateway::builder(MemoryRegistry::default())
            .route(Route::new("/kept").to(to()).host_header("{request.host}"))
            .route(Route::new("/of/{tenant}").to(to()).host_header("{tenant}.inner:80"))
            .route(Route::new("/plain").to(to())),
    )
    .await;
    let instance = service.to_string();
    for (path, host) in
        [("/kept", "shop.example:1"), ("/of/blue", "blue.inner:80"), ("/plain", &*instance)]
    {
        raw(
            front.address,
            &format!("GET {path} HTTP/1.1\r\nHost: shop.example:1\r\nConnection: close\r\n\r\n"),
        )
        .await;
        let request = requests.recv().await.unwrap();
        assert!(request.contains(&format!("host: {host}\r\n")), "{request}");
        assert_eq!(request.to_ascii_lowercase().matches("\r\nhost:").count(), 1, "{request}");
    }
    let answer = raw(
        front.address,
        "GET /of/a%20b HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn answers_of_the_gateways_own_are_changed_as_well() {
    let strict = HeaderEdits::new().set("strict-transport-security", "max-age=1");
    let gateway = gateway([Route::new("/a").to("nobody").body_limit(0).answer_headers(strict)]);
    let request = Request::post("http://gateway/a").body(String::from("x")).unwrap();
    let answer = tower::ServiceExt::oneshot(gateway, request).await.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.headers()["strict-transport-security"], "max-age=1");
}

#[tokio::test]
async fn a_redirect_takes_parameters_and_query_along() {
    let gateway = gateway([
        Route::new("/orders/{id}").redirect(Redirect::permanent("/api/orders/{id}")),
        Route::new("/find").redirect(Redirect::temporary("/search?from=old")),
        Route::new("/bare").redirect(Redirect::temporary("/").without_query()),
        Route::new("/see").redirect(Redirect::temporary("/b").status(StatusCode::SEE_OTHER)),
        Route::new("/{*rest}")
            .host("www.shop.example")
            .redirect(Redirect::permanent("https://{request.hostname}:8443{request.path}")),
        Route::new("/by/{*rest}").redirect(Redirect::permanent("/{request.header.x-to}")),
    ]);
    let get = |target: &str| Request::get(format!("http://www.shop.example:80{target}"));
    for (request, status, location) in [
        (to("/orders/7?x=1&y"), 308, "/api/orders/7?x=1&y"),
        (to("/find?x=1"), 307, "/search?from=old"),
        (to("/bare?x=1"), 307, "/"),
        (to("/see"), 303, "/b"),
        (get("/a/b?c=d"), 308, "https://www.shop.example:8443/a/b?c=d"),
    ] {
        let answer = ask(&gateway, request).await;
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["location"], location);
        assert_eq!(text(answer).await, "");
    }
    for elsewhere in ["/evil.example", "\\evil.example"] {
        let answer = ask(&gateway, to("/by/a").header("x-to", elsewhere)).await;
        assert_eq!(answer.status(), 400, "browsers would take {elsewhere} for a host");
    }
}

#[tokio::test]
async fn a_fixed_answer_asks_no_upstream_but_who_sends_it() {
    let gone = FixedAnswer::new(StatusCode::GONE)
        .header(header::CACHE_CONTROL, HeaderValue::from_static("max-age=60"));
    let gateway = Gateway::builder(MemoryRegistry::default())
        .route(Route::new("/healthz").answer(FixedAnswer::text("ok")))
        .route(Route::new("/v1/{*rest}").answer(gone))
        .route(Route::new("/mine").answer(FixedAnswer::text("yours")).authenticated())
        .route(
            Route::new("/once").answer(FixedAnswer::text("1")).quota(Quota::per_hour(1).burst(1)),
        )
        .authenticate(|head: &Parts| match head.headers.get("x-key") {
            Some(_) => Ok(Identity::new("ann")),
            None => Err(AuthError::Missing),
        })
        .build()
        .unwrap();
    let healthy = ask(&gateway, to("/healthz")).await;
    assert_eq!(healthy.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(text(healthy).await, "ok");
    let gone = ask(&gateway, to("/v1/orders")).await;
    assert_eq!(
        (gone.status(), &gone.headers()["cache-control"]),
        (StatusCode::GONE, &HeaderValue::from_static("max-age=60"))
    );
    assert_eq!(said(&gateway, to("/mine")).await, "401");
    assert_eq!(said(&gateway, to("/mine").header("x-key", "1")).await, "yours");
    assert_eq!(said(&gateway, to("/once")).await, "1");
    assert_eq!(said(&gateway, to("/once")).await, "429");

    let stats = gateway.stats();
    assert_eq!((stats[0].answers[1], stats[0].refused), (1, 0));
    assert_eq!((stats[1].answers[3], stats[1].refused), (1, 0), "a fixed 410 is no refusal");
    assert!(stats[0].upstreams.is_empty());
    assert!(gateway.breakers().is_empty());
}

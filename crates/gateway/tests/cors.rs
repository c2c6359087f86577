//! What web pages of other origins may read.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use axum::{Router, routing::any};
use bytes::Bytes;
use common::*;
use gusset_gateway::{AuthError, BuildError, Cors, Gateway, Identity, Route, Upstream};
use gusset_registry::MemoryRegistry;
use http::{HeaderName, Method, Request, Response, request::Parts};
use http_body_util::Full;

const SHOP: &str = "https://shop.example";

fn nobody(_: &Parts) -> Result<Identity, AuthError> {
    Err(AuthError::Missing)
}

/// `/mine` is for known senders, `/own` has a policy of its own.
async fn shop() -> (Running, Front) {
    let answer = || async { ([("access-control-allow-origin", "*"), ("vary", "accept")], "ok") };
    let service = upstream(Router::new().route("/{*all}", any(answer))).await;
    let to = || Upstream::fixed([service.address]);
    let own = Cors::any().headers([HeaderName::from_static("x-trace")]);
    let builder = Gateway::builder(MemoryRegistry::default())
        .route(Route::new("/open").methods([Method::GET, Method::DELETE]).to(to()))
        .route(Route::new("/mine").authenticated().to(to()))
        .route(Route::new("/own").cors(own).to(to()))
        .authenticate(nobody)
        .cors(
            Cors::origins([SHOP])
                .credentials()
                .private_network()
                .expose([HeaderName::from_static("x-total")]),
        );
    let front = front(builder).await;
    (service, front)
}

async fn asked(
    front: &Front,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
) -> Response<hyper::body::Incoming> {
    let request = Request::builder().method(method).uri(front.url(path));
    let request =
        fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    client().request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap()
}

fn field<'r, B>(response: &'r Response<B>, name: &str) -> Option<&'r str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

fn cors_fields<B>(response: &Response<B>) -> usize {
    response.headers().keys().filter(|name| name.as_str().starts_with("access-control-")).count()
}

#[tokio::test]
async fn a_preflight_is_answered_before_anybody_asks_who_it_is() {
    let (_service, front) = shop().await;
    let fields = [
        ("origin", SHOP),
        ("access-control-request-method", "PUT"),
        ("access-control-request-private-network", "true"),
    ];
    let answer = asked(&front, "OPTIONS", "/mine", &fields).await;
    assert_eq!(answer.status(), 204);
    assert_eq!(field(&answer, "access-control-allow-origin"), Some(SHOP));
    assert_eq!(field(&answer, "access-control-allow-credentials"), Some("true"));
    assert_eq!(field(&answer, "access-control-allow-methods"), Some("PUT"));
    let headers = Some("authorization, content-type, idempotency-key");
    assert_eq!(field(&answer, "access-control-allow-headers"), headers);
    assert_eq!(field(&answer, "access-control-max-age"), Some("600"));
    assert_eq!(field(&answer, "access-control-allow-private-network"), Some("true"));
    let vary: Vec<_> = answer.headers().get_all("vary").iter().collect();
    assert_eq!(vary, ["access-control-request-method", "origin"]);
}

#[tokio::test]
async fn a_method_that_no_route_takes_is_405_to_a_preflight_as_well() {
    let (_service, front) = shop().await;
    let fields = [("origin", SHOP), ("access-control-request-method", "PUT")];
    assert_eq!(asked(&front, "OPTIONS", "/open", &fields).await.status(), 405);
    let plain = asked(&front, "OPTIONS", "/own", &[("origin", SHOP)]).await;
    assert_eq!((plain.status().as_u16(), text(plain).await.as_str()), (200, "ok"), "no preflight");
}

#[tokio::test]
async fn another_origin_gets_no_cors_field_at_all() {
    let (_service, front) = shop().await;
    let evil = ("origin", "https://evil.example");
    let preflight = [evil, ("access-control-request-method", "GET")];
    for answer in [
        asked(&front, "OPTIONS", "/open", &preflight).await,
        asked(&front, "GET", "/open", &[evil]).await,
        asked(&front, "GET", "/open", &[("origin", "null")]).await,
        asked(&front, "GET", "/mine", &[evil]).await,
        asked(&front, "GET", "/open", &[]).await,
    ] {
        assert_eq!(cors_fields(&answer), 0, "{:?}", answer.headers());
        let vary: Vec<_> = answer.headers().get_all("vary").iter().collect();
        assert!(vary.contains(&&"origin".parse().unwrap()), "{vary:?}");
    }
}

#[tokio::test]
async fn errors_of_the_gateways_own_can_be_read_by_the_page() {
    let (_service, front) = shop().await;
    for (method, path, status) in [("GET", "/mine", 401), ("GET", "/x", 404), ("PUT", "/open", 405)]
    {
        let answer = asked(&front, method, path, &[("origin", SHOP)]).await;
        assert_eq!(answer.status(), status);
        assert_eq!(field(&answer, "access-control-allow-origin"), Some(SHOP), "{status}");
    }
}

#[tokio::test]
async fn what_an_upstream_says_of_cors_is_replaced() {
    let (_service, front) = shop().await;
    let answer = asked(&front, "GET", "/open", &[("origin", SHOP)]).await;
    let said: Vec<_> = answer.headers().get_all("access-control-allow-origin").iter().collect();
    assert_eq!(said, [SHOP]);
    assert_eq!(field(&answer, "access-control-expose-headers"), Some("x-total"));
    let vary: Vec<_> = answer.headers().get_all("vary").iter().collect();
    assert_eq!(vary, ["accept", "origin"]);
}

#[tokio::test]
async fn a_route_may_have_a_policy_of_its_own_and_a_star_never_has_credentials() {
    let (_service, front) = shop().await;
    let answer = asked(&front, "GET", "/own", &[("origin", "https://any.example")]).await;
    assert_eq!(field(&answer, "access-control-allow-origin"), Some("*"));
    assert_eq!(field(&answer, "access-control-allow-credentials"), None);
    let route = Route::new("/a").to("shop").cors(Cors::any().credentials());
    let built = Gateway::builder(MemoryRegistry::default()).route(route).build();
    assert!(matches!(built, Err(BuildError::Path { .. })));
    let built = Gateway::builder(MemoryRegistry::default()).cors(Cors::origins(["shop"])).build();
    assert!(matches!(built, Err(BuildError::Cors { .. })));
}

//! The limiter as clients and operators see it over HTTP.

#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use gusset_call::{AnswerLayer, BoxError};
use gusset_ratelimit::{
    AllOf, ClientIp, Extension, Header, Inadmissible, Keyed, Limited, PeerAddr, PeerIp, PerKey,
    Quota, RateLimitLayer, RateLimiter, Route, WithoutKey, refusal_in,
};
use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};

async fn hello(_: Request<()>) -> Result<Response<String>, BoxError> {
    Ok(Response::new("hello".into()))
}

fn keyed<K: std::hash::Hash>(quota: Quota) -> Keyed<K> {
    Keyed::new(quota, NonZeroUsize::new(10_000).unwrap())
}

fn trusting() -> ClientIp {
    ClientIp::trusting(["10.0.0.0/8".parse().unwrap()])
}

/// As a proxy at 10.0.0.1 passes it on: with the client's address behind whatever that sent.
fn through_proxy(client: &str, forged: &str) -> Request<()> {
    let line = if forged.is_empty() { client.into() } else { format!("{forged}, {client}") };
    let mut request = Request::builder().header("x-forwarded-for", line).body(()).unwrap();
    request.extensions_mut().insert(PeerAddr(SocketAddr::from(([10, 0, 0, 1], 4711))));
    request
}

async fn status<S>(server: &S, request: Request<()>) -> u16
where
    S: Service<Request<()>> + Clone,
    S::Response: Into<Response<gusset_call::AnswerBody<String>>>,
    S::Error: std::fmt::Debug,
{
    server.clone().oneshot(request).await.unwrap().into().status().as_u16()
}

#[tokio::test(start_paused = true)]
async fn clients_are_told_the_quota_and_what_is_left_when_admitted_and_when_refused() {
    let server = ServiceBuilder::new()
        .layer(AnswerLayer::new())
        .layer(
            RateLimitLayer::keyed(keyed(Quota::per_minute(100).burst(4)), trusting())
                .headers("default"),
        )
        .service(service_fn(hello));
    let ask = async || {
        let answer = server.clone().oneshot(through_proxy("203.0.113.9", "")).await.unwrap();
        let (head, body) = answer.into_parts();
        let field = |name| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(field("ratelimit-policy").as_deref(), Some("\"default\";q=100;w=60"));
        assert!(!head.headers.contains_key("x-ratelimit-limit"));
        let body = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), field("ratelimit").unwrap(), field("retry-after"), body)
    };
    // A token comes back each 0.6 s.
    for (left, window) in [(3, 2), (2, 2), (1, 1), (0, 1)] {
        let (status, limit, retry_after, _) = ask().await;
        assert_eq!((status, retry_after), (200, None));
        assert_eq!(limit, format!("\"default\";r={left};t={window}"));
    }
    let (status, limit, retry_after, body) = ask().await;
    assert_eq!((status, &*limit), (429, "\"default\";r=0;t=1"));
    assert_eq!(retry_after.as_deref(), Some("1"));
    let body = String::from_utf8(body.to_vec()).unwrap();
    assert!(body.contains("http-problem-types#quota-exceeded"), "{body}");
    assert!(body.contains(r#""violated-policies":["default"]"#), "{body}");
}

#[tokio::test(start_paused = true)]
async fn the_older_fields_are_there_on_demand_and_reset_is_a_number_of_seconds() {
    let limiter = RateLimiter::new(Quota::per_minute(2));
    let server = ServiceBuilder::new()
        .layer(AnswerLayer::new())
        .layer(RateLimitLayer::new(limiter).headers("all").legacy())
        .service(service_fn(hello));
    for (status, left, reset) in [(200, "1", "30"), (200, "0", "30"), (429, "0", "30")] {
        let answer = server.clone().oneshot(Request::new(())).await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers()["x-ratelimit-limit"], "2");
        assert_eq!(answer.headers()["x-ratelimit-remaining"], left);
        assert_eq!(answer.headers()["x-ratelimit-reset"], reset);
    }
}

#[tokio::test(start_paused = true)]
async fn clients_hear_of_each_of_several_limits_when_admitted_and_when_refused() {
    let layer = |name, quota| RateLimitLayer::new(RateLimiter::new(quota)).headers(name);
    let server = ServiceBuilder::new()
        .layer(AnswerLayer::new())
        .layer(layer("hour", Quota::per_hour(1_000)))
        .layer(layer("second", Quota::per_second(1)))
        .service(service_fn(hello));
    let ask = async || {
        let answer = server.clone().oneshot(Request::new(())).await.unwrap();
        let lines = |name| -> Vec<_> {
            let lines = answer.headers().get_all(name).iter();
            lines.map(|line| line.to_str().unwrap().to_owned()).collect()
        };
        let told = (lines("ratelimit-policy").join(", "), lines("ratelimit").join(", "));
        (answer.status().as_u16(), told, lines("retry-after").concat())
    };
    let policies = "\"second\";q=1;w=1, \"hour\";q=1000;w=3600";
    let told = |left: &str| (policies.to_owned(), left.to_owned());
    let left = told("\"second\";r=0;t=1, \"hour\";r=999;t=3597");
    assert_eq!(ask().await, (200, left, String::new()));
    let left = told("\"second\";r=0;t=1, \"hour\";r=998");
    assert_eq!(ask().await, (429, left, "1".into()));
}

#[tokio::test(start_paused = true)]
async fn clients_hear_of_all_limits_that_are_charged_together_and_of_their_changes() {
    let (second, clients) = (RateLimiter::new(Quota::per_second(1)), keyed(Quota::per_hour(1_000)));
    let limits = AllOf::<Request<()>>::new()
        .and("second", second.clone())
        .and("hour", PerKey::new(clients, trusting()));
    let server = ServiceBuilder::new()
        .layer(AnswerLayer::new())
        .layer(limits.headers().legacy())
        .service(service_fn(hello));
    let ask = async || {
        let answer = server.clone().oneshot(through_proxy("203.0.113.9", "")).await.unwrap();
        let field = |name: &str| answer.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        (
            answer.status().as_u16(),
            field("ratelimit-policy").unwrap(),
            field("ratelimit").unwrap(),
            field("x-ratelimit-remaining").unwrap(),
            field("retry-after"),
        )
    };
    let policies = "\"second\";q=1;w=1, \"hour\";q=1000;w=3600".to_owned();
    let left = |left: &str| left.to_owned();
    let admitted = left("\"second\";r=0;t=1, \"hour\";r=999;t=3597");
    assert_eq!(ask().await, (200, policies.clone(), admitted, left("0"), None));
    for _ in 0..3 {
        let refused = left("\"second\";r=0;t=1, \"hour\";r=999");
        assert_eq!(ask().await, (429, policies.clone(), refused, left("0"), Some(left("1"))));
    }
    second.set_quota(Quota::per_second(5).burst(3));
    let policies = left("\"second\";q=5;w=1, \"hour\";q=1000;w=3600");
    let admitted = left("\"second\";r=1;t=1, \"hour\";r=998;t=3593");
    assert_eq!(ask().await, (200, policies, admitted, left("1"), None));
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_was_changed_is_told_and_holds_for_those_without_a_key() {
    let clients = keyed(Quota::per_minute(100));
    let server = RateLimitLayer::keyed(clients.clone(), trusting())
        .headers("default")
        .layer(service_fn(hello));
    // Clones of one that has never seen the change, as a router makes them for each request.
    let told = async |request| match server.clone().oneshot(request).await {
        Ok(answer) => Some(answer.headers()["ratelimit-policy"].to_str().unwrap().to_owned()),
        Err(error) => {
            assert!(error.is::<Limited>());
            None
        }
    };
    let known = || through_proxy("203.0.113.9", "");
    assert_eq!(told(known()).await.as_deref(), Some("\"default\";q=100;w=60"));
    assert_eq!(told(Request::new(())).await.as_deref(), Some("\"default\";q=100;w=60"));
    for tokens in [7, 3] {
        clients.set_quota(Quota::per_hour(tokens).burst(50));
        let policy = format!("\"default\";q={tokens};w=3600");
        for _ in 0..2 {
            assert_eq!(told(known()).await.as_deref(), Some(&*policy));
        }
    }
    let mut passed = 0;
    while told(Request::new(())).await.is_some() {
        passed += 1;
    }
    assert_eq!(passed, 49, "one was spent before");
}

#[tokio::test(start_paused = true)]
async fn whoever_passes_without_a_bucket_is_told_of_none() {
    let server = RateLimitLayer::keyed(keyed(Quota::per_second(1)), |_: &Request<()>| None::<u32>)
        .without_key(WithoutKey::Pass)
        .headers("default")
        .layer(service_fn(hello));
    let answer = server.oneshot(Request::new(())).await.unwrap();
    assert!(answer.headers().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_key_of_client_and_route_counts_each_route_alone_and_needs_both() {
    let extract = (trusting(), Route::by(|x| x.get::<&'static str>().copied()));
    let clients = keyed(Quota::per_minute(1));
    let layer = RateLimitLayer::keyed(clients, extract).without_key(WithoutKey::Refuse);
    let server =
        ServiceBuilder::new().layer(AnswerLayer::new()).layer(layer).service(service_fn(hello));
    let on = |route, client| {
        let mut request = through_proxy(client, "");
        request.extensions_mut().insert::<&'static str>(route);
        request
    };
    assert_eq!(status(&server, on("/orders/{id}", "203.0.113.9")).await, 200);
    assert_eq!(status(&server, on("/orders/{id}", "203.0.113.9")).await, 429);
    assert_eq!(status(&server, on("/carts/{id}", "203.0.113.9")).await, 200, "another route");
    assert_eq!(status(&server, on("/orders/{id}", "203.0.113.8")).await, 200, "another client");
    assert_eq!(status(&server, through_proxy("203.0.113.9", "")).await, 403, "no route");

    let three = (
        PeerIp::new(),
        Header::new(HeaderName::from_static("x-api-key")),
        Extension::<&'static str>::new(),
    );
    let layer = RateLimitLayer::keyed(keyed(Quota::per_minute(1)), three);
    let server = layer.layer(service_fn(hello));
    assert!(server.clone().oneshot(on("/a", "203.0.113.9")).await.is_ok());
    let error = server.oneshot(on("/b", "203.0.113.9")).await.unwrap_err();
    assert!(error.is::<Limited>(), "no API key, so they share one bucket");
}

#[tokio::test(start_paused = true)]
async fn requests_cost_what_they_weigh_and_too_much_is_refused_for_good() {
    fn weighing(pages: u32) -> Request<()> {
        Request::builder().extension(pages).body(()).unwrap()
    }
    let limiter = RateLimiter::new(Quota::per_minute(60).burst(10));
    let server = RateLimitLayer::new(limiter.clone())
        .cost(|request: &Request<()>| request.extensions().get().copied().unwrap_or(1))
        .headers("pages")
        .layer(service_fn(hello));
    let answer = server.clone().oneshot(weighing(7)).await.unwrap();
    assert_eq!(answer.headers()["ratelimit"], "\"pages\";r=3;t=3");
    assert!(server.clone().oneshot(weighing(0)).await.is_ok());

    let error = server.clone().oneshot(weighing(5)).await.unwrap_err();
    let refusal = refusal_in(&*error).unwrap();
    assert_eq!(refusal.retry_after(), Some(Duration::from_secs(2)));
    assert_eq!(refusal.limits()[0].remaining(), 3, "for something cheaper it is enough");
    assert_eq!(limiter.peek().remaining(), 3, "all or nothing");
    assert!(server.clone().oneshot(weighing(3)).await.is_ok());

    let error = server.clone().oneshot(weighing(11)).await.unwrap_err();
    let never = error.downcast_ref::<Inadmissible>().unwrap();
    let answer = gusset_call::Problem::of(never).into_response();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert!(!answer.headers().contains_key("retry-after"), "waiting is useless");

    let nothing = RateLimitLayer::new(RateLimiter::new(Quota::per_minute(0)))
        .cost(|_: &Request<()>| 7)
        .layer(service_fn(hello));
    let error = nothing.oneshot(Request::new(())).await.unwrap_err();
    assert!(error.is::<Limited>(), "it is not the cost that is wrong");
}

proptest! {
    /// Section 6 of the draft: the ratio of `r` and `t` is capped, and `Retry-After` is not before the end of `t`.
    #[test]
    fn what_is_told_promises_no_more_than_the_quota(
        tokens in 1_u32..1_000_000, per in 1_u64..100_000_000, burst in 1_u32..1_000_000, taken in 1_u32..1_000,
    ) {
        let quota = Quota::new(tokens, Duration::from_millis(per)).burst(burst);
        let limiter = RateLimiter::new(quota);
        let level = limiter.check_n(taken.min(burst)).unwrap();
        let told = level.told(&quota.policy("default"), quota);
        let mut headers = http::HeaderMap::new();
        gusset_call::ServiceLimit::tell(&[told], &mut headers);
        let field = headers["ratelimit"].to_str().unwrap();
        let (left, window) = field.strip_prefix("\"default\";r=").unwrap().split_once(";t=").unwrap();
        let (left, window): (u128, u128) = (left.parse().unwrap(), window.parse().unwrap());
        // left / window <= tokens / per
        prop_assert!(left * u128::from(per) <= u128::from(tokens) * window * 1_000, "{field} of {quota:?}");
        if left == 0 && window > 0 {
            let limited = limiter.check();
            let wait = limited.err().and_then(|limited| limited.retry_after());
            prop_assert!(wait.is_none_or(|wait| u128::from(wait.as_secs()) <= window));
        }
    }
}

//! How a gateway is put together, and where it is put.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use axum::{Router, routing::get};
use common::*;
use gusset_gateway::{
    AuthError, BuildError, Condition, FixedAnswer, Gateway, HeaderEdits, Identity, Redirect, Route,
    Upstream,
};
use gusset_registry::MemoryRegistry;
use gusset_sidecar::{Metrics, Recorder, SpanKind};
use http::{Method, StatusCode, request::Parts};

fn built(routes: impl IntoIterator<Item = Route>) -> Result<Gateway, BuildError> {
    let builder = Gateway::builder(MemoryRegistry::default());
    routes.into_iter().fold(builder, gusset_gateway::Builder::route).build()
}

#[test]
fn a_route_that_makes_no_sense_is_refused_with_its_reason() {
    let to_shop = |path: &str| Route::new(path).to("shop");
    let nowhere = "route /a leads nowhere: to(…) names a service, or at least one address";
    for (routes, error) in [
        (vec![Route::new("/a")], nowhere),
        (vec![Route::new("/a").to(Upstream::fixed([]))], nowhere),
        (
            vec![to_shop("/a").authenticated()],
            "route /a is authenticated, but nothing says by what: give the gateway authenticate(…)",
        ),
        (
            vec![to_shop("/a"), to_shop("/a").methods([Method::GET])],
            "route /a: an earlier route takes the same requests; tell them apart by path, method, host, condition or rank",
        ),
        (
            vec![to_shop("/a//b")],
            "route /a//b: no request has such a path; in normal form it is /a/b",
        ),
        (
            vec![to_shop("/a%2fb")],
            "route /a%2fb: requests with such a path are refused, for servers read it in different ways",
        ),
        (vec![to_shop("a")], "route a: it must begin with a slash: /a"),
        (
            vec![to_shop("/a/:id")],
            "route /a/:id: a parameter is written {name}, the rest of a path {*name}",
        ),
        (
            vec![to_shop("/a").methods([])],
            "route /a: it takes no method at all; without methods(…) it takes all",
        ),
        (
            vec![to_shop("/a/{id}"), to_shop("/a/{name}")],
            "route /a/{name}: an earlier route takes the same requests; tell them apart by path, method, host, condition or rank",
        ),
        (
            vec![to_shop("/100%")],
            "route /100%: a percent sign is written %25, for two hexadecimal digits follow one",
        ),
        (
            vec![to_shop("/a/{id}-{name}")],
            "route /a/{id}-{name}: a segment has one parameter at most: /{name} or /v{name}.json",
        ),
        (
            vec![to_shop("/a/{")],
            "route /a/{: a parameter is written {name} with a name of at least one letter, a literal brace {{ or }}",
        ),
        (
            vec![to_shop("/a/{*rest}/b")],
            "route /a/{*rest}/b: {*name} stands for the rest of the path, so it is the whole last segment",
        ),
        (vec![Route::new("/a").to("")], nowhere),
        (
            vec![to_shop("/a/{id}").rewrite("/{ident}")],
            "route /a/{id}: the path has no parameter \"ident\", but \"id\"",
        ),
        (
            vec![to_shop("/a/b").strip_prefix("/b")],
            "route /a/b: the path does not begin with the prefix \"/b\", which must be whole segments without parameters",
        ),
        (
            vec![to_shop("/a").host("*.*.example")],
            "route /a: \"*.*.example\" is no host: a name, an address, or *. and a name",
        ),
        (
            vec![to_shop("/a").when(Condition::header("x y"))],
            "route /a: \"x y\" is no name of a header field",
        ),
        (
            vec![
                to_shop("/a").when(Condition::header("x")),
                to_shop("/a").when(Condition::query("y")),
            ],
            "route /a: an earlier route takes the same requests; tell them apart by path, method, host, condition or rank",
        ),
        (
            vec![to_shop("/a").request_headers(HeaderEdits::new().set("content-length", "0"))],
            "route /a: content-length is the gateway's to say, for messages would be read in more than one way",
        ),
        (
            vec![to_shop("/a").answer_headers(HeaderEdits::new().set("x-a", "{id}"))],
            "route /a: the value of x-a: the path has no parameter \"id\", but none at all",
        ),
        (
            vec![to_shop("/a").answer_headers(HeaderEdits::new().set("x-a", "a\nb"))],
            "route /a: \"a\\nb\" is no value of a header field",
        ),
        (vec![to_shop("/a").host_header("a b")], "route /a: \"a b\" is no host"),
        (
            vec![
                Route::new("/{host}/{*rest}")
                    .redirect(Redirect::permanent("https://{host}/{rest}")),
            ],
            "route /{host}/{*rest}: \"https://{host}/{rest}\" is no target of a redirect: that is a path, or http(s):// and a host that stands there",
        ),
        (
            vec![Route::new("/a").redirect(Redirect::permanent("/b").status(StatusCode::OK))],
            "route /a: 200 OK redirects nobody; 301, 302, 303, 307 and 308 do",
        ),
        (
            vec![Route::new("/a").answer(FixedAnswer::new(StatusCode::NO_CONTENT).body("x"))],
            "route /a: an answer of 204 No Content has no body",
        ),
    ] {
        assert_eq!(built(routes).unwrap_err().to_string(), error);
    }
}

#[test]
fn the_same_path_may_lead_elsewhere_by_method_and_by_host() {
    let route = |method: Method| Route::new("/a").methods([method]).to("shop");
    let there = route(Method::GET).host("other.example");
    assert!(built([route(Method::GET), route(Method::POST), there]).is_ok());
}

#[tokio::test]
async fn it_is_the_fallback_of_an_axum_router() {
    let service = upstream(Router::new().route("/a", get(async || "from afar"))).await;
    let gateway = built([Route::new("/a").to(Upstream::fixed([service.address]))]).unwrap();
    let router = Router::new().route("/here", get(async || "here")).fallback_service(gateway);
    let front = upstream(router).await;
    let asked = async |path: &str| {
        let uri = format!("http://{}{path}", front.address);
        text(client().get(uri.parse().unwrap()).await.unwrap()).await
    };
    assert_eq!(asked("/here").await, "here");
    assert_eq!(asked("/a").await, "from afar");
}

#[tokio::test]
async fn requests_are_counted_by_route_and_traced_with_their_attempts() {
    let service = upstream(Router::new().route("/users/{id}", get(async || "ann"))).await;
    let (metrics, recorder) = (Metrics::new(), Recorder::new("gateway"));
    let gateway = Gateway::builder(MemoryRegistry::default())
        .route(Route::new("/users/{id}").to(Upstream::fixed([service.address])))
        .route(Route::new("/mine").to("mine").authenticated())
        .authenticate(|_: &Parts| Err::<Identity, _>(AuthError::Missing))
        .metrics(metrics.clone())
        .recorder(recorder.clone())
        .build()
        .unwrap();
    for path in ["/users/7", "/users/8", "/mine", "/nowhere"] {
        let answer = ask(&gateway, to(path)).await;
        if !answer.status().is_success() {
            let trace = problem(answer).await["trace_id"].as_str().unwrap().to_owned();
            assert!(recorder.recent(1)[0].trace_id.to_string() == trace, "{path}");
        }
    }
    let snapshot = metrics.snapshot();
    let of = |kind: SpanKind| {
        let series = snapshot.series.iter().filter(move |series| series.kind == kind);
        let told = series
            .map(|s| (s.route.as_deref().or(s.peer.as_deref()), s.status, s.durations.count()));
        told.collect::<Vec<_>>()
    };
    assert_eq!(
        of(SpanKind::Server),
        [(None, Some(404), 1), (Some("/mine"), Some(401), 1), (Some("/users/{id}"), Some(200), 2)]
    );
    let upstream = service.address.to_string();
    assert_eq!(of(SpanKind::Client), [(Some(&*upstream), Some(200), 2)]);
    let stats = gateway.stats();
    assert_eq!((stats[0].answers, stats[0].refused), ([0, 2, 0, 0, 0], 0));
    assert_eq!((stats[1].answers, stats[1].refused), ([0, 0, 0, 1, 0], 1));
    assert!(!stats[0].mean_latency().is_zero());
}

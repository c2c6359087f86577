//! One request that becomes several, by instances on real sockets.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{future::pending, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request},
    routing::get,
};
use bytes::Bytes;
use common::*;
use gusset_gateway::{
    AuthError, Branch, BuildError, FanOut, Gateway, GatewayBody, Identity, Route, Upstream,
};
use gusset_registry::MemoryRegistry;
use http::{Method, Response, StatusCode, request::Parts};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{sync::Barrier, sync::mpsc, time::timeout};

/// Long enough for a machine under load; no test waits for it.
const LONG: Duration = Duration::from_secs(60);

fn to(service: &Running) -> Upstream {
    Upstream::fixed([service.address])
}

/// A gateway of one route, `/home/{id}`.
fn home(fan_out: FanOut) -> Gateway {
    let route = Route::new("/home/{id}").fan_out(fan_out).timeout(LONG);
    Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap()
}

async fn asked(gateway: &Gateway, path: &str) -> (Response<()>, Value) {
    let (head, body) = ask(gateway, common::to(path)).await.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(head, ()), serde_json::from_slice(&body).unwrap())
}

/// Answers `/ok/{id}` with an object, and in other ways elsewhere.
async fn shop() -> Running {
    let ok = async |Path(id): Path<String>| format!(r#"{{"id": "{id}", "price": 1.10}}"#);
    let list = async || r#"{"data": {"items": [1, 12345678901234567890123, 3.0]}}"#;
    let gone = async || (StatusCode::NOT_FOUND, [("x-why", "sold")], "no such thing");
    let large = async || format!(r#""{}""#, "x".repeat(2_000));
    let endless = async || {
        let frames = (0..100).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 100])));
        Body::from_stream(futures_util::stream::iter(frames))
    };
    let breaks = async || {
        let frames = [Ok(Bytes::from("[1,")), Err(std::io::Error::other("broken"))];
        Body::from_stream(futures_util::stream::iter(frames))
    };
    let router = Router::new()
        .route("/ok/{id}", get(ok))
        .route("/list", get(list))
        .route("/nothing", get(async || StatusCode::NO_CONTENT))
        .route("/gone", get(gone))
        .route("/broken", get(breaks))
        .route("/busy", get(async || StatusCode::SERVICE_UNAVAILABLE))
        .route("/text", get(async || "hello"))
        .route("/large", get(large))
        .route("/endless", get(endless))
        .route("/never", get(async || pending::<&str>().await));
    upstream(router).await
}

#[tokio::test]
async fn answers_become_members_in_the_order_of_the_branches_byte_by_byte() {
    let shop = shop().await;
    let gateway = home(
        FanOut::new()
            .branch(Branch::new("item", to(&shop), "/ok/{id}"))
            .branch(Branch::new("list", to(&shop), "/list").at("/data/items"))
            .branch(Branch::new("none", to(&shop), "/nothing"))
            .branch(Branch::new("more", to(&shop), "/list").flat()),
    );
    let answer = ask(&gateway, common::to("/home/7")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert_eq!(answer.headers()["cache-control"], "no-cache");
    assert_eq!(
        text(answer).await,
        concat!(
            r#"{"item":{"id": "7", "price": 1.10},"list":[1, 12345678901234567890123, 3.0],"#,
            r#""none":null,"data":{"items": [1, 12345678901234567890123, 3.0]}}"#
        )
    );
    let stats = gateway.stats().remove(0);
    assert_eq!((stats.answers, stats.branches.len()), ([0, 1, 0, 0, 0], 4));
    assert!(stats.branches.iter().all(|branch| (branch.answered, branch.failed) == (1, 0)));
}

#[tokio::test]
async fn branches_are_asked_at_the_same_time() {
    // None answers before all are there.
    let all = Arc::new(Barrier::new(3));
    let meet = async move || {
        all.wait().await;
        "1"
    };
    let service = upstream(Router::new().route("/meet", get(meet))).await;
    let branch = |name: &str| Branch::new(name, to(&service), "/meet");
    let gateway = home(FanOut::new().branch(branch("a")).branch(branch("b")).branch(branch("c")));
    let (_, whole) = asked(&gateway, "/home/7").await;
    assert_eq!(whole, json!({"a": 1, "b": 1, "c": 1}));
}

#[tokio::test]
async fn what_is_missing_is_named_with_its_status_and_the_rest_is_there() {
    let shop = shop().await;
    let nobody = Upstream::fixed([nowhere().await]);
    let soon = Duration::from_millis(200);
    let gateway = home(
        FanOut::new()
            .max_body(1_000)
            .missing_as("absent")
            .branch(Branch::new("item", to(&shop), "/ok/{id}"))
            .branch(Branch::new("late", to(&shop), "/never").timeout(soon).optional())
            .branch(Branch::new("gone", to(&shop), "/gone").optional())
            .branch(Branch::new("busy", to(&shop), "/busy").optional())
            .branch(Branch::new("text", to(&shop), "/text").optional())
            .branch(Branch::new("broken", to(&shop), "/broken").optional())
            .branch(Branch::new("large", to(&shop), "/large").optional())
            .branch(Branch::new("endless", to(&shop), "/endless").optional())
            .branch(Branch::new("elsewhere", to(&shop), "/list").at("/items").optional())
            .branch(Branch::new("flat", to(&shop), "/list").at("/data/items").flat().optional())
            .branch(Branch::new("nobody", nobody, "/").optional()),
    );
    let (head, whole) = asked(&gateway, "/home/7").await;
    assert_eq!(
        (head.status().as_u16(), &head.headers()["cache-control"]),
        (200, &"no-store".parse().unwrap())
    );
    let members = whole.as_object().unwrap();
    assert_eq!(members.keys().collect::<Vec<_>>(), ["absent", "item"]);
    let status = |name: &str| whole["absent"][name]["status"].as_u64();
    assert_eq!(status("late"), Some(504));
    assert_eq!(whole["absent"]["late"]["detail"], "the service did not answer in time");
    assert_eq!(status("gone"), Some(404));
    assert_eq!(status("busy"), Some(503));
    for branch in ["text", "broken", "large", "endless", "elsewhere", "flat", "nobody"] {
        assert_eq!(status(branch), Some(502), "{branch}");
    }
    let told = whole["absent"].to_string();
    assert!(!told.contains("127.0.0.1"), "nothing is told of the inside: {told}");
}

#[tokio::test]
async fn a_required_branch_that_refuses_is_the_answer_and_the_others_are_cancelled() {
    struct Gone(mpsc::UnboundedSender<()>);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let shop = shop().await;
    let (cancelled, mut seen) = mpsc::unbounded_channel();
    let begun = Arc::new(Barrier::new(2));
    let (never_begun, gone_begun) = (begun.clone(), begun);
    let never = async move || {
        let _gone = Gone(cancelled.clone());
        never_begun.wait().await;
        pending::<&str>().await
    };
    let gone = async move || {
        gone_begun.wait().await;
        (StatusCode::NOT_FOUND, [("x-why", "sold")], "no such thing")
    };
    let other = Router::new().route("/never", get(never)).route("/gone", get(gone));
    let other = upstream(other).await;
    let gateway = home(
        FanOut::new()
            .branch(Branch::new("item", to(&shop), "/ok/{id}"))
            .branch(Branch::new("never", to(&other), "/never").optional())
            .branch(Branch::new("gone", to(&other), "/gone")),
    );
    let answer = ask(&gateway, common::to("/home/7")).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-why"]),
        (404, &"sold".parse().unwrap())
    );
    assert_eq!(text(answer).await, "no such thing");
    timeout(LONG, seen.recv()).await.expect("the other call was cancelled");
    let stats = gateway.stats().remove(0);
    let counted: Vec<_> = stats.branches.iter().map(|b| (b.answered, b.failed)).collect();
    assert_eq!(counted[1..], [(0, 0), (0, 1)]);
}

#[tokio::test]
async fn a_required_branch_that_fails_is_the_gateways_own_problem() {
    let shop = shop().await;
    for (path, status) in [("/text", 502), ("/broken", 502)] {
        let item = Branch::new("item", to(&shop), "/ok/{id}");
        let bad = Branch::new("bad", to(&shop), path);
        let gateway = home(FanOut::new().branch(item).branch(bad));
        let answer = ask(&gateway, common::to("/home/7")).await;
        assert_eq!(answer.status(), status, "{path}");
        problem(answer).await;
    }
    let late = Branch::new("late", to(&shop), "/never").timeout(Duration::from_millis(200));
    let answer = ask(&home(FanOut::new().branch(late)), common::to("/home/7")).await;
    assert_eq!(answer.status(), 504);
    problem(answer).await;
}

#[tokio::test]
async fn if_nothing_can_be_had_the_first_branch_says_why() {
    let shop = shop().await;
    let gone = Branch::new("gone", to(&shop), "/gone").optional();
    let text_of = Branch::new("text", to(&shop), "/text").optional();
    let gateway = home(FanOut::new().branch(gone.clone()).branch(text_of.clone()));
    let answer = ask(&gateway, common::to("/home/7")).await;
    assert_eq!(answer.status(), 404);
    assert_eq!(text(answer).await, "no such thing");
    let gateway = home(FanOut::new().branch(text_of).branch(gone));
    assert_eq!(ask(&gateway, common::to("/home/7")).await.status(), 502);
}

#[tokio::test]
async fn branches_see_who_asks_and_nothing_that_speaks_of_another_answer() {
    let seen = async |request: Request| {
        let mut names: Vec<_> = request.headers().keys().map(|name| name.to_string()).collect();
        names.sort();
        let subject = request.headers()["x-gusset-subject"].to_str().unwrap();
        let accept = request.headers()["accept"].to_str().unwrap();
        json!({"uri": request.uri().to_string(), "method": request.method().as_str(),
            "subject": subject, "accept": accept, "names": names})
        .to_string()
    };
    let service = upstream(Router::new().route("/{*rest}", get(seen))).await;
    let seen = Branch::new("seen", to(&service), "/of/{id}?fixed=1&id={id}").query(["page"]);
    let by = |_: &Parts| Ok::<_, AuthError>(Identity::new("ann"));
    let route = Route::new("/home/{id}").fan_out(FanOut::new().branch(seen)).authenticated();
    let gateway =
        Gateway::builder(MemoryRegistry::default()).route(route).authenticate(by).build().unwrap();
    let front = front_by(gusset_gateway::Server::new(), gateway).await;
    let request = http::Request::get(front.url("/home/a&b?page=2&debug=1"))
        .header("x-mine", "1")
        .header("authorization", "Bearer secret")
        .header("accept", "text/html")
        .header("accept-encoding", "gzip")
        .header("if-none-match", "\"1\"")
        .header("range", "bytes=0-1")
        .header("te", "trailers")
        .header("content-type", "text/plain")
        .body(http_body_util::Full::from("a body that nobody reads"))
        .unwrap();
    let answer = client().request(request).await.unwrap();
    let whole: Value = serde_json::from_str(&text(answer).await).unwrap();
    let seen = &whole["seen"];
    assert_eq!(seen["uri"], "/of/a&b?fixed=1&id=a%26b&page=2");
    assert_eq!((&seen["method"], &seen["subject"]), (&json!("GET"), &json!("ann")));
    assert_eq!(seen["accept"], "application/json");
    let names: Vec<&str> =
        seen["names"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    for name in ["authorization", "content-length", "content-type", "if-none-match", "range", "te"]
    {
        assert!(!names.contains(&name), "{name} among {names:?}");
    }
    for name in ["traceparent", "via", "x-forwarded-host", "x-mine", "x-request-timeout-ms"] {
        assert!(names.contains(&name), "no {name} among {names:?}");
    }
}

#[tokio::test]
async fn head_is_answered_without_a_body_and_with_its_length() {
    let shop = shop().await;
    let item = Branch::new("item", to(&shop), "/ok/{id}");
    let gone = Branch::new("gone", to(&shop), "/gone");
    let route = |path: &str, branch| Route::new(path).fan_out(FanOut::new().branch(branch));
    let builder = Gateway::builder(MemoryRegistry::default());
    let front = front(builder.route(route("/ok/{id}", item)).route(route("/gone", gone))).await;
    let head = async |path: &str| {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        raw(front.address, &request).await
    };
    let answer = head("/ok/7").await;
    let length = format!("content-length: {}\r\n", r#"{"item":{"id": "7", "price": 1.10}}"#.len());
    assert!(answer.contains(&length) && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = head("/gone").await;
    assert!(answer.starts_with("HTTP/1.1 404") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_all_branches() {
    struct Gone(mpsc::UnboundedSender<()>);
    impl Drop for Gone {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (told, mut heard) = mpsc::unbounded_channel();
    let never = async move || {
        let _gone = Gone(told.clone());
        let _ = told.send(());
        pending::<&str>().await
    };
    let service = upstream(Router::new().route("/never", get(never))).await;
    let branch = |name: &str| Branch::new(name, to(&service), "/never");
    let gateway = home(FanOut::new().branch(branch("a")).branch(branch("b").optional()));
    let asking = tokio::spawn(async move { asked(&gateway, "/home/7").await });
    for _ in 0..2 {
        timeout(LONG, heard.recv()).await.expect("it has begun");
    }
    asking.abort();
    for _ in 0..2 {
        timeout(LONG, heard.recv()).await.expect("it has ended");
    }
}

#[tokio::test]
async fn other_methods_are_405() {
    let shop = shop().await;
    let gateway = home(FanOut::new().branch(Branch::new("item", to(&shop), "/ok/{id}")));
    let answer: Response<GatewayBody> =
        ask(&gateway, common::to("/home/7").method(Method::POST)).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["allow"]),
        (405, &"GET, HEAD".parse().unwrap())
    );
}

#[test]
fn a_fan_out_that_cannot_be_is_refused_with_its_reason() {
    let refused = |route: Route| {
        let built = Gateway::builder(MemoryRegistry::default()).route(route).build();
        match built.unwrap_err() {
            BuildError::Path { reason, .. } => reason,
            other => other.to_string(),
        }
    };
    let branch = |name: &str| Branch::new(name, "service", "/of/{id}");
    let fan = |branch| Route::new("/home/{id}").fan_out(FanOut::new().branch(branch));
    let many = (0..33).fold(FanOut::new(), |fan, at| fan.branch(branch(&at.to_string())));
    for (route, reason) in [
        (Route::new("/home").fan_out(FanOut::new()), "one branch to 32"),
        (Route::new("/home/{id}").fan_out(many), "one branch to 32"),
        (fan(branch("a")).to("service"), "to(…) leads nowhere"),
        (fan(branch("a")).methods([Method::POST]), "GET alone"),
        (fan(branch("a")).rewrite("/x"), "the paths of its branches"),
        (fan(branch("missing")), "branch missing: something else has this name"),
        (
            Route::new("/home/{id}").fan_out(FanOut::new().branch(branch("a")).branch(branch("a"))),
            "branch a: something",
        ),
        (fan(Branch::new("a", "", "/")), "leads nowhere"),
        (fan(Branch::new("a", "service", "/{name}")), "no parameter \"name\""),
        (fan(branch("a").at("x")), "no JSON pointer"),
        (fan(branch("a").query(["x"]).at("/0")).upgrades(["websocket"]), "no upgrade"),
    ] {
        let told = refused(route);
        assert!(told.contains(reason), "{reason}: {told}");
    }
}

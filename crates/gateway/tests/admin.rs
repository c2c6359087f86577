//! What operators see and do.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use axum::{Router, routing::get};
use common::*;
use gusset_gateway::{Admin, Gateway, Live, Route, Upstream};
use gusset_registry::MemoryRegistry;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use serde_json::{Value, json};
use tower::ServiceExt;

async fn live() -> (Running, Live) {
    let running = upstream(Router::new().route("/a", get(|| async { "a" }))).await;
    let route = Route::new("/a").to(Upstream::fixed([running.address]));
    let gateway = Gateway::builder(MemoryRegistry::default()).route(route).build().unwrap();
    (running, Live::new(gateway))
}

fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(path).header("host", "127.0.0.1:9090")
}

async fn answered(admin: &Admin, request: http::request::Builder) -> (StatusCode, Value) {
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    let (head, body) = admin.clone().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

async fn status(admin: &Admin, request: http::request::Builder) -> u16 {
    answered(admin, request).await.0.as_u16()
}

#[tokio::test]
async fn a_web_page_cannot_reach_it_on_loopback() {
    let admin = Admin::builder(live().await.1).host("gateway.internal").build();
    let plain = || Request::get("/routes");
    for host in ["127.0.0.1:9090", "localhost", "[::1]:9090", "GATEWAY.internal:1"] {
        assert_eq!(status(&admin, plain().header("host", host)).await, 200, "{host}");
    }
    // A name that a page has given the address of this machine.
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
        assert_eq!(status(&admin, plain().header("host", host)).await, 403, "{host}");
    }
    assert_eq!(status(&admin, plain()).await, 403, "without a host");
    let drain = || request("POST", "/drain");
    assert_eq!(status(&admin, drain().header("origin", "https://evil.example")).await, 403);
    assert_eq!(status(&admin, drain().header("origin", "null")).await, 403);
    assert_eq!(status(&admin, drain().header("sec-fetch-site", "cross-site")).await, 403);
    assert_eq!(status(&admin, drain().header("sec-fetch-site", "same-site")).await, 403);
    assert!(!admin.is_draining());
    assert_eq!(status(&admin, drain().header("origin", "http://127.0.0.1:9090")).await, 200);
    assert!(admin.is_draining());
}

#[tokio::test]
async fn a_token_is_asked_for_but_by_probes() {
    let admin = Admin::builder(live().await.1).token("s3cret").build();
    for path in ["/livez", "/readyz"] {
        assert_eq!(status(&admin, request("GET", path)).await, 200, "{path}");
    }
    for path in ["/metrics", "/routes", "/upstreams", "/splits", "/config", "/none"] {
        assert_eq!(status(&admin, request("GET", path)).await, 401, "{path}");
        for wrong in ["Bearer s3cre", "Bearer s3cret ", "Basic s3cret", "s3cret", "Bearer"] {
            let request = request("GET", path).header("authorization", wrong);
            assert_eq!(status(&admin, request).await, 401, "{path} {wrong}");
        }
        let right = request("GET", path).header("authorization", "bearer s3cret");
        assert_eq!(status(&admin, right).await, if path == "/none" { 404 } else { 200 }, "{path}");
    }
}

#[tokio::test]
async fn routes_upstreams_and_circuits_are_shown_and_circuits_are_forced() {
    let (running, live) = live().await;
    let admin = Admin::builder(live.clone()).build();
    let ask = || async {
        let request = Request::get("http://shop/a").body(Empty::<bytes::Bytes>::new()).unwrap();
        live.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(ask().await, 200);
    let id = running.address.to_string();
    let (_, routes) = answered(&admin, request("GET", "/routes")).await;
    assert_eq!(routes[0]["path"], "/a");
    assert_eq!(routes[0]["upstreams"], json!([id]));
    assert_eq!(routes[0]["answers"]["2xx"], 1);
    let (_, upstreams) = answered(&admin, request("GET", "/upstreams")).await;
    assert_eq!(upstreams[&id][0]["circuit"], "closed");
    assert_eq!(upstreams[&id][0]["pending"], 0);
    assert_eq!(upstreams[&id][0]["health"], "healthy");

    let order = |order: &str| request("POST", &format!("/upstreams/{id}/{id}/{order}"));
    assert_eq!(answered(&admin, order("open")).await.1["circuit"], "forced_open");
    assert_eq!(ask().await, 503);
    assert_eq!(answered(&admin, order("reset")).await.1["circuit"], "closed");
    assert_eq!(ask().await, 200);
    assert_eq!(status(&admin, order("break")).await, 404);
    assert_eq!(status(&admin, request("POST", "/upstreams/none/none/open")).await, 404);
    assert_eq!(status(&admin, request("DELETE", "/routes")).await, 405);
}

#[tokio::test]
async fn a_reload_reads_its_files_elsewhere_and_others_are_answered_meanwhile() {
    let (let_go, go) = std::sync::mpsc::channel();
    let (go, here) = (std::sync::Mutex::new(go), std::thread::current().id());
    let admin = Admin::builder(live().await.1)
        .reload(move || {
            assert_ne!(std::thread::current().id(), here);
            match go.lock().unwrap().recv() {
                Ok(true) => Ok(json!({ "hash": "1" })),
                Ok(false) => Err("it is wrong".into()),
                Err(_) => panic!("nobody says anything"),
            }
        })
        .build();
    let reload = || {
        let admin = admin.clone();
        tokio::spawn(async move { answered(&admin, request("POST", "/reload")).await })
    };
    let first = reload();
    // In this thread, which a reload in it would keep.
    assert_eq!(status(&admin, request("GET", "/livez")).await, 200);
    let_go.send(true).unwrap();
    assert_eq!(first.await.unwrap(), (StatusCode::OK, json!({ "hash": "1" })));
    let_go.send(false).unwrap();
    let (status_of, wrong) = reload().await.unwrap();
    assert_eq!((status_of.as_u16(), &wrong["detail"]), (422, &"it is wrong".into()));
    drop(let_go);
    assert_eq!(reload().await.unwrap().0, 500, "one that has panicked is no answer");
    assert_eq!(status(&admin, request("GET", "/reload")).await, 405);
}

#[tokio::test]
async fn who_drains_is_not_ready_and_serves_on() {
    let (_running, live) = live().await;
    let admin = Admin::builder(live.clone()).build();
    assert_eq!(status(&admin, request("POST", "/drain")).await, 200);
    assert_eq!(status(&admin, request("GET", "/readyz")).await, 503);
    assert_eq!(status(&admin, request("GET", "/livez")).await, 200);
    let ask = Request::get("http://shop/a").body(Empty::<bytes::Bytes>::new()).unwrap();
    assert_eq!(live.clone().oneshot(ask).await.unwrap().status(), 200);
    assert_eq!(status(&admin, request("DELETE", "/drain")).await, 200);
    assert_eq!(status(&admin, request("GET", "/readyz")).await, 200);
}

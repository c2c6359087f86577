//! The promises of the API, without sockets.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body};
use gusset::sidecar::Sidecar;
use http::{Method, Request};
use http_body_util::BodyExt;
use items::{handler, repository::InMemory, service::Items, settings::Settings};
use serde_json::{Value, json};
use tower::ServiceExt;

fn app() -> Router {
    handler::router(Items::new(Arc::new(InMemory::default())), &Sidecar::new("items"))
}

async fn ask(app: &Router, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    let answer = app.clone().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

#[tokio::test]
async fn what_was_added_is_found_and_its_name_is_taken() {
    let app = app();
    let lamp = json!({ "name": "lamp", "price_cents": 1999 });
    assert_eq!(ask(&app, Method::POST, "/items", lamp.clone()).await, (201, lamp.clone()));
    assert_eq!(ask(&app, Method::GET, "/items/lamp", Value::Null).await, (200, lamp.clone()));
    assert_eq!(ask(&app, Method::GET, "/items", Value::Null).await, (200, json!([lamp])));

    let (status, problem) = ask(&app, Method::POST, "/items", lamp).await;
    assert_eq!((status, &problem["detail"]), (409, &json!("there is an item 'lamp'")));
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_its_reason() {
    let app = app();
    let (status, problem) = ask(&app, Method::GET, "/items/sofa", Value::Null).await;
    assert_eq!((status, &problem["detail"]), (404, &json!("there is no item 'sofa'")));
    let nameless = json!({ "name": " ", "price_cents": 1 });
    assert_eq!(ask(&app, Method::POST, "/items", nameless).await.0, 422);
    assert_eq!(ask(&app, Method::DELETE, "/items", Value::Null).await.0, 405);
}

#[test]
fn settings_have_defaults_and_name_what_is_wrong() {
    let defaults = Settings::from_env(|_| None).unwrap();
    assert_eq!((defaults.port, defaults.notice), (8080, Duration::ZERO));
    let wrong = Settings::from_env(|name| (name == "PORT").then(|| "http".to_owned()));
    assert_eq!(wrong.unwrap_err(), "PORT is no number up to 65535: 'http'");
}

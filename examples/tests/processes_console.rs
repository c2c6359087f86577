//! The console of a shop whose parts are processes shows all of them, and its operators reach them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::{collections::BTreeSet, time::Duration};

use axum::{Router, body::Body};
use gusset::{call::TraceContext, console::router};
use gusset_engines::{Folder, Nats, Port};
use http::Request;
use reqwest::Client;
use serde_json::{Value, json};
use shop::{Carrier, Ground, Hosting, Shop, chaos::Fault};
use tokio::{net::TcpListener, time::Instant};
use tower::ServiceExt;

const TOKEN: &str = "5f0c1d2e3b4a59687786a5b4c3d2e1f0";

/// Longer than anything takes on a machine that is merely busy.
const PATIENCE: Duration = Duration::from_secs(60);

async fn ask(console: &Router, line: &str, body: &Value) -> (u16, Value) {
    let (method, path) = line.split_once(' ').unwrap();
    let request = Request::builder().method(method).uri(path).header("host", "localhost");
    let request = request.header("content-type", "application/json");
    let request = request.header("authorization", format!("Bearer {TOKEN}"));
    let answer = console.clone().oneshot(request.body(Body::from(body.to_string())).unwrap()).await;
    let answer = answer.unwrap();
    let status = answer.status().as_u16();
    let body = axum::body::to_bytes(answer.into_body(), 32 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// What stands there, as soon as it is so.
async fn until(console: &Router, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let began = Instant::now();
    loop {
        let (_, page) = ask(console, &format!("GET /api/{path}"), &Value::Null).await;
        if is_so(&page) {
            return page;
        }
        assert!(began.elapsed() < PATIENCE, "{path}: {page:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn all<'a>(page: &'a Value, list: &str) -> &'a [Value] {
    page[list].as_array().map(Vec::as_slice).unwrap_or_default()
}

async fn open(hosting: Hosting) -> (Shop, String, (Nats, Folder, Port)) {
    let (nats, folder, port) = (Nats::start(), Folder::new("shop-console"), Port::free());
    let listener = TcpListener::bind(port.address()).await.unwrap();
    let gateway = format!("http://{}", listener.local_addr().unwrap());
    let (broker, data_dir) = (Carrier::Nats(nats.url()), Some(folder.to_path_buf()));
    let ground = Ground { broker, data_dir, hosting, scratch: true, ..Ground::default() };
    (Shop::open(&ground, listener).await.unwrap(), gateway, (nats, folder, port))
}

/// The trace of an order that goes through.
async fn order(shop: &Shop, gateway: &str) -> String {
    let lamp = shop.products.add("lamp", 1_999, 100).await.unwrap().id;
    let http = Client::new();
    let form = json!({ "email": "ann@example.com", "name": "A", "password": "long enough" });
    let post = |path: &str| http.post(format!("{gateway}{path}"));
    assert_eq!(post("/api/users").json(&form).send().await.unwrap().status(), 201);
    let login: Value = post("/api/login").json(&form).send().await.unwrap().json().await.unwrap();
    let trace = TraceContext::new_root();
    let order =
        json!({ "items": [{ "product_id": lamp, "quantity": 1 }], "card": "4242424242424242" });
    let request = post("/api/orders").bearer_auth(login["token"].as_str().unwrap());
    let request = request.header("traceparent", trace.to_string()).json(&order);
    assert_eq!(request.send().await.unwrap().status(), 201);
    trace.trace_id().to_string()
}

/// Which services tell of a trace.
fn told(trace: &Value) -> BTreeSet<&str> {
    all(trace, "spans").iter().filter_map(|row| row["span"]["service"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gateway_and_each_instance_are_shown_and_take_orders() {
    let program = common::program("ecommerce_demo");
    let (shop, gateway, _ground) = open(Hosting::Processes(program)).await;
    let console = router(shop.sources().operator_token(TOKEN));
    let trace = order(&shop, &gateway).await;

    let session = until(&console, "session", |_| true).await;
    let others: BTreeSet<_> = all(&session, "others").iter().filter_map(Value::as_str).collect();
    assert_eq!(others.len(), 12, "the gateway and eleven instances: {others:?}");
    let is_shown = |map: &Value| {
        let calls = |name: &str| {
            let found = all(map, "services").iter().find(|service| service["name"] == name);
            found.and_then(|service| service["traffic"]["calls"].as_u64()).unwrap_or(0)
        };
        ["gateway", "order-service", "product-service", "payment-service"]
            .iter()
            .all(|name| calls(name) > 0)
            && all(map, "edges").iter().any(|edge| edge["from"] == "order-service")
    };
    let map = until(&console, "map", is_shown).await;
    assert_eq!(map["error"], Value::Null);
    assert!(all(&map, "gateways").iter().any(|of| !all(of, "routes").is_empty()), "{map}");
    let parts = ["gateway", "order-service", "payment-service", "notification-service"];
    let path = format!("traces/{trace}");
    until(&console, &path, |page| parts.iter().all(|part| told(page).contains(part))).await;

    // A circuit of an instance is forced where it is.
    // The order went to one of two, which has called others.
    let is_circuit = |of: &&Value| {
        let group = of["group"].as_str().unwrap_or_default();
        group.starts_with("order-service-") && group.ends_with(" · calls")
    };
    let breakers =
        until(&console, "breakers", |page| all(page, "breakers").iter().any(|of| is_circuit(&of)))
            .await;
    let circuit = all(&breakers, "breakers").iter().find(is_circuit).unwrap().clone();
    let (group, name) = (&circuit["group"], &circuit["name"]);
    let force = json!({ "group": group, "name": name, "do": "force_open" });
    assert_eq!(ask(&console, "POST /api/breakers", &force).await.0, 200);
    let forced =
        |of: &Value| of["group"] == *group && of["name"] == *name && of["state"] == "forced_open";
    until(&console, "breakers", |page| all(page, "breakers").iter().any(forced)).await;
    // And the split of the gateway.
    let canary = until(&console, "canary", |page| !all(page, "splits").is_empty()).await;
    assert_eq!(canary["splits"][0]["name"], "gateway · products");
    let promote = json!({ "split": "gateway · products", "do": "promote", "variant": "stable" });
    assert_eq!(ask(&console, "POST /api/canary", &promote).await.0, 200);
    // Whoever does not know the shop's key orders nothing there.
    let stranger = Client::new()
        .post(format!("http://{}/console/api/breakers", shop.addr_of("order-service-1").unwrap()));
    assert_eq!(stranger.json(&force).bearer_auth(TOKEN).send().await.unwrap().status(), 401);

    let slow = json!({ "group": "faults", "name": "mail-slow", "to": true });
    assert_eq!(ask(&console, "POST /api/switches", &slow).await.0, 200);
    assert!(shop.chaos.is_on(Fault::MailSlow));
    shop.chaos.calm();
    shop.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_are_shown_with_the_instances_behind_them() {
    let program = common::program("ecommerce_demo");
    let (shop, gateway, _ground) = open(Hosting::Sidecars(program)).await;
    let console = router(shop.sources().operator_token(TOKEN));
    let trace = order(&shop, &gateway).await;
    let parts = ["gateway", "order-service", "payment-service", "notification-service"];
    let path = format!("traces/{trace}");
    until(&console, &path, |page| parts.iter().all(|part| told(page).contains(part))).await;
    let calls = |of: &Value| {
        of["group"].as_str().is_some_and(|group| {
            group.starts_with("order-service-") && group.ends_with(" · payment-service")
        })
    };
    until(&console, "breakers", |page| all(page, "breakers").iter().any(calls)).await;
    // No instance is there twice, nor a service that is none.
    let map = until(&console, "map", |map| all(map, "services").len() >= 7).await;
    assert_eq!(map["error"], Value::Null);
    let services: Vec<_> =
        all(&map, "services").iter().map(|of| of["name"].as_str().unwrap()).collect();
    assert!(
        services.iter().all(|name| name.ends_with("-service") || *name == "gateway"),
        "{services:?}"
    );
    let products = all(&map, "services").iter().find(|of| of["name"] == "product-service").unwrap();
    let ids: BTreeSet<_> =
        all(products, "instances").iter().map(|of| of["id"].as_str().unwrap()).collect();
    assert_eq!(
        ids,
        BTreeSet::from(["product-service-1", "product-service-2", "product-service-3"])
    );
    shop.close().await.unwrap();
}

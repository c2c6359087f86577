//! Answers made of others, out of a file.

use std::path::Path;

use axum::{Router, routing::get};
use gusset_gateway::config::{Config, Resources};
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{built, common::*};

#[tokio::test]
async fn branches_of_a_file_become_one_answer() {
    let router = Router::new()
        .route("/users/{id}", get(async || r#"{"name":"Ann"}"#))
        .route("/orders", get(async || r#"{"items":[1,2]}"#));
    let running = upstream(router).await;
    let (shop, gone) = (running.address, nowhere().await);
    let gateway = built(
        &format!(
            r#"
            [upstreams.shop]
            addresses = ["{shop}"]
            [upstreams.gone]
            addresses = ["{gone}"]
            retry = {{ retries = 0 }}
            [[routes]]
            path = "/home/{{id}}"
            [routes.fan_out]
            missing_as = "absent"
            max_body = "1KiB"
            branches = [
                {{ name = "user", to = "shop", path = "/users/{{id}}", flat = true }},
                {{ name = "orders", to = "shop", path = "/orders?user={{id}}", at = "/items", query = ["page"] }},
                {{ name = "picks", to = "gone", path = "/picks", optional = true, timeout = "5s" }},
            ]
            "#
        ),
        &Resources::default(),
    );
    let answer: Value =
        serde_json::from_str(&text(ask(&gateway, to("/home/7")).await).await).unwrap();
    assert_eq!((&answer["name"], &answer["orders"]), (&json!("Ann"), &json!([1, 2])));
    assert_eq!(answer["absent"]["picks"]["status"], 502);
    assert_eq!(gateway.stats()[0].branches.len(), 3);
}

/// With the descriptors of the shop, and a route with these fields.
fn shop(of_route: &str, of_grpc: &str) -> String {
    let set = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/shop/shop.binpb");
    let set = set.display();
    format!(
        "[upstreams.shop]\naddresses = [\"10.0.0.1:80\"]\n[[routes]]\nto = \"shop\"\n{of_route}\n\
         grpc = {{ descriptors = \"{set}\", {of_grpc} }}\n"
    )
}

fn errors(text: &str) -> Vec<String> {
    let built = Config::parse("g.toml", text)
        .and_then(|config| config.build(&Resources::default()).map(drop));
    let errors = built.map_err(|errors| errors.iter().map(ToString::to_string).collect());
    errors.err().unwrap_or_default()
}

#[tokio::test]
async fn a_service_with_annotations_is_as_many_routes_with_the_settings_of_one() {
    let text = shop("body_limit = \"10B\"", "service = \"shop.v1.Orders\", max_message = \"1MiB\"");
    let config = Config::parse("gateway.toml", text).unwrap();
    assert!(config.files()[0].ends_with("shop.binpb"), "it is followed");
    let gateway = config.build(&Resources::default()).unwrap();
    let paths: Vec<_> = gateway.stats().iter().map(|route| route.path.to_string()).collect();
    for path in ["/v1/orders/{id}", "/v1/tags/{id}", "/v1/orders", "/v1/orders:import"] {
        assert!(paths.iter().any(|found| found == path), "{paths:?}");
    }
    // What is said here never reaches an instance.
    let asked = async |method: &str, path: &str, kind: &str, body: &'static str| {
        let request = Request::builder().method(method).uri(format!("http://shop{path}"));
        let request = request.header("content-type", kind).body(Full::from(body)).unwrap();
        gateway.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!(asked("GET", "/v1/orders/7?page_size=many", "a/b", "").await, 400);
    assert_eq!(asked("PATCH", "/v1/orders/7", "text/plain", "{}").await, 415);
    assert_eq!(asked("PATCH", "/v1/orders/7", "application/json", "{\"id\":\"12345\"}").await, 413);
}

#[tokio::test]
async fn one_method_has_the_path_of_its_route() {
    let text = shop(
        "path = \"/stock/{number}\"\nmethods = [\"GET\"]",
        "method = \"shop.v1.Orders/Bare\", parameters = { number = \"id\" }",
    );
    let gateway = built(&text, &Resources::default());
    let answer = ask(&gateway, to("/stock/7?id=8")).await;
    let problem = problem(answer).await;
    assert_eq!(problem["status"], 400);
    assert!(problem["detail"].as_str().unwrap().contains("id"), "{problem}");
}

#[tokio::test]
async fn what_descriptors_do_not_have_is_told_with_its_place() {
    let path = "path = \"/a\"\nmethods = [\"GET\"]";
    for (text, expected) in [
        (
            shop(path, "method = \"shop.v1.Orders/Gett\""),
            "routes[0].grpc.method: shop.v1.Orders/Gett is not among the descriptors; a service is named shop.v1.Orders, a method shop.v1.Orders/Get",
        ),
        (shop("", "service = \"shop.v1.Order\""), "routes[0].grpc.service: shop.v1.Order is not"),
        (shop("", "method = \"shop.v1.Orders/Get\""), "routes[0].path: it is missing"),
        (
            shop(path, "service = \"shop.v1.Orders\""),
            "routes[0].path: the annotations of the service say it; leave it out",
        ),
        (
            shop("", "service = \"shop.v1.Orders\", body = \"*\""),
            "routes[0].grpc.body: the annotations of the service say it; leave it out",
        ),
        (
            shop(path, "method = \"shop.v1.Orders/Get\"").replace("shop.binpb", "none.binpb"),
            "it cannot be read",
        ),
        (
            shop(path, "method = \"shop.v1.Orders/Get\"").replace("shop.binpb", "shop.proto"),
            "no descriptor set",
        ),
        (
            shop(path, "method = \"shop.v1.Orders/Get\"").replace("to = \"shop\"", "answer = {}"),
            "routes[0].grpc: it is of an upstream; add to, or split",
        ),
        (
            shop("path = \"/a\"\ngrpc_web = true", "method = \"shop.v1.Orders/Get\""),
            "routes[0].grpc_web: clients of this route send JSON, by grpc;",
        ),
    ] {
        let errors = errors(&text);
        assert!(errors[0].contains(expected), "{errors:#?}\n{expected}");
    }
}

//! What clients in other languages really send, recorded from py-consul 1.8.0 and npm's consul (papi 1.1.2).

use http::Method;
use serde_json::json;

use crate::server::Server;

/// Method, path, body, and what the status has to be.
const PYTHON: &[(&str, &str, &str, u16)] = &[
    ("GET", "agent/self", "", 200),
    ("GET", "status/leader", "", 200),
    ("GET", "status/peers", "", 200),
    (
        "PUT",
        "agent/service/register?replace-existing-checks=true",
        r#"{"name": "cart", "id": "cart-1", "address": "10.0.0.7", "port": 80, "tags": ["blue"], "meta": {"v": "1"}, "checks": [{"ttl": "10s"}]}"#,
        200,
    ),
    ("PUT", "agent/check/pass/service:cart-1?note=fine", "", 200),
    ("GET", "health/service/cart?passing=1", "", 200),
    ("PUT", "kv/a/b?flags=3", "x", 200),
    ("GET", "kv/a/?recurse=1", "", 200),
    ("GET", "kv/a/?keys=True&separator=%2F", "", 200),
    ("GET", "kv/none", "", 404),
    ("PUT", "agent/check/register", r#"{"name": "disk", "ttl": "5s", "serviceid": "cart-1"}"#, 200),
    ("PUT", "agent/service/maintenance/cart-1?enable=true&reason=why", "", 200),
    ("PUT", "agent/service/maintenance/cart-1?enable=false", "", 200),
    (
        "PUT",
        "catalog/register",
        r#"{"node": "far", "address": "10.1.1.1", "service": {"service": "pay", "id": "p1", "port": 9}}"#,
        200,
    ),
    ("PUT", "catalog/deregister", r#"{"node": "far"}"#, 200),
    ("DELETE", "kv/a/?recurse=1", "", 200),
    ("PUT", "agent/check/deregister/disk", "", 200),
];

const NODE: &[(&str, &str, &str, u16)] = &[
    (
        "PUT",
        "agent/service/register",
        r#"{"Name":"pay","ID":"pay:1","Tags":["t"],"Meta":{"v":"2"},"Address":"10.0.0.8","Port":90,"Check":{"TTL":"10s","DeregisterCriticalServiceAfter":"1m"}}"#,
        200,
    ),
    ("PUT", "agent/check/pass/service%3Apay%3A1", "", 200),
    ("GET", "health/service/pay?passing=true&index=0&wait=30s", "", 200),
    ("PUT", "kv/flags%2Fx", "on", 200),
    ("GET", "kv/flags%2F?keys=true", "", 200),
    ("PUT", "agent/service/maintenance/pay%3A1?enable=true&reason=x", "", 200),
    ("DELETE", "kv/flags%2Fx", "", 200),
    ("PUT", "agent/service/maintenance/pay%3A1?enable=false", "", 200),
];

async fn replay(server: &Server, requests: &[(&str, &str, &'static str, u16)]) {
    for (method, path, body, status) in requests {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let answer = server.call(method, path, *body).await;
        assert_eq!(answer.status, *status, "{path}: {}", answer.text());
    }
}

#[tokio::test(start_paused = true)]
async fn clients_in_python_and_node_work_unmodified() {
    let (server, _ticker) = Server::start();
    replay(&server, PYTHON).await;
    replay(&server, NODE).await;
    assert_eq!(server.passing("cart").await, ["cart-1"]);
    assert_eq!(server.passing("pay").await, ["pay:1"]);
    let services = server.get("catalog/services").await.json();
    assert_eq!(services, json!({"cart": ["blue"], "pay": ["t"]}));
    assert_eq!(server.0.stats().keys, 0);
}

use bytes::Bytes;
use gusset_registry::ConsulPolicy;
use http::{Method, Request};
use http_body_util::Full;

use crate::server::Server;

#[tokio::test(start_paused = true)]
async fn malformed_json_gets_400_with_what_is_wrong_and_where() {
    let (server, _ticker) = Server::start();
    for (body, said) in [
        ("", "Request decode failed: the body is empty, JSON is expected"),
        ("{\"Name\": \"a\",\n}", "Request decode failed: trailing comma at line 2 column 1"),
        ("[]", "the body: expected an object, found an array"),
        ("{}", "Name: missing"),
        (r#"{"Name": ""}"#, "Name: empty"),
        (r#"{"Name": 1}"#, "Name: expected a string, found 1"),
        (
            r#"{"Name": "a", "Port": 65536}"#,
            "Port: expected a whole number from 0 to 65535, found 65536",
        ),
        (r#"{"Name": "a", "Tags": "b"}"#, "Tags: expected an array, found \"b\""),
        (
            r#"{"Name": "a", "Check": {"TTL": "10"}}"#,
            "Check.TTL: \"10\" is no duration like \"10s\"",
        ),
        (
            r#"{"Name": "a", "Checks": [{"TTL": "1s", "Status": "up"}]}"#,
            "Checks[0].Status: is none of passing, warning, critical",
        ),
        (r#"{"Name": "a\u0000"}"#, "Name: control characters"),
    ] {
        let answer = server.put("agent/service/register", body).await;
        assert_eq!((answer.status, answer.text().trim_end()), (400, said), "{body}");
    }
    let deep = "[".repeat(100_000);
    assert_eq!(server.put("agent/service/register", deep).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn field_names_are_read_in_any_case() {
    let (server, _ticker) = Server::start();
    let body = r#"{"name": "cart", "id": "a", "tags": ["x"], "check": {"ttl": "10s", "deregister_critical_service_after": "1m"}}"#;
    server.put("agent/service/register", body).await.ok();
    let services = server.get("agent/services").await.json();
    assert_eq!(services["a"]["Tags"][0], "x");
}

#[tokio::test(start_paused = true)]
async fn without_the_token_only_the_status_is_answered() {
    let (server, _ticker) = Server::with(ConsulPolicy::default().token("s3cret"));
    let ask = async |path: &str, name: &str, value: &str| {
        let request = Request::builder().uri(format!("/v1/{path}")).header(name, value);
        server.send(request.body(Full::new(Bytes::new())).unwrap()).await.status
    };
    assert_eq!(server.get("catalog/services").await.status, 403);
    assert_eq!(server.put("kv/a", "1").await.status, 403);
    for (name, value, status) in [
        ("x-consul-token", "s3cret", 200),
        ("x-consul-token", "s3cre", 403),
        ("authorization", "Bearer s3cret", 200),
        ("authorization", "bearer s3cret", 200),
        ("authorization", "Basic s3cret", 403),
        ("authorization", "Bearer S3cret", 403),
    ] {
        assert_eq!(ask("catalog/services", name, value).await, status, "{name}: {value}");
    }
    assert_eq!(server.get("catalog/services?token=s3cret").await.status, 200);
    assert_eq!(server.get("status/leader").await.json(), "127.0.0.1:8300");
    assert_eq!(server.get("status/peers").await.json()[0], "127.0.0.1:8300");
    assert!(!format!("{:?}", ConsulPolicy::default().token("s3cret")).contains("s3cret"));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_served_is_named() {
    let (server, _ticker) = Server::start();
    let answer = server.put("txn", "[]").await;
    assert_eq!((answer.status, answer.text()), (404, "/v1/txn is not served here\n"));
    let answer = server.call(Method::POST, "agent/service/register", "{}").await;
    assert_eq!((answer.status, answer.text()), (405, "method POST not allowed, only PUT\n"));
    assert_eq!(answer.headers["allow"], "PUT");
    let body = r#"{"Name": "a", "Connect": {"Native": true}}"#;
    assert_eq!(server.put("agent/service/register", body).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn an_agent_tells_who_it_is() {
    let policy = ConsulPolicy::default().node("registry-1", "10.0.0.2").datacenter("eu");
    let (server, _ticker) = Server::with(policy);
    let own = server.get("agent/self?pretty").await.ok();
    assert!(own.text().contains("\n  "));
    assert_eq!(own.json()["Config"]["Datacenter"], "eu");
    assert_eq!(own.json()["Config"]["NodeName"], "registry-1");
    assert_eq!(server.get("agent/members").await.json()[0]["Addr"], "10.0.0.2");
}

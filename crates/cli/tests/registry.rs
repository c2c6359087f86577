//! The process, as its user sees it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Output,
    time::Duration,
};

use common::Registry;

impl Registry {
    /// Sends a request and reads its answer to the end.
    fn call(&self, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn gusset(args: &[&str]) -> Output {
    common::gusset().args(args).output().unwrap()
}

fn index(answer: &str) -> &str {
    let lower = answer.find("x-consul-index: ").unwrap() + "x-consul-index: ".len();
    answer[lower..].lines().next().unwrap()
}

#[test]
fn a_blocked_request_wakes_when_somebody_registers() {
    let registry = Registry::start(&[]);
    let answer = registry.call("GET", "/v1/health/service/cart", "");
    let path = format!("/v1/health/service/cart?index={}", index(&answer));
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| registry.call("GET", &path, ""));
        let body = r#"{"Name": "cart", "Port": 80, "Check": {"TTL": "30s"}}"#;
        let answer = registry.call("PUT", "/v1/agent/service/register", body);
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let woken = blocked.join().unwrap();
        assert!(woken.contains("\"Service\":\"cart\""), "{woken}");
    });
}

#[test]
fn sigterm_answers_who_is_blocked_and_ends_with_0() {
    let mut registry = Registry::start(&[]);
    let answer = registry.call("GET", "/v1/kv/a", "");
    let mut blocked = TcpStream::connect(&registry.address).unwrap();
    blocked.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // One that says nothing holds nobody up.
    let _idle = TcpStream::connect(&registry.address).unwrap();
    write!(blocked, "GET /v1/kv/a?index={} HTTP/1.1\r\nHost: h\r\n\r\n", index(&answer)).unwrap();
    // Over the same listener, and therefore after the other was accepted.
    registry.call("GET", "/v1/status/leader", "");
    registry.process.signal("TERM");
    let mut answer = String::new();
    blocked.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    assert_eq!(registry.process.ends().code(), Some(0));
}

#[test]
fn a_port_in_use_is_named_with_exit_code_2() {
    let registry = Registry::start(&[]);
    let output = gusset(&["registry", "--listen", &registry.address]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    let port = registry.address.rsplit(':').next().unwrap();
    assert!(said.starts_with(&format!("gusset: port {port} is in use; choose another")), "{said}");
}

#[test]
fn bad_options_and_an_open_door_are_named_with_exit_code_2() {
    for (args, said) in [
        (
            &["registry", "--port", "1"][..],
            "gusset: invalid option '--port'; see gusset registry --help",
        ),
        (&["registri"], "gusset: unknown command \"registri\"; see gusset --help"),
        (
            &["registry", "--listen", "0.0.0.0:0"],
            "gusset: not listening on 0.0.0.0:0 without a token",
        ),
        (&[], "gusset: no command; see gusset --help"),
    ] {
        let output = gusset(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8(output.stderr).unwrap().starts_with(said), "{args:?}");
    }
    assert!(gusset(&["registry", "--help"]).status.success());
}

#[test]
fn with_a_token_only_who_shows_it_is_served() {
    let registry = Registry::start(&["--token", "s3cret"]);
    assert!(registry.call("GET", "/v1/catalog/services", "").starts_with("HTTP/1.1 403"));
    let answer = registry.call("GET", "/v1/catalog/services?token=s3cret", "");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn a_request_with_endless_headers_is_refused_and_a_large_value_is_not() {
    let registry = Registry::start(&[]);
    let answer = |head: &str| {
        let mut stream = TcpStream::connect(&registry.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut answer = String::new();
        // It may hang up before it has read all.
        let _ = write!(stream, "GET /v1/status/leader HTTP/1.1\r\nHost: h\r\n{head}\r\n\r\n");
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let long = |bytes: usize| format!("Connection: close\r\nX-A: {}", "a".repeat(bytes));
    assert!(answer(&long(8_000)).starts_with("HTTP/1.1 200"));
    let refused = answer(&long(200_000));
    assert!(!refused.starts_with("HTTP/1.1 200"), "{refused}");
    let value = "v".repeat(512 << 10);
    assert!(registry.call("PUT", "/v1/kv/large", &value).ends_with("true"));
    assert!(registry.call("GET", "/v1/kv/large?raw", "").ends_with(&value));
}

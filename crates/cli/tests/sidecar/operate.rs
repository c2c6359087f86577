//! What an operator asks of a sidecar beyond the way through: quotas, a log of requests, and a collector.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    sync::mpsc,
    thread,
};

use gusset_engines::Folder;
use serde_json::Value;

use crate::harness::*;

const TRACE: &str = "12345678901234567890123456789012";

fn traced(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: cart\r\nConnection: close\r\ntraceparent: 00-{TRACE}-1234567890123456-01\r\n\r\n"
    )
}

#[test]
fn above_the_quota_of_its_key_a_request_is_told_when_to_come_back() {
    let registry = Registry::start();
    let app = App::start(|_| "here".into());
    let quota = ["--quota", "2/h", "--quota-by", "header:x-tenant"];
    let side = Sidecar::start("cart", app.address, &registry, &quota);
    side.wait_until_ready();
    let ask = |path: &str, tenant: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: cart\r\nX-Tenant: {tenant}");
        http(side.inbound, &format!("{head}\r\nConnection: close\r\n\r\n"))
    };
    // One quota, whatever is asked for.
    for path in ["/", "/a"] {
        assert!(ask(path, "blue").starts_with("HTTP/1.1 200"));
    }
    let refused = ask("/b", "blue");
    assert!(refused.starts_with("HTTP/1.1 429"), "{refused}");
    assert!(refused.contains("\r\nretry-after: "), "{refused}");
    assert!(ask("/b", "green").starts_with("HTTP/1.1 200"));
}

#[test]
fn each_request_to_the_app_is_a_line_of_json_with_its_trace() {
    let registry = Registry::start();
    let app = App::start(|_| "here".into());
    let folder = Folder::new("access");
    let file = folder.join("requests");
    let more = ["--access-log", file.to_str().unwrap(), "--quota", "1/h"];
    let side = Sidecar::start("cart", app.address, &registry, &more);
    side.wait_until_ready();
    assert!(http(side.inbound, &traced("/a?key=s3cret")).starts_with("HTTP/1.1 200"));
    assert!(http(side.inbound, &traced("/b")).starts_with("HTTP/1.1 429"));
    let text = eventually("two lines", || {
        fs::read_to_string(&file).ok().filter(|text| text.lines().count() == 2)
    });
    assert!(!text.contains("s3cret"), "{text}");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (line, path, status) in [(&lines[0], "/a", 200), (&lines[1], "/b", 429)] {
        assert_eq!((&line["path"], &line["status"]), (&path.into(), &status.into()), "{line}");
        assert_eq!((&line["trace_id"], &line["client"]), (&TRACE.into(), &"127.0.0.1".into()));
    }
}

/// Path and body of what a collector gets.
type Got = (String, Vec<u8>);

fn collector() -> (String, mpsc::Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, got) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let tell = tell.clone();
            thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
                stream.read_line(&mut first).unwrap();
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).unwrap();
                let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
                stream.get_mut().write_all(answer).unwrap();
                // Nobody may ask any more.
                let _ = tell.send((first.split(' ').nth(1).unwrap().to_owned(), body));
            });
        }
    });
    (url, got)
}

#[test]
fn spans_logs_and_metrics_go_to_the_collector_that_is_named() {
    let registry = Registry::start();
    let app = App::start(|_| "here".into());
    let (url, got) = collector();
    let mut side = Sidecar::start("cart", app.address, &registry, &["--otlp", &url]);
    side.wait_until_ready();
    assert!(http(side.inbound, &traced("/a")).starts_with("HTTP/1.1 200"));
    let id = u128::from_str_radix(TRACE, 16).unwrap().to_be_bytes();
    let has = |body: &[u8], part: &[u8]| body.windows(part.len()).any(|window| window == part);
    let until = |what: &str, is: &dyn Fn(&Got) -> bool| {
        eventually(what, || is(&got.recv_timeout(PATIENCE).unwrap()).then_some(()));
    };
    until("the trace", &|(path, body)| {
        path == "/v1/traces" && has(body, &id) && has(body, b"cart")
    });
    // What is left is sent at the end.
    side.signal("-TERM");
    until("metrics", &|(path, body)| {
        path == "/v1/metrics" && has(body, b"http.server.request.duration")
    });
    assert_eq!(side.ended(), 0);
}

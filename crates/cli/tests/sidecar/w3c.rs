//! The cases of the W3C's conformance suite for Trace Context, against an app that passes on the two headers, behind its sidecar and calling through it.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Mutex,
    time::timeout,
};

use crate::harness::{self, Registry, Sidecar};

const TRACE: &str = "12345678901234567890123456789012";
const SPAN: &str = "1234567890123456";

/// What the app calls.
struct Callback {
    listener: Mutex<TcpListener>,
    /// Where the app is called.
    service: SocketAddr,
    _processes: (Registry, Sidecar, harness::App),
}

impl Callback {
    async fn new() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let started = tokio::task::spawn_blocking(move || {
            let registry = Registry::start();
            registry.register("callback", address);
            let outbound = Arc::new(std::sync::OnceLock::new());
            let known = outbound.clone();
            // It is called after that is set.
            let app = harness::App::start(move |head| call_back(*known.get().unwrap(), head));
            let side = Sidecar::start("app", app.address, &registry, &[]);
            outbound.set(side.outbound).unwrap();
            side.wait_until_ready();
            harness::eventually("the callback is known", || {
                (registry.passing("callback") == 1).then_some(())
            });
            (registry, side, app)
        });
        let processes = started.await.unwrap();
        let service = processes.1.inbound;
        Arc::new(Self { listener: Mutex::new(listener), service, _processes: processes })
    }
}

/// As a program does that knows two headers and nothing else of traces: it calls as often as the path says.
fn call_back(outbound: SocketAddr, head: &str) -> String {
    let times: u32 = head.split(['/', ' ']).nth(2).unwrap().parse().unwrap();
    let passed_on = head.lines().filter(|line| line.starts_with("trace"));
    let passed_on: String = passed_on.map(|line| format!("{line}\r\n")).collect();
    for _ in 0..times {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: callback\r\nConnection: close\r\nContent-Length: 0\r\n{passed_on}\r\n"
        );
        // Nothing was sent as long as nobody is found.
        let answer = harness::eventually("the callback is found", || {
            let answer = harness::http(outbound, &request);
            (!answer.starts_with("HTTP/1.1 503")).then_some(answer)
        });
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    String::new()
}

include!("../../../sidecar/tests/w3c/cases.rs");

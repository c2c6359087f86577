//! Many watchers, many heartbeats. The numbers of the README are those of
//! `cargo test --release -p gusset-cli --test load -- --nocapture --test-threads 1`; without optimisation the bounds only catch what is
//! wrong by orders of magnitude.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use common::Registry;

const RELEASE: bool = !cfg!(debug_assertions);
const WATCHERS: usize = 2_000;

impl Registry {
    fn connect(&self) -> Connection {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection(BufReader::new(stream))
    }

    /// Bytes of memory in use.
    fn resident(&self) -> u64 {
        let status = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }
}

/// One that is kept.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn send(&mut self, method: &str, path: &str, body: &str) {
        let length = body.len();
        let request = format!(
            "{method} /v1/{path} HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// The index of the answer, which has to be 200.
    fn receive(&mut self) -> u64 {
        let (mut index, mut length, mut line) = (0, 0, String::new());
        self.0.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 200"), "{line}");
        while line != "\r\n" {
            line.clear();
            self.0.read_line(&mut line).unwrap();
            if let Some((name, value)) = line.split_once(": ") {
                match name {
                    "x-consul-index" => index = value.trim().parse().unwrap(),
                    "content-length" => length = value.trim().parse().unwrap(),
                    _ => {}
                }
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        index
    }

    fn call(&mut self, method: &str, path: &str, body: &str) -> u64 {
        self.send(method, path, body);
        self.receive()
    }
}

fn registration(n: usize) -> String {
    format!(
        r#"{{"Name": "s{}", "ID": "i{n}", "Address": "10.0.0.7", "Port": 80, "Check": {{"TTL": "10m", "Status": "passing"}}}}"#,
        n / 10
    )
}

#[test]
fn two_thousand_blocked_watchers_are_told_of_one_change_at_once() {
    let registry = Registry::start(&[]);
    let mut writer = registry.connect();
    for n in 0..10 {
        writer.call("PUT", "agent/service/register", &registration(n));
    }
    let index = writer.call("GET", "health/service/s0", "");
    let mut watchers: Vec<_> = (0..WATCHERS).map(|_| registry.connect()).collect();
    // Each has been answered once, so the server knows all of them.
    for watcher in &mut watchers {
        watcher.call("GET", "status/leader", "");
    }
    let before = registry.resident();
    for watcher in &mut watchers {
        watcher.send("GET", &format!("health/service/s0?index={index}"), "");
    }
    std::thread::scope(|scope| {
        let settled = scope.spawn(|| std::thread::park_timeout(Duration::from_millis(500)));
        settled.join().unwrap();
    });
    let each = registry.resident().saturating_sub(before) / WATCHERS as u64;
    let since = Instant::now();
    writer.call("PUT", "agent/check/fail/service:i0", "");
    for watcher in &mut watchers {
        assert!(watcher.receive() > index);
    }
    let told = since.elapsed();
    println!(
        "{WATCHERS} watchers of 10 instances told in {told:?}; {each} bytes more each while blocked"
    );
    assert!(told < Duration::from_millis(if RELEASE { 200 } else { 30_000 }), "{told:?}");
}

#[test]
fn heartbeats_over_kept_connections() {
    let instances = if RELEASE { 100_000 } else { 2_000 };
    let registry = Registry::start(&[]);
    let mut connections: Vec<_> = (0..32).map(|_| registry.connect()).collect();
    let all = |connections: &mut Vec<Connection>, request: &dyn Fn(usize) -> (String, String)| {
        let since = Instant::now();
        for first in (0..instances).step_by(connections.len()) {
            let here = || first..instances.min(first + 32);
            for (connection, n) in connections.iter_mut().zip(here()) {
                let (path, body) = request(n);
                connection.send("PUT", &path, &body);
            }
            for (connection, _) in connections.iter_mut().zip(here()) {
                connection.receive();
            }
        }
        instances as f64 / since.elapsed().as_secs_f64()
    };
    let registered = all(&mut connections, &|n| ("agent/service/register".into(), registration(n)));
    let beats =
        all(&mut connections, &|n| (format!("agent/check/pass/service:i{n}"), String::new()));
    let memory = registry.resident() / instances as u64;
    let worst = worst_heartbeat_beside_listings(&registry);
    println!(
        "{instances} instances: {registered:.0} registrations/s, {beats:.0} heartbeats/s, {memory} bytes each; \
         beside one that lists everything without end a heartbeat takes at most {worst:?}"
    );
    assert!(worst < Duration::from_millis(if RELEASE { 200 } else { 20_000 }), "{worst:?}");
    assert!(beats > if RELEASE { 10_000.0 } else { 20.0 }, "{beats}");
}

/// Of those of a second in which everything is asked for again and again.
fn worst_heartbeat_beside_listings(registry: &Registry) -> Duration {
    let (mut beating, mut listing) = (registry.connect(), registry.connect());
    let until = Instant::now() + Duration::from_secs(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for path in ["health/state/any", "catalog/services", "prometheus"].iter().cycle() {
                listing.call("GET", path, "");
                if Instant::now() > until {
                    return;
                }
            }
        });
        let mut worst = Duration::ZERO;
        while Instant::now() < until {
            let since = Instant::now();
            beating.call("PUT", "agent/check/pass/service:i0", "");
            worst = worst.max(since.elapsed());
        }
        worst
    })
}

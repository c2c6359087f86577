//! Gateways that share a Redis server, as processes of their own.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a bound for real processes")]

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use gusset_engines::{Folder, Process, Redis};

const MINUTE: Duration = Duration::from_secs(60);

struct Gateway {
    process: Process,
    address: String,
}

impl Gateway {
    fn start(file: &std::path::Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gusset"));
        command.arg("gateway").arg("--config").arg(file);
        let mut process = Process::started("gateway", command);
        let said = process.says("http://");
        let address = said["http://".len()..].split(';').next().unwrap().to_owned();
        Self { process, address }
    }

    /// Sends a payment, without waiting for its answer.
    fn send(&self, key: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(MINUTE)).unwrap();
        let length = "ten".len();
        write!(
            stream,
            "POST /pay HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nIdempotency-Key: {key}\r\nContent-Length: {length}\r\n\r\nten"
        )
        .unwrap();
        stream
    }

    fn pay(&self, key: &str) -> String {
        let mut answer = String::new();
        self.send(key).read_to_string(&mut answer).unwrap();
        answer
    }
}

/// A bank that tells of each payment that it has heard of, and answers none that begins before it is told to.
fn bank() -> (String, mpsc::Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (heard, payments) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"ten") {
                let mut bytes = [0; 1024];
                match stream.read(&mut bytes) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => request.extend_from_slice(&bytes[..count]),
                }
            }
            if request.ends_with(b"ten") && heard.send(stream).is_err() {
                return;
            }
        }
    });
    (address, payments)
}

#[test]
fn a_gateway_that_is_killed_with_a_payment_under_way_leaves_its_key_to_the_others_after_its_time() {
    let (redis, folder, (bank, payments)) = (Redis::start(), Folder::new("gateways"), bank());
    let file = folder.join("gateway.toml");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nlinger = \"0s\"\n[redis]\nurl = \"{}\"\n\
         [upstreams.bank]\naddresses = [\"{bank}\"]\n\
         [[routes]]\npath = \"/pay\"\nto = \"bank\"\ntimeout = \"2s\"\n\
         retry = {{ retries = 0 }}\nidempotency = {{ required = true, shared = true }}\n",
        redis.url()
    );
    fs::write(&file, text).unwrap();
    let (mut one, other) = (Gateway::start(&file), Gateway::start(&file));

    let _client = one.send("a");
    let _unanswered = payments.recv_timeout(MINUTE).unwrap();
    one.process.kill();
    let begun = Instant::now();
    let answer = other.pay("a");
    // On a machine that is so slow that nine seconds have gone by, the claim has ended.
    assert!(
        answer.starts_with("HTTP/1.1 409") || begun.elapsed() > Duration::from_secs(5),
        "{answer}"
    );

    thread::spawn(move || {
        for mut payment in payments {
            let _ = payment.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\npaid");
        }
    });
    let paid = loop {
        let answer = other.pay("a");
        if !answer.starts_with("HTTP/1.1 409") {
            break answer;
        }
        assert!(begun.elapsed() < MINUTE, "the key is never free");
        thread::sleep(Duration::from_millis(100));
    };
    assert!(paid.starts_with("HTTP/1.1 201") && paid.ends_with("paid"), "{paid}");
    let again = Gateway::start(&file).pay("a");
    assert!(again.contains("idempotent-replayed: true") && again.ends_with("paid"), "{again}");
}

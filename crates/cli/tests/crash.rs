//! `kill -9`, and what is there afterwards.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a bound for a real process")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

use common::{Registry, gusset};
use gusset_engines::{Folder, Port, Process};

const SOON: Duration = Duration::from_secs(30);
const SERVICES: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

/// With all that it has in that folder.
fn registry(port: &Port, folder: &Folder) -> Registry {
    Registry::at(&port.address(), &["--data-dir", folder.to_str().unwrap()])
}

/// Head and body of the answer; `None` if there is none, or not all of it.
fn call(address: &str, method: &str, path: &str, body: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    let length = body.len();
    write!(
        stream,
        "{method} /v1/{path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}

fn index(head: &str) -> u64 {
    let line = head.lines().find_map(|line| line.strip_prefix("x-consul-index: "));
    line.unwrap().parse().unwrap()
}

fn wait_for(what: &str, mut is: impl FnMut() -> bool) {
    let since = Instant::now();
    while !is() {
        assert!(since.elapsed() < SOON, "never: {what}");
        std::thread::sleep(PAUSE);
    }
}

/// Follows a service over every restart, until it has no instance.
fn follow(address: &str, service: &str) -> Vec<u64> {
    let (mut at, mut seen, since) = (0, Vec::new(), Instant::now());
    loop {
        assert!(since.elapsed() < 2 * SOON, "never told: {service}");
        let path = format!("health/service/{service}?index={at}&wait=10s");
        let Some((head, body)) = call(address, "GET", &path, "") else {
            std::thread::sleep(PAUSE);
            continue;
        };
        at = index(&head);
        seen.push(at);
        if body == "[]" {
            return seen;
        }
    }
}

#[test]
fn a_killed_registry_comes_back_with_every_instance_and_its_watchers_converge() {
    let folder = Folder::new("crash-instances");
    let port = Port::free();
    let mut registry = registry(&port, &folder);
    let address = registry.address.clone();
    for n in 0..SERVICES {
        let body = format!(
            r#"{{"Name": "s{n}", "ID": "i{n}", "Port": 80, "Check": {{"TTL": "60s", "Status": "passing"}}}}"#
        );
        call(&address, "PUT", "agent/service/register", &body).unwrap();
    }
    wait_for("saved", || {
        let saved = fs::read_to_string(folder.join("catalog.json")).unwrap_or_default();
        (0..SERVICES).all(|n| saved.contains(&format!("\"i{n}\"")))
    });
    std::thread::scope(|scope| {
        let watchers: Vec<_> = (0..SERVICES)
            .map(|n| {
                scope.spawn({
                    let address = &address;
                    move || follow(address, &format!("s{n}"))
                })
            })
            .collect();
        let before = index(&call(&address, "GET", "catalog/services", "").unwrap().0);
        registry.process.restart();
        registry.process.says("://");
        let (head, services) = call(&address, "GET", "catalog/services", "").unwrap();
        assert!(index(&head) > before);
        for n in 0..SERVICES {
            assert!(services.contains(&format!("\"s{n}\"")), "{services}");
            let path = format!("health/service/s{n}?passing");
            let (_, found) = call(&address, "GET", &path, "").unwrap();
            assert!(found.contains("\"Suspect\":true"), "{found}");
            let beat = format!("agent/check/pass/service:i{n}");
            let (head, _) = call(&address, "PUT", &beat, "").unwrap();
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            let leave = format!("agent/service/deregister/i{n}");
            call(&address, "PUT", &leave, "").unwrap();
        }
        for watcher in watchers {
            assert!(watcher.join().unwrap().is_sorted(), "an index went backwards");
        }
    });
}

#[test]
fn what_was_acknowledged_of_the_keys_is_there_however_often_it_is_killed() {
    let folder = Folder::new("crash-keys");
    let port = Port::free();
    let mut registry = registry(&port, &folder);
    let address = registry.address.clone();
    let mut acknowledged = [0_u32; 4];
    for round in 1..=5 {
        let stop = AtomicBool::new(false);
        acknowledged = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|key| {
                    scope.spawn({
                        let (stop, address, mut last) = (&stop, &address, acknowledged[key]);
                        move || {
                            let path = format!("kv/count/{key}");
                            while !stop.load(SeqCst) {
                                let next = (last + 1).to_string();
                                match call(address, "PUT", &path, &next) {
                                    Some((head, _)) if head.starts_with("HTTP/1.1 200") => {
                                        last += 1
                                    }
                                    _ => break,
                                }
                            }
                            last
                        }
                    })
                })
                .collect();
            let path = "kv/count/0?raw";
            let enough = || {
                let value = call(&address, "GET", path, "").map(|(_, value)| value);
                value.and_then(|value| value.parse().ok()).is_some_and(|n: u32| n >= round * 20)
            };
            wait_for("written", enough);
            registry.process.kill();
            stop.store(true, SeqCst);
            let ends: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            ends.try_into().unwrap()
        });
        registry.process.start();
        registry.process.says("://");
        for (key, last) in acknowledged.iter_mut().enumerate() {
            let (_, value) = call(&address, "GET", &format!("kv/count/{key}?raw"), "").unwrap();
            let value: u32 = value.parse().unwrap();
            // The write that was under way may have come true.
            assert!((*last..=*last + 1).contains(&value), "{value} of {last}");
            *last = value;
        }
    }
}

#[test]
fn a_second_process_in_the_folder_is_refused_and_a_torn_log_is_told() {
    let folder = Folder::new("crash-folder");
    let port = Port::free();
    let mut registry = registry(&port, &folder);
    call(&registry.address, "PUT", "kv/a", "1").unwrap();
    let start = |log: &str| {
        let mut command = gusset();
        command.args(["registry", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&*folder);
        command.env("GUSSET_LOG", log);
        Process::started("gusset", command)
    };
    let mut refused = start("info");
    assert_eq!(refused.ends().code(), Some(2));
    assert!(refused.log().contains("is in use by another registry"), "{}", refused.log());
    registry.process.kill();

    let mut log = fs::OpenOptions::new().append(true).open(folder.join("kv.log")).unwrap();
    log.write_all(b"torn").unwrap();
    let mut mended = start("info");
    mended.says("the end of the log was torn off");
    assert!(mended.log().contains("WARN"), "{}", mended.log());
    mended.kill();

    let mut wrong = start("loud");
    wrong.ends();
    let said = wrong.log();
    assert!(said.starts_with("gusset: GUSSET_LOG: \"loud\" is none of off"), "{said}");
}

//! `kill -9`, and what is there afterwards.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a bound for a real process")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::{Duration, Instant},
};

const SOON: Duration = Duration::from_secs(30);
const SERVICES: usize = 20;
const PAUSE: Duration = Duration::from_millis(5);

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("gusset-{name}-{}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Registry {
    process: Child,
    address: String,
}

impl Registry {
    fn start(listen: &str, folder: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_gusset"))
            .args(["registry", "--listen", listen, "--data-dir"])
            .arg(folder)
            .env_remove("GUSSET_TOKEN")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap().split(';').next().unwrap().to_owned();
        Self { process, address }
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
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
    let registry = Registry::start("127.0.0.1:0", &folder.0);
    let address = registry.address.clone();
    for n in 0..SERVICES {
        let body = format!(
            r#"{{"Name": "s{n}", "ID": "i{n}", "Port": 80, "Check": {{"TTL": "60s", "Status": "passing"}}}}"#
        );
        call(&address, "PUT", "agent/service/register", &body).unwrap();
    }
    wait_for("saved", || {
        let saved = fs::read_to_string(folder.0.join("catalog.json")).unwrap_or_default();
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
        registry.kill();
        let registry = Registry::start(&address, &folder.0);
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
        drop(registry);
    });
}

#[test]
fn what_was_acknowledged_of_the_keys_is_there_however_often_it_is_killed() {
    let folder = Folder::new("crash-keys");
    let mut registry = Registry::start("127.0.0.1:0", &folder.0);
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
            let dead = std::mem::replace(
                &mut registry,
                Registry { process: Command::new("true").spawn().unwrap(), address: String::new() },
            );
            dead.kill();
            stop.store(true, SeqCst);
            let ends: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
            ends.try_into().unwrap()
        });
        registry = Registry::start(&address, &folder.0);
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
    let registry = Registry::start("127.0.0.1:0", &folder.0);
    call(&registry.address, "PUT", "kv/a", "1").unwrap();
    let start = |log: &str| {
        Command::new(env!("CARGO_BIN_EXE_gusset"))
            .args(["registry", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&folder.0)
            .env_remove("GUSSET_TOKEN")
            .env("GUSSET_LOG", log)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let refused = start("info").wait_with_output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2));
    assert!(said.contains("is in use by another registry"), "{said}");
    registry.kill();

    let mut log = fs::OpenOptions::new().append(true).open(folder.0.join("kv.log")).unwrap();
    log.write_all(b"torn").unwrap();
    let mut mended = start("info");
    let mut line = String::new();
    BufReader::new(mended.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    mended.kill().unwrap();
    mended.wait().unwrap();
    assert!(line.contains("WARN") && line.contains("the end of the log was torn off"), "{line}");

    let wrong = start("loud").wait_with_output().unwrap();
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(said.starts_with("gusset: GUSSET_LOG: \"loud\" is none of off"), "{said}");
}

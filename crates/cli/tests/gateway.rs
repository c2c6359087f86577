//! The process, as its user sees it.

#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a bound for a real process")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A file in a folder of its own.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("gateway-{name}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("gateway.toml"), text).unwrap();
        Self(folder.join("gateway.toml"))
    }

    fn gusset(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gusset"));
        command.arg("gateway").arg("--config").arg(&self.0).args(args).output().unwrap()
    }
}

struct Gateway {
    process: Child,
    address: String,
}

impl Gateway {
    fn start(file: &File) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_gusset"))
            .arg("gateway")
            .arg("--config")
            .arg(&file.0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let address = line.split("http://").nth(1).unwrap().split(';').next().unwrap().to_owned();
        Self { process, address }
    }

    fn get(&self, path: &str, fields: &str) -> String {
        call(&self.address, path, fields)
    }

    fn signal(&self, signal: &str) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    fn ends(&mut self) -> Option<i32> {
        let since = Instant::now();
        while since.elapsed() < Duration::from_secs(60) {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn call(address: &str, path: &str, fields: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n{fields}\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A service that answers each request with its path. It ends with the test.
fn service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                while let Some(Ok(first)) = lines.next() {
                    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {
                    }
                    let path = first.split(' ').nth(1).unwrap();
                    let length = path.len();
                    let _ =
                        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{path}");
                }
            });
        }
    });
    address
}

#[test]
fn a_right_file_is_said_to_be_and_a_wrong_one_says_why_and_ends_with_2() {
    let right = File::new(
        "right",
        "[upstreams.a]\naddresses = [\"10.0.0.1:80\"]\n[[routes]]\npath = \"/\"\nto = \"a\"\n",
    );
    let output = right.gusset(&["--check"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "ok: 1 route, 1 upstream\n");

    let wrong = File::new("wrong", "[server]\nlisten = 1\ncore = 2\n");
    for args in [&["--check"][..], &[]] {
        let output = wrong.gusset(args);
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("gateway.toml:2:10: server.listen: 1 is no address"), "{said}");
        assert!(
            said.contains(
                "gateway.toml:3:1: server.core: there is no such field; \"cores\" is meant?"
            ),
            "{said}"
        );
    }
}

#[test]
fn a_route_is_proxied_limited_and_authenticated_until_the_process_is_told_to_end() {
    let hash = Command::new("sh").args(["-c", "printf %s s3cret | sha256sum"]).output().unwrap();
    let hash = String::from_utf8(hash.stdout).unwrap();
    let hash = hash.split(' ').next().unwrap();
    let file = File::new(
        "serves",
        &format!(
            r#"
            [server]
            listen = "127.0.0.1:0"
            cores = 2
            linger = "0s"

            [api_keys]
            file = "keys"

            [upstreams.shop]
            addresses = ["{}"]

            [[routes]]
            path = "/api/{{*rest}}"
            to = "shop"
            strip_prefix = "/api"
            authenticated = true
            quota = {{ rate = "2/h" }}
            "#,
            service()
        ),
    );
    fs::write(file.0.with_file_name("keys"), format!("gusset-api-keys 1\nalice {hash}\n")).unwrap();
    let mut gateway = Gateway::start(&file);
    assert!(gateway.get("/other", "").starts_with("HTTP/1.1 404"));
    assert!(gateway.get("/api/orders", "").starts_with("HTTP/1.1 401"));
    for _ in 0..2 {
        let answer = gateway.get("/api/orders", "X-Api-Key: s3cret\r\n");
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("/orders"), "{answer}");
    }
    assert!(gateway.get("/api/orders", "X-Api-Key: s3cret\r\n").starts_with("HTTP/1.1 429"));
    gateway.signal("-TERM");
    assert_eq!(gateway.ends(), Some(0));
}

#[test]
fn the_first_page_leads_to_a_route_that_is_proxied_limited_and_authenticated() {
    let page = include_str!("../../gateway/README.md");
    let commands: Vec<&str> =
        page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(commands[0].starts_with("cargo install --path crates/cli"));
    assert_eq!(commands[2], "gusset gateway --config gateway.toml\n");
    let file = File::new("first-page", "");
    // At ports that are free here.
    let script = commands[1].replace(":8080", ":0").replace("127.0.0.1:9000", &service());
    let script = format!("set -e\n{script}printf %s \"$KEY\"");
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(file.0.parent().unwrap());
    let key = String::from_utf8(bash.output().unwrap().stdout).unwrap();
    assert_eq!(key.len(), 64);
    let gateway = Gateway::start(&file);
    assert!(gateway.get("/api/a", "").starts_with("HTTP/1.1 401"));
    let field = format!("x-api-key: {key}\r\n");
    // What the page has people ask for first.
    assert!(page.contains("http://127.0.0.1:8080/api/`"));
    assert!(gateway.get("/api/", &field).starts_with("HTTP/1.1 200"));
    let answers: Vec<_> = (0..30).map(|_| gateway.get("/api/a", &field)).collect();
    assert!(answers[0].starts_with("HTTP/1.1 200") && answers[0].ends_with("/a"), "{answers:?}");
    assert!(answers.iter().any(|answer| answer.starts_with("HTTP/1.1 429")));
}

#[test]
fn the_page_of_the_book_leads_to_a_route_that_takes_a_token_made_by_hand() {
    let page = include_str!("../../../docs/src/patterns/gateway.md");
    let commands: Vec<&str> =
        page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(commands[1], "gusset gateway --config gateway.toml\n");
    let (token, curl) = commands[2].split_once("curl ").unwrap();
    assert!(curl.contains("Authorization: Bearer $TOKEN") && curl.contains(":8080/api/"));
    let file = File::new("tokens", "");
    let script = commands[0].replace(":8080", ":0").replace("127.0.0.1:9000", &service());
    let script = format!("set -e\n{script}{token}printf %s \"$TOKEN\"");
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).current_dir(file.0.parent().unwrap());
    let token = String::from_utf8(bash.output().unwrap().stdout).unwrap();
    let gateway = Gateway::start(&file);
    assert!(gateway.get("/api/", "").starts_with("HTTP/1.1 401"));
    let answer = gateway.get("/api/", &format!("Authorization: Bearer {token}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let other = format!("Authorization: Bearer {}x\r\n", token.trim_end());
    assert!(gateway.get("/api/", &other).starts_with("HTTP/1.1 401"));
}

#[test]
fn the_file_of_the_demo_is_right() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/ecommerce_demo/gateway.toml");
    let mut command = Command::new(env!("CARGO_BIN_EXE_gusset"));
    command.args(["gateway", "--config", file, "--check"]).env("SHOP_SECRET", "s".repeat(32));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let text = fs::read_to_string(file).unwrap();
    let routes = text.lines().filter(|line| *line == "[[routes]]").count();
    assert_eq!(said, format!("ok: {routes} routes, 4 upstreams\n"), "{output:?}");
}

#[test]
fn operators_see_it_and_a_change_is_in_force_after_a_signal() {
    let text = |fields: &str| {
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nlinger = \"0s\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[[routes]]\npath = \"/a\"\nanswer = {{ text = \"{fields}\" }}\n"
        )
    };
    let file = File::new("operators", &text("one"));
    let mut process = Command::new(env!("CARGO_BIN_EXE_gusset"))
        .args(["gateway", "--config", file.0.to_str().unwrap()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut address = || {
        let line = lines.next().unwrap().unwrap();
        line.split("http://").nth(1).unwrap().split(';').next().unwrap().to_owned()
    };
    let (admin, address) = (address(), address());
    let mut gateway = Gateway { process, address };
    assert!(gateway.get("/a", "").ends_with("one"));
    // Its host is no address.
    assert!(call(&admin, "/readyz", "").starts_with("HTTP/1.1 403"));
    let ask = |path: &str| {
        let mut stream = TcpStream::connect(&admin).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("/readyz").ends_with("ok\n"));
    assert!(ask("/routes").contains("\"2xx\": 1"));
    fs::write(&file.0, text("two")).unwrap();
    gateway.signal("-HUP");
    let until = Instant::now() + Duration::from_secs(60);
    while !ask("/config").contains("\"reloads\": 1") {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(gateway.get("/a", "").ends_with("two"));
    gateway.signal("-TERM");
    assert_eq!(gateway.ends(), Some(0));
}

//! `gusset console` over other processes.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(clippy::disallowed_methods, reason = "bounds for real processes")]

mod common;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    thread::sleep,
    time::{Duration, Instant},
};

use common::{Registry, gusset};
use gusset_engines::Process;
use serde_json::{Value, json};

/// For a machine that is ten times slower than it should be.
const PATIENCE: Duration = Duration::from_secs(60);
const TOKEN: &str = "0b1f9d5a6c7e4d21";

fn console(args: &[&str]) -> (Process, String) {
    let mut command = gusset();
    command.args(["console", "--listen", "127.0.0.1:0"]).args(args);
    started(Process::started("console", command), "console: http://")
}

fn started(mut process: Process, words: &str) -> (Process, String) {
    let said = process.says(words);
    let address = said[words.len()..].split(['/', ';']).next().unwrap().to_owned();
    (process, address)
}

fn ask(address: &str, head: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let (first, more) = head.split_once('\n').unwrap_or((head, ""));
    write!(stream, "{first} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    // In one chunk or none.
    let body = match body.find(['{', '[']).zip(body.rfind(['}', ']'])) {
        Some((from, to)) => serde_json::from_str(&body[from..=to]).unwrap_or_default(),
        None => Value::Null,
    };
    (status, body)
}

/// The page, as soon as it is so.
fn page(address: &str, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let since = Instant::now();
    loop {
        let (_, page) = ask(address, &format!("GET /api/{path}"), "");
        if is_so(&page) {
            return page;
        }
        assert!(since.elapsed() < PATIENCE, "in vain: {page:#}");
        sleep(Duration::from_millis(50));
    }
}

fn service<'a>(map: &'a Value, name: &str) -> &'a Value {
    let services = map["services"].as_array().into_iter().flatten();
    services.into_iter().find(|service| service["name"] == name).unwrap_or(&Value::Null)
}

#[test]
fn a_console_shows_a_registry_and_another_console_shows_that_one() {
    let registry = Registry::start(&[]);
    let cart = json!({ "Name": "cart", "ID": "cart-1", "Address": "10.0.0.7", "Port": 80 });
    let registered = ask(&registry.address, "PUT /v1/agent/service/register", &cart.to_string());
    assert_eq!(registered.0, 200);
    let url = format!("http://{}", registry.address);
    let (mut inner, at) = console(&["--registry", &url]);
    let map = page(&at, "map", |map| service(map, "cart")["instances"][0]["id"] == "cart-1");
    assert_eq!(service(&map, "cart")["instances"][0]["address"], "10.0.0.7:80");

    let inner_url = format!("inner=http://{at}/");
    let (mut outer, at) = console(&["--console", &inner_url]);
    page(&at, "map", |map| service(map, "cart")["instances"][0]["id"] == "cart-1");
    assert_eq!(ask(&at, "GET /api/session", "").1["others"], json!(["inner"]));
    inner.kill();
    let map = page(&at, "map", |map| !map["error"].is_null());
    assert!(map["error"].as_str().unwrap().starts_with("inner: "), "{map}");
    assert!(outer.stop().success());
}

#[test]
fn the_circuits_of_a_gateway_are_shown_and_operated() {
    let folder = gusset_engines::Folder::new("console-gateway");
    let file = folder.join("gateway.toml");
    // It is up, and never answers a request.
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = upstream.local_addr().unwrap().to_string();
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\ntoken = {{ env = \"EDGE_TOKEN\" }}\n[[routes]]\npath = \"/a\"\nto = \"files\"\n[upstreams.files]\naddresses = [\"{upstream}\"]\n"
    );
    fs::write(&file, text).unwrap();
    let mut command = gusset();
    command.args(["gateway", "--config"]).arg(&file).env("EDGE_TOKEN", TOKEN);
    let (_gateway, admin) = started(Process::started("gateway", command), "operators on http://");

    let url = format!("edge=http://{admin}");
    let args = ["--gateway", &url, "--their-token", TOKEN, "--token", "4f1d2c3b"];
    let (_console, at) = console(&args);
    let map = page(&at, "map", |map| !service(map, &upstream)["instances"][0].is_null());
    assert_eq!(map["gateways"][0]["name"], "edge · edge");
    assert_eq!(map["gateways"][0]["routes"][0]["path"], "/a");
    let state = |wanted: &str| {
        let breakers = page(&at, "breakers", |p| p["breakers"][0]["state"] == wanted);
        breakers["breakers"][0].clone()
    };
    let circuit = state("closed");
    let order = json!({ "group": circuit["group"], "name": circuit["name"], "do": "force_open" });
    assert_eq!(ask(&at, "POST /api/breakers", &order.to_string()).0, 401);
    let head = "POST /api/breakers\nAuthorization: Bearer 4f1d2c3b\r\n";
    let done = ask(&at, head, &order.to_string());
    assert_eq!(done.0, 200, "{done:?}");
    state("forced_open");
    let nonsense = json!({ "group": circuit["group"], "name": "x", "do": "force_open" });
    assert_eq!(ask(&at, head, &nonsense.to_string()).0, 409);
}

#[test]
fn beyond_loopback_it_does_not_start_without_a_token() {
    let mut command = gusset();
    command.args(["console", "--listen", "0.0.0.0:0", "--registry", "http://127.0.0.1:1"]);
    let mut process = Process::started("console", command);
    assert_eq!(process.ends().code(), Some(2));
    assert!(process.log().contains("without a token"), "{}", process.log());
}

//! A file that changes while the sidecar runs.

use std::{
    fs,
    sync::{Mutex, mpsc},
    thread,
};

use gusset_engines::Folder;
use serde_json::Value;

use crate::harness::*;

fn config(side: &Sidecar) -> Value {
    serde_json::from_str(&side.admin("/config").1).unwrap()
}

fn until(side: &Sidecar, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    eventually(what, || Some(config(side)).filter(&is))
}

#[test]
fn a_change_of_the_file_is_in_force_as_a_whole_or_not_at_all() {
    let registry = Registry::start();
    let (begun, begins) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let wait = Mutex::new(wait);
    let app = App::start(move |head| {
        if head.starts_with("GET /slow") {
            begun.send(()).unwrap();
            wait.lock().unwrap().recv().unwrap()
        }
        "whole".into()
    });
    let folder = Folder::new("reload");
    let file = folder.join("sidecar.toml");
    let write = |fields: &str| {
        let (app, registry) = (app.address, registry.url());
        let text = format!(
            "service = \"cart\"\napp = \"{app}\"\n{fields}\n[registry]\nurl = \"{registry}\"\n"
        );
        fs::write(&file, text).unwrap();
    };
    let quota = "quota = { rate = \"1/h\" }\ntimeout = \"10m\"";
    write(quota);
    let mut side = Sidecar::spawn(&["--config", file.to_str().unwrap()]);
    side.wait_until_ready();
    let inbound = side.inbound;
    let slow = thread::spawn(move || get(inbound, "cart", "/slow"));
    begins.recv_timeout(PATIENCE).unwrap();
    assert_eq!(get(inbound, "cart", "/").0, 429);

    // Wrong in one place: the other is not taken over either.
    write("quota = { rate = \"1 per h\" }\ntimeout = \"9m\"");
    let shown = until(&side, "what is wrong is said", |shown| shown["reload"]["error"].is_string());
    let error = shown["reload"]["error"].as_str().unwrap();
    assert!(error.contains("sidecar.toml:3:18: quota.rate: \"1 per h\" is no rate"), "{error}");
    assert_eq!((&shown["timeout_seconds"], &shown["reload"]["count"]), (&600.0.into(), &0.into()));
    assert_eq!(get(inbound, "cart", "/").0, 429);

    write("quota = { rate = \"1/h\" }\ntimeout = \"8m\"\ncores = 2");
    let shown = until(&side, "it is in force", |shown| shown["timeout_seconds"] == 480.0);
    assert_eq!(shown["reload"]["error"], Value::Null);
    assert_eq!(
        (&shown["reload"]["needs_restart"][0], &shown["cores"]),
        (&"cores".into(), &1.into())
    );
    assert_eq!(get(inbound, "cart", "/").0, 429, "what was counted goes on");

    write("in_flight = 7");
    side.signal("-HUP");
    until(&side, "without a quota", |shown| shown["quota"].is_null() && shown["in_flight"] == 7);
    assert_eq!(get(inbound, "cart", "/"), (200, "whole".into()));
    go.send(()).unwrap();
    assert_eq!(slow.join().unwrap(), (200, "whole".into()), "it began before all that");

    write("in_flight = 8");
    let reload = "POST /reload HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(parted(&http(side.admin, reload)).0, 200);
    assert_eq!(config(&side)["in_flight"], 8);
    write("in_flight = 0");
    assert_eq!(parted(&http(side.admin, reload)).0, 422);
    side.signal("-TERM");
    assert_eq!(side.ended(), 0);
}

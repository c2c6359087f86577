use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use gusset_engines::Port;

use crate::harness::*;

#[test]
fn an_app_is_registered_when_it_works_and_no_longer_than_that() {
    let registry = Registry::start();
    let held = Port::free();
    let port = held.number();
    let side = Sidecar::start("cart", ([127, 0, 0, 1], port).into(), &registry, &[]);
    side.wait_for_log("waiting for the app");
    assert_eq!(side.admin("/livez"), (200, "ok\n".into()));
    let (status, why) = side.admin("/readyz");
    assert_eq!((status, &*why), (503, "the app does not work\n"));
    assert_eq!(get(side.inbound, "cart", "/").0, 502, "whoever asks nevertheless is told at once");
    // As long as a few looks at the app.
    thread::sleep(Duration::from_millis(700));
    assert_eq!(registry.passing("cart"), 0);

    let app = App::at(port, |_| "here".into());
    registry.wait_for("cart", 1);
    assert_eq!(side.admin("/readyz").0, 200);
    side.wait_until_registered("yes");

    drop(app);
    registry.wait_for("cart", 0);
    assert_eq!(side.admin("/readyz").0, 503);
    let _app = App::at(port, |_| "back".into());
    registry.wait_for("cart", 1);
    assert_eq!(get(side.inbound, "cart", "/"), (200, "back".into()));
}

#[test]
fn what_is_registered_is_where_and_as_it_was_said() {
    let registry = Registry::start();
    let app = App::start(|_| String::new());
    let labels = [
        "--id",
        "cart-7",
        "--zone",
        "a",
        "--app-version",
        "1.2",
        "--tag",
        "blue",
        "--meta",
        "team=x",
    ];
    let more = [&labels[..], &["--advertise", "localhost"]].concat();
    let side = Sidecar::start("cart", app.address, &registry, &more);
    registry.wait_for("cart", 1);
    let path = "/v1/health/service/cart?passing";
    let (_, known) = get(registry.address.parse().unwrap(), "r", path);
    let known: serde_json::Value = serde_json::from_str(&known).unwrap();
    let service = &known[0]["Service"];
    assert_eq!(service["ID"], "cart:cart-7");
    assert_eq!(service["Address"], "localhost");
    assert_eq!(service["Port"], side.inbound.port());
    assert_eq!(service["Meta"]["team"], "x");
    let text = service.to_string();
    assert!(text.contains("blue") && text.contains("1.2"), "{text}");
}

#[test]
fn at_the_end_requests_are_finished_and_callers_have_left_before() {
    let registry = Registry::start();
    let (begun, begins) = mpsc::channel();
    let (go, wait) = mpsc::channel();
    let wait = std::sync::Mutex::new(wait);
    let app = App::start(move |head| {
        if head.starts_with("GET /slow") {
            begun.send(()).unwrap();
            wait.lock().unwrap().recv().unwrap()
        }
        "whole".into()
    });
    let long = ["--drain-limit", "10m", "--timeout", "10m"];
    let mut side = Sidecar::start("cart", app.address, &registry, &long);
    registry.wait_for("cart", 1);
    let inbound = side.inbound;
    let slow = thread::spawn(move || get(inbound, "cart", "/slow"));
    begins.recv_timeout(PATIENCE).unwrap();
    side.signal("-TERM");
    registry.wait_for("cart", 0);
    eventually("it is not ready", || (side.admin("/readyz").0 == 503).then_some(()));
    assert_eq!(side.admin("/livez").0, 200);
    eventually("the door is closed", || {
        let request = "GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n";
        try_http(inbound, request).is_err().then_some(())
    });
    assert!(!side.has_ended());
    go.send(()).unwrap();
    assert_eq!(slow.join().unwrap(), (200, "whole".into()));
    assert_eq!(side.ended(), 0);
}

#[test]
fn the_end_has_a_limit_and_a_second_signal_none() {
    let registry = Registry::start();
    let (begun, begins) = mpsc::channel();
    let app = App::start(move |_| {
        begun.send(()).unwrap();
        thread::sleep(Duration::from_secs(600));
        String::new()
    });
    for (limit, signals) in [("2s", 1), ("600s", 2)] {
        let more = ["--drain-limit", limit, "--timeout", "10m"];
        let mut side = Sidecar::start("cart", app.address, &registry, &more);
        side.wait_until_ready();
        let inbound = side.inbound;
        let cut = thread::spawn(move || {
            try_http(inbound, "GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n")
        });
        begins.recv_timeout(PATIENCE).unwrap();
        side.signal("-TERM");
        side.wait_for_log("leaving");
        if signals == 2 {
            side.signal("-INT");
        }
        assert_eq!(side.ended(), 1, "requests were cut");
        assert!(!cut.join().unwrap().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")));
    }
}

#[test]
fn a_registry_that_is_away_keeps_no_app_from_being_reached() {
    let app = App::start(|_| "here".into());
    let app_address = app.address.to_string();
    let port = Port::free();
    let nowhere = format!("http://{}", port.address());
    let least = ["--service", "cart", "--app", &app_address, "--registry", &nowhere];
    let mut side = Sidecar::spawn(&least);
    side.wait_until_ready();
    assert_eq!(get(side.inbound, "cart", "/"), (200, "here".into()));
    side.wait_until_registered("trying");
    side.signal("-TERM");
    assert_eq!(side.ended(), 0);
}

#[test]
fn what_cannot_be_is_said_before_anything_begins() {
    let taken = Arc::new(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let taken = taken.local_addr().unwrap().to_string();
    let least = ["--service", "cart", "--app", "127.0.0.1:9", "--registry"];
    let local = ["--listen", "127.0.0.1:0", "--outbound", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    for (more, said) in [
        (&["ftp://r"][..], "--registry"),
        (&["http://127.0.0.1:9", "--listen", &taken], "--listen: cannot listen on"),
        (&["https://127.0.0.1:9"], "--registry"),
        (&["http://127.0.0.1:9", "--ca", "/nonexistent"], "/nonexistent"),
        (&["http://127.0.0.1:9", "--log", "a=b=c"], "log filter"),
        (&["http://127.0.0.1:9", "--", "/nonexistent/program"], "cannot start"),
    ] {
        let ended = run(&[&local[..], &least, more].concat());
        let error = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{error}");
        assert!(error.contains(said), "{said} in {error}");
    }
}

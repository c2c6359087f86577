use crate::harness::*;

fn one(more: &[&str]) -> (Registry, App, Sidecar) {
    let registry = Registry::start();
    let app = App::start(|_| "here".into());
    let side = Sidecar::start("cart", app.address, &registry, more);
    registry.wait_for("cart", 1);
    (registry, app, side)
}

fn ask(side: &Sidecar, request: &str, body: &str) -> (u16, String) {
    let length = body.len();
    parted(&http(
        side.admin,
        &format!("{request}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"),
    ))
}

#[test]
fn an_operator_sees_metrics_traces_logs_and_how_things_stand() {
    let (_registry, _app, side) = one(&[]);
    let traceparent = "00-12345678901234567890123456789012-1234567890123456-01";
    let request = format!(
        "GET /a HTTP/1.1\r\nHost: cart\r\nConnection: close\r\ntraceparent: {traceparent}\r\n\r\n"
    );
    assert!(http(side.inbound, &request).starts_with("HTTP/1.1 200"));
    assert_eq!(side.found("cart", "/").0, 200);
    let (status, metrics) = side.admin("/metrics");
    assert_eq!(status, 200);
    for line in [
        "gusset_sidecar_app_up 1\n",
        "gusset_sidecar_services 1\n",
        "http_server_request_duration_seconds",
        "gusset_calls_total{upstream=\"cart\"} ",
        "gusset_retries_total{upstream=\"cart\"} ",
        "gusset_breaker_state{upstream=\"cart\",circuit=",
        "server_address=\"cart\"",
        "process_resident_memory_bytes ",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    // The app is no upstream of itself.
    assert!(!metrics.contains("upstream=\"127.0.0.1"), "{metrics}");
    eventually("the trace", || {
        side.admin("/traces/12345678901234567890123456789012").1.contains("spans").then_some(())
    });
    assert!(side.admin("/traces?limit=5").1.contains("trace_id"));
    let (status, logs) = side.admin("/logs");
    assert!(status == 200 && logs.contains("the app works"), "{logs}");
    let (_, state) = side.admin("/status");
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["ready"], true);
    assert_eq!(state["app"], "works");
    assert_eq!(state["outbound"]["cart"][0]["health"], "healthy");
    assert_eq!(state["outbound"]["cart"][0]["circuit"], "closed");
}

#[test]
fn secrets_are_masked_where_the_configuration_is_shown() {
    let secrets = [
        "--token",
        "s3cret-one",
        "--admin-token",
        "s3cret-two",
        "--",
        "sh",
        "-c",
        "sleep 600 # s3cret-three",
    ];
    let registry = Registry::start();
    let app = App::start(|_| String::new());
    let side = Sidecar::start("cart", app.address, &registry, &secrets);
    let shown = ask(
        &side,
        "GET /config HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer s3cret-two",
        "",
    );
    assert_eq!(shown.0, 200);
    let config: serde_json::Value = serde_json::from_str(&shown.1).unwrap();
    assert_eq!(config["service"], "cart");
    assert_eq!(config["app"], app.address.to_string());
    assert_eq!(config["registry"]["token"], "***");
    assert_eq!(config["admin_token"], "***");
    assert!(!shown.1.contains("s3cret"), "{}", shown.1);
}

#[test]
fn web_pages_and_strangers_get_no_answer() {
    let (_registry, _app, side) = one(&[]);
    for head in [
        "GET /config HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:4191",
        "GET /config HTTP/1.1\r\nHost: rebound.example",
        "GET /config HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site",
        "POST /drain HTTP/1.1\r\nHost: localhost\r\nOrigin: null",
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nOrigin: https://a.example",
    ] {
        assert_eq!(ask(&side, head, "").0, 403, "{head}");
    }
    for host in ["localhost", "127.0.0.1:4191", "[::1]:4191", "LOCALHOST:80", "10.0.0.7:4191"] {
        assert_eq!(get(side.admin, host, "/config").0, 200, "{host}");
    }
    let (_registry, _app, side) = one(&["--admin-token", "s3cret"]);
    for head in [
        "",
        "\r\nAuthorization: Bearer s3creT",
        "\r\nAuthorization: s3cret",
        "\r\nAuthorization: Bearer s3cret2",
    ] {
        let head = format!("GET /config HTTP/1.1\r\nHost: localhost{head}");
        assert_eq!(ask(&side, &head, "").0, 401, "{head}");
    }
    assert_eq!(get(side.admin, "a.example", "/readyz").0, 200, "an orchestrator has no token");
    let shown = "GET /logs HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer s3cret";
    assert_eq!(ask(&side, shown, "").0, 200);
}

#[test]
fn the_level_of_logs_is_changed_while_it_runs() {
    let (_registry, _app, side) = one(&["--log", "warn"]);
    assert_eq!(side.admin("/log-level"), (200, "warn\n".into()));
    let set = "PUT /log-level HTTP/1.1\r\nHost: localhost";
    assert_eq!(ask(&side, set, "info,gusset=debug\n"), (200, "info,gusset=debug\n".into()));
    assert_eq!(ask(&side, set, "gusset=loud").0, 400);
    assert_eq!(ask(&side, set, &"a".repeat(5_000)).0, 413);
    assert_eq!(side.admin("/log-level").1, "info,gusset=debug\n");
}

#[test]
fn what_is_not_there_is_said_to_be_elsewhere() {
    let (_registry, _app, mut side) = one(&[]);
    assert_eq!(side.admin("/").0, 404);
    assert_eq!(ask(&side, "POST /config HTTP/1.1\r\nHost: localhost", "").0, 405);
    assert_eq!(side.admin("/drain").0, 405);
    assert_eq!(side.admin("/reload").0, 405);
    let reload = "POST /reload HTTP/1.1\r\nHost: localhost";
    assert_eq!(ask(&side, reload, "").0, 409, "there is no file to read again");
    assert_eq!(ask(&side, "POST /drain HTTP/1.1\r\nHost: localhost", "").0, 202);
    assert_eq!(side.ended(), 0);
}

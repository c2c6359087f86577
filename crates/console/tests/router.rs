//! What the console answers, and whom.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod world;

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use axum::{Router, body::Body};
use futures_util::StreamExt;
use gusset_breaker::State;
use gusset_console::{Sources, router};
use gusset_sidecar::{ReplayBody, Sidecar};
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::{BoxError, Layer, ServiceExt};
use world::{EVIL, MARKUP, TOKEN, World};

fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "localhost:9000").body(Body::empty()).unwrap()
}

fn post(path: &str, token: Option<&str>, body: &Value) -> Request<Body> {
    let mut request = Request::post(path)
        .header("host", "localhost:9000")
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    if let Some(token) = token {
        let line = format!("Bearer {token}").parse().unwrap();
        request.headers_mut().insert(header::AUTHORIZATION, line);
    }
    request
}

async fn ask(app: &Router, request: Request<Body>) -> Response<Body> {
    app.clone().oneshot(request).await.unwrap()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

async fn json_of(app: &Router, path: &str) -> Value {
    let response = ask(app, get(path)).await;
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    serde_json::from_str(&text(response).await).unwrap()
}

const PAGES: [&str; 8] =
    ["map", "breakers", "limits", "traces", "sagas", "broker", "canary", "switches"];

#[tokio::test(start_paused = true)]
async fn every_answer_forbids_guessing_frames_caches_and_scripts_from_elsewhere() {
    let app = router(Sources::new());
    for (path, status) in [("/", 200), ("/app.js", 200), ("/api/map", 200), ("/nowhere", 404)] {
        let response = ask(&app, get(path)).await;
        assert_eq!(response.status(), status, "{path}");
        let line = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        let policy = line("content-security-policy");
        for word in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(word), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(line("x-content-type-options"), "nosniff");
        assert_eq!(line("cache-control"), "no-store");
        assert_eq!(line("x-frame-options"), "DENY");
    }
}

#[test]
fn the_page_has_nothing_inline_and_makes_no_markup() {
    let (page, script) = (include_str!("../page/index.html"), include_str!("../page/app.js"));
    for word in ["<script>", "<style", " style=", "onclick=", "javascript:", "http://", "https://"]
    {
        assert!(!page.contains(word), "{word}");
    }
    for word in
        ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
    {
        assert!(!script.contains(word), "{word}");
    }
    assert_eq!(script.matches("http").count(), 1, "the namespace of SVG is no request");
}

#[test]
fn page_script_and_style_are_below_80_kib_compressed() {
    let mut gzip = Command::new("gzip")
        .arg("-9")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut to = gzip.stdin.take().unwrap();
    let parts = [
        include_str!("../page/index.html"),
        include_str!("../page/app.js"),
        include_str!("../page/app.css"),
        include_str!("../page/icon.svg"),
    ];
    parts.iter().for_each(|part| to.write_all(part.as_bytes()).unwrap());
    drop(to);
    let size = gzip.wait_with_output().unwrap().stdout.len();
    assert!(size < 80 << 10, "{size} bytes");
}

#[tokio::test(start_paused = true)]
async fn only_its_own_names_and_its_own_pages_get_an_answer() {
    let app = router(Sources::new().host("Console.example"));
    let with = |lines: &[(&str, &str)], path: &str| {
        let mut request = Request::get(path);
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    };
    for host in ["localhost", "127.0.0.1:9000", "[::1]:9000", "console.EXAMPLE:9000", "10.1.2.3"] {
        let response = ask(&app, with(&[("host", host)], "/api/map")).await;
        assert_eq!(response.status(), StatusCode::OK, "{host}");
    }
    for lines in [
        &[][..],
        &[("host", "evil.example")],
        &[("host", "evil.example:9000")],
        &[("host", "localhost.evil.example")],
        &[("host", "user@localhost")],
        &[("host", "localhost"), ("host", "localhost")],
        &[("host", "localhost:9000"), ("origin", "http://evil.example")],
        &[("host", "localhost:9000"), ("origin", "http://localhost:9001")],
        &[("host", "localhost:9000"), ("origin", "null")],
        &[("host", "localhost:9000"), ("sec-fetch-site", "cross-site")],
        &[("host", "localhost:9000"), ("sec-fetch-site", "same-site")],
    ] {
        for path in ["/api/map", "/live?page=map", "/api/session"] {
            let response = ask(&app, with(lines, path)).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path} {lines:?}");
        }
    }
    let own = [("host", "localhost:9000"), ("origin", "http://localhost:9000")];
    assert_eq!(ask(&app, with(&own, "/api/map")).await.status(), StatusCode::OK);
    let link = [("host", "localhost:9000"), ("sec-fetch-site", "cross-site")];
    let page = ask(&app, with(&link, "/")).await;
    assert_eq!(page.status(), StatusCode::OK, "a link to the page is followed");
}

#[tokio::test]
async fn nobody_acts_without_the_token_and_nobody_at_all_where_there_is_none() {
    let world = World::new(0, 0).await;
    let order = json!({ "group": "payments", "name": "bank", "do": "force_open" });
    let app = router(world.sources());
    let long = format!("{TOKEN}x");
    for token in [None, Some(""), Some("x"), Some(&TOKEN[1..]), Some(&long)] {
        let refused = ask(&app, post("/api/breakers", token, &order)).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{token:?}");
        assert_eq!(refused.headers()[header::WWW_AUTHENTICATE], "Bearer");
    }
    let mut of_a_form = post("/api/breakers", Some(TOKEN), &order);
    of_a_form.headers_mut().insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
    assert_eq!(ask(&app, of_a_form).await.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let mut of_a_page = post("/api/breakers", Some(TOKEN), &order);
    of_a_page.headers_mut().insert(header::ORIGIN, "http://evil.example".parse().unwrap());
    assert_eq!(ask(&app, of_a_page).await.status(), StatusCode::FORBIDDEN);
    let silent = router(Sources::new().circuit("payments", &world.circuit));
    for token in [None, Some(""), Some(TOKEN)] {
        let refused = ask(&silent, post("/api/breakers", token, &order)).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{token:?}");
    }
    assert_eq!(world.circuit.state(), State::Closed);
    assert_eq!(
        ask(&app, post("/api/breakers", Some(TOKEN), &order)).await.status(),
        StatusCode::OK
    );
    assert_eq!(world.circuit.state(), State::ForcedOpen);
}

#[tokio::test]
async fn looking_needs_the_token_where_that_is_asked_for() {
    let world = World::new(0, 0).await;
    let app = router(world.sources().readers_need_token());
    for path in ["/api/map", "/live?page=map", "/api/traces/all", "/api/letters"] {
        assert_eq!(ask(&app, get(path)).await.status(), StatusCode::UNAUTHORIZED, "{path}");
    }
    let mut shown = get("/api/map");
    let line = format!("bearer {TOKEN}").parse().unwrap();
    shown.headers_mut().insert(header::AUTHORIZATION, line);
    assert_eq!(ask(&app, shown).await.status(), StatusCode::OK);
    let nobody = router(Sources::new().readers_need_token());
    assert_eq!(ask(&nobody, get("/api/map")).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn every_page_is_json_with_and_without_sources() {
    let nothing = router(Sources::new());
    for page in PAGES {
        json_of(&nothing, &format!("/api/{page}")).await;
    }
    let world = World::new(20, 3).await;
    world.settled().await;
    let app = router(world.sources());
    let session = json_of(&app, "/api/session").await;
    assert_eq!((&session["can_act"], &session["operator"]), (&json!(true), &json!(false)));

    let map = json_of(&app, "/api/map").await;
    assert_eq!(map["services"][0]["instances"].as_array().unwrap().len(), 3);
    assert_eq!(map["services"][0]["instances"][0]["version"], MARKUP);
    let limits = json_of(&app, "/api/limits").await;
    let quota = json!({ "tokens": 100, "period_ms": 1000.0, "burst": 20 });
    assert_eq!(limits["limits"][0]["quota"], quota);
    assert_eq!(limits["limits"][1]["top"], json!([{ "key": EVIL, "refused": 3 }]));
    let traces = json_of(&app, "/api/traces").await;
    assert_eq!(traces["newest"].as_array().unwrap().len(), 20);
    let id = traces["newest"][0]["trace_id"].as_str().unwrap();
    let trace = json_of(&app, &format!("/api/traces/{id}")).await;
    assert_eq!(trace["spans"][0]["span"]["error"], EVIL, "the tenth call of ten fails");
    let sagas = json_of(&app, "/api/sagas").await;
    assert_eq!(sagas["sagas"][0]["state"], "stuck");
    let run = json_of(&app, "/api/sagas/s-1").await;
    assert_eq!(run["attempts"], json!([]), "nobody records them here");
    assert_eq!(run["report"]["steps"][0]["state"], "undo_failed");
    assert_eq!(run["shape"]["steps"][1]["needs"], json!([0]));
    let broker = json_of(&app, "/api/broker").await;
    assert_eq!(broker["groups"][0]["dead"], 1);
    let letter = format!("/api/letters/{}", broker["letters"][0]["id"]);
    let letter = json_of(&app, &letter).await;
    assert_eq!(letter["payload"]["text"], serde_json::to_string(EVIL).unwrap());
    let canary = json_of(&app, "/api/canary").await;
    assert_eq!(canary["splits"][0]["variants"][0]["weight"], 9);
    for path in ["/api/traces/x", "/api/sagas/none", "/api/letters/99", "/api/letters/x", "/api/x"]
    {
        assert_eq!(ask(&app, get(path)).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn switches_are_turned_by_operators_within_what_they_take() {
    let world = World::new(0, 0).await;
    let app = router(world.sources());
    let shown = json_of(&app, "/api/switches").await;
    let first = json!({ "group": "drill", "name": "slow bank", "meaning": EVIL, "on": false, "locked": null });
    assert_eq!(shown["switches"][0], first);
    let second = json!({ "group": "drill", "name": "load", "meaning": "requests a second", "number": 0, "least": 0, "most": 500, "locked": null });
    assert_eq!(shown["switches"][1], second);
    assert_eq!(shown["switches"][2]["locked"], "there is no Redis");
    let turn = async |name: &str, to: Value| {
        let order = json!({ "group": "drill", "name": name, "to": to });
        let refused = ask(&app, post("/api/switches", None, &order)).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        let done = ask(&app, post("/api/switches", Some(TOKEN), &order)).await;
        let status = done.status().as_u16();
        let answer: Value = serde_json::from_str(&text(done).await).unwrap();
        (status, answer["detail"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(turn("slow bank", json!(true)).await.0, 200);
    assert_eq!(turn("load", json!(500)).await.0, 200);
    let stands = || (world.drill.0.0.load(SeqCst), world.drill.0.1.load(SeqCst));
    assert_eq!(stands(), (true, 500));
    for (name, to, why) in [
        ("slow bank", json!(1), "it takes true or false"),
        ("load", json!(501), "it takes a whole number from 0 to 500"),
        ("load", json!(true), "it takes a whole number from 0 to 500"),
        ("load", json!(-1), ""),
        ("load", json!(1.5), ""),
        ("load", json!(13), "load brings bad luck"),
        (MARKUP, json!(true), "there is no Redis"),
        ("nobody", json!(true), "there is no such switch"),
    ] {
        let (status, detail) = turn(name, to.clone()).await;
        assert!(status == 409 && detail.contains(why), "{name} {to}: {status} {detail}");
    }
    assert_eq!(stands(), (true, 500));
    let session = json_of(&app, "/api/session").await;
    assert_eq!(session["sources"]["switches"], true);
}

#[tokio::test]
async fn operators_close_sagas_redrive_letters_and_promote_variants() {
    let world = World::new(0, 0).await;
    world.settled().await;
    let app = router(world.sources());
    let order = async |path: &str, body: Value| {
        let response = ask(&app, post(path, Some(TOKEN), &body)).await;
        (response.status(), text(response).await)
    };
    let bare = json!({ "saga": "s-1", "do": "close" });
    let (status, why) = order("/api/sagas", bare).await;
    assert_eq!(status, StatusCode::CONFLICT, "{why}");
    assert!(why.contains("note"), "{why}");
    let close = json!({ "saga": "s-1", "do": "close", "note": "stock counted by hand" });
    assert_eq!(
        order("/api/sagas", close).await,
        (StatusCode::OK, json!({ "state": "closed" }).to_string())
    );

    let id = json_of(&app, "/api/broker").await["letters"][0]["id"].clone();
    let again = json!({ "do": "redrive", "id": id });
    assert_eq!(order("/api/letters", again.clone()).await.0, StatusCode::OK);
    assert_eq!(order("/api/letters", again).await.0, StatusCode::CONFLICT, "it went back");
    world.settled().await;
    let purge = json!({ "do": "purge", "group": "mails" });
    assert_eq!(order("/api/letters", purge).await.1, json!({ "purged": 1 }).to_string());

    let promote = json!({ "split": "products", "do": "promote", "variant": EVIL });
    assert_eq!(order("/api/canary", promote).await.0, StatusCode::OK);
    assert_eq!(world.split.weights()[0].1, 0);
    let abort = json!({ "split": "products", "do": "abort" });
    assert_eq!(order("/api/canary", abort).await.0, StatusCode::OK);
    assert_eq!(world.split.weights()[0].1, 9);
    for (path, body) in [
        ("/api/canary", json!({ "split": "products", "do": "promote", "variant": "x" })),
        ("/api/canary", json!({ "split": "x", "do": "abort" })),
        ("/api/breakers", json!({ "group": "payments", "name": "x", "do": "reset" })),
        ("/api/breakers", json!({ "group": "payments", "name": "bank", "do": "x" })),
        ("/api/breakers", json!([])),
    ] {
        assert_eq!(order(path, body.clone()).await.0, StatusCode::CONFLICT, "{path} {body}");
    }
    let long = json!({ "group": "x".repeat(70_000), "name": "", "do": "" });
    assert_eq!(order("/api/breakers", long).await.0, StatusCode::PAYLOAD_TOO_LARGE);
}

/// Another console, without a wire in between.
struct Beside(Router);

impl gusset_console::Elsewhere for Beside {
    fn get<'a>(
        &'a self,
        path: &'a str,
    ) -> futures_util::future::BoxFuture<'a, Result<Option<Value>, String>> {
        Box::pin(async move {
            let response = ask(&self.0, get(&format!("/api/{path}"))).await;
            match response.status() {
                StatusCode::OK => Ok(serde_json::from_str(&text(response).await).ok()),
                _ => Ok(None),
            }
        })
    }

    fn order<'a>(
        &'a self,
        path: &'a str,
        order: &'a Value,
    ) -> futures_util::future::BoxFuture<'a, Result<Value, String>> {
        Box::pin(async move {
            let response = ask(&self.0, post(&format!("/api/{path}"), Some(TOKEN), order)).await;
            let (status, text) = (response.status(), text(response).await);
            if status == StatusCode::OK {
                Ok(serde_json::from_str(&text).unwrap())
            } else {
                Err(text)
            }
        })
    }
}

#[tokio::test]
async fn another_process_stands_beside_this_one_and_takes_its_orders() {
    let (here, there) = (World::new(3, 2).await, World::new(4, 3).await);
    there.settled().await;
    let beside = Beside(router(there.sources()));
    // Its sagas and messages are all elsewhere.
    let here_alone = Sources::new()
        .circuit("payments", &here.circuit)
        .traces(here.telemetry.store())
        .metrics("orders", here.sidecar.metrics());
    let app = router(here_alone.other("left", beside).operator_token(TOKEN));
    let breakers = json_of(&app, "/api/breakers").await;
    let groups: Vec<_> = breakers["breakers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| b["group"].as_str().unwrap())
        .collect();
    assert_eq!(groups, ["payments", "left · payments", "left · endpoints"]);
    let map = json_of(&app, "/api/map").await;
    assert_eq!(map["services"].as_array().unwrap().len(), 1, "one service, of both");
    assert_eq!(map["services"][0]["instances"].as_array().unwrap().len(), 3);
    let traces = json_of(&app, "/api/traces").await;
    assert_eq!(traces["newest"].as_array().unwrap().len(), 7);
    assert_eq!(json_of(&app, "/api/traces/all").await["traces"].as_array().unwrap().len(), 7);
    for trace in traces["newest"].as_array().unwrap() {
        let id = trace["trace_id"].as_str().unwrap();
        assert_eq!(
            json_of(&app, &format!("/api/traces/{id}")).await["spans"].as_array().unwrap().len(),
            1
        );
    }
    assert_eq!(json_of(&app, "/api/sagas").await["sagas"].as_array().unwrap().len(), 4);
    assert_eq!(json_of(&app, "/api/sagas/s-1").await["report"]["state"], "stuck");
    let broker = json_of(&app, "/api/broker").await;
    assert_eq!(broker["groups"][0]["group"], "left · mails");
    let id = broker["letters"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(id, "1@left");
    assert_eq!(json_of(&app, "/api/letters/1%40left").await["group"], "mails");

    let order = async |path: &str, body: Value| {
        let response = ask(&app, post(path, Some(TOKEN), &body)).await;
        (response.status(), text(response).await)
    };
    let force = json!({ "group": "left · payments", "name": "bank", "do": "force_open" });
    assert_eq!(order("/api/breakers", force).await.0, StatusCode::OK);
    assert_eq!((here.circuit.state(), there.circuit.state()), (State::Closed, State::ForcedOpen));
    let close = json!({ "saga": "s-1", "do": "close", "note": "by hand" });
    assert_eq!(order("/api/sagas", close).await.0, StatusCode::OK);
    assert_eq!(order("/api/letters", json!({ "do": "redrive", "id": id })).await.0, StatusCode::OK);
    there.settled().await;
    let purge = json!({ "do": "purge", "group": "left · mails" });
    assert_eq!(
        order("/api/letters", purge).await,
        (StatusCode::OK, json!({ "purged": 1 }).to_string())
    );
    let promote = json!({ "split": "left · products", "do": "promote", "variant": EVIL });
    assert_eq!(order("/api/canary", promote).await.0, StatusCode::OK);
    assert_eq!((here.split.weights()[0].1, there.split.weights()[0].1), (9, 0));
    let nowhere = json!({ "group": "right · payments", "name": "bank", "do": "force_open" });
    assert_eq!(order("/api/breakers", nowhere).await.0, StatusCode::CONFLICT);
}

struct Broken;

impl gusset_console::Elsewhere for Broken {
    fn get<'a>(
        &'a self,
        path: &'a str,
    ) -> futures_util::future::BoxFuture<'a, Result<Option<Value>, String>> {
        Box::pin(async move {
            match path {
                "map" => std::future::pending().await,
                "breakers" => Ok(Some(json!([7]))),
                "limits" => Ok(Some(json!({ "limits": [7, { "name": 7 }, null] }))),
                _ => Err("it has a cold".to_owned()),
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_hangs_or_talks_nonsense_spoils_nothing() {
    let circuit = gusset_breaker::Circuit::new("bank", gusset_breaker::Policy::default());
    let metrics = gusset_sidecar::Metrics::new();
    let sources = Sources::new().circuit("payments", &circuit).metrics("orders", &metrics);
    let app = router(sources.other("left", Broken).operator_token(TOKEN));
    let map = json_of(&app, "/api/map").await;
    assert_eq!(map["error"], "left: no answer within 5 s");
    assert_eq!(map["services"][0]["name"], "orders");
    assert_eq!(json_of(&app, "/api/breakers").await["breakers"].as_array().unwrap().len(), 1);
    json_of(&app, "/api/limits").await;
    assert_eq!(json_of(&app, "/api/canary").await["error"], "left: it has a cold");
    let order = json!({ "group": "left · payments", "name": "bank", "do": "force_open" });
    assert_eq!(
        ask(&app, post("/api/breakers", Some(TOKEN), &order)).await.status(),
        StatusCode::CONFLICT
    );
}

#[tokio::test(start_paused = true)]
async fn what_comes_later_is_shown_when_it_has_come() {
    use std::sync::{Arc, Mutex};
    let shown = Arc::new(Mutex::new(Sources::new()));
    let now = shown.clone();
    let app =
        router(Sources::new().also(move || now.lock().unwrap().clone()).operator_token(TOKEN));
    assert_eq!(json_of(&app, "/api/breakers").await["breakers"], json!([]));
    let circuit = gusset_breaker::Circuit::new("bank", gusset_breaker::Policy::default());
    *shown.lock().unwrap() = Sources::new().circuit("payments", &circuit);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(json_of(&app, "/api/breakers").await["breakers"][0]["name"], "bank");
    let order = json!({ "group": "payments", "name": "bank", "do": "force_open" });
    assert_eq!(
        ask(&app, post("/api/breakers", Some(TOKEN), &order)).await.status(),
        StatusCode::OK
    );
    assert_eq!(circuit.state(), State::ForcedOpen);
}

#[tokio::test]
async fn the_quotas_of_a_gateways_routes_are_shown_with_who_is_refused_most() {
    use gusset_gateway::{FixedAnswer, Gateway, Live, Route};
    let route = Route::new("/a").answer(FixedAnswer::text("a"));
    let route = route.quota_by(gusset_ratelimit::Quota::per_minute(1), |_| EVIL.to_owned());
    let gateway = Gateway::builder(gusset_registry::MemoryRegistry::default()).route(route).build();
    let live = Live::new(gateway.unwrap());
    for _ in 0..3 {
        let request = Request::get("http://shop/a").body(Body::empty()).unwrap();
        let _ = live.clone().oneshot(request).await;
    }
    let app = router(Sources::new().gateway("edge", &live));
    let limit = &json_of(&app, "/api/limits").await["limits"][0];
    assert_eq!(limit["name"], "edge /a");
    assert_eq!((&limit["allowed"], &limit["refused"]), (&json!(1), &json!(2)));
    assert_eq!(limit["top"], json!([{ "key": &EVIL[..64.min(EVIL.len())], "refused": 2 }]));
}

#[tokio::test(start_paused = true)]
async fn an_open_circuit_counts_down_to_its_next_probe() {
    let circuit = gusset_breaker::Circuit::new(
        "bank",
        gusset_breaker::Policy::consecutive(1).open_for(Duration::from_secs(90)),
    );
    circuit.try_acquire().unwrap().failure_with(EVIL);
    let app = router(Sources::new().circuit("payments", &circuit));
    let page = json_of(&app, "/api/breakers").await;
    let breaker = &page["breakers"][0];
    assert_eq!(breaker["state"], "open");
    assert!(breaker["cause"].as_str().is_some_and(|cause| cause.ends_with(EVIL)), "{breaker}");
    assert!(breaker["retry_ms"].as_f64().is_some_and(|ms| ms > 80_000.0), "{breaker}");
    assert_eq!(circuit.stats().refused, 0, "looking refuses nobody");
}

/// The next event, as the text of its data; `None` at the end.
async fn event(
    stream: &mut (impl futures_util::Stream<Item = Result<bytes::Bytes, axum::Error>> + Unpin),
) -> Option<Value> {
    loop {
        let event = String::from_utf8(stream.next().await?.unwrap().to_vec()).unwrap();
        if let Some(data) = event.strip_prefix("data: ") {
            let data = data.strip_suffix("\n\n").unwrap();
            assert!(!data.contains('\n'), "one line each, whatever is in it");
            return Some(serde_json::from_str(data).unwrap());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_within_two_seconds_and_what_stands_still_is_not() {
    let circuit = gusset_breaker::Circuit::new(EVIL, gusset_breaker::Policy::default());
    let app = router(Sources::new().circuit("payments", &circuit));
    let response = ask(&app, get("/live?page=breakers")).await;
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut stream = response.into_body().into_data_stream();
    assert_eq!(event(&mut stream).await.unwrap()["breakers"][0]["name"], EVIL);
    let quiet = tokio::time::timeout(Duration::from_secs(5), event(&mut stream)).await;
    assert!(quiet.is_err(), "nothing has changed");
    circuit.force_open();
    let change = tokio::time::timeout(Duration::from_secs(2), event(&mut stream)).await;
    assert_eq!(change.unwrap().unwrap()["breakers"][0]["state"], "forced_open");
    assert_eq!(event(&mut stream).await, None, "an answer ends, so that a server can drain");
}

#[tokio::test(start_paused = true)]
async fn no_more_than_64_follow_and_who_leaves_makes_room() {
    let app = router(Sources::new());
    let mut following = Vec::new();
    for _ in 0..64 {
        let response = ask(&app, get("/live?page=map")).await;
        assert_eq!(response.status(), StatusCode::OK);
        following.push(response);
    }
    assert_eq!(ask(&app, get("/live?page=map")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    following.pop();
    assert_eq!(ask(&app, get("/live?page=map")).await.status(), StatusCode::OK);
    assert_eq!(ask(&app, get("/live?page=x")).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(start_paused = true)]
async fn however_many_look_a_page_is_read_once_a_second() {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    };
    struct Counted(Arc<AtomicU32>);
    impl gusset_console::ReadLimit for Counted {
        fn read(&self) -> gusset_console::LimitReading {
            gusset_console::LimitReading::new(self.0.fetch_add(1, SeqCst).into(), 0)
        }
    }
    let reads = Arc::new(AtomicU32::new(0));
    let app = router(Sources::new().limit("api", Counted(reads.clone())));
    let mut streams = Vec::new();
    for _ in 0..10 {
        streams.push(ask(&app, get("/live?page=limits")).await.into_body().into_data_stream());
    }
    for _ in 0..5 {
        futures_util::future::join_all(streams.iter_mut().map(event)).await;
    }
    assert!((5..=7).contains(&reads.load(SeqCst)), "{reads:?}");
}

#[tokio::test(start_paused = true)]
async fn it_can_be_nested() {
    let app = Router::new().nest("/console/", router(Sources::new()));
    for path in ["/console/", "/console/app.js", "/console/api/map"] {
        assert_eq!(ask(&app, get(path)).await.status(), StatusCode::OK, "{path}");
    }
}

/// A registry that never answers.
#[derive(Debug)]
struct Hangs;

impl gusset_registry::Registry for Hangs {
    fn ttl(&self) -> Duration {
        Duration::from_secs(30)
    }
    fn register(&self, _: gusset_registry::Instance) -> Answer<'_, ()> {
        Box::pin(std::future::pending())
    }
    fn heartbeat<'a>(&'a self, _: gusset_registry::InstanceKey<'a>) -> Answer<'a, ()> {
        Box::pin(std::future::pending())
    }
    fn drain<'a>(&'a self, _: gusset_registry::InstanceKey<'a>) -> Answer<'a, ()> {
        Box::pin(std::future::pending())
    }
    fn deregister<'a>(&'a self, _: gusset_registry::InstanceKey<'a>) -> Answer<'a, ()> {
        Box::pin(std::future::pending())
    }
    fn instances<'a>(
        &'a self,
        _: &'a str,
    ) -> Answer<'a, std::sync::Arc<gusset_registry::Snapshot>> {
        Box::pin(std::future::pending())
    }
    fn services(&self) -> Answer<'_, Vec<std::sync::Arc<str>>> {
        Box::pin(std::future::pending())
    }
    fn watch(&self, service: &str) -> gusset_registry::Watch {
        gusset_registry::Publisher::new(service).watch()
    }
}

type Answer<'a, T> = futures_util::future::BoxFuture<'a, Result<T, gusset_registry::Error>>;

#[tokio::test(start_paused = true)]
async fn a_registry_that_hangs_is_told_of_and_keeps_nothing_else_from_the_map() {
    let metrics = gusset_sidecar::Metrics::new();
    let app = router(Sources::new().registry(Hangs).metrics("orders", &metrics));
    let map = json_of(&app, "/api/map").await;
    assert_eq!(map["error"], "no answer within 5 s");
    assert_eq!(map["services"][0]["name"], "orders");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_a_page_is_read_does_not_keep_it_from_others() {
    let app = router(Sources::new().registry(Hangs));
    assert_eq!(json_of(&app, "/api/map").await["window_ms"], 0.0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = ask(&app, get("/api/map"));
    assert!(tokio::time::timeout(Duration::from_secs(1), asked).await.is_err());
    let map = json_of(&app, "/api/map").await;
    assert!(map["window_ms"].as_f64() > Some(1_000.0), "it was read again: {map}");
}

#[tokio::test(start_paused = true)]
async fn the_map_tells_of_the_last_ten_seconds_and_not_of_what_was_before() {
    let world = World::new(0, 0).await;
    // Its retries are told by its metrics.
    let app = router(Sources::new().metrics("orders", world.sidecar.metrics()));
    let second = || tokio::time::sleep(Duration::from_secs(1));
    world.traffic().await;
    assert_eq!(json_of(&app, "/api/map").await["edges"][0]["calls"], 40, "so far");
    second().await;
    world.traffic().await;
    let map = json_of(&app, "/api/map").await;
    let edge = &map["edges"][0];
    assert_eq!(
        (&edge["from"], &edge["to"], &edge["calls"]),
        (&json!("orders"), &json!("bank"), &json!(40))
    );
    assert!(edge["rate"].as_f64().is_some_and(|rate| rate > 0.0), "{edge}");
    assert!(
        edge["retries"]["attempts_failed"].as_u64() > edge["retries"]["calls_failed"].as_u64(),
        "{edge}"
    );
    for _ in 0..12 {
        second().await;
        json_of(&app, "/api/map").await;
    }
    let map = json_of(&app, "/api/map").await;
    assert_eq!((&map["edges"][0]["calls"], &map["edges"][0]["rate"]), (&json!(0), &json!(0.0)));
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_for_a_fault_of_the_request_does_not_make_a_service_look_broken() {
    let sidecar = Sidecar::new("orders");
    let bank =
        sidecar.outbound("bank").layer(tower::service_fn(|asked: Request<ReplayBody<Body>>| {
            let status = asked.uri().path()[1..].parse().unwrap();
            async move {
                Ok::<_, BoxError>(Response::builder().status::<u16>(status).body(Body::empty())?)
            }
        }));
    for status in [200, 402, 409, 429, 500] {
        let request = Request::post(format!("http://bank/{status}")).body(Body::empty()).unwrap();
        bank.clone().oneshot(request).await.unwrap();
    }
    let app = router(Sources::new().metrics("orders", sidecar.metrics()));
    let edge = &json_of(&app, "/api/map").await["edges"][0];
    assert_eq!((&edge["calls"], &edge["errors"]), (&json!(5), &json!(1)), "{edge}");
    assert_eq!(
        (&edge["retries"]["calls"], &edge["retries"]["calls_failed"]),
        (&json!(5), &json!(1))
    );
}

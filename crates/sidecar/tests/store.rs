//! A process that is asked what it did, by its program and over HTTP.

#![cfg(feature = "telemetry")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{io, time::Duration};

use gusset_sidecar::{
    Recorder, Sidecar,
    telemetry::{self, LogQuery, Store, StoreBody, TraceQuery},
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::time::timeout;
use tower::ServiceExt;
use tracing::{Level, dispatcher::DefaultGuard};

struct Process {
    sidecar: Sidecar,
    telemetry: telemetry::Telemetry,
    _default: DefaultGuard,
}

/// One whose logs on this thread are kept.
fn process() -> Process {
    keeping(|init| init)
}

fn keeping(with: impl Fn(telemetry::Init) -> telemetry::Init) -> Process {
    let sidecar = Sidecar::new("orders");
    let init = telemetry::init("orders").writer(io::sink).variables([("", "")]).filter("trace");
    let (dispatch, telemetry) = with(init.sidecar(&sidecar)).build().unwrap();
    Process { sidecar, telemetry, _default: tracing::dispatcher::set_default(&dispatch) }
}

impl Process {
    fn store(&self) -> &Store {
        self.telemetry.store()
    }

    /// An order that fails if `stock` is nothing.
    async fn order(&self, number: u64, stock: u64) {
        let sidecar = &self.sidecar;
        let work = async {
            tracing::info!(number, "order came in");
            let reserve = async {
                if stock == 0 {
                    tracing::warn!(product = "Tea Pot", "nothing left");
                    return Err("no stock");
                }
                Ok(())
            };
            sidecar.intercept("reserve", reserve).tag("order.id", number.to_string()).await
        };
        let _ = sidecar.intercept("order", work).await;
    }
}

fn messages(store: &Store, query: &LogQuery) -> Vec<String> {
    store.logs(query).iter().map(|log| log.message.to_string()).collect()
}

async fn ask(store: &Store, uri: &str) -> (StatusCode, Value) {
    let response = call(store, Method::GET, uri, &[]).await;
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn call(
    store: &Store,
    method: Method,
    uri: &str,
    headers: &[(&str, &str)],
) -> Response<StoreBody> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    store.service().oneshot(request.body(()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn logs_are_found_by_each_of_their_parts() {
    let process = process();
    process.order(1, 1).await;
    process.order(2, 0).await;
    let store = process.store();
    let all = LogQuery::new();
    // The layers log, too, at lower levels.
    let of_program = |query: LogQuery| messages(store, &query.level(Level::INFO));
    assert_eq!(of_program(all.clone()), ["nothing left", "order came in", "order came in"]);
    assert_eq!(messages(store, &all.clone().level(Level::WARN)), ["nothing left"]);
    assert_eq!(messages(store, &all.clone().text("tea pot")), ["nothing left"]);
    assert_eq!(messages(store, &all.clone().text("NOTHING")), ["nothing left"]);
    assert!(messages(store, &all.clone().service("payments")).is_empty());
    assert_eq!(of_program(all.clone().limit(1)), ["nothing left"]);
    let last = store.logs(&all.clone().level(Level::WARN))[0].clone();
    assert_eq!(of_program(all.clone().before(last.number).limit(1)), ["order came in"]);
    let (before, after) = (last.unix_nanos, last.unix_nanos + 1);
    assert!(of_program(all.clone().between(before, after)).contains(&"nothing left".into()));
    assert!(!of_program(all.clone().between(0, before)).contains(&"nothing left".into()));
    let trace = last.trace.unwrap().trace_id();
    assert_eq!(of_program(all.trace(trace)), ["nothing left", "order came in"]);
}

#[tokio::test]
async fn traces_are_found_by_each_of_their_parts() {
    let process = process();
    process.order(1, 1).await;
    process.order(2, 0).await;
    let payments = Sidecar::with_recorder(process.sidecar.recorder().for_service("payments"));
    let _ = payments.intercept("pay", async { Ok::<_, String>(()) }).await;
    let store = process.store();
    let roots = |query: TraceQuery| -> Vec<String> {
        store.traces(&query).into_iter().map(|trace| trace.root.unwrap()).collect()
    };
    assert_eq!(roots(TraceQuery::new()), ["pay", "order", "order"]);
    assert_eq!(roots(TraceQuery::new().limit(1)), ["pay"]);
    assert_eq!(roots(TraceQuery::new().service("orders")), ["order", "order"]);
    assert_eq!(roots(TraceQuery::new().text("RESERVE")), ["order", "order"]);
    assert_eq!(roots(TraceQuery::new().longer_than(Duration::from_secs(60))), [""; 0]);
    let failed = store.traces(&TraceQuery::new().failed());
    let [failed] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!((failed.spans, failed.failures), (2, 2));
    assert_eq!(roots(TraceQuery::new().text("no stock")).len(), 1);
    let spans = store.trace(failed.trace_id);
    assert_eq!(spans[0].start_unix_nanos, failed.start_unix_nanos);
    let times = TraceQuery::new().between(0, failed.start_unix_nanos);
    assert_eq!(roots(times), ["order"]);
}

#[tokio::test]
async fn over_http_the_answers_are_json() {
    let process = process();
    process.order(7, 0).await;
    let store = process.store();
    let (status, traces) = ask(store, "/traces?failed=true&service=orders&limit=5").await;
    assert_eq!(status, 200);
    let trace = &traces["traces"][0];
    assert_eq!((&trace["root"], &trace["spans"]), (&"order".into(), &2.into()));
    let id = trace["trace_id"].as_str().unwrap();
    let (status, detail) = ask(store, &format!("/traces/{id}")).await;
    assert_eq!((status, &detail["trace_id"]), (StatusCode::OK, &id.into()));
    assert_eq!(detail["spans"][1]["parent_id"], detail["spans"][0]["span_id"]);
    assert_eq!(detail["spans"][1]["tags"]["order.id"], "7");
    let of_detail: Vec<_> =
        detail["logs"].as_array().unwrap().iter().map(|log| &log["message"]).collect();
    let at = |message: &str| of_detail.iter().position(|present| *present == message).unwrap();
    assert!(at("order came in") < at("nothing left"));
    let uri = format!("/logs?level=warn&trace_id={id}&text=Tea+Pot&service=orders");
    let (_, logs) = ask(store, &uri).await;
    assert_eq!(logs["logs"][0]["fields"]["product"], "Tea Pot");
    assert_eq!(logs["logs"].as_array().unwrap().len(), 1);
    let response = call(store, Method::GET, "/logs", &[]).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.headers()["cache-control"], "no-store");
    let head = call(store, Method::HEAD, "/logs", &[]).await;
    assert!(head.into_body().collect().await.unwrap().to_bytes().is_empty());
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_told_so() {
    let process = process();
    let store = process.store();
    for (uri, status, word) in [
        ("/", 404, "/traces/{id}"),
        ("/metrics", 404, "/traces/{id}"),
        ("/traces/xyz", 404, "identifier"),
        ("/traces/4bf92f3577b34da6a3ce929d0e0e4736", 404, "nothing"),
        ("/traces/4bf92f3577b34da6a3ce929d0e0e4736/x", 404, ""),
        ("/logs?level=loud", 400, "level"),
        ("/logs?limit=-1", 400, "limit"),
        ("/logs?since=yesterday", 400, "since"),
        ("/logs?trace_id=7", 400, "trace_id"),
        ("/logs?levle=warn", 400, "levle"),
        ("/logs?text=a&text=b", 400, "text"),
        ("/logs?text=%zz", 400, "query"),
        ("/traces?failed=perhaps", 400, "failed"),
        ("/traces?follow=1", 400, "follow"),
    ] {
        let (found, problem) = ask(store, uri).await;
        assert_eq!(found, status, "{uri}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{uri}: {problem}");
    }
    let post = call(store, Method::POST, "/logs", &[]).await;
    assert_eq!(
        (post.status().as_u16(), &post.headers()["allow"]),
        (405, &"GET, HEAD".parse().unwrap())
    );
}

#[tokio::test]
async fn one_answer_lists_a_thousand_at_most() {
    let process = process();
    for _ in 0..1_100 {
        tracing::info!("again");
    }
    let (_, logs) = ask(process.store(), "/logs?limit=99999").await;
    assert_eq!(logs["logs"].as_array().unwrap().len(), 1_000);
}

/// The next piece that is no sign of life.
async fn piece(body: &mut StoreBody) -> String {
    let frame = timeout(Duration::from_secs(60), body.frame()).await.expect("a piece");
    String::from_utf8(frame.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap()
}

fn events(piece: &str, name: &str) -> usize {
    piece.matches(&format!("event: {name}\n")).count()
}

#[tokio::test(start_paused = true)]
async fn who_follows_gets_what_comes_and_only_that() {
    let process = process();
    tracing::info!("before");
    let store = process.store();
    let uri = "/logs?follow=true&level=info&text=after";
    let response = call(store, Method::GET, uri, &[]).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    tracing::info!("after\nall");
    tracing::debug!("after");
    tracing::info!("something else");
    let first = piece(&mut body).await;
    assert_eq!(events(&first, "log"), 1, "{first}");
    assert_eq!(first.lines().filter(|line| line.starts_with("data: ")).count(), 1, "{first}");
    assert!(first.contains(r#""message":"after\nall""#), "{first}");
    assert_eq!(piece(&mut body).await, ":\n\n", "a sign of life");
    tracing::info!("after that");
    assert_eq!(events(&piece(&mut body).await, "log"), 1);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_goes_on_where_he_was() {
    let process = process();
    for n in 0..5 {
        tracing::info!(n, "hello");
    }
    let store = process.store();
    let accept = ("accept", "text/event-stream");
    let last = |id| [accept, ("last-event-id", id)];
    let mut body = call(store, Method::GET, "/logs", &last("2")).await.into_body();
    let piece_of = piece(&mut body).await;
    assert_eq!(events(&piece_of, "log"), 2, "{piece_of}");
    assert!(piece_of.contains("id: 3\n") && piece_of.contains("id: 4\n"), "{piece_of}");
    // One who followed a process that lived before this one.
    let mut body = call(store, Method::GET, "/logs", &last("7000")).await.into_body();
    assert_eq!(events(&piece(&mut body).await, "log"), 5);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_told_what_it_missed_and_costs_nothing() {
    let process = keeping(|init| init.keep_logs(10, 1 << 20));
    let store = process.store();
    let mut body = call(store, Method::GET, "/logs?follow=true", &[]).await.into_body();
    for n in 0..1_000 {
        tracing::info!(n, "hello");
    }
    assert_eq!((store.stats().logs, store.stats().logs_overwritten), (10, 990));
    let piece = piece(&mut body).await;
    assert!(piece.starts_with("event: missed\ndata: 990\n\n"), "{piece}");
    assert_eq!(events(&piece, "log"), 10);
}

#[tokio::test(start_paused = true)]
async fn many_logs_come_in_pieces_without_a_wait() {
    let process = process();
    let store = process.store();
    let mut body = call(store, Method::GET, "/logs?follow=true", &[]).await.into_body();
    for _ in 0..250 {
        tracing::info!("hello");
    }
    let began = tokio::time::Instant::now();
    let counts = [piece(&mut body).await, piece(&mut body).await, piece(&mut body).await];
    assert_eq!(counts.map(|piece| events(&piece, "log")), [100, 100, 50]);
    assert!(began.elapsed() < Duration::from_millis(250));
}

#[tokio::test(start_paused = true)]
async fn spans_are_followed_likewise() {
    let process = process();
    process.order(1, 0).await;
    let store = process.store();
    let uri = "/traces?follow=true&failed=true";
    let mut body = call(store, Method::GET, uri, &[]).await.into_body();
    process.order(2, 1).await;
    process.order(3, 0).await;
    let piece = piece(&mut body).await;
    assert_eq!(events(&piece, "span"), 2, "{piece}");
    assert!(piece.contains(r#""order.id":"3""#), "{piece}");
}

#[tokio::test(start_paused = true)]
async fn there_is_room_for_64_followers_and_a_place_is_given_back() {
    let process = process();
    let store = process.store();
    let follow = async || call(store, Method::GET, "/logs?follow=true", &[]).await;
    let mut followers = Vec::new();
    for _ in 0..64 {
        followers.push(follow().await);
    }
    assert_eq!(follow().await.status(), 503);
    followers.pop();
    assert_eq!(follow().await.status(), 200);
    store.close();
    assert_eq!(follow().await.status(), 503);
    let mut body = followers.pop().unwrap().into_body();
    assert!(timeout(Duration::from_secs(1), body.frame()).await.unwrap().is_none());
}

#[tokio::test]
async fn without_a_sidecar_there_are_logs_all_the_same() {
    let init = telemetry::init("s").writer(io::sink).variables([("", "")]);
    let (dispatch, telemetry) = init.build().unwrap();
    tracing::dispatcher::with_default(&dispatch, || tracing::info!("hello"));
    let store = telemetry.store();
    assert_eq!(messages(store, &LogQuery::new()), ["hello"]);
    assert!(store.traces(&TraceQuery::new()).is_empty());
    assert_eq!(store.stats().logs, 1);
}

#[tokio::test]
async fn a_ring_of_nothing_is_asked_in_vain() {
    let init = telemetry::init("s").writer(io::sink).variables([("", "")]).keep_logs(0, 0);
    let sidecar = Sidecar::with_recorder(Recorder::with_capacity("s", 0));
    let (dispatch, telemetry) = init.sidecar(&sidecar).build().unwrap();
    tracing::dispatcher::with_default(&dispatch, || tracing::info!("hello"));
    let _ = sidecar.intercept("work", async { Ok::<_, String>(()) }).await;
    assert!(telemetry.store().logs(&LogQuery::new()).is_empty());
    assert!(telemetry.store().traces(&TraceQuery::new()).is_empty());
    assert_eq!(telemetry.store().stats(), telemetry::StoreStats::default());
}

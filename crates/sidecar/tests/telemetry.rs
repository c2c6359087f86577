//! Logs as a collector of logs reads them.

#![cfg(feature = "telemetry")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod support;

use std::{
    convert::Infallible,
    io::{self, Write},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use gusset_sidecar::{Sidecar, telemetry};
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use support::{answer, request};
use tower::{Layer, ServiceExt, service_fn};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// What `work` logs.
fn logged(format: impl Fn(telemetry::Init) -> telemetry::Init, work: impl FnOnce()) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let init = format(telemetry::init("orders")).writer(move || writer.clone());
    let (dispatch, _) = init.build().unwrap();
    tracing::dispatcher::with_default(&dispatch, work);
    lines.text()
}

fn json(work: impl FnOnce()) -> Vec<Value> {
    let text = logged(telemetry::Init::json, work);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Serves one request whose handler logs.
fn serve(sidecar: &Sidecar) {
    let handler = service_fn(|_: Request<Full<Bytes>>| async {
        tracing::info!(user_id = 42, "order created");
        Ok::<_, Infallible>(answer(200))
    });
    let server = sidecar.inbound().layer(handler);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let response = runtime.block_on(server.oneshot(request("POST", "")));
    drop(response);
}

#[test]
fn a_line_says_who_when_what_and_in_which_trace() {
    let sidecar = Sidecar::new("orders");
    let lines = json(|| serve(&sidecar));
    let [line] = &lines[..] else { panic!("{lines:?}") };
    let record = &sidecar.recorder().recent(1)[0];
    assert_eq!(line["service"], "orders");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["target"], "telemetry");
    assert_eq!(line["message"], "order created");
    assert_eq!(line["user_id"], 42);
    assert_eq!(line["trace_id"], record.trace_id.to_string());
    assert_eq!(line["span_id"], record.span_id.to_string());
    assert_eq!(line["http.request.method"], "POST");
    let time = line["timestamp"].as_str().unwrap();
    assert!(time.len() >= 20 && time.ends_with('Z') && time.contains('T'), "{time}");
}

#[test]
fn the_trace_is_there_even_if_the_span_is_filtered_out() {
    let sidecar = Sidecar::new("orders");
    let text = logged(|init| init.json().filter("info,gusset_sidecar=off"), || serve(&sidecar));
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["trace_id"], sidecar.recorder().recent(1)[0].trace_id.to_string());
    assert!(line.get("http.request.method").is_none());
}

#[test]
fn a_field_cannot_pass_for_what_the_line_says_itself() {
    let lines = json(|| {
        let span = tracing::info_span!("work", level = "none", request_id = "r1");
        let _entered = span.enter();
        tracing::warn!(service = "forged", trace_id = "forged", quote = "a \"b\"\n", "hello");
    });
    assert_eq!(lines[0]["service"], "orders");
    assert_eq!(lines[0]["level"], "WARN");
    assert_eq!(lines[0]["fields.service"], "forged");
    assert_eq!(lines[0]["fields.trace_id"], "forged");
    assert_eq!(lines[0]["request_id"], "r1");
    assert_eq!(lines[0]["quote"], "a \"b\"\n");
}

#[test]
fn of_nested_spans_the_innermost_says_it() {
    let lines = json(|| {
        let outer = tracing::info_span!("outer", who = "outer", only = 1);
        let _outer = outer.enter();
        let inner = tracing::info_span!("inner", who = "inner", late = tracing::field::Empty);
        let _inner = inner.enter();
        inner.record("late", 7);
        tracing::info!("hello");
        tracing::info!(who = "event", "hello");
    });
    assert_eq!((&lines[0]["who"], &lines[0]["only"]), (&"inner".into(), &1.into()));
    assert_eq!(lines[0]["late"], 7);
    assert_eq!(lines[1]["who"], "event");
}

#[test]
fn an_error_is_logged_with_its_causes() {
    #[derive(Debug)]
    struct Outer(io::Error);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("cannot pay")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
    let error = Outer(io::Error::other("no money"));
    let lines = json(|| tracing::error!(error = &error as &dyn std::error::Error, "failed"));
    assert_eq!(lines[0]["error"], "cannot pay: no money");
}

#[test]
fn for_humans_a_line_has_the_same_in_short() {
    let sidecar = Sidecar::new("orders");
    let text = logged(telemetry::Init::pretty, || serve(&sidecar));
    let record = &sidecar.recorder().recent(1)[0];
    let end = format!(
        "INFO telemetry: order created user_id=42 trace_id={} span_id={}\n",
        record.trace_id, record.span_id
    );
    assert!(text.ends_with(&end), "{text}");
}

#[test]
fn the_filter_holds_and_a_bad_one_is_an_error() {
    let text = logged(
        |init| init.json().filter("warn"),
        || {
            tracing::info!("no");
            tracing::warn!("yes");
        },
    );
    assert_eq!(text.lines().count(), 1);
    let error = telemetry::init("s").filter("a=b=c").build().unwrap_err();
    assert_eq!(error.to_string(), "cannot set up telemetry: log filter");
}

#[test]
fn a_process_is_set_up_once() {
    let _telemetry = telemetry::init("s").writer(io::sink).start().unwrap();
    let error = telemetry::init("s").writer(io::sink).start().unwrap_err();
    assert_eq!(error.to_string(), "cannot set up telemetry: process has a subscriber");
}

/// Whoever chooses the name of a product writes into the log. He gets no line of his own, and no terminal obeys him.
#[test]
fn a_value_cannot_forge_a_line_or_move_a_terminal() {
    let evil = "x\n2026-01-01T00:00:00Z  INFO root: all is well\r\x1b[2J\u{9b}31m\u{2028}\u{202e}";
    let text = logged(telemetry::Init::pretty, || {
        let error = io::Error::other(evil);
        tracing::info!(name = evil, shown = %evil, "{evil}");
        tracing::info!(error = &error as &dyn std::error::Error, "failed");
    });
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    assert!(!text.contains(['\u{2028}', '\u{202e}']), "{text:?}");
    assert!(text.contains(r"x\n2026-01-01T00:00:00Z  INFO root: all is well\r\u{1b}[2J"), "{text}");

    let lines = logged(telemetry::Init::json, || tracing::info!(name = evil, "{evil}"));
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.trim_end().chars().all(|c| !c.is_control() && c != '\u{2028}'), "{lines:?}");
    let line: Value = serde_json::from_str(&lines).unwrap();
    assert_eq!((&line["name"], &line["message"]), (&evil.into(), &evil.into()));
}

#[test]
fn the_filter_is_changed_at_run_time() {
    let lines = Lines::default();
    let writer = lines.clone();
    let init = telemetry::init("s").json().filter("warn").variables([("", "")]);
    let (dispatch, telemetry) = init.writer(move || writer.clone()).build().unwrap();
    let filter = telemetry.filter().clone();
    // One place in the program, as what is cached is cached by place.
    let log = |n| tracing::dispatcher::with_default(&dispatch, || tracing::debug!(n, "hello"));
    log(1);
    filter.set("debug").unwrap();
    log(2);
    let error = filter.set("a=b=c").unwrap_err();
    assert_eq!(error.to_string(), "cannot set up telemetry: log filter");
    assert!(filter.set(&"a,".repeat(3_000)).is_err());
    assert_eq!(filter.get(), "debug");
    log(3);
    filter.set("off").unwrap();
    log(4);
    filter.set("off,[work{order=7}]=debug").unwrap();
    tracing::dispatcher::with_default(&dispatch, || {
        for (n, order) in [(5, 6), (6, 7)] {
            tracing::info_span!("work", order).in_scope(|| tracing::debug!(n, "hello"));
        }
    });
    let text = lines.text();
    let numbers: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].clone())
        .collect();
    assert_eq!(numbers, [2, 3, 6], "{text}");
}

#[test]
fn the_variable_wins_over_the_program() {
    let init = telemetry::init("s").filter("warn").variables([("RUST_LOG", "debug")]);
    let (_, telemetry) = init.writer(io::sink).build().unwrap();
    assert_eq!(telemetry.filter().get(), "debug");
}

#[test]
fn layers_of_others_see_what_the_filter_lets_through() {
    #[derive(Clone, Default)]
    struct Count(Arc<Mutex<usize>>);
    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Count {
        fn on_event(&self, _: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
            *self.0.lock().unwrap() += 1;
        }
    }
    let count = Count::default();
    let text = logged(
        |init| init.json().filter("info").with(count.clone()),
        || {
            tracing::info!("yes");
            tracing::debug!("no");
        },
    );
    assert_eq!((text.lines().count(), *count.0.lock().unwrap()), (1, 1));
}

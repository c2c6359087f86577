//! The small programs run to their end, tell what they say they do, and stand in one table.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

fn output(command: &mut Command) -> (Output, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output, text)
}

/// These lines come in this order, whatever is between them.
fn tells(text: &str, lines: &[&str]) {
    let mut rest = text;
    for line in lines {
        let at = rest.find(line);
        assert!(at.is_some(), "{line:?} does not follow in\n{text}");
        rest = &rest[at.unwrap() + line.len()..];
    }
}

#[test]
fn a_saga_survives_its_process_also_by_hand() {
    let folder = std::env::temp_dir().join(format!("gusset-saga-{}", uuid::Uuid::now_v7()));
    let by_hand = || output(Command::new(common::program("saga")).arg(&folder));
    let (first, _) = by_hand();
    assert_eq!(first.status.code(), None, "it was killed");
    for _ in 0..2 {
        let (again, text) = by_hand();
        assert!(again.status.success(), "{text}");
        tells(&text, &["order-4711: Compensated"]);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_poison_message_is_redriven_to_the_one_group_that_failed() {
    let (output, text) = output(&mut Command::new(common::program("broker")));
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("stock: a lamp").count(), 3);
}

#[test]
fn nothing_is_sent_to_an_instance_that_has_left() {
    for program in ["discovery_hyper", "discovery_reqwest", "discovery_tonic"] {
        let (output, text) = output(&mut Command::new(common::program(program)));
        assert!(output.status.success(), "{text}");
        let (before, after) = text.split_once("one has left\n").unwrap();
        assert!(before.contains("one answers") && before.contains("two answers"), "{text}");
        assert_eq!(after, "two answers\n".repeat(6), "{program}");
    }
}

#[test]
fn calls_between_services_are_one_trace_with_their_retries_and_end_with_their_deadline() {
    let (output, text) = output(&mut Command::new(common::program("sidecar_axum")));
    assert!(output.status.success(), "{text}");
    tells(
        &text,
        &["attempt 1 for lamp, there are seconds left", "attempt 2 for lamp", "200 OK, 3 of lamp"],
    );
    // Each below its cause.
    tells(
        &text,
        &[
            "\nbrowser → GET shop",
            "\n· shop GET /offers/{item}",
            "\n· · shop → GET stock",
            "\n· · · stock GET /items/{item}                               503",
            "\n· · · stock GET /items/{item}                               200",
            "\n· · shop note",
        ],
    );
    tells(&text, &["for sofa, there are moments left", "so the handler ends"]);
    tells(&text, &["for sofa", "browser: no answer in time", "gusset_retries_total"]);
    assert_eq!(text.matches("for sofa").count(), 1, "what ended with its deadline is not repeated");
}

#[test]
fn grpc_is_retried_where_that_is_safe_and_its_deadlines_travel() {
    let (output, text) = output(&mut Command::new(common::program("sidecar_tonic")));
    assert!(output.status.success(), "{text}");
    tells(
        &text,
        &[
            "server: attempt 1",
            "server: attempt 2",
            "server: attempt 3",
            "client: Serving",
            "its trace",
            "client → ",
            "· server",
            "  14 ",
            "· server",
            "  14 ",
            "· server",
            "made once",
            "server: attempt 1",
            "client: Unavailable",
            "impossible",
            "client: NotFound",
            "up to 7 s left",
            "client: Ok",
            "nobody",
            "client: DeadlineExceeded",
        ],
    );
    assert_eq!(text.matches("server: attempt").count(), 6);
}

#[test]
fn reqwest_retries_what_is_safe_within_the_budget() {
    let (output, text) = output(&mut Command::new(common::program("sidecar_reqwest")));
    assert!(output.status.success(), "{text}");
    assert_eq!(text.matches("42 EUR, key none").count(), 1);
    assert_eq!(text.matches("42 EUR, key order-4711").count(), 2);
    tells(
        &text,
        &[
            "till: 503",
            "till: 200 OK, paid",
            "till: [\"paid\", \"paid\"]",
            "\ntill close the till",
            "\n· till → POST bank",
            "\n· · bank POST",
            "\n· till → POST bank",
            "\n· · bank POST",
            "in each second: true",
            "till: 503",
            "till: circuit bank is open, come back in 30 s",
        ],
    );
}

/// What a program says, in this order, with whatever is between.
macro_rules! programs {
    ($($(#[$attribute:meta])* $name:ident: $lines:expr;)*) => {
        mod says {
            $(
                $(#[$attribute])*
                #[test]
                fn $name() {
                    let program = super::common::program(stringify!($name));
                    let (output, text) = super::output(&mut super::Command::new(program));
                    let errors = String::from_utf8_lossy(&output.stderr);
                    assert!(output.status.success(), "{text}{errors}");
                    super::tells(&text, &$lines);
                }
            )*
        }

        const READ: &[&str] = &[$(stringify!($name)),*];
    };
}

programs! {
    adaptive_concurrency: ["without a limit", "with a limit", "it began at 100", "between 10 and 30: true"];
    balance: ["b gets slow", "c is killed", "c is out for", "d is new", "health: Serving"];
    breaker: ["1. All is well", "closed → open", "none of the refused had to wait"];
    breaker_reqwest: ["call 5: 500", "call 6: circuit bank is open", "the bank was asked 5 times", "a probe: 200", "closed again"];
    broker: [
        "attempt 1: the template breaks", "its dead letter:", "order.created for mail: all attempts failed", "payload: ",
        "last error, attempt 3", "mended", "dear Bobby", "1 redriven, 0 messages left"
    ];
    config_reload: ["price: 11", "price: 12", "refused:  price = 0", "expected an integer for key `price`", "unknown field `prize`", "still:    Settings { port: 9000, price: 12 }"];
    console: ["the page: 200 OK, \"text/html", "has opened: \"open\"", "401 Unauthorized", "200 OK", "it is Closed"];
    deadline: ["two seconds: true", "two seconds: true", "two seconds: true", "nobody works any more"];
    discovery_hyper: ["one has left"];
    discovery_reqwest: ["one has left"];
    discovery_tonic: ["one has left"];
    gateway_jwt: ["no token: 401", "expired: 401", "without the scope: 403", "somebody changed: 401", "a good token: 200", "orders of ann"];
    health_and_shutdown: ["/readyz: 200", "told to leave", "/livez: 200", "/readyz: 503", "draining", "the client got the report", "nobody listens any more: true"];
    hedge: ["the slowest of 200 calls took 1s", "hedged:  the slowest of 200 calls took 13ms", "304 calls were made, of which 4 a second time"];
    limit_by_api_key: ["ann /quote: 200", "ann /quote: 200", "ann /quote: 429", "retry-after: ", "bob /quote: 200", "nobody /quote: 403", "nobody /livez: 200"];
    outbox: ["pay: attempt 1", "pay: attempt 2", "sent 2 times", "handled: 1"];
    paused_time: ["the first attempt is reset: 200 OK, 2 attempts", "the service was spared: true", "it is over: 200 OK", "more than a minute has passed: true"];
    problem: ["404", "there is no item 0", "503", "retry-after: 7", "circuit stock is open", "500", "\"status\":500}", "429", "rate limit exceeded"];
    ratelimit: ["429 Too Many Requests", "retry-after: 1", "ratelimit-policy: \"default\";q=5;w=1", "still two clients"];
    #[cfg(feature = "redis")]
    redis_quota: ["passed: 5 + 5", "decided by ThisProcess"];
    request_reply: ["nobody answers price.get", "how long there is is known: true", "a lamp costs 40", "a sofa: "];
    retry_budget: ["one in ten fails: 100 of 100", "120 attempts: true", "all fail: 0 of 100", "120 attempts: true", "1 attempt"];
    saga: [
        "the first process", "lamp-reserved", "money-taken", "money-given-back", "this process is killed", "it ended: signal: 9",
        "the second process", "money-given-back already", "lamp-released", "order-4711: Compensated", "it ended: exit status: 0"
    ];
    saga_compensates: ["done: a parcel to 7 Main Street", "no parcels to that address", "given back, Known(\"receipt", "released, Known(7)", "undone: step send-parcel failed"];
    shed_by_priority: ["a report: 503", "the eleventh: 503", "all ten orders: true", "a report now: 200"];
    sidecar_axum: ["200 OK, 3 of lamp"];
    sidecar_reqwest: ["till: 200 OK, paid"];
    sidecar_tonic: ["client: Serving"];
    standard: ["two of three are killed", "300 calls answered, 0 failed", "300 calls in the client's metrics"];
    trace: ["3 lamps at 40 €", "5 records of two services, 1 trace", "shop GET /offers/{item}", "· shop → GET stock", "· · stock GET /items/{item}", "503", "200", "· shop SELECT price"];
}

/// The programs in a folder, by their files.
fn in_folder(folder: &str) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names = files.filter_map(|name| Some(name.to_str()?.strip_suffix(".rs")?.to_owned()));
    names.collect()
}

#[test]
fn every_small_program_is_in_the_table_and_its_output_is_read() {
    let (small, tours) = (in_folder("."), in_folder("tours"));
    let there: BTreeSet<&str> = small.iter().chain(&tours).map(String::as_str).collect();
    assert_eq!(READ.iter().copied().collect::<BTreeSet<_>>(), there);

    let table = include_str!("../README.md");
    let linked: BTreeSet<String> = table
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(".rs)"))
        .map(|(name, _)| name.to_owned())
        .collect();
    let files = small.into_iter().chain(tours.into_iter().map(|name| format!("tours/{name}")));
    assert_eq!(linked, files.chain(["ecommerce_demo/main".to_owned()]).collect());
    let rows = table.lines().filter(|line| line.starts_with("| [`"));
    assert!(rows.clone().all(|row| row.split(" | ").nth(1).is_some_and(|shows| shows.len() > 20)));
}

#[test]
fn a_small_program_has_80_lines_at_most_and_says_how_it_is_run() {
    for name in in_folder(".") {
        let text =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("{name}.rs")))
                .unwrap();
        assert!(text.lines().count() <= 80, "{name} has {} lines", text.lines().count());
        let head: Vec<_> = text.lines().take_while(|line| line.starts_with("//!")).collect();
        let run = format!("--example {name}");
        assert!(head.len() > 2 && head.iter().any(|line| line.contains(&run)), "{name}: {head:?}");
    }
}

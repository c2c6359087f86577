//! The small programs tell what they say they do.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::process::{Command, Output};

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
fn a_saga_is_undone_by_the_process_after_the_one_that_was_killed() {
    let (output, text) = output(&mut Command::new(common::program("saga")));
    assert!(output.status.success(), "{text}");
    tells(
        &text,
        &[
            "the first process",
            "warehouse: reserved",
            "bank:      taken",
            "no parcels to that address",
            "bank:      given back",
            "this process is killed",
            "it ended: signal: 9",
            "the second process",
            "says of order-4711: TurningBack",
            "bank:      given back already",
            "warehouse: released",
            "says of order-4711: Compensated",
            "no parcels to that address",
            "it ended: exit status: 0",
        ],
    );
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
        tells(&text, &["says of order-4711: Compensated"]);
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_poison_message_holds_up_nobody_dies_and_is_redriven() {
    let (output, text) = output(&mut Command::new(common::program("broker")));
    assert!(output.status.success(), "{text}");
    tells(&text, &["attempt 1: the template breaks", "attempt 3: the template breaks"]);
    tells(
        &text,
        &[
            "stock: order 3",
            "its dead letter:",
            "order.created for mail: all attempts failed, 3 of them",
        ],
    );
    tells(&text, &["payload: {", "first error, attempt 1", "last error, attempt 3"]);
    tells(&text, &["repaired", "dear Bobby", "1 redriven, 0 dead letters left", "0 messages left"]);
    assert_eq!(text.matches("stock: order").count(), 3, "it went to the one group that failed");
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

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

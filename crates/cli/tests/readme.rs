//! The lines of the README do what it says.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::process::Command;

use common::Registry;

/// The lines of the first block of commands behind `words`.
fn lines_behind(words: &str) -> &'static str {
    let lines = include_str!("../README.md").split(words).nth(1).unwrap();
    lines.split("```sh\n").nth(1).unwrap().split("```").next().unwrap()
}

/// What the commands print when a server of their own answers them.
fn printed(lines: &str) -> String {
    let Registry { process: _process, address } = &Registry::start(&[]);
    let script = format!("set -euo pipefail\nC=http://{address}/v1\n{lines}wait\n");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn six_lines_of_curl_lead_from_nothing_to_a_watch_that_wakes_also_the_second_time() {
    let (address, lines) =
        lines_behind("From nothing to a watch that wakes").split_once('\n').unwrap();
    assert_eq!(address, "C=http://127.0.0.1:8500/v1");
    assert_eq!(lines.lines().filter(|line| line.contains("curl ")).count(), 6);

    let said = printed(&format!("{lines}wait\n{lines}"));
    let answers: Vec<&str> = said.split("][").collect();
    assert_eq!(answers.len(), 4, "{said}");
    for found in [answers[0], answers[2]] {
        assert!(found.contains(r#""ID":"cart-1""#), "{said}");
    }
    assert!(answers[1].is_empty() && answers[3] == "]", "{said}");
}

#[test]
fn the_lines_on_keys_write_read_and_remove_them() {
    let said = printed(lines_behind("Its keys are a configuration server"));
    let said = said.replace('\n', "");
    let (before, listed) = said.split_once('[').unwrap();
    assert_eq!(before, "true10true");
    assert!(listed.starts_with(r#""shop/price"][{"#) && listed.ends_with("true"), "{said}");
    assert!(listed.contains(r#""Value":"MTE=""#), "{said}");
}

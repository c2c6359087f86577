//! The lines of the README do what it says.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

#[test]
fn six_lines_of_curl_lead_from_nothing_to_a_watch_that_wakes() {
    let readme = include_str!("../README.md");
    let lines = readme.split("From nothing to a watch that wakes").nth(1).unwrap();
    let lines = lines.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let (address, lines) = lines.split_once('\n').unwrap();
    assert_eq!(address, "C=http://127.0.0.1:8500/v1");
    assert_eq!(lines.lines().filter(|line| line.contains("curl ")).count(), 6);

    let mut registry = Command::new(env!("CARGO_BIN_EXE_gusset"))
        .args(["registry", "--listen", "127.0.0.1:0"])
        .env_remove("GUSSET_TOKEN")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(registry.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).unwrap().split(';').next().unwrap();
    let script = format!("set -euo pipefail\nC=http://{address}/v1\n{lines}wait\n");
    let output = Command::new("bash").args(["-c", &script]).output().unwrap();
    registry.kill().unwrap();
    registry.wait().unwrap();

    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let (found, woken) = said.split_once("][").unwrap();
    assert!(found.contains(r#""ID":"cart-1""#), "{said}");
    assert!(woken == "]", "{said}");
}

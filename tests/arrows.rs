//! The arrows between the crates, and what nobody may drag in by default, read from what cargo knows.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

/// Each crate, and which of the family it may depend on. Whoever is not named may use none.
const ARROWS: &[(&str, &[&str])] = &[
    ("gusset-call", &[]),
    ("gusset-breaker", &["gusset-call"]),
    ("gusset-ratelimit", &["gusset-call"]),
    ("gusset-registry", &["gusset-call"]),
    ("gusset-broker", &["gusset-call"]),
    ("gusset-saga", &["gusset-call"]),
    ("gusset-sidecar", &["gusset-call"]),
    (
        "gusset-gateway",
        &["gusset-call", "gusset-registry", "gusset-breaker", "gusset-ratelimit", "gusset-sidecar"],
    ),
    (
        "gusset-console",
        &[
            "gusset-call",
            "gusset-breaker",
            "gusset-broker",
            "gusset-gateway",
            "gusset-ratelimit",
            "gusset-registry",
            "gusset-saga",
            "gusset-sidecar",
        ],
    ),
    (
        "gusset-cli",
        &[
            "gusset-call",
            "gusset-breaker",
            "gusset-broker",
            "gusset-console",
            "gusset-gateway",
            "gusset-ratelimit",
            "gusset-registry",
            "gusset-saga",
            "gusset-sidecar",
        ],
    ),
    (
        "gusset",
        &[
            "gusset-call",
            "gusset-breaker",
            "gusset-console",
            "gusset-ratelimit",
            "gusset-registry",
            "gusset-broker",
            "gusset-saga",
            "gusset-sidecar",
            "gusset-gateway",
        ],
    ),
];

/// What a layer crate must not pull in on its default features.
const FORBIDDEN: &[&str] = &[
    "axum",
    "hyper",
    "hyper-util",
    "opentelemetry",
    "opentelemetry_sdk",
    "opentelemetry-otlp",
    "reqwest",
    "tonic",
];

fn cargo(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn packages() -> Vec<Value> {
    let metadata = cargo(&["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let mut metadata: Value = serde_json::from_str(&metadata).unwrap();
    serde_json::from_value(metadata["packages"].take()).unwrap()
}

fn published() -> BTreeMap<String, Value> {
    packages()
        .into_iter()
        .filter(|package| package["publish"].is_null())
        .map(|package| (package["name"].as_str().unwrap().to_owned(), package))
        .collect()
}

#[test]
fn no_crate_depends_on_one_it_may_not() {
    let mut seen = 0;
    for (name, package) in published() {
        let allowed = ARROWS.iter().find(|(from, _)| *from == name);
        let allowed = allowed.unwrap_or_else(|| panic!("{name} has no entry among the arrows")).1;
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            if dependency["kind"].is_null() && to.starts_with("gusset") {
                assert!(allowed.contains(&to), "{name} must not depend on {to}");
                seen += 1;
            }
        }
    }
    assert!(seen > 0, "no arrow was seen at all");
}

#[test]
fn a_layer_crate_pulls_in_no_http_stack_by_default() {
    let published = published();
    // A crate that composes no others is one that users put into a single layer of theirs.
    let layer_crates = ARROWS.iter().filter(|(_, to)| to.len() <= 1).map(|(from, _)| from);
    for name in layer_crates {
        assert!(published.contains_key(*name), "{name} is named among the arrows only");
        let tree = cargo(&["tree", "-p", name, "-e", "normal", "--prefix", "none", "--offline"]);
        for line in tree.lines() {
            let dependency = line.split_whitespace().next().unwrap();
            assert!(!FORBIDDEN.contains(&dependency), "{name} pulls in {dependency}:\n{tree}");
        }
    }
}

#[test]
fn every_version_stands_in_the_workspace_table() {
    let root = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    for (name, package) in published() {
        let manifest = std::fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        if manifest == root {
            continue;
        }
        let dependencies = manifest.split("\n[").filter(|table| {
            table.starts_with("dependencies]") || table.starts_with("dev-dependencies]")
        });
        let own = dependencies
            .flat_map(str::lines)
            .find(|line| line.contains("version = \"") || line.contains(" = \""));
        assert_eq!(own, None, "{name} states a version of its own");
    }
}

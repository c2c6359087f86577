//! What the chapter on upgrading says of formats is held by tests that exist.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{fs, path::Path};

fn sources(folder: &Path, to: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, to);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *to += &fs::read_to_string(path).unwrap();
        }
    }
}

#[test]
fn each_format_has_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("src/operating/upgrading.md")).unwrap();
    let mut code = String::new();
    sources(&root.join("../crates"), &mut code);
    let rows = page.lines().skip_while(|line| !line.ends_with("held by the test |")).skip(2);
    let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 9, "{rows:?}");
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for test in tests.split(", ") {
            let name = test.trim_matches('`');
            assert!(code.contains(&format!("fn {name}()")), "{row}: no test {name}");
        }
    }
}

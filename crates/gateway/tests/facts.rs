//! The first pages name a test for each fact; it is there.
#![allow(clippy::unwrap_used, reason = "a test may")]

use std::{collections::HashSet, fs, path::Path};

/// All that is written in the Rust files below a folder.
fn written_below(folder: &Path, to: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            written_below(&path, to);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            to.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

#[test]
fn every_fact_of_the_first_pages_has_a_test_that_is_there() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut written = String::new();
    for folder in ["src", "tests", "../cli/tests"] {
        written_below(&here.join(folder), &mut written);
    }
    let is_in_name = |c: char| c.is_alphanumeric() || c == '_';
    let functions = written.split("fn ").skip(1);
    let functions: HashSet<_> =
        functions.filter_map(|rest| rest.split(|c| !is_in_name(c)).next()).collect();
    let mut facts = 0;
    for page in ["src/lib.rs", "src/config.rs"] {
        let page = fs::read_to_string(here.join(page)).unwrap();
        let tables = page.split("//! | fact | test |\n").skip(1);
        for row in tables
            .flat_map(|table| table.lines().take_while(|line| line.starts_with("//! |")))
            .filter(|row| !row.contains("|---|"))
        {
            facts += 1;
            let shown = row.trim_end_matches([' ', '|']).rsplit(" | ").next().unwrap();
            let names: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
            assert!(!names.is_empty(), "{row}");
            for name in names {
                let is_there = match name.strip_prefix("tests/") {
                    Some(_) => here.join(name).exists(),
                    None => {
                        functions.contains(name.rsplit("::").next().unwrap())
                            || name == "fuzz::tests"
                            || name == "fuzz"
                    }
                };
                assert!(is_there, "{name} is not there: {row}");
            }
        }
    }
    assert!(facts > 80, "{facts}");
}

//! The first page of each crate tells a stranger what he has to know: what it does in a sentence, a program, what is in it, its limits, how it compares.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The folder of each crate that is published, and that of the facade.
fn crates() -> Vec<PathBuf> {
    let folders = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path());
    folders.chain([root()]).collect()
}

/// What stands below the heading `name`, up to the next one.
fn section<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("\n## {name}\n"))?;
    Some(rest.split("\n## ").next().unwrap())
}

#[test]
fn every_first_page_has_a_sentence_a_program_a_table_limits_and_a_comparison() {
    let mut lacking = Vec::new();
    for folder in crates() {
        let page = fs::read_to_string(folder.join("README.md")).unwrap();
        let is_binary = folder.ends_with("cli");
        let sentence = page.split("\n\n").nth(1).unwrap();
        let program = if is_binary { "```sh" } else { "```rust" };
        let has = [
            ("a first sentence", sentence.ends_with('.') && sentence.len() < 400),
            ("a program", page.contains(program)),
            ("a program that is compiled", !page.contains("```rust,ignore")),
            ("a table", page.contains("\n|---|")),
            ("## Limits", section(&page, "Limits").is_some_and(|text| text.len() > 80)),
            (
                "## How it compares",
                section(&page, "How it compares").is_some_and(|text| text.contains("](")),
            ),
        ];
        let lacks = has.into_iter().filter(|(_, has)| !has).map(|(what, _)| what);
        lacking.extend(lacks.map(|what| format!("{}: {what}", folder.display())));
    }
    assert!(lacking.is_empty(), "{lacking:#?}");
}

#[test]
fn every_program_on_a_first_page_is_compiled_by_the_tests_of_its_crate() {
    for folder in crates().into_iter().filter(|folder| !folder.ends_with("cli")) {
        let library = fs::read_to_string(folder.join("src/lib.rs")).unwrap();
        assert!(library.contains("include_str!(\"../README.md\")"), "{}", folder.display());
    }
}

/// A number without its commit is hearsay.
#[test]
fn every_measured_comparison_names_its_commit_and_leads_to_the_results() {
    for folder in crates() {
        let page = fs::read_to_string(folder.join("README.md")).unwrap();
        let compared = section(&page, "How it compares").unwrap();
        if compared.contains("---:|") {
            let leads = compared.contains("RESULTS.md)");
            let commit = compared.contains("commit `")
                || compared.contains("(`")
                || compared.contains("at the commits");
            assert!(leads && commit, "{}", folder.display());
        }
    }
}

#[test]
fn every_link_of_a_first_page_leads_somewhere() {
    let mut wrong = Vec::new();
    for folder in crates() {
        let page = fs::read_to_string(folder.join("README.md")).unwrap();
        let targets = page.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let own = targets.map(|(target, _)| target).filter(|target| !target.starts_with("http"));
        let files =
            own.map(|target| target.split('#').next().unwrap()).filter(|file| !file.is_empty());
        wrong.extend(
            files
                .filter(|file| !folder.join(file).exists())
                .map(|file| format!("{}: {file}", folder.display())),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

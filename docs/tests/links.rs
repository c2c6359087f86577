//! The book is whole: each chapter is in the table of contents, is compiled, and leads nowhere that is not there.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn chapters() -> BTreeSet<PathBuf> {
    fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.file_name().unwrap() != "SUMMARY.md" {
                found.insert(path);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&source(), &mut found);
    found
}

/// The targets of all links in `text`, but for those out of the book.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target).filter(|target| !target.starts_with("http")).collect()
}

/// What `#` leads to on a page.
fn anchors(text: &str) -> BTreeSet<String> {
    let titles = text.lines().filter(|line| line.starts_with('#'));
    let titles = titles.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    titles
        .map(|title| {
            let kept =
                title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.collect::<String>().replace(' ', "-")
        })
        .collect()
}

#[test]
fn every_chapter_is_in_the_table_of_contents_and_compiled() {
    let source = source();
    let summary = fs::read_to_string(source.join("SUMMARY.md")).unwrap();
    let listed: BTreeSet<PathBuf> =
        links(&summary).into_iter().map(|target| source.join(target)).collect();
    assert_eq!(listed, chapters());

    let compiled = fs::read_to_string(source.join("../lib.rs")).unwrap();
    for chapter in chapters() {
        let name = chapter.strip_prefix(&source).unwrap().to_str().unwrap().to_owned();
        assert!(compiled.contains(&format!("\"{name}\"")), "{name} is not in lib.rs");
    }
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for chapter in chapters() {
        let text = fs::read_to_string(&chapter).unwrap();
        for link in links(&text) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => chapter.clone(),
                file => chapter.parent().unwrap().join(file),
            };
            let found = fs::read_to_string(&target)
                .is_ok_and(|text| anchor.is_empty() || anchors(&text).contains(anchor));
            if !found {
                wrong.push(format!("{}: {link}", chapter.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

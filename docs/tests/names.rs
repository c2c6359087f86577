//! What chapters and first pages name is there: a reader who looks for it in the documentation finds it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Names of others that pages speak of.
const FOREIGN: &[&str] = &[
    // Of Rust.
    "Arc",
    "Clone",
    "Duration",
    "Ok",
    "Send",
    "String",
    "Sync",
    "Unpin",
    // Of tower, tokio, hyper, http and their like.
    "Body",
    "BodyExt",
    "BoxBody",
    "Buffer",
    "Discover",
    "Empty",
    "Full",
    "Router",
    "Server",
    "ServiceBuilder",
    "ServiceExt",
    "StreamBody",
    "TowerToHyperService",
    "UnsyncBoxBody",
    // Of axum and tonic.
    "Endpoint",
    "MatchedPath",
    // Of those whom we are compared with.
    "BulkheadLayer",
    "CircuitBreakerLayer",
    "Elapsed",
    "PeakEwma",
    "RateLimiterLayer",
    "TpsBudget",
    "direct",
    // Of HTTP, and of the JSON of our registry.
    "Authorization",
    "Bearer",
    "Connection",
    "Host",
    "Suspect",
    "Via",
];

/// What a source file shows to others.
struct Source {
    text: String,
    public: BTreeSet<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The files below `folder` whose name ends so.
fn files(folder: &Path, ends: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut found = Vec::new();
    for path in entries {
        match path.is_dir() {
            true => found.extend(files(&path, ends)),
            false if path.to_str().unwrap().ends_with(ends) => found.push(path),
            false => {}
        }
    }
    found
}

fn crates() -> Vec<PathBuf> {
    fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// Public items of all kinds, methods, variants, and what traits ask for.
fn public_of(text: &str) -> BTreeSet<String> {
    let mut public = BTreeSet::new();
    let mut within = "";
    for line in text.lines() {
        let shown = line.trim_start().strip_prefix("pub ");
        let asked = line.strip_prefix("    ").filter(|_| within == "trait");
        if let Some(item) = shown.or(asked) {
            if shown.is_some() {
                within = identifier(item);
            }
            let mut words = item.split(' ').skip_while(|word| ["async", "const"].contains(word));
            let kind = words.next().unwrap_or_default();
            // A constant has its name where others have their kind.
            let is_constant = item.starts_with("const ") && kind.ends_with(':');
            let name = if is_constant { Some(kind) } else { words.next() };
            public.extend(name.map(|name| identifier(name).to_owned()));
        } else if line.starts_with('}') {
            within = "";
        } else if let Some(variant) = line.strip_prefix("    ").filter(|_| within == "enum") {
            public.insert(identifier(variant).to_owned());
        }
    }
    public.remove("");
    public
}

fn sources() -> Vec<Source> {
    let folders = crates().into_iter().chain([root()]).map(|folder| folder.join("src"));
    let paths = folders.flat_map(|folder| files(&folder, ".rs"));
    let read = |path| {
        let text = fs::read_to_string(path).unwrap();
        Source { public: public_of(&text), text }
    };
    paths.map(read).collect()
}

/// Chapters of the book, and the first pages of the crates and of the whole.
fn pages() -> Vec<PathBuf> {
    let mut pages = files(&root().join("docs/src"), ".md");
    pages.extend(crates().into_iter().chain([root()]).map(|folder| folder.join("README.md")));
    pages
}

/// What stands in backticks, but not in blocks of code.
fn spans(page: &str) -> Vec<&str> {
    let prose = page.split("\n```").step_by(2);
    prose
        .flat_map(|text| text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)))
        .collect()
}

/// The names in a span that are written as types are, each with the member that is named of it.
fn types(span: &str) -> Vec<(&str, Option<&str>)> {
    let mut types = Vec::new();
    let mut at = 0;
    while at < span.len() {
        let name = identifier(&span[at..]);
        if name.is_empty() {
            at += span[at..].chars().next().unwrap().len_utf8();
            continue;
        }
        let (before, after) = (&span[..at], &span[at + name.len()..]);
        at += name.len();
        let mut letters = name.chars();
        let is_type = letters.next().unwrap().is_uppercase()
            && letters.next().is_some_and(char::is_lowercase);
        // `Retry-After` is a field of HTTP, and what stands in quotes is text.
        let is_field =
            before.ends_with('-') || after.starts_with('-') || before.contains(['"', '\'']);
        if is_type && !is_field && !before.ends_with("axum::body::") {
            types.push((name, after.strip_prefix("::").map(identifier)));
        }
    }
    types
}

#[test]
fn every_type_that_a_page_names_is_a_public_one_of_the_family() {
    let sources = sources();
    let is_public = |name: &str| sources.iter().any(|source| source.public.contains(name));
    let has = |name: &str, member: &str| {
        sources.iter().any(|source| source.text.contains(name) && source.public.contains(member))
    };
    let mut wrong = BTreeSet::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for (name, member) in spans(&text).into_iter().flat_map(types) {
            let foreign = FOREIGN.contains(&name);
            if !foreign && !is_public(name) {
                wrong.insert(format!("{}: {name}", page.display()));
            }
            let is_ours = |member: &&str| !foreign && !FOREIGN.contains(member);
            if let Some(member) = member.filter(is_ours).filter(|member| !has(name, member)) {
                wrong.insert(format!("{}: {name}::{member}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn names_of_others_are_listed_only_while_somebody_names_them() {
    let texts: Vec<_> = pages().iter().map(|page| fs::read_to_string(page).unwrap()).collect();
    let unused = FOREIGN.iter().filter(|name| !texts.iter().any(|text| text.contains(*name)));
    assert_eq!(unused.collect::<Vec<_>>(), Vec::<&&str>::new());
}

#[test]
fn every_program_that_a_page_has_run_is_there() {
    let manifest = fs::read_to_string(root().join("examples/Cargo.toml")).unwrap();
    let is_there = |name: &str| manifest.contains(&format!("[[example]]\nname = \"{name}\"\n"));
    let mut wrong = BTreeSet::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        let run = text.split("--example ").skip(1).map(identifier);
        let seen = text.lines().filter(|line| line.starts_with("To see it: "));
        let seen = seen.flat_map(|line| line.split('`').skip(1).step_by(2));
        let names = run.chain(seen.map(|span| span.rsplit(' ').next().unwrap()));
        let missing = names.filter(|name| !name.is_empty() && !is_there(name));
        wrong.extend(missing.map(|name| format!("{}: {name}", page.display())));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn names_are_told_apart() {
    assert_eq!(types("Effect::Unknown"), [("Effect", Some("Unknown")), ("Unknown", None)]);
    assert_eq!(types("Retry-After"), []);
    assert_eq!(
        types("Policy::failure_ratio(Ratio::percent(50))"),
        [("Policy", Some("failure_ratio")), ("Ratio", Some("percent"))]
    );
    let source = "pub enum A {\n    /// Text.\n    One,\n    Two(u8),\n}\npub const fn of() {}\n    pub async fn run(&self) {}\npub const MOST: u8 = 1;\npub(crate) struct Hidden;\npub trait T {\n    const FORMAT: u32;\n    fn ask(&self);\n}\n";
    assert_eq!(
        public_of(source).into_iter().collect::<Vec<_>>(),
        ["A", "FORMAT", "MOST", "One", "T", "Two", "ask", "of", "run"]
    );
    assert_eq!(spans("a `B` c\n```rust\n`No`\n```\n`D`"), ["B", "D"]);
}

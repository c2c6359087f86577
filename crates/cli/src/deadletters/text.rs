//! What is said of a dead letter.

use std::fmt::Write as _;

use gusset_broker::DeadLetter;

use crate::text::{clean, date};

pub(super) const HEADER: &str =
    "ID\tDIED\tGROUP\tSUBJECT\tATTEMPTS\tREDRIVES\tREASON\tLAST ERROR\n";

pub(super) fn line(letter: &DeadLetter) -> String {
    let error = letter.last_failure.as_ref().map_or("", |failure| &*failure.error);
    format!(
        "{}\t{}\t{}\t{}\t{}\t{}\t{}\t{}\n",
        letter.id,
        date(letter.died_at),
        clean(&letter.group),
        letter.message.subject(),
        letter.attempts,
        letter.redrives,
        clean(&letter.reason.to_string()),
        clean(error),
    )
}

pub(super) fn story(letter: &DeadLetter) -> String {
    let message = &letter.message;
    let mut text = String::new();
    let mut tell = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14} {}", clean(value));
    };
    tell("id", &letter.id.to_string());
    tell("message", &message.id().to_string());
    tell("subject", message.subject().as_str());
    tell("group", &letter.group);
    tell("published", &date(message.published_at()));
    tell("died", &date(letter.died_at));
    tell("attempts", &letter.attempts.to_string());
    tell("redrives", &letter.redrives.to_string());
    tell("reason", &letter.reason.to_string());
    for (name, failure) in
        [("first failure", &letter.first_failure), ("last failure", &letter.last_failure)]
    {
        if let Some(failure) = failure {
            let (attempt, at) = (failure.attempt, date(failure.at));
            tell(name, &format!("attempt {attempt}, {at}, {:?}: {}", failure.kind, failure.error));
        }
    }
    for (name, value) in message.headers().iter() {
        tell("header", &format!("{name}: {value}"));
    }
    match std::str::from_utf8(message.payload()) {
        Ok(payload) => text.push_str(&format!("\n{payload}\n")),
        Err(_) => text.push_str(&format!("\n{}\n", message.payload().escape_ascii())),
    }
    text
}

//! What is said of a dead letter.

use std::{fmt::Write as _, time::SystemTime};

use gusset_broker::DeadLetter;

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

/// Of foreign texts, what moves no cursor and begins no line.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// In UTC, as RFC 3339 writes it. The days are counted as in Howard Hinnant's `civil_from_days`.
fn date(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, secs) = (since / 86_400 + 719_468, since % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (secs / 3_600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (secs, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(SystemTime::UNIX_EPOCH + Duration::from_secs(secs)), expected);
        }
    }
}

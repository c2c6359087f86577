//! What a collector says to a request, by the OTLP specification.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

#[cfg(feature = "otlp-grpc")]
use super::proto::fields;
use super::proto::find;
use crate::retry::retry_after;

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The collector has it, but for so many items, of which it says why.
    Taken { rejected: u64, why: String },
    /// It will never take it.
    Refused(String),
    /// It may take it later, or the collector is not there. It may say when to come back.
    Later { why: String, after: Option<Duration> },
}

/// Longest time that a collector may ask for. A wrong number there must not silence a process for a day.
const LONGEST: Duration = Duration::from_secs(300);
/// Most letters of its words that are repeated.
const WORDS: usize = 200;

impl Answer {
    pub(super) fn away(why: impl ToString) -> Self {
        Self::Later { why: why.to_string(), after: None }
    }
}

/// The answer over HTTP.
pub(super) fn over_http(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Answer {
    if status.is_success() {
        return taken(body);
    }
    // `google.rpc.Status`.
    let words = find(body, 2).and_then(|field| field.text());
    let why = match words.filter(|words| !words.is_empty()) {
        Some(words) => format!("{}: {}", status.as_u16(), short(&words)),
        None => format!("status {}", status.as_u16()),
    };
    match status.as_u16() {
        429 | 502 | 503 | 504 => {
            let after = retry_after(headers).map(|after| after.min(LONGEST));
            Answer::Later { why, after }
        }
        _ => Answer::Refused(why),
    }
}

/// An `Export…ServiceResponse`, which is the same for all three signals.
fn taken(body: &[u8]) -> Answer {
    let partial = find(body, 1).and_then(|field| field.bytes()).unwrap_or_default();
    let rejected = find(partial, 1).and_then(|field| field.int()).unwrap_or(0);
    let why = find(partial, 2).and_then(|field| field.text()).unwrap_or_default();
    Answer::Taken { rejected: u64::try_from(rejected).unwrap_or(0), why: short(&why) }
}

fn short(words: &str) -> String {
    words.chars().take(WORDS).collect()
}

/// The answer over gRPC: its status stands in the trailers, or in the headers if there is no more than that.
#[cfg(feature = "otlp-grpc")]
pub(super) fn over_grpc(
    status: StatusCode,
    headers: &HeaderMap,
    trailers: Option<&HeaderMap>,
    body: &[u8],
) -> Answer {
    let all = trailers.filter(|trailers| trailers.contains_key("grpc-status")).unwrap_or(headers);
    let text = |name: &str| all.get(name).and_then(|value| value.to_str().ok());
    let Some(code) = text("grpc-status").and_then(|code| code.parse::<u32>().ok()) else {
        // A proxy on the way, or something else altogether.
        return match over_http(status, headers, &[]) {
            Answer::Taken { .. } => Answer::Refused("an answer without a gRPC status".into()),
            other => other,
        };
    };
    if code == 0 {
        // One byte says whether it is compressed, four how long it is.
        return taken(body.get(5..).unwrap_or_default());
    }
    let words = text("grpc-message").map(|words| {
        short(&crate::telemetry::environment::decoded(words).unwrap_or_else(|| words.to_owned()))
    });
    let why = format!("gRPC status {code}: {}", words.unwrap_or_default());
    let after = text("grpc-status-details-bin").and_then(retry_info);
    match code {
        1 | 4 | 10 | 11 | 14 | 15 => Answer::Later { why, after },
        // Exhausted for a moment if it says for how long, else for good.
        8 if after.is_some() => Answer::Later { why, after },
        _ => Answer::Refused(why),
    }
}

/// The delay in a `google.rpc.RetryInfo` among the details of a `google.rpc.Status`.
#[cfg(feature = "otlp-grpc")]
fn retry_info(details: &str) -> Option<Duration> {
    let status = base64(details)?;
    let info = fields(&status).filter(|(field, _)| *field == 3).find_map(|(_, any)| {
        let any = any.bytes()?;
        let url = find(any, 1)?.text()?;
        url.ends_with("/google.rpc.RetryInfo").then(|| find(any, 2))??.bytes()
    })?;
    let delay = find(info, 1)?.bytes()?;
    let part = |field| find(delay, field).and_then(|field| field.number()).unwrap_or(0);
    let nanos = u32::try_from(part(2)).ok()?.min(999_999_999);
    Some(Duration::new(part(1).min(u64::from(u32::MAX)), nanos).min(LONGEST))
}

/// Binary metadata: base64, with or without padding.
#[cfg(feature = "otlp-grpc")]
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for letter in text.trim_end_matches('=').bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count).to_le_bytes()[0]);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::proto::Message;
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn http(status: u16, after: &str, body: &[u8]) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        over_http(status, &headers(&[("retry-after", after)]), body)
    }

    fn later(answer: &Answer) -> Option<Option<u64>> {
        match answer {
            Answer::Later { after, .. } => Some(after.map(|after| after.as_secs())),
            _ => None,
        }
    }

    #[test]
    fn over_http_four_statuses_mean_later() {
        for status in [429, 502, 503, 504] {
            assert_eq!(later(&http(status, "7", &[])), Some(Some(7)), "{status}");
        }
        assert_eq!(later(&http(503, "999999999", &[])), Some(Some(300)));
        let date = ("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(later(&http(503, date.1, &[])), Some(None), "who knows what time it is there");
        for (now, seconds) in [("07:27:13", 47), ("07:28:01", 0), ("00:00:00", 300)] {
            let now = format!("Wed, 21 Oct 2015 {now} GMT");
            let answer =
                over_http(StatusCode::SERVICE_UNAVAILABLE, &headers(&[date, ("date", &now)]), &[]);
            assert_eq!(later(&answer), Some(Some(seconds)));
        }
        for status in [301, 400, 401, 404, 413, 500, 501] {
            assert!(matches!(http(status, "1", &[]), Answer::Refused(_)), "{status}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_the_words_of_the_collector_but_not_in_all_of_them() {
        let mut status = Message::default();
        status.varint(1, 3).text(2, &"bad\n".repeat(1_000));
        let Answer::Refused(why) = http(400, "", status.as_slice()) else { panic!() };
        assert!(why.starts_with("400: bad") && why.len() < 300, "{why}");
        assert_eq!(http(400, "", b"<html>"), Answer::Refused("status 400".into()));
    }

    #[test]
    fn a_collector_may_take_a_part() {
        let mut response = Message::default();
        response.message(1, |partial| {
            partial.varint(1, 3).text(2, "too old");
        });
        let taken = Answer::Taken { rejected: 3, why: "too old".into() };
        assert_eq!(http(200, "", response.as_slice()), taken);
        let all = Answer::Taken { rejected: 0, why: String::new() };
        assert_eq!(http(200, "", &[]), all);
        assert_eq!(http(202, "", b"{}"), all, "one that answers in JSON");
    }

    #[cfg(feature = "otlp-grpc")]
    #[test]
    fn over_grpc_the_code_decides_and_exhausted_only_with_a_time() {
        let grpc = |code: &str, details: &str| {
            let trailers = headers(&[
                ("grpc-status", code),
                ("grpc-message", "it%20is"),
                ("grpc-status-details-bin", details),
            ]);
            over_grpc(StatusCode::OK, &HeaderMap::new(), Some(&trailers), &[])
        };
        for code in ["1", "4", "10", "11", "14", "15"] {
            assert_eq!(later(&grpc(code, "")), Some(None), "{code}");
        }
        for code in ["2", "3", "5", "7", "8", "12", "13", "16", "99"] {
            let why = format!("gRPC status {code}: it is");
            assert_eq!(grpc(code, ""), Answer::Refused(why), "{code}");
        }
        let info = |seconds: u64| {
            let mut status = Message::default();
            status.varint(1, 8).message(3, |any| {
                any.text(1, "type.googleapis.com/google.rpc.RetryInfo").message(2, |info| {
                    info.message(1, |delay| {
                        delay.varint(1, seconds).varint(2, 5);
                    });
                });
            });
            in_base64(status.as_slice())
        };
        assert_eq!(later(&grpc("8", &info(5))), Some(Some(5)));
        assert_eq!(later(&grpc("14", &info(u64::MAX))), Some(Some(300)));
        let none = over_grpc(StatusCode::OK, &HeaderMap::new(), None, &[]);
        assert!(matches!(none, Answer::Refused(_)));
        let proxy = over_grpc(StatusCode::BAD_GATEWAY, &HeaderMap::new(), None, &[]);
        assert_eq!(later(&proxy), Some(None));
        let only_headers = headers(&[("grpc-status", "14")]);
        assert_eq!(later(&over_grpc(StatusCode::OK, &only_headers, None, &[])), Some(None));
    }

    #[cfg(feature = "otlp-grpc")]
    fn in_base64(bytes: &[u8]) -> String {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let bits: Vec<u8> =
            bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
        bits.chunks(6)
            .map(|six| {
                let value = six.iter().fold(0, |value, bit| value << 1 | usize::from(*bit));
                LETTERS[value << (6 - six.len())] as char
            })
            .collect()
    }

    #[cfg(feature = "otlp-grpc")]
    proptest! {
        #[test]
        fn base64_is_read(bytes: Vec<u8>) {
            prop_assert_eq!(base64(&in_base64(&bytes)), Some(bytes));
        }
    }
}

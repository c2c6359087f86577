//! How long a caller waits, as headers tell it.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// How long the caller waits for the answer, in milliseconds. The unit is in the name, for `x-request-timeout` is in
/// seconds with some and in milliseconds with others.
pub const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// The same, as Envoy and Istio tell it.
const ENVOY: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The shortest of the timeouts in `headers` that make sense.
pub(crate) fn timeout_in(headers: &HeaderMap) -> Option<Duration> {
    let mut shortest: Option<Duration> = None;
    // Most requests have few headers: to look at each is quicker than to look for three.
    for (name, value) in headers {
        let span = if name == TIMEOUT_HEADER || name == ENVOY {
            parse_digits(value.as_bytes()).map(Duration::from_millis)
        } else if name == GRPC_TIMEOUT {
            parse_grpc(value.as_bytes())
        } else {
            continue;
        };
        shortest = shortest.into_iter().chain(span).min();
    }
    shortest
}

/// Tells that the caller waits for `left`, unless the headers tell that it waits for less.
pub(crate) fn announce(left: Duration, headers: &mut HeaderMap) {
    let (mut told, mut envoy, mut kind) = (None, false, None);
    // As above: most requests tell neither.
    for (name, value) in &*headers {
        if name == header::CONTENT_TYPE {
            kind = kind.or(Some(value));
        } else if name == TIMEOUT_HEADER {
            told = told.or(Some(value));
        } else {
            envoy |= name == ENVOY;
        }
    }
    if kind.is_some_and(is_grpc_kind) {
        let told = headers.get(GRPC_TIMEOUT).and_then(|value| parse_grpc(value.as_bytes()));
        if told.is_none_or(|told| told > left) {
            if let Ok(value) = HeaderValue::try_from(format_grpc(left)) {
                headers.insert(GRPC_TIMEOUT, value);
            }
        }
    } else {
        let told = told.and_then(|value| parse_digits(value.as_bytes()));
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        if told.is_none_or(|told| told > left) {
            headers.insert(TIMEOUT_HEADER, left.into());
        }
    }
    // What another proxy said about a longer wait is out of date.
    if envoy {
        headers.remove(ENVOY);
    }
}

/// Whether these are headers of gRPC itself, with whatever codec; not of grpc-web, which has its own trailers.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(is_grpc_kind)
}

fn is_grpc_kind(kind: &HeaderValue) -> bool {
    let rest = kind.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

/// Up to 18 digits and nothing else.
fn parse_digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter().try_fold(0, |value: u64, digit| {
        digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0'))
    })
}

/// Up to 8 digits and a unit, as the gRPC protocol has it.
fn parse_grpc(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if digits.len() > 8 {
        return None;
    }
    let value = parse_digits(digits)?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

/// In the finest unit that has room for it, rounded down: no service may believe that it has longer.
fn format_grpc(span: Duration) -> String {
    const MOST: u128 = 99_999_999;
    let nanos = span.as_nanos();
    let units = [
        ('n', 1),
        ('u', 1_000),
        ('m', 1_000_000),
        ('S', 1_000_000_000),
        ('M', 60_000_000_000),
        ('H', 3_600_000_000_000),
    ];
    let (unit, value) = units
        .into_iter()
        .map(|(unit, size)| (unit, nanos / size))
        .find(|(_, value)| *value <= MOST)
        .unwrap_or(('H', MOST));
    format!("{value}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect()
    }

    fn millis(pairs: &[(&'static str, &'static str)]) -> Option<u128> {
        timeout_in(&headers(pairs)).map(|span| span.as_millis())
    }

    #[test]
    fn every_unit_of_grpc_is_read() {
        for (text, span) in [
            ("2H", 7_200_000),
            ("3M", 180_000),
            ("4S", 4_000),
            ("5m", 5),
            ("6000u", 6),
            ("7000000n", 7),
            ("99999999H", 359_999_996_400_000),
        ] {
            assert_eq!(millis(&[("grpc-timeout", text)]), Some(span), "{text}");
        }
    }

    #[test]
    fn nonsense_counts_as_absent() {
        for text in ["", "S", "-1S", "1", "1x", "1.5S", "123456789S", " 1S"] {
            assert_eq!(millis(&[("grpc-timeout", text)]), None, "{text}");
        }
        for text in ["", "-1", "1.5", "5s", "9999999999999999999"] {
            assert_eq!(millis(&[("x-request-timeout-ms", text)]), None, "{text}");
        }
    }

    #[test]
    fn the_shortest_counts() {
        let all = [
            ("grpc-timeout", "3S"),
            ("x-request-timeout-ms", "2000"),
            ("x-envoy-expected-rq-timeout-ms", "1000"),
        ];
        assert_eq!(millis(&all), Some(1_000));
        assert_eq!(millis(&all[..2]), Some(2_000));
    }

    #[test]
    fn what_is_announced_is_never_more_than_the_caller_said() {
        let mut plain = headers(&[("x-request-timeout-ms", "500")]);
        announce(Duration::from_secs(2), &mut plain);
        assert_eq!(plain["x-request-timeout-ms"], "500");
        announce(Duration::from_micros(20_999), &mut plain);
        assert_eq!(plain["x-request-timeout-ms"], "20", "rounded down");

        let mut grpc = headers(&[("content-type", "application/grpc"), ("grpc-timeout", "1S")]);
        announce(Duration::from_millis(250), &mut grpc);
        assert_eq!(grpc["grpc-timeout"], "250000u");
        assert!(!grpc.contains_key("x-request-timeout-ms"));
    }

    proptest! {
        #[test]
        fn a_grpc_timeout_survives_the_wire_within_a_hundredth_and_never_grows(nanos: u64) {
            let span = Duration::from_nanos(nanos);
            let read = parse_grpc(format_grpc(span).as_bytes()).unwrap();
            prop_assert!(read <= span && span - read <= span / 100);
        }
    }
}

//! What an answer says about when to come back.

use std::time::Duration;

use http::{HeaderMap, header};

/// gRFC A6: a negative or unreadable pushback means never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Never;

/// `grpc-retry-pushback-ms`, if there is one.
pub(crate) fn pushback(headers: &HeaderMap) -> Option<Result<Duration, Never>> {
    let value = headers.get("grpc-retry-pushback-ms")?;
    let millis = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(millis.map(Duration::from_millis).ok_or(Never))
}

/// `Retry-After`: seconds, or a date. A date is measured against the answer's own `Date`, so that no two clocks are compared;
/// without one, or unreadable, it says nothing.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let then = seconds(text)?;
    let now = seconds(headers.get(header::DATE)?.to_str().ok()?)?;
    Some(Duration::from_secs(then.saturating_sub(now)))
}

/// Seconds since 1970 of a date such as `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that may be sent today.
fn seconds(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = date.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(str::parse::<u64>);
    let (hour, minute, second) = (clock.next()?.ok()?, clock.next()?.ok()?, clock.next()?.ok()?);
    let in_range = (1970..=9999).contains(&year)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !in_range || words.next() != Some("GMT") || words.next().is_some() {
        return None;
    }
    // Days since the 1st of March of the year 0, with years that begin in March so that leap days come last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    const UNIX_EPOCH: u64 = 719_468;
    Some(((days - UNIX_EPOCH) * 24 + hour) * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn after(value: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        if let Some(date) = date {
            headers.insert(header::DATE, HeaderValue::from_str(date).unwrap());
        }
        retry_after(&headers).map(|span| span.as_secs())
    }

    #[test]
    fn seconds_are_read_and_nonsense_is_not() {
        assert_eq!(after("120", None), Some(120));
        assert_eq!(after("99999999999999999999999", None), Some(u64::MAX));
        for nonsense in ["", "-1", "1.5", "soon", "+3"] {
            assert_eq!(after(nonsense, None), None, "{nonsense}");
        }
    }

    #[test]
    fn a_date_counts_from_the_date_of_the_answer() {
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(after("Sun, 06 Nov 1994 08:50:00 GMT", now), Some(23));
        assert_eq!(after("Sat, 05 Nov 1994 08:50:00 GMT", now), Some(0), "it is over");
        assert_eq!(after("Sun, 06 Nov 1994 08:50:00 GMT", None), None);
    }

    #[test]
    fn dates_are_counted_right() {
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Tue, 29 Feb 2000 23:59:59 GMT"), Some(951_868_799));
        assert_eq!(seconds("Wed, 01 Mar 2000 00:00:00 GMT"), Some(951_868_800));
        for bad in ["Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Nox 1994 08:49:37 GMT", "06 Nov", ""]
        {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_date_panics(text in ".{0,40}", day: u64, year: u64) {
            let _ = (seconds(&text), seconds(&format!("Sun, {day} Nov {year} 08:49:37 GMT")));
        }
    }
}

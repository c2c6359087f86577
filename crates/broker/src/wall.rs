//! The wall clock: dates for people and other systems.

use std::{
    cell::Cell,
    time::{Duration, SystemTime},
};

use gusset_call::Clock;

/// The wall clock, read anew at most once in a millisecond of a thread: two dates of each message would cost as much as a third of its way.
/// It may be late by that millisecond, and is told of a clock that is set within one.
pub(crate) fn wall_clock() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(wall_nanos())
}

/// The same as [`nanos`] says it, which is less to reckon with.
pub(crate) fn wall_nanos() -> u64 {
    thread_local! {
        /// When the wall clock was read, by the other, and what it said.
        static LAST: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
        static CLOCK: Clock = Clock::new();
    }
    let now = CLOCK.with(Clock::nanos);
    let (at, read) = LAST.get();
    if read > 0 && now.saturating_sub(at) < 1_000_000 {
        return read + now.saturating_sub(at);
    }
    let read = nanos(system_clock());
    LAST.set((now, read));
    read
}

#[expect(
    clippy::disallowed_methods,
    reason = "a date for people and other systems; decides nothing"
)]
fn system_clock() -> SystemTime {
    SystemTime::now()
}

/// Nanoseconds since 1970. What lies before 1970 or after 2554 becomes the end on that side.
pub(crate) fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A date as RFC 3339 writes it, in UTC, to the millisecond. What lies before 1970 or after 9999 becomes the end on that side.
///
/// Days become dates as in Howard Hinnant's `civil_from_days`: years begin in March, so that the leap day is the last.
pub(crate) fn write_date(at: SystemTime) -> String {
    const LAST: Duration = Duration::from_millis(253_402_300_799_999);
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().min(LAST);
    let (secs, millis) = (since.as_secs(), since.subsec_millis());
    let (days, secs) = (secs / 86_400 + 719_468, secs % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (secs / 3_600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Reads a date of RFC 3339 with any offset, from 1970 on. None if it is none. A leap second is the second after it.
pub(crate) fn read_date(text: &str) -> Option<SystemTime> {
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = text.get(from..to)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is =
        |at: usize, any: &str| text.as_bytes().get(at).is_some_and(|b| any.as_bytes().contains(b));
    if !(is(4, "-") && is(7, "-") && is(10, "Tt ") && is(13, ":") && is(16, ":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut nanos = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return None;
        }
        nanos = format!("{:0<9.9}", &fraction[..digits]).parse().ok()?;
        rest = &fraction[digits..];
    }
    let (shifted, years) = ((month + 9) % 12, if month <= 2 { year.checked_sub(1)? } else { year });
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let (era, of_era) = (years / 400, years % 400);
    let days = (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year)
        .checked_sub(719_468)?;
    let here =
        (days * 86_400 + hour * 3_600 + minute * 60 + second).checked_add_signed(-offset(rest)?)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::new(here, nanos))
}

/// Seconds that a clock is ahead of UTC: `Z`, `+02:00`.
fn offset(text: &str) -> Option<i64> {
    let sign = match text.as_bytes().first()? {
        b'Z' | b'z' if text.len() == 1 => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let two = |digits: &str, below: i64| -> Option<i64> {
        let sane = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|number| sane && *number < below)
    };
    Some(sign * (two(hours, 24)? * 3_600 + two(minutes, 60)? * 60))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(write_date(at(millis)), text);
            assert_eq!(read_date(text), Some(at(millis)));
        }
        assert_eq!(write_date(at(300_000_000_000_000)), "9999-12-31T23:59:59.999Z");
        let east = read_date("2018-04-05T19:31:00.5+02:00");
        assert_eq!(east, read_date("2018-04-05T17:31:00.500Z"));
        assert_eq!(east, read_date("2018-04-05t13:01:00.5000000004-04:30"));
        assert_eq!(read_date("2016-12-31T23:59:60Z"), read_date("2017-01-01T00:00:00Z"));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "2018",
            "2018-04-05",
            "2018-04-05T17:31:00",
            "2018-04-31T17:31:00Z",
            "2100-02-29T00:00:00Z",
            "2018-13-05T17:31:00Z",
            "2018-04-05T24:00:00Z",
            "2018-04-05T17:31:00.Z",
            "2018-04-05T17:31:00+2:00",
            "2018-04-05T17:31:00ZZ",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "2018-04-05T17:31:+1Z",
        ] {
            assert_eq!(read_date(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(millis in 0..=253_402_300_799_999_u64) {
            prop_assert_eq!(read_date(&write_date(at(millis))), Some(at(millis)));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,40}", year in 0..10_000, month in 0..20, day in 0..40, rest in "[0-9:.+Z-]{0,12}") {
            let _ = read_date(&text);
            let _ = read_date(&format!("{year:04}-{month:02}-{day:02}T23:59:60{rest}"));
        }
    }
}

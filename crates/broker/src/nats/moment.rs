//! Times as the server writes them: RFC 3339, in UTC, to the nanosecond.

use std::time::{Duration, SystemTime};

/// Before 1970 it is 1970.
pub(crate) fn nanos_since_1970(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Always with all nine digits, so that of two of these the later is the greater text. Days to dates after Howard Hinnant's "chrono-compatible low-level date
/// algorithms".
pub(crate) fn written(nanos: u64) -> String {
    let since = Duration::from_nanos(nanos);
    let (seconds, fraction) = (since.as_secs(), since.subsec_nanos());
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    // Months count from March here, so that the odd day is at the end.
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

/// What the server wrote, which leaves out zeros at the end, with all nine digits. None if it is no time in UTC.
pub(crate) fn padded(text: &str) -> Option<String> {
    let text = text.strip_suffix('Z')?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    Some(format!("{whole}.{fraction:0<9}Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_written_as_the_server_reads_them() {
        assert_eq!(written(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(written(951_782_399_000_001_000), "2000-02-28T23:59:59.000001000Z");
        assert_eq!(written(951_782_400_000_000_000), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(written(1_795_299_031_844_179_123), "2026-11-21T22:10:31.844179123Z");
        assert_eq!(written(4_107_542_400_000_000_000), "2100-03-01T00:00:00.000000000Z");
    }

    #[test]
    fn what_the_server_writes_is_padded() {
        let nines = |text| padded(text).unwrap();
        assert_eq!(nines("2026-11-21T22:10:31Z"), "2026-11-21T22:10:31.000000000Z");
        assert_eq!(nines("2026-11-21T22:10:31.5Z"), "2026-11-21T22:10:31.500000000Z");
        assert_eq!(padded("2026-11-21T22:10:31+01:00"), None);
    }

    proptest! {
        #[test]
        fn later_times_are_greater_texts(one in 0..u64::MAX / 2, two in 0..u64::MAX / 2) {
            prop_assert_eq!(one.cmp(&two), written(one).cmp(&written(two)));
        }
    }
}

//! Spans of time, sizes and rates, as people write them.

use std::time::Duration;

use serde_json::Value as Json;

use super::{Setting, Value, schema::Schema};

/// A number and its unit, without a space: `250ms`.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// `"250ms"`, `"10s"`, `"5m"`, `"24h"`, `"7d"`
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// `"512B"`, `"64KiB"`, `"2MiB"`, `"1GiB"`, and the decimal `kB`, `MB`, `GB`.
fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(bytes)
}

/// `"100/s"`, `"100/m"`, `"1000/h"`, `"5/d"`, and with a number `"1/10s"`.
fn rate(text: &str) -> Option<Rate> {
    let (tokens, per) = text.split_once('/')?;
    let per = match per {
        "s" | "m" | "h" | "d" => duration(&format!("1{per}"))?,
        _ => duration(per)?,
    };
    let (tokens, "") = split(tokens)? else { return None };
    let tokens = u32::try_from(tokens).ok().filter(|tokens| *tokens > 0)?;
    (!per.is_zero()).then_some(Rate { tokens, per })
}

/// A span of time, which may be zero.
impl Setting for Duration {
    fn read(value: &Value<'_>) -> Option<Self> {
        const WHAT: &str = "span of time; write \"250ms\", \"10s\", \"5m\", \"24h\" or \"7d\"";
        match duration(value.text(WHAT)?) {
            Some(span) => Some(span),
            None => value.no(WHAT),
        }
    }

    fn describe(_: &mut Schema) -> Json {
        Schema::text("[0-9]+(ms|s|m|h|d)", &["250ms", "10s", "5m", "24h"])
    }
}

/// A span of time that is not zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Setting for Span {
    fn read(value: &Value<'_>) -> Option<Self> {
        let span = Duration::read(value)?;
        if span.is_zero() {
            value.wrong("is no time at all; write a longer one");
            return None;
        }
        Some(Self(span))
    }

    fn describe(schema: &mut Schema) -> Json {
        Duration::describe(schema)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl Size {
    /// As much of it as memory can be addressed.
    #[must_use]
    pub fn in_memory(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl Setting for Size {
    fn read(value: &Value<'_>) -> Option<Self> {
        const WHAT: &str = "size; write \"512B\", \"64KiB\", \"2MiB\" or \"1GiB\"";
        match size(value.text(WHAT)?) {
            Some(bytes) => Some(Self(bytes)),
            None => value.no(WHAT),
        }
    }

    fn describe(_: &mut Schema) -> Json {
        Schema::text("[0-9]+(B|KiB|MiB|GiB|kB|MB|GB)", &["64KiB", "2MiB"])
    }
}

/// So many in each period; never none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub tokens: u32,
    /// In which time.
    pub per: Duration,
}

impl Setting for Rate {
    fn read(value: &Value<'_>) -> Option<Self> {
        const WHAT: &str = "rate; write \"100/s\", \"100/m\", \"100/h\", or \"1/10s\"";
        match rate(value.text(WHAT)?) {
            Some(rate) => Some(rate),
            None => value.no(WHAT),
        }
    }

    fn describe(_: &mut Schema) -> Json {
        Schema::text("[0-9]+/[0-9]*(ms|s|m|h|d)", &["100/s", "100/m", "1/10s"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_sizes_and_rates_have_their_units() {
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("7d"), Some(Duration::from_secs(7 * 86_400)));
        for wrong in ["", "10", "s", "10 s", "-1s", "1.5s", "10S", "1h30m", "99999999999999999999s"]
        {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
        assert_eq!(duration(&format!("{}d", u64::MAX)), None);
        assert_eq!(size("64KiB"), Some(65_536));
        assert_eq!(size("1GB"), Some(1_000_000_000));
        for wrong in ["64", "64K", "KiB", "1TiB", "18446744073709551615GiB"] {
            assert_eq!(size(wrong), None, "{wrong}");
        }
        let minute = Duration::from_secs(60);
        assert_eq!(rate("100/m"), Some(Rate { tokens: 100, per: minute }));
        assert_eq!(rate("1/10s"), Some(Rate { tokens: 1, per: Duration::from_secs(10) }));
        for wrong in ["100", "/m", "0/m", "1/0s", "100/min", "5000000000/s", "1s/m", "1/m/s"] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
    }
}

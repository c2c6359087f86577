//! Paths and parameters of requests.

use std::time::Duration;

use super::{fields::Wrong, span};

/// Decodes `%3A`; a `%` that begins no such code stands for itself. None if the result is no text.
pub(super) fn decode(text: &str, plus_is_blank: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let code = match after {
            [high, low, ..] if *first == b'%' => digit(*high).zip(digit(*low)),
            _ => None,
        };
        rest = after;
        match code {
            Some((high, low)) => {
                bytes.push(high << 4 | low);
                rest = &after[2..];
            }
            None if *first == b'+' && plus_is_blank => bytes.push(b' '),
            None => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).ok()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The parameters of a request.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Wrong> {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            decode(name, true).zip(decode(value, true))
        });
        let decoded = decoded.collect::<Option<_>>();
        decoded.map(Self).ok_or_else(|| Wrong("the query is not UTF-8".into()))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// Whether it is there with anything but "false".
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "false" && value != "0")
    }

    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| &**value)
    }

    /// All but what says how to wait and who asks.
    pub(super) fn subject(&self) -> String {
        let about = |name: &str| !["index", "wait", "token"].contains(&name);
        let pairs = self.0.iter().filter(|(name, _)| about(name));
        // Neither can be in what stands between them.
        pairs.map(|(name, value)| format!("{name:?}={value:?}&")).collect()
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Wrong> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let wrong = |_| Wrong(format!("Invalid {name}: \"{text}\" is no whole number"));
        text.parse().map(Some).map_err(wrong)
    }

    /// `wait`, within its bounds, without the random part.
    pub(super) fn wait(&self) -> Result<Duration, Wrong> {
        let Some(text) = self.get("wait").filter(|text| !text.is_empty()) else {
            return Ok(WAIT);
        };
        match span::parse(text) {
            None => {
                Err(Wrong(format!("Invalid wait time: \"{text}\" is no duration like \"10s\"")))
            }
            Some(Duration::ZERO) => Ok(WAIT),
            Some(span) => Ok(span.min(LONGEST_WAIT)),
        }
    }
}

const WAIT: Duration = Duration::from_secs(5 * 60);
const LONGEST_WAIT: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_bounded() {
        let query = Query::parse(Some("tag=a%2Bb&tag=c+d&passing&index=7&stale=false")).unwrap();
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a+b", "c d"]);
        assert!(query.has("passing") && !query.has("stale") && !query.has("raw"));
        assert_eq!(query.number("index"), Ok(Some(7)));
        let wait = |text| Query::parse(Some(text)).unwrap().wait().map(|span| span.as_secs());
        assert_eq!(wait(""), Ok(300));
        assert_eq!(wait("wait=0s"), Ok(300));
        assert_eq!(wait("wait=10s"), Ok(10));
        assert_eq!(wait("wait=1h"), Ok(600));
        assert!(wait("wait=10").is_err() && wait("wait=-1s").is_err());
        assert!(Query::parse(Some("index=-1")).unwrap().number("index").is_err());
        assert!(Query::parse(Some("a=%ff")).is_err());
    }

    #[test]
    fn a_lone_percent_sign_stands_for_itself() {
        assert_eq!(decode("a%3Ab%", false).as_deref(), Some("a:b%"));
        assert_eq!(decode("%zz+%2", false).as_deref(), Some("%zz+%2"));
    }
}

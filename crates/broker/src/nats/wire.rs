//! A message as NATS carries it.
//!
//! `Nats-Msg-Id` is that by which the server recognises a message that comes twice. `Gusset` has what else there is
//! beside headers: `1 at=1795287867619251 id=… group=inventory redrives=1`, the format first, spans in microseconds; the last two of a message that was
//! redriven, which is for one group only. Headers of the message are headers there, so that other programs can read
//! them, except what NATS could not carry or would obey; that is in `Gusset-Headers`, as JSON.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;

use super::layout::FORMAT;
use crate::{Headers, Message, MessageId, Subject};

pub(crate) const MESSAGE_ID: &str = "Nats-Msg-Id";
const GUSSET: &str = "Gusset";
const ORDER: &str = "Gusset-Order";
const ODD: &str = "Gusset-Headers";

/// What a message has beside what its publisher gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    /// The token of the only group that it is for.
    pub(crate) group: Option<String>,
    /// How often it was redriven.
    pub(crate) redrives: u32,
}

/// What the server says of a message, in the subject for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Delivered {
    /// How often, this time included.
    pub(crate) times: u64,
    /// The place in the stream.
    pub(crate) seq: u64,
    /// When it came, in nanoseconds since 1970.
    pub(crate) at: u64,
}

/// Why this cannot be read as a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Newer(u32),
    Subject,
}

impl Delivered {
    /// Reads `$JS.ACK.<stream>.<consumer>.<times>.<seq>.<consumer seq>.<at>.<pending>`, which in later servers has domain
    /// and account after the second token, and more at the end.
    pub(crate) fn read(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.split('.').collect();
        let first = match (tokens.get(..2), tokens.len()) {
            (Some(["$JS", "ACK"]), 9) => 4,
            (Some(["$JS", "ACK"]), 11..) => 6,
            _ => return None,
        };
        let number = |at: usize| tokens.get(first + at)?.parse().ok();
        Some(Self { times: number(0)?, seq: number(1)?, at: number(3)? })
    }
}

/// The headers of a message on its way to its groups, published once with these.
pub(crate) fn write(message: &Message, route: &Route) -> HeaderMap {
    let id = message.id();
    match &route.group {
        None if message.is_known_by_id() => write_as(message, "", id.to_string()),
        // Only the same publish, sent again after a reconnection, is the same.
        None => write_as(message, "", format!("{id}#{:08x}", rand::random::<u32>())),
        Some(group) => {
            let redrives = route.redrives;
            let words = format!(" group={group} redrives={redrives}");
            // Another id, or the server would take it for the first one. The same for two operators at once.
            write_as(message, &words, format!("{id}/{group}/{redrives}"))
        }
    }
}

/// The headers of a message that the server is to know by `nats_id`.
pub(crate) fn write_as(message: &Message, words: &str, nats_id: String) -> HeaderMap {
    let mut map = HeaderMap::new();
    let (id, at) = (message.id(), micros(message.published_at()));
    let mut gusset = format!("{FORMAT} at={at} id={id}{words}");
    for (name, span) in [("delay", message.delay()), ("ttl", message.ttl())] {
        if let Some(span) = span {
            let span = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
            let _ = write!(gusset, " {name}={span}");
        }
    }
    put(&mut map, MESSAGE_ID, nats_id);
    put(&mut map, GUSSET, gusset);
    write_headers(&mut map, message.headers());
    map
}

fn write_headers(map: &mut HeaderMap, headers: &Headers) {
    let (mut order, mut odd) = (Vec::new(), Vec::new());
    for (name, value) in headers.iter() {
        if is_plain(name, value) {
            put(map, name, value.to_owned());
            order.push(name);
        } else {
            odd.push((name, value));
        }
    }
    if order.len() > 1 {
        put(map, ORDER, order.join(" "));
    }
    if let (false, Ok(odd)) = (odd.is_empty(), serde_json::to_string(&odd)) {
        put(map, ODD, odd);
    }
}

/// Whether it arrives as it was, and commands nothing: `Nats-Rollup`, for one, would empty the stream.
fn is_plain(name: &str, value: &str) -> bool {
    let reserved = |prefix: &str| {
        name.get(..prefix.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(prefix))
    };
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b':')
        && !reserved("nats-")
        && !reserved("gusset")
        && value.trim() == value
        && !value.contains(char::is_control)
}

pub(crate) fn put(map: &mut HeaderMap, name: &str, value: String) {
    // Both are checked before; what cannot be a header is left out rather than a reason to panic.
    if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
        map.insert(name, value);
    }
}

/// The message, and for whom it is. One without `Gusset` was published by another program: it is taken as it is.
pub(crate) fn read(
    subject: Subject,
    headers: Option<&HeaderMap>,
    payload: Bytes,
    delivered: Delivered,
) -> Result<(Message, Route), Unreadable> {
    let text = |name: &str| headers.and_then(|headers| headers.get(name)).map(HeaderValue::as_str);
    let mut route = Route::default();
    let mut at = Some(delivered.at / 1_000);
    let (mut delay, mut ttl) = (None, None);
    let mut id = text(MESSAGE_ID).and_then(|id| id.parse().ok());
    if let Some(gusset) = text(GUSSET) {
        let mut words = gusset.split(' ');
        let format = words.next().and_then(|format| format.parse().ok()).unwrap_or(u32::MAX);
        if format > FORMAT {
            return Err(Unreadable::Newer(format));
        }
        for word in words {
            match word.split_once('=') {
                Some(("at", value)) => at = value.parse().ok().or(at),
                Some(("group", value)) => route.group = Some(value.to_owned()),
                Some(("redrives", value)) => route.redrives = value.parse().unwrap_or_default(),
                Some(("delay", value)) => delay = value.parse().ok(),
                Some(("ttl", value)) => ttl = value.parse().ok(),
                Some(("id", value)) => id = value.parse().ok().or(id),
                _ => {}
            }
        }
    }
    let id = id.unwrap_or_else(|| made_up(delivered));
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(at.unwrap_or_default()));
    let headers = headers.map(read_headers).unwrap_or_default();
    let at = at.unwrap_or(SystemTime::UNIX_EPOCH);
    let mut message = Message::restored(id, subject, payload, at);
    if headers.iter().next().is_some() {
        message = message.with_headers(headers);
    }
    // What was redriven has had its time.
    if route.group.is_none() {
        if let Some(delay) = delay {
            message = message.with_delay(Duration::from_micros(delay));
        }
        if let Some(ttl) = ttl {
            message = message.with_ttl(Duration::from_micros(ttl));
        }
    }
    Ok((message, route))
}

/// The headers that the publisher gave, in the order in which it did.
pub(crate) fn read_headers(map: &HeaderMap) -> Headers {
    let mut names: Vec<&str> = map.iter().map(|(name, _)| name.as_ref()).collect();
    let reserved = |name: &&str| is_plain(name, "");
    names.retain(reserved);
    let order: Vec<&str> =
        map.get(ORDER).map_or_else(Vec::new, |o| o.as_str().split(' ').collect());
    let place = |name: &&str| order.iter().position(|other| other == name).unwrap_or(usize::MAX);
    names.sort_by_key(|name| (place(name), name.to_owned()));
    let plain = names.into_iter().filter_map(|name| Some((name, map.get(name)?.as_str())));
    let mut headers: Vec<(String, String)> =
        plain.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    if let Some(odd) = map.get(ODD) {
        let odd: Vec<(String, String)> = serde_json::from_str(odd.as_str()).unwrap_or_default();
        headers.extend(odd);
    }
    headers.into_iter().collect()
}

/// The same for each delivery of one message, and for every group.
fn made_up(delivered: Delivered) -> MessageId {
    let bits = u128::from(delivered.at) << 64 | u128::from(delivered.seq);
    MessageId::new(uuid::Builder::from_custom_bytes(bits.to_be_bytes()).into_uuid())
}

/// Headers as they lie in a stream: `NATS/1.0`, then one a line.
pub(crate) fn parse_headers(bytes: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::new();
    let text = String::from_utf8_lossy(bytes);
    for line in text.split("\r\n").skip(1) {
        if let Some((name, value)) = line.split_once(':') {
            put(&mut map, name.trim(), value.trim().to_owned());
        }
    }
    map
}

pub(crate) fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn at_micros(micros: u64) -> SystemTime {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros));
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// For the tests of other files.
#[cfg(test)]
pub(crate) const SOMETIME: Delivered =
    Delivered { times: 1, seq: 7, at: 1_795_287_867_619_251_643 };

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn there_and_back(message: &Message, route: &Route) -> (Message, Route) {
        let map = write(message, route);
        let subject = message.subject().clone();
        read(subject, Some(&map), message.payload().clone(), SOMETIME).unwrap()
    }

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let message = Message::new("a.b", &b"\0\xff"[..])
            .unwrap()
            .with_header("traceparent", "00-1-2-01")
            .with_header("content-type", "text/plain; x=ü")
            .with_header("b", "")
            .with_header("a", "2");
        let (read, route) = there_and_back(&message, &Route::default());
        assert_eq!((read.id(), read.payload()), (message.id(), message.payload()));
        assert_eq!(read.headers(), message.headers(), "in their order");
        assert_eq!(micros(read.published_at()), micros(message.published_at()));
        assert_eq!(route, Route::default());
    }

    #[test]
    fn a_header_of_a_message_commands_no_server() {
        let message = Message::new("a", "")
            .unwrap()
            .with_header("Nats-Rollup", "all")
            .with_header("nats-msg-id", "mine")
            .with_header("Gusset", "9")
            .with_header("with space", "x")
            .with_header("lines", "one\r\nNats-Rollup: all")
            .with_header("edges", " x ");
        let map = write(&message, &Route::default());
        assert!(map.get("Nats-Rollup").is_none());
        let nats_id = map.get(MESSAGE_ID).unwrap().as_str();
        assert!(nats_id.starts_with(&message.id().to_string()));
        assert_eq!(there_and_back(&message, &Route::default()).0.headers(), message.headers());
    }

    #[test]
    fn a_redriven_message_has_another_id_for_the_server_and_its_own_for_handlers() {
        let message = Message::new("a", "x").unwrap();
        let route = Route { group: Some("g=2E".into()), redrives: 2 };
        let map = write(&message, &route);
        let expected = format!("{}/g=2E/2", message.id());
        assert_eq!(map.get(MESSAGE_ID).unwrap().as_str(), expected);
        let (read, back) = there_and_back(&message, &route);
        assert_eq!((read.id(), back), (message.id(), route));
    }

    #[test]
    fn only_an_id_that_was_given_is_one_that_the_server_knows_again() {
        let message = Message::new("a", "x").unwrap();
        let nats_id = |message: &Message| {
            write(message, &Route::default()).get(MESSAGE_ID).unwrap().as_str().to_owned()
        };
        assert_ne!(nats_id(&message), nats_id(&message));
        let given = message.clone().with_id(message.id());
        assert_eq!(
            (nats_id(&given), nats_id(&given)),
            (message.id().to_string(), message.id().to_string())
        );
    }

    #[test]
    fn delay_and_time_to_live_arrive_but_what_is_redriven_has_had_them() {
        let spans = [Duration::from_millis(1_500), Duration::from_secs(90)];
        let message = Message::new("a", "x").unwrap().with_delay(spans[0]).with_ttl(spans[1]);
        let (read, _) = there_and_back(&message, &Route::default());
        assert_eq!((read.delay(), read.ttl()), (Some(spans[0]), Some(spans[1])));
        let route = Route { group: Some("g".into()), redrives: 1 };
        let (read, _) = there_and_back(&message, &route);
        assert_eq!((read.delay(), read.ttl()), (None, None));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let mut map = HeaderMap::new();
        put(&mut map, GUSSET, "2 whatever".into());
        let subject = Subject::new("a").unwrap();
        let error = read(subject.clone(), Some(&map), Bytes::new(), SOMETIME).unwrap_err();
        assert_eq!(error, Unreadable::Newer(2));
        put(&mut map, GUSSET, "not a number".into());
        assert!(read(subject, Some(&map), Bytes::new(), SOMETIME).is_err());
    }

    #[test]
    fn a_message_of_another_program_has_an_id_that_stays() {
        let subject = Subject::new("a").unwrap();
        let (first, _) = read(subject.clone(), None, "x".into(), SOMETIME).unwrap();
        let again = Delivered { times: 2, ..SOMETIME };
        let (second, _) = read(subject.clone(), None, "x".into(), again).unwrap();
        let (other, _) = read(subject, None, "x".into(), Delivered { seq: 8, ..SOMETIME }).unwrap();
        assert_eq!(first.id(), second.id());
        assert_ne!(first.id(), other.id());
        assert_eq!(micros(first.published_at()), SOMETIME.at / 1_000);
    }

    #[test]
    fn the_subject_for_the_answer_is_read_in_both_its_forms() {
        let short = "$JS.ACK.g.inv=2E.2.6.9.1795287867795177515.0";
        let expected = Delivered { times: 2, seq: 6, at: 1_795_287_867_795_177_515 };
        assert_eq!(Delivered::read(short), Some(expected));
        let long = "$JS.ACK.hub.ACC.g.inv.2.6.9.1795287867795177515.0.xyz";
        assert_eq!(Delivered::read(long), Some(expected));
        for strange in ["", "$JS.ACK", "_INBOX.x", "$JS.ACK.g.c.x.6.9.1.0", "$JS.ACK.g.c.1.2.3.4"] {
            assert_eq!(Delivered::read(strange), None, "{strange}");
        }
    }

    proptest! {
        #[test]
        fn all_headers_arrive(headers in prop::collection::vec((".{0,12}", ".{0,20}"), 0..6)) {
            let mut message = Message::new("a", "").unwrap();
            for (name, value) in headers {
                message = message.with_header(name, value);
            }
            let (read, _) = there_and_back(&message, &Route::default());
            let sorted = |message: &Message| {
                let mut all: Vec<_> = message.headers().iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
                all.sort();
                all
            };
            prop_assert_eq!(sorted(&read), sorted(&message));
        }

        #[test]
        fn no_answer_subject_and_no_headers_panic(text in "\\PC{0,60}") {
            let _ = Delivered::read(&text);
            let _ = parse_headers(text.as_bytes());
        }
    }
}

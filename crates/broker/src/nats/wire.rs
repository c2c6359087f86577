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

/// By what the server recognises this publish when it comes again.
pub(crate) fn nats_id(message: &Message, route: &Route) -> String {
    let id = message.id();
    match &route.group {
        None if message.is_known_by_id() => id.to_string(),
        // Only the same publish, sent again after a reconnection, is the same.
        None => format!("{id}#{:08x}", rand::random::<u32>()),
        // Another id, or the server would take it for the first one. The same for two operators at once.
        Some(group) => format!("{id}/{group}/{}", route.redrives),
    }
}

/// The headers of a message on its way to its groups, which the server knows by `nats_id`.
pub(crate) fn write(message: &Message, route: &Route, nats_id: String) -> HeaderMap {
    match &route.group {
        None => write_as(message, "", nats_id),
        Some(group) => {
            let words = format!(" group={group} redrives={}", route.redrives);
            write_as(message, &words, nats_id)
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
mod tests;

//! Parts that read what strangers send, each as a function of bytes that checks what must hold for all of them.
//!
//! The workspace's folder `fuzz` calls them for as long as somebody likes; a test here calls them with the same corpus and with seeded changes of it.

use std::net::IpAddr;

use gusset_ratelimit::{Network, PeerAddr};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

use crate::{
    client::{Origin, Proxies},
    headers::{
        has_member, is_disguised, is_forwarding, is_hop_by_hop, is_ours, join_cookies,
        remove_hop_by_hop,
    },
    host::host_of,
    path::normalise,
    routes::{Asked, Entry, Lookup, Methods, Pattern, Table},
};

#[cfg(feature = "grpc-json")]
pub use crate::compose::fuzz::{descriptors, document, frames, transcoded};
#[cfg(feature = "redis")]
pub use crate::idempotency::fuzz::stored;
#[cfg(feature = "jwt")]
pub use crate::identity::fuzz::keys;
pub use crate::{server::fuzz::request, transport::fuzz::answer};

/// A target of a request, and a `Host` in the line behind it: what is forwarded has one spelling, and stays below the root.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (target, host) = text.split_once('\n').unwrap_or((text, "a"));
    let Ok(uri) = target.parse::<Uri>() else { return };
    let mut headers = HeaderMap::new();
    if let Ok(host) = HeaderValue::from_str(host) {
        headers.insert(header::HOST, host);
    }
    if let Some(host) = host_of(&uri, &headers) {
        assert!(!host.contains(['@', '/', ' ', ',']) && !host.is_empty(), "{host:?}");
    }
    let Ok(path) = normalise(uri.path()) else { return };
    assert!(path.starts_with('/') && !path.contains("//"), "{path:?}");
    assert!(path.split('/').all(|part| part != "." && part != ".."), "{path:?}");
    assert!(!path.contains(['\\', '\0', '\r', '\n']), "{path:?}");
    let encoded = path.to_ascii_uppercase();
    assert!(["%2F", "%5C", "%00", "%2E"].iter().all(|odd| !encoded.contains(odd)), "{path:?}");
    assert_eq!(normalise(&path).as_deref(), Ok(&*path), "one spelling");
}

/// Templates, a line each, and a path in the last line: the table finds a route if one of them fits, whatever the order in which they were added, and one that
/// fits.
pub fn route(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((templates, path)) = text.rsplit_once('\n') else { return };
    let Ok(path) = normalise(path) else { return };
    let templates = templates.lines().filter(|template| template.starts_with('/')).take(20);
    let parsed = templates.filter_map(|template| Pattern::parse(template).ok());
    let (mut patterns, mut table) = (Vec::new(), Table::default());
    for pattern in parsed {
        if table.insert(None, &pattern, entry(patterns.len())).is_ok() {
            patterns.push(pattern);
        }
    }
    let asked = Asked { host: "a", path: &path, method: &Method::GET, query: None, headers: None };
    let found = table.find(&asked);
    let mut reversed = Table::default();
    for (number, pattern) in patterns.iter().enumerate().rev() {
        let added = reversed.insert(None, pattern, entry(number));
        assert!(added.is_ok(), "no order makes two routes collide: {text:?}");
    }
    assert_eq!(reversed.find(&asked), found, "{text:?}");
    match found {
        Lookup::Found(number, captures) => {
            assert_eq!(patterns[number].captures(&path), Some(captures), "{text:?}");
        }
        Lookup::Unknown => {
            let fitting = patterns.iter().find(|pattern| pattern.captures(&path).is_some());
            assert!(fitting.is_none(), "{text:?}: {fitting:?}");
        }
        Lookup::WrongMethod(allowed) => unreachable!("{allowed:?}, and each takes all methods"),
    }
}

fn entry(number: usize) -> Entry {
    Entry { methods: Methods::Any, conditions: Vec::new(), rank: 0, number }
}

/// Fields, a line each: nothing of the connection goes on, and it takes nothing away that others decide by.
pub fn headers(data: &[u8]) {
    let before = fields(data);
    let mut after = before.clone();
    remove_hop_by_hop(&mut after);
    join_cookies(&mut after);
    for (name, value) in &after {
        assert!(!is_hop_by_hop(name), "{name} is left of {before:?}");
        assert!(*name != header::TE || value == "trailers", "{before:?}");
        let named = |line: &HeaderValue| has_member(line, name.as_str().as_bytes());
        let is_named = before.get_all(header::CONNECTION).iter().any(named);
        let stays = is_forwarding(name) || is_ours(name) || is_protected(name);
        assert!(!is_named || stays, "{name} was named in {before:?}");
    }
    for name in before.keys().filter(|name| is_ours(name) || is_forwarding(name)) {
        assert!(after.contains_key(name), "{name} was taken from {before:?}");
    }
    assert!(after.get_all(header::COOKIE).iter().count() <= 1, "{before:?}");
    for name in before.keys().filter(|name| is_disguised(name)) {
        assert!(name.as_str().contains('_'), "{name} is no disguise");
    }
}

fn is_protected(name: &HeaderName) -> bool {
    let few = [
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::HOST,
        header::TE,
        header::VIA,
    ];
    few.contains(name)
}

/// Fields, a line each: the client is the peer, or what a trusted peer says; and what is said of it further in ends with the peer.
pub fn forwarded(data: &[u8]) {
    let headers = fields(data);
    let host = HeaderValue::from_static("shop");
    for (peer, is_trusted) in
        [("203.0.113.9", false), ("10.0.0.7", true), ("::ffff:10.0.0.7", true)]
    {
        let Ok(peer) = peer.parse::<IpAddr>() else { continue };
        let mut extensions = Extensions::new();
        extensions.insert(PeerAddr((peer, 1).into()));
        let Ok(network) = "10.0.0.0/8".parse::<Network>() else { continue };
        let origin = Origin::of(&headers, &extensions, &Proxies::new(vec![network]));
        let peer = peer.to_canonical();
        assert_eq!((origin.peer, origin.trusted), (Some(peer), is_trusted), "{headers:?}");
        if !is_trusted {
            assert_eq!(origin.client, Some(peer), "{headers:?}");
        }
        let mut told = headers.clone();
        origin.describe(&mut told, &host);
        let ways: Vec<_> = told.get_all("x-forwarded-for").iter().collect();
        let way = ways.first().map(|way| way.as_bytes()).unwrap_or_default();
        assert!(ways.len() == 1 && way.ends_with(peer.to_string().as_bytes()), "{told:?}");
        assert!(!told.contains_key(header::FORWARDED), "{told:?}");
        assert!(told.contains_key("x-forwarded-host") && told.contains_key("x-forwarded-proto"));
    }
}

/// A token: nobody is let in by what was not signed, and no set of keys makes the reader stumble.
#[cfg(feature = "jwt")]
pub fn jwt(data: &[u8]) {
    use crate::{Authenticate, Authenticating, Jwt, JwtKey};

    let Ok(key) = JwtKey::secret("a secret that no fuzzer will ever find out") else { return };
    let tokens = Jwt::new([key]);
    let Ok(bearer) = HeaderValue::from_bytes(&[b"Bearer ", data].concat()) else { return };
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.headers.insert(header::AUTHORIZATION, bearer);
    match tokens.authenticate(&head) {
        Authenticating::Done(result) => assert!(result.is_err(), "{data:?} was let in"),
        Authenticating::Later(_) => {}
    }
}

/// A file: every mistake has its place, and what has none is built or refused with reasons.
#[cfg(feature = "config")]
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(errors) = crate::config::Config::parse("gateway.toml", text) {
        assert!(!errors.to_string().is_empty());
    }
}

/// The fields in lines of `name: value`, as many as a head may have.
pub(crate) fn fields(data: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(100) {
        let Some(at) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..at], line[at + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(name), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests;

//! What of a message's head belongs to one connection, and what goes on (RFC 9110, 7.6).

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields of one connection, whether `Connection` names them or not. `Transfer-Encoding` is among them: the body goes on by
/// its own framing. `Expect` goes on by what the transport knows of it.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

// No constants, which would be made and dropped wherever they are used.
pub(crate) static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    let standard = matches!(
        *name,
        header::CONNECTION
            | header::PROXY_AUTHENTICATE
            | header::PROXY_AUTHORIZATION
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::EXPECT
    );
    standard || *name == KEEP_ALIVE || *name == PROXY_CONNECTION
}

/// Which fields of a head speak of its connection or of where its body ends, noted while it is read: to look one up costs as much as to pass over several, and
/// most heads have few of these.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    pub(crate) length: bool,
    pub(crate) coding: bool,
    pub(crate) connection: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
}

impl Said {
    pub(crate) fn note(&mut self, name: &HeaderName) {
        match *name {
            header::CONTENT_LENGTH => self.length = true,
            header::TRANSFER_ENCODING => self.coding = true,
            header::CONNECTION => self.connection = true,
            header::UPGRADE => self.upgrade = true,
            _ => self.keep_alive |= *name == KEEP_ALIVE,
        }
    }
}

/// What `Connection` must not remove, though a client names it: the next server would decide without.
const NOT_FOR_THE_SENDER_TO_REMOVE: [HeaderName; 8] = [
    header::HOST,
    header::AUTHORIZATION,
    header::COOKIE,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::FORWARDED,
    header::VIA,
    header::CACHE_CONTROL,
];

/// Removes what belongs to the connection that the message came by. `Trailer` stays, for trailers go on, and so does the one
/// member of `TE` that speaks of them.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have one of them or none, which a look at the names tells more cheaply than a look-up of each.
    let (mut connection, mut te, mut others) = (false, false, false);
    for name in headers.keys() {
        match *name {
            header::CONNECTION => connection = true,
            header::TE => te = true,
            _ => others |= is_hop_by_hop(name),
        }
    }
    if connection {
        for name in named_by_connection(headers) {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    if te {
        let trailers = headers.get_all(header::TE).iter().any(|te| has_member(te, b"trailers"));
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
    if others {
        remove_where(headers, is_hop_by_hop);
    }
}

fn named_by_connection(headers: &HeaderMap) -> Vec<HeaderName> {
    let protected = |name: &HeaderName| {
        *name == header::TE
            || NOT_FOR_THE_SENDER_TO_REMOVE.contains(name)
            || is_forwarding(name)
            || is_ours(name)
    };
    let mut names = Vec::new();
    for value in headers.get_all(header::CONNECTION) {
        // Mostly this is all that it says.
        if value == "keep-alive" {
            continue;
        }
        for member in members(value) {
            // The usual members name no field that could be there.
            if member.eq_ignore_ascii_case(b"keep-alive") || member.eq_ignore_ascii_case(b"close") {
                continue;
            }
            names.extend(HeaderName::from_bytes(member).ok().filter(|name| !protected(name)));
        }
    }
    names
}

pub(crate) fn has_member(list: &HeaderValue, wanted: &[u8]) -> bool {
    members(list).any(|member| member.eq_ignore_ascii_case(wanted))
}

/// Whether a body has a transfer coding other than chunks. It would not go on, for the body goes on by framing of its own, and then
/// nobody could decode it.
pub(crate) fn has_coding(headers: &HeaderMap) -> bool {
    if !headers.keys().any(|name| *name == header::TRANSFER_ENCODING) {
        return false;
    }
    let mut lines = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = |line: &HeaderValue| line.as_bytes().eq_ignore_ascii_case(b"chunked");
    lines.next().is_some_and(|line| !chunked(line) || lines.next().is_some())
}

/// Whether a field may stand behind a body. Those that others decide by before it begins have no business there (RFC 9110, 6.5.1), nor have those that are
/// believed because they were looked at here.
pub(crate) fn may_trail(name: &HeaderName) -> bool {
    const NOT: [HeaderName; 14] = [
        header::CACHE_CONTROL,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::HOST,
        header::LOCATION,
        header::RANGE,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::VIA,
        header::AUTHORIZATION,
        header::CONTENT_LENGTH,
    ];
    let believed = is_forwarding(name) || is_ours(name) || is_disguised(name);
    !(believed || NOT.contains(name) || is_hop_by_hop(name))
}

/// Whether a field is, to a service that cannot tell `_` from `-`, one of those that say where a body ends or who sends it.
pub(crate) fn is_disguised(name: &HeaderName) -> bool {
    let one_of = |names: &[HeaderName]| names.iter().any(|expected| reads(name, expected.as_str()));
    name.as_str().as_bytes().contains(&b'_')
        && (one_of(&HOP_BY_HOP) || one_of(&NOT_FOR_THE_SENDER_TO_REMOVE))
}

/// The members of a comma-separated list, without their parameters.
fn members(list: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    list.as_bytes()
        .split(|byte| *byte == b',')
        .map(|member| member.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii())
        .filter(|member| !member.is_empty())
}

/// Whether a field tells of the way that a request came.
pub(crate) fn is_forwarding(name: &HeaderName) -> bool {
    // Most fields begin in another way, and this is asked of every one.
    if !matches!(name.as_str().as_bytes().first(), Some(b'f' | b'x')) {
        return false;
    }
    reads(name, "forwarded") || reads(name, "x-real-ip") || begins(name, "x-forwarded-")
}

/// Whether services believe a field because only the family sets it.
pub(crate) fn is_ours(name: &HeaderName) -> bool {
    begins(name, "x-gusset-")
}

/// Whether a field is `expected` to a service that cannot tell `_` from `-`, as behind CGI and WSGI.
pub(crate) fn reads(name: &HeaderName, expected: &str) -> bool {
    name.as_str().len() == expected.len() && begins(name, expected)
}

pub(crate) fn begins(name: &HeaderName, prefix: &str) -> bool {
    let dashed = name.as_str().bytes().map(|byte| if byte == b'_' { b'-' } else { byte });
    name.as_str().len() >= prefix.len() && dashed.zip(prefix.bytes()).all(|(a, b)| a == b)
}

/// Removes the fields that `is_meant` says. Costs no allocation where there is none, which is the usual case.
pub(crate) fn remove_where(headers: &mut HeaderMap, is_meant: impl Fn(&HeaderName) -> bool) {
    while let Some(name) = headers.keys().find(|name| is_meant(name)).cloned() {
        headers.remove(name);
    }
}

/// Makes one field of the crumbs that cookies may come in by HTTP/2; HTTP/1.1 has only one (RFC 9113, 8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    if headers.iter().filter(|(name, _)| **name == header::COOKIE).nth(1).is_none() {
        return;
    }
    let crumbs = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    let joined = crumbs.collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Adds a line to `Via`, by the version that the message came with (RFC 9110, 7.6.3).
pub(crate) fn add_via(headers: &mut HeaderMap, version: http::Version) {
    let line = match version {
        http::Version::HTTP_10 => "1.0 gusset",
        http::Version::HTTP_2 => "2 gusset",
        _ => "1.1 gusset",
    };
    headers.append(header::VIA, HeaderValue::from_static(line));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let parse =
            |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut headers = HeaderMap::new();
        for (name, value) in lines.iter().map(parse) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn what_belongs_to_the_connection_does_not_go_on() {
        let mut head = headers(&[
            ("connection", "close, X-Secret ,,x-other;q=1"),
            ("connection", "x-third"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic x"),
            ("proxy-authenticate", "Basic"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("expect", "100-continue"),
            ("te", "gzip, trailers;q=0.5"),
            ("x-secret", "1"),
            ("x-other", "1"),
            ("x-third", "1"),
            ("x-end-to-end", "1"),
            ("trailer", "x-checksum"),
        ]);
        remove_hop_by_hop(&mut head);
        assert_eq!(
            head,
            headers(&[("x-end-to-end", "1"), ("trailer", "x-checksum"), ("te", "trailers")])
        );
    }

    #[test]
    fn the_quick_look_knows_all_fields_of_a_connection() {
        assert!(HOP_BY_HOP.iter().all(is_hop_by_hop));
        let others = [header::TE, header::TRAILER, header::HOST, header::VIA, header::COOKIE];
        assert!(!others.iter().any(is_hop_by_hop));
    }

    #[test]
    fn te_without_trailers_goes() {
        let mut head = headers(&[("te", "gzip"), ("connection", "te")]);
        remove_hop_by_hop(&mut head);
        assert!(head.is_empty(), "{head:?}");
    }

    #[test]
    fn connection_cannot_remove_what_others_decide_by() {
        let lines = [
            ("host", "shop"),
            ("authorization", "Bearer x"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-gusset-subject", "alice"),
            ("content-length", "3"),
        ];
        let mut head = headers(&lines);
        for (name, _) in lines {
            head.append(header::CONNECTION, HeaderValue::from_static(name));
        }
        remove_hop_by_hop(&mut head);
        assert_eq!(head, headers(&lines));
    }

    #[test]
    fn fields_are_removed_by_kind() {
        let mut head = headers(&[
            ("x-forwarded-for", "1"),
            ("x-forwarded-for", "2"),
            ("x-forwarded-port", "3"),
            ("forwarded", "for=1"),
            ("x-real-ip", "1"),
            ("x-gusset-subject", "root"),
            ("x_gusset-subject", "root"),
            ("x_forwarded_for", "1"),
            ("x-forwarder", "kept"),
            ("x-forward", "kept"),
        ]);
        remove_where(&mut head, is_forwarding);
        assert_eq!(head.len(), 4);
        remove_where(&mut head, is_ours);
        assert_eq!(head, headers(&[("x-forwarder", "kept"), ("x-forward", "kept")]));
    }
}

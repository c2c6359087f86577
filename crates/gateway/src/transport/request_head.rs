//! The head of a request in bytes (RFC 9112, 3 and 6).

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, Method, header, request::Parts, uri::PathAndQuery};
use http_body::Body;

use super::Wanted;

/// How the other side is told where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Empty,
    Length(u64),
    Chunked,
    /// By the end of the connection, which only answers may.
    UntilClose,
}

/// A request whose body is held back until its instance wants it, as its client does (RFC 9110, 10.1.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expects;

impl Framing {
    pub(crate) fn of(body: &impl Body) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        body.size_hint().exact().map_or(Self::Chunked, Self::Length)
    }
}

/// Appends the head of a request to `authority`. What belongs to the connection is written here, whatever `head` says of it.
pub(super) fn write(out: &mut BytesMut, head: &Parts, authority: &str, framing: Framing) {
    let lines = head.headers.len() + 4;
    out.reserve(64 * lines);
    let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    for piece in [head.method.as_str(), " ", target, " HTTP/1.1\r\nhost: "] {
        out.put_slice(piece.as_bytes());
    }
    match head.headers.get(header::HOST) {
        Some(host) => out.put_slice(host.as_bytes()),
        None => out.put_slice(authority.as_bytes()),
    }
    out.put_slice(b"\r\n");
    for (name, value) in head.headers.iter().filter(|(name, _)| !is_of_connection(name)) {
        put_field(out, name, value);
    }
    match framing {
        Framing::Length(length) => put_length(out, length),
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        // RFC 9110, 8.6: where a method gives a body a meaning, an empty one is told.
        Framing::Empty if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => {
            put_length(out, 0);
        }
        Framing::Empty | Framing::UntilClose => {}
    }
    if framing != Framing::Empty && head.extensions.get::<Expects>().is_some() {
        out.put_slice(b"expect: 100-continue\r\n");
    }
    if let Some(wanted) = head.extensions.get::<Wanted>() {
        out.put_slice(b"connection: upgrade\r\nupgrade: ");
        out.put_slice(wanted.protocol().as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"\r\n");
}

/// Appends lines of fields, as of trailers.
pub(super) fn write_fields(out: &mut BytesMut, fields: &http::HeaderMap) {
    for (name, value) in fields {
        put_field(out, name, value);
    }
}

pub(crate) fn put_field(out: &mut BytesMut, name: &HeaderName, value: &HeaderValue) {
    for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        out.put_slice(piece);
    }
}

pub(crate) fn put_length(out: &mut BytesMut, length: u64) {
    out.put_slice(b"content-length: ");
    out.put_slice(itoa(length, &mut [0; 20]));
    out.put_slice(b"\r\n");
}

/// `number` in decimal, at the end of `room`.
fn itoa(mut number: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        #[allow(clippy::cast_possible_truncation, reason = "a digit")]
        let digit = (number % 10) as u8;
        room[at] = b'0' + digit;
        number /= 10;
        if number == 0 {
            return &room[at..];
        }
    }
}

fn is_of_connection(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::HOST
            | header::CONTENT_LENGTH
            | header::TRANSFER_ENCODING
            | header::CONNECTION
            | header::UPGRADE
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn written(request: http::request::Builder, framing: Framing) -> String {
        let (head, ()) = request.body(()).unwrap().into_parts();
        let mut out = BytesMut::new();
        write(&mut out, &head, "10.0.0.1:80", framing);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_head_has_one_host_its_fields_and_one_framing() {
        let request = Request::get("http://elsewhere/a?b=c")
            .header("x-a", "1")
            .header("connection", "close")
            .header("content-length", "7")
            .header("transfer-encoding", "gzip");
        let head = written(request, Framing::Chunked);
        assert_eq!(
            head,
            "GET /a?b=c HTTP/1.1\r\nhost: 10.0.0.1:80\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n\r\n"
        );
    }

    #[test]
    fn a_host_that_is_to_be_kept_stands_in_place_of_the_authority() {
        let head = written(Request::get("/").header("host", "shop.example"), Framing::Empty);
        assert_eq!(head, "GET / HTTP/1.1\r\nhost: shop.example\r\n\r\n");
    }

    #[test]
    fn a_length_is_written_in_full_and_an_empty_body_told_where_one_is_expected() {
        for (method, framing, expected) in [
            ("POST", Framing::Empty, Some("content-length: 0\r\n")),
            ("DELETE", Framing::Empty, None),
            ("PUT", Framing::Length(u64::MAX), Some("content-length: 18446744073709551615\r\n")),
            ("PUT", Framing::Length(10), Some("content-length: 10\r\n")),
        ] {
            let head = written(Request::builder().method(method).uri("/"), framing);
            let line = head.lines().find(|line| line.starts_with("content-length"));
            assert_eq!(line.map(|line| format!("{line}\r\n")).as_deref(), expected, "{method}");
        }
    }
}

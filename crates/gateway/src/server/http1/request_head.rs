//! The head of a request (RFC 9112, 3 to 6), more strictly than RFC 9112 asks for: what others may read in another way is refused.

use std::{mem::MaybeUninit, ops::Range};

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, request::Parts,
};

use super::refusal::Refusal;
use crate::{
    headers::Said,
    spare,
    transport::{Decoder, decimal, is_kept},
};

/// Bytes of a head that are read at most.
pub(super) const MAX_BYTES: usize = 32 * 1024;

/// Bytes of a target at most, which RFC 9110 (4.1) recommends to be 8,000 or more.
const MAX_TARGET: usize = 16 * 1024;

/// Fields in a head at most.
const MAX_FIELDS: usize = 100;

#[derive(Debug)]
pub(super) struct RequestHead {
    pub(super) parts: Parts,
    pub(super) body: Decoder,
    /// Whether the client wants to use the connection again.
    pub(super) keep: bool,
    /// The client waits with the body until it is told to go on.
    pub(super) expects: bool,
    /// The client would like to go on with another protocol.
    pub(super) upgrade: bool,
    /// As it came.
    pub(super) bytes: Bytes,
}

/// Takes a head from the front of `read`, if it is there as a whole.
pub(super) fn take(read: &mut BytesMut) -> Result<Option<RequestHead>, Refusal> {
    // RFC 9112, 2.2: an empty line before a request is passed over.
    while read.starts_with(b"\r\n") {
        read.advance(2);
    }
    match read.first() {
        None => return Ok(None),
        Some(b'\n') => return Err(Refusal::Malformed("a line does not end with CR LF")),
        Some(_) => {}
    }
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(read, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_BYTES => length,
        Ok(httparse::Status::Partial) if read.len() < MAX_BYTES => return Ok(None),
        Ok(_) if request.path.is_none_or(|target| target.len() > MAX_TARGET) => {
            return Err(Refusal::TargetTooLong);
        }
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(Refusal::HeadTooLarge),
        Err(httparse::Error::Version) if names_other_version(read) => {
            return Err(Refusal::Version);
        }
        Err(_) => return Err(Refusal::Malformed("the head of the request is malformed")),
    };
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(Refusal::Malformed("the request line is malformed"));
    };
    if target.len() > MAX_TARGET {
        return Err(Refusal::TargetTooLong);
    }
    let version = if request.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let method = Method::from_bytes(method.as_bytes())
        .map_err(|_| Refusal::Malformed("the method is malformed"))?;
    let start = read.as_ptr() as usize;
    let target = within(start, target.as_bytes());
    let mut places: [(Range<u16>, Range<u16>); MAX_FIELDS] = [const { (0..0, 0..0) }; MAX_FIELDS];
    let count = request.headers.len();
    for (place, field) in places.iter_mut().zip(request.headers.iter()) {
        *place = (within(start, field.name.as_bytes()), within(start, field.value));
    }
    let places = &places[..count];
    let bytes = read.split_to(length).freeze();
    lines_end_well(&bytes, &target, places)?;
    let uri = uri(&method, part(&bytes, &target))?;
    let (headers, said) = headers(&bytes, places)?;
    let body = body_of(version, &headers, said)?;
    let keep = is_kept(version, &headers, said) && method != Method::CONNECT;
    let expects = version == Version::HTTP_11
        && !body.is_over()
        && headers
            .get(header::EXPECT)
            .is_some_and(|expected| expected.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    let upgrade = version == Version::HTTP_11 && said.upgrade;
    let (mut parts, ()) = Request::new(()).into_parts();
    (parts.method, parts.uri, parts.version, parts.headers) = (method, uri, version, headers);
    Ok(Some(RequestHead { parts, body, keep, expects, upgrade, bytes }))
}

/// Whether a first line ends with a version that there may be, but is not spoken here.
fn names_other_version(read: &[u8]) -> bool {
    let line = read.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let word = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
    let is_known = word == b"HTTP/1.0" || word == b"HTTP/1.1";
    let digits = word.strip_prefix(b"HTTP/");
    !is_known && matches!(digits, Some([a, b'.', b]) if a.is_ascii_digit() && b.is_ascii_digit())
}

#[allow(clippy::cast_possible_truncation, reason = "a head has at most 32 KiB")]
fn within(start: usize, part: &[u8]) -> Range<u16> {
    let from = (part.as_ptr() as usize).wrapping_sub(start);
    from as u16..(from + part.len()) as u16
}

fn part(bytes: &Bytes, range: &Range<u16>) -> Bytes {
    bytes.slice(range.start as usize..range.end as usize)
}

/// Whether no line ends with a mere LF, which some take for the end of a line and others do not.
fn lines_end_well(
    bytes: &[u8],
    target: &Range<u16>,
    places: &[(Range<u16>, Range<u16>)],
) -> Result<(), Refusal> {
    const VERSION: usize = " HTTP/1.1".len();
    let first = target.end as usize + VERSION;
    // A name is followed by its colon at least, so a value that is empty ends there or later.
    let ends = places.iter().map(|(name, value)| {
        if value.is_empty() { name.end as usize + 1 } else { value.end as usize }
    });
    let ends_well = |end: usize| {
        let rest = bytes.get(end..).unwrap_or_default();
        let blank = rest.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        rest[blank..].starts_with(b"\r\n")
    };
    let well = bytes.ends_with(b"\r\n\r\n") && std::iter::once(first).chain(ends).all(ends_well);
    if well { Ok(()) } else { Err(Refusal::Malformed("a line does not end with CR LF")) }
}

/// The target in one of the four forms of RFC 9112 (3.2).
fn uri(method: &Method, target: Bytes) -> Result<Uri, Refusal> {
    let fits = match (method, &target[..]) {
        (&Method::CONNECT, target) => !target.contains(&b'/'),
        (&Method::OPTIONS, b"*") | (_, [b'/', ..]) => true,
        (_, target) => {
            let scheme = target.iter().position(|byte| *byte == b':').map(|end| &target[..end]);
            scheme.is_some_and(|scheme| {
                scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https")
            })
        }
    };
    // A fragment is for the client alone, and `Uri` would take it away without a word.
    if !fits || target.contains(&b'#') {
        return Err(Refusal::Malformed("the target of the request is malformed"));
    }
    Uri::from_maybe_shared(target)
        .map_err(|_| Refusal::Malformed("the target of the request is malformed"))
}

/// Values are parts of what was read, and need no memory of their own.
fn headers(
    bytes: &Bytes,
    places: &[(Range<u16>, Range<u16>)],
) -> Result<(HeaderMap, Said), Refusal> {
    let mut said = Said::default();
    // With room for what a gateway says of a client: to grow would be to allocate and hash once more.
    let mut headers = spare::headers(places.len() + 8);
    for (name, value) in places {
        let name = HeaderName::from_bytes(&bytes[name.start as usize..name.end as usize]);
        let value = HeaderValue::from_maybe_shared(part(bytes, value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Refusal::Malformed("a field of the head is malformed"));
        };
        said.note(&name);
        headers.append(name, value);
    }
    Ok((headers, said))
}

/// Where the body ends (RFC 9112, 6.3). Whoever says it in two ways, or in a way that few know, wants two readers to disagree.
fn body_of(version: Version, headers: &HeaderMap, said: Said) -> Result<Decoder, Refusal> {
    // Most requests have none.
    if !said.length && !said.coding {
        return Ok(Decoder::of_length(0));
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(Decoder::of_length(0)),
        (Some(length), None) => {
            let length = decimal(length.as_bytes()).filter(|_| lengths.next().is_none());
            length
                .map(Decoder::of_length)
                .ok_or(Refusal::Malformed("the Content-Length is no number"))
        }
        (Some(_), Some(_)) => {
            Err(Refusal::Malformed("there are a Content-Length and a Transfer-Encoding"))
        }
        (None, Some(_)) if version == Version::HTTP_10 => {
            Err(Refusal::Malformed("HTTP/1.0 has no Transfer-Encoding"))
        }
        (None, Some(coding)) => {
            if codings.next().is_none() && coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                Ok(Decoder::chunked())
            } else {
                Err(Refusal::Coding)
            }
        }
    }
}

#[cfg(test)]
mod tests;

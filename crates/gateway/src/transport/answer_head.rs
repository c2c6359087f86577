//! The head of an answer (RFC 9112, 4 to 6).

use std::{mem::MaybeUninit, ops::Range, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header};

use super::{TransportError, decoder::Decoder};
use crate::{
    headers::{KEEP_ALIVE, Said},
    spare,
};

/// Bytes of a head that are read at most. Large cookies fit; what comes from a service is no attack, but may be a mistake.
const MAX_BYTES: usize = 64 * 1024;

/// Fields in a head at most.
const MAX_FIELDS: usize = 128;

pub(super) struct AnswerHead {
    pub(super) status: StatusCode,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) body: Decoder,
    /// Whether the connection may be used again, if the body tells its own end.
    pub(super) reuse: bool,
    /// How long the instance says that it keeps an idle connection.
    pub(super) keeps: Option<Duration>,
}

/// Takes a head from the front of `read`, if it is there as a whole. `bodyless` says that the request was one of HEAD.
pub(super) fn take(
    read: &mut BytesMut,
    bodyless: bool,
) -> Result<Option<AnswerHead>, TransportError> {
    if read.is_empty() {
        return Ok(None);
    }
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut answer = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut answer,
        read,
        &mut fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= MAX_BYTES => length,
        Ok(httparse::Status::Partial) if read.len() <= MAX_BYTES => return Ok(None),
        Ok(_) => return Err(TransportError::Malformed("its head is too long")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(TransportError::Malformed("its head has too many fields"));
        }
        Err(_) => return Err(TransportError::Malformed("its head")),
    };
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(TransportError::Malformed("its status"))?;
    let version = if answer.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let start = read.as_ptr() as usize;
    let mut places: [(Range<u16>, Range<u16>); MAX_FIELDS] = [const { (0..0, 0..0) }; MAX_FIELDS];
    let count = answer.headers.len();
    for (place, field) in places.iter_mut().zip(answer.headers.iter()) {
        *place = (within(start, field.name.as_bytes()), within(start, field.value));
    }
    // Values are parts of what was read, and need no memory of their own.
    let head = read.split_to(length).freeze();
    let (mut headers, said) = fields_at(&head, &places[..count])?;
    let body = body_of(status, version, &mut headers, said, bodyless)?;
    let reuse = is_kept(version, &headers, said);
    let keeps = if said.keep_alive { keeps(&headers) } else { None };
    Ok(Some(AnswerHead { status, version, keeps, headers, body, reuse }))
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a head has at most 64 KiB, and ends behind its fields"
)]
fn within(start: usize, part: &[u8]) -> Range<u16> {
    let from = (part.as_ptr() as usize).wrapping_sub(start);
    from as u16..(from + part.len()) as u16
}

fn fields_at(
    head: &Bytes,
    places: &[(Range<u16>, Range<u16>)],
) -> Result<(HeaderMap, Said), TransportError> {
    let mut said = Said::default();
    // With room for what is said of it on its way.
    let mut headers = spare::headers(places.len() + 4);
    let part = |range: &Range<u16>| head.slice(range.start as usize..range.end as usize);
    for (name, value) in places {
        let name = &head[name.start as usize..name.end as usize];
        let name = HeaderName::from_bytes(name);
        let value = HeaderValue::from_maybe_shared(part(value));
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(TransportError::Malformed("a field of its head"));
        };
        said.note(&name);
        headers.append(name, value);
    }
    Ok((headers, said))
}

/// Where the body ends (RFC 9112, 6.3). Answers that say it in two ways are refused, for the next reader may take the other one.
fn body_of(
    status: StatusCode,
    version: Version,
    headers: &mut HeaderMap,
    said: Said,
    bodyless: bool,
) -> Result<Decoder, TransportError> {
    let length = if said.length { length(headers)? } else { None };
    if bodyless || status.is_informational() || matches!(status.as_u16(), 204 | 304) {
        return Ok(Decoder::Over);
    }
    if !said.coding {
        return Ok(length.map_or(Decoder::UntilClose, Decoder::of_length));
    }
    if length.is_some() {
        return Err(TransportError::Malformed("it has a length and a transfer coding"));
    }
    if version == Version::HTTP_10 {
        return Err(TransportError::Malformed("HTTP/1.0 with a transfer coding"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !codings.next().is_some_and(chunked) || codings.next().is_some() {
        return Err(TransportError::Malformed("a transfer coding other than chunked"));
    }
    Ok(Decoder::chunked())
}

/// That of `Content-Length`, if it is there. Several alike become one (RFC 9110, 8.6).
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, TransportError> {
    let (mut length, mut times) = (None, 0);
    for value in headers.get_all(header::CONTENT_LENGTH) {
        for member in value.as_bytes().split(|byte| *byte == b',') {
            let member = decimal(member.trim_ascii());
            let member = member.ok_or(TransportError::Malformed("its length is no number"))?;
            if length.replace(member).is_some_and(|other| other != member) {
                return Err(TransportError::Malformed("it has several lengths"));
            }
            times += 1;
        }
    }
    if let (Some(length), 2..) = (length, times) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(length)
}

/// Digits and nothing else: no sign, no space.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0, |number: u64, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// RFC 9112, 9.3.
pub(crate) fn is_kept(version: Version, headers: &HeaderMap, said: Said) -> bool {
    if !said.connection {
        return version == Version::HTTP_11;
    }
    let (mut close, mut keep) = (false, false);
    for line in headers.get_all(header::CONNECTION) {
        // Mostly it is the only member.
        if line.as_bytes() == b"keep-alive" {
            keep = true;
            continue;
        }
        for member in line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            close |= member.eq_ignore_ascii_case(b"close");
            keep |= member.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    !close && (version == Version::HTTP_11 || keep)
}

/// `Keep-Alive: timeout=5`, as Node.js and Apache send it.
fn keeps(headers: &HeaderMap) -> Option<Duration> {
    let line = headers.get(&KEEP_ALIVE)?.as_bytes();
    let mut members = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let seconds = members.find_map(|member| decimal(member.strip_prefix(b"timeout=")?))?;
    Some(Duration::from_secs(seconds.min(3600)))
}

#[cfg(test)]
mod tests;

//! The body of an answer out of what is read (RFC 9112, 6 and 7).

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::SizeHint;

use super::TransportError;
use crate::headers::may_trail;

/// Bytes of a line with the size of a chunk, extensions with it.
const MAX_SIZE_LINE: usize = 1024;

/// Bytes and fields of trailers at most.
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 64;

/// Where in the body the reader is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunked),
    /// All that comes until the connection ends.
    UntilClose,
    Over,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chunked {
    /// A line with the size of the next chunk.
    Size,
    /// So many bytes of a chunk are still to come, and then the end of its line.
    Data(u64),
    DataEnd,
    Trailers,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    Data(Bytes),
    Trailers(HeaderMap),
    /// There is nothing to tell before more is read.
    Nothing,
    /// The body is over.
    Over,
}

impl Decoder {
    pub(crate) const fn of_length(length: u64) -> Self {
        if length == 0 { Self::Over } else { Self::Length(length) }
    }

    pub(crate) const fn chunked() -> Self {
        Self::Chunked(Chunked::Size)
    }

    /// Whether nothing more comes. Of a chunked body this is known after its last line only.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Whether the end of the connection is a regular end of the body.
    pub(crate) const fn may_end(&self) -> bool {
        matches!(self, Self::UntilClose | Self::Over)
    }

    /// How much is still to come.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Length(left) => SizeHint::with_exact(*left),
            Self::Over => SizeHint::with_exact(0),
            Self::Chunked(_) | Self::UntilClose => SizeHint::new(),
        }
    }

    /// Takes what comes next from the front of `read`.
    pub(crate) fn decode(&mut self, read: &mut BytesMut) -> Result<Decoded, TransportError> {
        loop {
            match self {
                Self::Over => return Ok(Decoded::Over),
                _ if read.is_empty() => return Ok(Decoded::Nothing),
                Self::UntilClose => return Ok(Decoded::Data(read.split().freeze())),
                Self::Length(left) => {
                    let data = take(read, left);
                    if *left == 0 {
                        *self = Self::Over;
                    }
                    return Ok(Decoded::Data(data));
                }
                Self::Chunked(chunked) => match chunked.decode(read)? {
                    Step::On => {}
                    Step::Tell(told) => return Ok(told),
                    Step::End(trailers) => {
                        *self = Self::Over;
                        return Ok(trailers.map_or(Decoded::Over, Decoded::Trailers));
                    }
                },
            }
        }
    }
}

enum Step {
    On,
    Tell(Decoded),
    End(Option<HeaderMap>),
}

impl Chunked {
    fn decode(&mut self, read: &mut BytesMut) -> Result<Step, TransportError> {
        match self {
            Self::Size => {
                let Some(end) = read.iter().take(MAX_SIZE_LINE).position(|byte| *byte == b'\n')
                else {
                    return nothing_or(read.len() >= MAX_SIZE_LINE, "a chunk's size is too long");
                };
                let size = read[..end].strip_suffix(b"\r").and_then(size);
                let size = size.ok_or(TransportError::Malformed("a chunk's size"))?;
                read.advance(end + 1);
                *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                Ok(Step::On)
            }
            Self::Data(left) => {
                let data = take(read, left);
                if *left == 0 {
                    *self = Self::DataEnd;
                }
                Ok(Step::Tell(Decoded::Data(data)))
            }
            Self::DataEnd if read.len() < 2 => nothing_or(read[0] != b'\r', "a chunk's end"),
            Self::DataEnd => {
                if !read.starts_with(b"\r\n") {
                    return Err(TransportError::Malformed("a chunk's end"));
                }
                read.advance(2);
                *self = Self::Size;
                Ok(Step::On)
            }
            Self::Trailers => trailers(read),
        }
    }
}

fn nothing_or(broken: bool, reason: &'static str) -> Result<Step, TransportError> {
    if broken { Err(TransportError::Malformed(reason)) } else { Ok(Step::Tell(Decoded::Nothing)) }
}

/// What is there of the `left` bytes that are still to come.
fn take(read: &mut BytesMut, left: &mut u64) -> Bytes {
    let there = usize::try_from(*left).map_or(read.len(), |left| left.min(read.len()));
    *left -= there as u64;
    read.split_to(there).freeze()
}

/// The size in a line, of which extensions are not looked at.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at_checked(digits)?;
    let plain = rest.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    let ends = matches!(rest.trim_ascii_start().first(), None | Some(b';'));
    // Sixteen digits are the most that fit; a seventeenth would be a zero in front, or a lie.
    (plain && ends && (1..=16).contains(&digits))
        .then(|| u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok())?
}

fn trailers(read: &mut BytesMut) -> Result<Step, TransportError> {
    const MALFORMED: TransportError = TransportError::Malformed("its trailers");
    // The usual case: there are none.
    if read.starts_with(b"\r\n") {
        read.advance(2);
        return Ok(Step::End(None));
    }
    let mut fields = [const { httparse::EMPTY_HEADER }; MAX_TRAILER_FIELDS];
    let (length, trailers) = match httparse::parse_headers(read, &mut fields) {
        Ok(httparse::Status::Partial) => {
            return nothing_or(read.len() > MAX_TRAILERS, "its trailers are too long");
        }
        Ok(httparse::Status::Complete((length, fields))) => {
            let mut trailers = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| MALFORMED)?;
                let value = HeaderValue::from_bytes(field.value).map_err(|_| MALFORMED)?;
                if may_trail(&name) {
                    trailers.append(name, value);
                }
            }
            (length, trailers)
        }
        Err(_) => return Err(MALFORMED),
    };
    read.advance(length);
    Ok(Step::End((!trailers.is_empty()).then_some(trailers)))
}

#[cfg(test)]
mod tests;

//! The head of an answer in bytes (RFC 9112, 4 and 6).

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, Method, StatusCode, Version, header, response::Parts};
use http_body::Body;

use super::date;
use crate::{
    headers::has_member,
    transport::{Framing, decimal, put_field, put_length},
};

/// What a request says about its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) bodyless: bool,
    pub(super) version: Version,
}

impl Asked {
    pub(super) fn by(method: &Method, version: Version) -> Self {
        Self { bodyless: method == Method::HEAD, version }
    }

    /// How the client is told where the body of its answer ends, which is all that the body itself has no say in.
    fn framing(&self, head: &Parts, body: &impl Body) -> Framing {
        if self.bodyless || is_bodyless(head.status) {
            return Framing::Empty;
        }
        let framing = Framing::of(body);
        if framing != Framing::Chunked {
            return framing;
        }
        match told_length(&head.headers) {
            Some(length) => Framing::Length(length),
            None if self.version == Version::HTTP_10 => Framing::UntilClose,
            None => Framing::Chunked,
        }
    }

    /// Appends the head of an answer with this body. Without `keep`, the client is told that the connection ends with it, as it does if the
    /// end of the body cannot be told in another way.
    pub(super) fn write(
        &self,
        out: &mut BytesMut,
        head: &Parts,
        body: &impl Body,
        keep: bool,
    ) -> (Framing, bool) {
        let framing = self.framing(head, body);
        let mut keep = keep && framing != Framing::UntilClose;
        out.reserve(64 * (head.headers.len() + 5));
        // What comes before an answer cannot be one.
        let status = match head.status.is_informational() {
            true => StatusCode::INTERNAL_SERVER_ERROR,
            false => head.status,
        };
        out.put_slice(b"HTTP/1.1 ");
        out.put_slice(status.as_str().as_bytes());
        out.put_slice(b" ");
        out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        out.put_slice(b"\r\n");
        let mut dated = false;
        for (name, value) in &head.headers {
            match *name {
                header::CONTENT_LENGTH | header::TRANSFER_ENCODING => continue,
                header::CONNECTION => {
                    keep &= !has_member(value, b"close");
                    continue;
                }
                header::DATE => dated = true,
                _ => {}
            }
            put_field(out, name, value);
        }
        match framing {
            Framing::Length(length) => put_length(out, length),
            Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
            Framing::UntilClose => {}
            // RFC 9110, 8.6: these tell the length that there would be.
            Framing::Empty if self.bodyless || head.status == StatusCode::NOT_MODIFIED => {
                if let Some(length) = told_length(&head.headers)
                    .or(body.size_hint().exact().filter(|length| *length > 0))
                {
                    put_length(out, length);
                }
            }
            Framing::Empty if is_bodyless(head.status) => {}
            Framing::Empty => put_length(out, 0),
        }
        if !dated {
            out.put_slice(b"date: ");
            date::put(out);
            out.put_slice(b"\r\n");
        }
        match (keep, self.version) {
            (false, _) => out.put_slice(b"connection: close\r\n"),
            (true, Version::HTTP_10) => out.put_slice(b"connection: keep-alive\r\n"),
            (true, _) => {}
        }
        out.put_slice(b"\r\n");
        (framing, keep)
    }
}

fn is_bodyless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn told_length(headers: &HeaderMap) -> Option<u64> {
    decimal(headers.get(header::CONTENT_LENGTH)?.as_bytes())
}

#[cfg(test)]
mod tests;

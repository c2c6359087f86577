//! Clients that speak gRPC-Web, before services that speak gRPC alone (gRPC's `PROTOCOL-WEB.md`).

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use gusset_call::BoxError;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header, request::Parts};
use http_body::{Body, Frame};
use pin_project_lite::pin_project;

use crate::{body::RequestBody, cors::Grant};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What pages have to see of an answer whose status is in its head.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");

/// What the client of one request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GrpcWeb {
    sends: Form,
    wants: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Binary,
    /// In base64, for browsers that cannot read a stream of bytes before its end.
    Text,
}

impl Form {
    fn of(kind: &HeaderValue) -> Option<Self> {
        let rest = kind.as_bytes().strip_prefix(b"application/grpc-web")?;
        match rest.strip_prefix(b"-text") {
            Some(rest) => is_whole(rest).then_some(Self::Text),
            None => is_whole(rest).then_some(Self::Binary),
        }
    }

    const fn kind(self) -> &'static str {
        match self {
            Self::Binary => "application/grpc-web",
            Self::Text => "application/grpc-web-text",
        }
    }

    fn write(self, bytes: Bytes) -> Bytes {
        match self {
            Self::Binary => bytes,
            // Each piece is whole: clients know that a stream may be of several.
            Self::Text => STANDARD.encode(bytes).into(),
        }
    }
}

/// Whether the name of a media type ends before `rest`.
fn is_whole(rest: &[u8]) -> bool {
    matches!(rest.first(), None | Some(b'+' | b';' | b',' | b' '))
}

/// What stands behind the name of a media type: the codec of its messages.
fn codec<'k>(kind: &'k HeaderValue, name: &str) -> Option<&'k str> {
    let rest = kind.to_str().ok()?.strip_prefix(name)?;
    let rest = rest.split([';', ',']).next().unwrap_or_default().trim_end();
    (rest.is_empty() || rest.starts_with('+')).then_some(rest)
}

impl GrpcWeb {
    /// `None` where it is something else.
    pub(crate) fn of(head: &Parts) -> Option<Self> {
        let kind = head.headers.get(header::CONTENT_TYPE).filter(|_| head.method == Method::POST);
        let sends = Form::of(kind?)?;
        let wants = head.headers.get(header::ACCEPT).and_then(Form::of).unwrap_or(sends);
        Some(Self { sends, wants })
    }

    /// Makes of a request what a service takes that speaks gRPC.
    pub(crate) fn request(self, head: &mut Parts, body: RequestBody) -> RequestBody {
        let headers = &mut head.headers;
        let kind = headers.get(header::CONTENT_TYPE);
        let codec = kind.and_then(|kind| codec(kind, self.sends.kind())).unwrap_or_default();
        if let Ok(kind) = HeaderValue::try_from(format!("application/grpc{codec}")) {
            headers.insert(header::CONTENT_TYPE, kind);
        }
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.remove(header::ACCEPT);
        headers.remove("x-grpc-web");
        if self.sends == Form::Binary {
            return body;
        }
        headers.remove(header::CONTENT_LENGTH);
        let limit = body.limit();
        RequestBody::new(Decoded { body, left: BytesMut::new(), over: false }, limit)
    }

    /// Makes of the answer of such a service what the client takes. What is no gRPC stays as it is.
    pub(crate) fn answer<B>(
        self,
        response: Response<B>,
    ) -> Result<Response<Translated<B>>, Response<B>> {
        let kind = response.headers().get(header::CONTENT_TYPE);
        let Some(codec) = kind.and_then(|kind| codec(kind, "application/grpc")) else {
            return Err(response);
        };
        let kind = HeaderValue::try_from(format!("{}{codec}", self.wants.kind()));
        let (mut head, body) = response.into_parts();
        if let Ok(kind) = kind {
            head.headers.insert(header::CONTENT_TYPE, kind);
        }
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.remove(header::TRAILER);
        let end = if head.headers.contains_key(STATUS) { End::Told } else { End::Awaited };
        Ok(Response::from_parts(head, Translated { body, form: self.wants, end }))
    }
}

/// Lets a page that may read an answer read its status where that stands in the head.
pub(crate) fn expose(grant: &Grant, headers: &mut HeaderMap) {
    if grant.is_given() {
        headers.append(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

pin_project! {
    /// The messages of an answer, with its trailers as the last of them.
    pub(crate) struct Translated<B> {
        #[pin]
        body: B,
        form: Form,
        end: End,
    }
}

/// Where the status of an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// In trailers that are to come.
    Awaited,
    /// In the head.
    Told,
    Over,
}

impl<B> Body for Translated<B>
where
    B: Body<Data = Bytes, Error = BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        while *this.end != End::Over {
            let frame = match ready!(this.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    *this.end = End::Over;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    let end = std::mem::replace(this.end, End::Over);
                    let unknown = (end == End::Awaited).then(|| last(&without_status()));
                    let unknown = unknown.map(|bytes| Ok(Frame::data(this.form.write(bytes))));
                    return Poll::Ready(unknown);
                }
            };
            let bytes = match frame.into_data() {
                Ok(data) if data.is_empty() => continue,
                Ok(data) => data,
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    *this.end = End::Over;
                    last(&trailers)
                }
            };
            return Poll::Ready(Some(Ok(Frame::data(this.form.write(bytes)))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        match self.end {
            End::Awaited => false,
            End::Told => self.body.is_end_stream(),
            End::Over => true,
        }
    }
}

/// A client that finds no status takes a call for a good one.
fn without_status() -> HeaderMap {
    const UNKNOWN: HeaderValue = HeaderValue::from_static("2");
    const WHY: HeaderValue = HeaderValue::from_static("the answer ended without a status");
    let mut trailers = HeaderMap::new();
    trailers.insert(STATUS, UNKNOWN);
    trailers.insert("grpc-message", WHY);
    trailers
}

/// The message that trailers are, under its flag.
fn last(trailers: &HeaderMap) -> Bytes {
    const TRAILERS: u8 = 0x80;
    let mut bytes = BytesMut::with_capacity(128);
    bytes.put_u8(TRAILERS);
    bytes.put_u32(0);
    for (name, value) in trailers {
        for piece in [name.as_str().as_bytes(), b":", value.as_bytes(), b"\r\n"] {
            bytes.put_slice(piece);
        }
    }
    let length = u32::try_from(bytes.len() - 5).unwrap_or(u32::MAX);
    bytes[1..5].copy_from_slice(&length.to_be_bytes());
    bytes.freeze()
}

pin_project! {
    /// The bytes of a request that came in base64, piece by piece: each frame becomes one at most, and no more than three letters are kept.
    struct Decoded {
        #[pin]
        body: RequestBody,
        left: BytesMut,
        over: bool,
    }
}

impl Body for Decoded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        while !*this.over {
            let read = match ready!(this.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => decode(this.left, &data),
                    // Such a client has no trailers.
                    Err(_) => continue,
                },
                Some(Err(error)) => Err(error),
                None if this.left.is_empty() => return Poll::Ready(None),
                None => Err(Malformed.into()),
            };
            match read {
                Ok(bytes) if bytes.is_empty() => {}
                Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(error) => {
                    *this.over = true;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        // Letters that are left over are a fault, which nobody would be told.
        self.over || (self.left.is_empty() && self.body.is_end_stream())
    }
}

/// As many bytes as there are whole groups of four letters in `left` and `data`; the rest stays in `left`. A group with padding ends a piece, and another may follow.
fn decode(left: &mut BytesMut, data: &[u8]) -> Result<Bytes, BoxError> {
    const GROUP: usize = 4;
    left.extend_from_slice(data);
    let mut letters = left.split_to(left.len() / GROUP * GROUP);
    let mut bytes = Vec::with_capacity(letters.len() / GROUP * 3);
    while !letters.is_empty() {
        let padding = letters.iter().position(|letter| *letter == b'=');
        let end = padding.map_or(letters.len(), |at| (at / GROUP + 1) * GROUP);
        let piece = letters.split_to(end);
        STANDARD.decode_vec(&piece, &mut bytes).map_err(|_| Malformed)?;
    }
    Ok(bytes.into())
}

/// A body is no base64.
#[derive(Debug)]
struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body is not base64")
    }
}

impl std::error::Error for Malformed {}

#[cfg(test)]
mod tests;

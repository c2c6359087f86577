//! How the gateway's own answers are told to clients that speak something else over HTTP: gRPC, gRPC-Web, Connect.

use std::fmt::Write;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;

use crate::answer::Answer;

/// What the client of a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Http,
    /// A status in the only block of fields. gRPC-Web reads it there as well, and wants its own media type again.
    Grpc(&'static str),
    /// Errors of single calls are JSON under their status.
    Connect,
    /// Those of streams are the last message of an answer that is 200.
    ConnectStream(&'static str),
}

impl Dialect {
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        // All of them ask by POST; what Connect asks by GET, it can read the status of HTTP of.
        if *method != Method::POST {
            return Self::Http;
        }
        let Some(kind) = headers.get(header::CONTENT_TYPE) else { return Self::Http };
        let kind = kind.as_bytes();
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
        let Some(of_it) = kind.strip_prefix(b"application/") else { return Self::Http };
        match of_it {
            b"connect+json" => Self::ConnectStream("application/connect+json"),
            b"connect+proto" => Self::ConnectStream("application/connect+proto"),
            b"json" | b"proto" if headers.contains_key("connect-protocol-version") => Self::Connect,
            b"grpc-web-text" | b"grpc-web-text+proto" => Self::Grpc("application/grpc-web-text"),
            _ if is_kind(of_it, b"grpc-web") => Self::Grpc("application/grpc-web"),
            _ if is_kind(of_it, b"grpc") => Self::Grpc("application/grpc"),
            _ => Self::Http,
        }
    }

    pub(crate) fn is_grpc_web(self) -> bool {
        matches!(self, Self::Grpc(kind) if kind != "application/grpc")
    }

    pub(crate) fn tell(self, answer: Answer) -> Response<Full<Bytes>> {
        if self == Self::Http || !answer.is_refusal() {
            return answer.into_response();
        }
        let (code, detail) = (Code::of(&answer), answer.detail());
        let mut response = answer.into_response();
        let kind = match self {
            Self::Http => return response,
            Self::Grpc(kind) => {
                *response.body_mut() = Full::default();
                code.tell(&detail, response.headers_mut());
                kind
            }
            Self::Connect => {
                *response.body_mut() = Full::from(code.as_error(&detail));
                "application/json"
            }
            Self::ConnectStream(kind) => {
                let end = format!(r#"{{"error":{}}}"#, code.as_error(&detail));
                *response.body_mut() = Full::from(last_message(&end));
                kind
            }
        };
        if self != Self::Connect {
            *response.status_mut() = StatusCode::OK;
        }
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }
}

/// `name` itself, or with a codec.
fn is_kind(kind: &[u8], name: &[u8]) -> bool {
    kind.strip_prefix(name).is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}

/// The message that ends a stream of Connect, under its flag.
fn last_message(message: &str) -> Bytes {
    const END: u8 = 0b10;
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(END);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message.as_bytes());
    bytes.freeze()
}

/// A status of gRPC, which Connect has as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Code {
    /// As gRPC reads statuses of HTTP, but for those of which the gateway knows more.
    fn of(answer: &Answer) -> Self {
        match answer.status().as_u16() {
            400 | 415 => Self::InvalidArgument,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 | 405 | 501 => Self::Unimplemented,
            408 | 504 => Self::DeadlineExceeded,
            409 => Self::Aborted,
            413 | 429 => Self::ResourceExhausted,
            422 => Self::FailedPrecondition,
            502 | 503 => Self::Unavailable,
            _ => Self::Internal,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Unauthenticated => "unauthenticated",
        }
    }

    /// As an error of Connect.
    fn as_error(self, message: &str) -> String {
        let mut error = format!(r#"{{"code":"{}","message":""#, self.name());
        for letter in message.chars() {
            // It fails only where memory does.
            let _ = match letter {
                '"' | '\\' => write!(error, "\\{letter}"),
                '\0'..' ' => write!(error, "\\u{:04x}", u32::from(letter)),
                _ => write!(error, "{letter}"),
            };
        }
        error + "\"}"
    }

    /// As the trailers of an answer without messages.
    fn tell(self, message: &str, headers: &mut HeaderMap) {
        headers.insert("grpc-status", u16::from(self as u8).into());
        if let Ok(message) = HeaderValue::try_from(percent_encode(message)) {
            headers.insert("grpc-message", message);
        }
        let seconds = headers.get(header::RETRY_AFTER).and_then(|span| span.to_str().ok());
        if let Some(seconds) = seconds.and_then(|seconds| seconds.parse::<u64>().ok()) {
            headers.insert("grpc-retry-pushback-ms", seconds.saturating_mul(1000).into());
        }
    }
}

/// The encoding of `grpc-message`: everything but printable ASCII, and the percent sign itself.
fn percent_encode(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b' '..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            // It fails only where memory does.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(kind: &'static str, connect: bool) -> Dialect {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if connect {
            headers.insert("connect-protocol-version", HeaderValue::from_static("1"));
        }
        assert_eq!(Dialect::of(&Method::GET, &headers), Dialect::Http);
        Dialect::of(&Method::POST, &headers)
    }

    #[test]
    fn a_dialect_is_told_by_its_media_type() {
        let grpc = Dialect::Grpc("application/grpc");
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc; x=1"] {
            assert_eq!(of(kind, false), grpc, "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+json"] {
            assert_eq!(of(kind, false), Dialect::Grpc("application/grpc-web"), "{kind}");
        }
        let text = Dialect::Grpc("application/grpc-web-text");
        assert_eq!(of("application/grpc-web-text+proto", false), text);
        assert_eq!(of("application/json", true), Dialect::Connect);
        assert_eq!(of("application/json", false), Dialect::Http);
        let stream = Dialect::ConnectStream("application/connect+json");
        assert_eq!(of("application/connect+json", false), stream);
        for kind in ["application/grpcx", "text/grpc", "application/x-connect+json", ""] {
            assert_eq!(of(kind, true), Dialect::Http, "{kind}");
        }
    }

    #[test]
    fn an_answer_keeps_its_fields_in_every_dialect() {
        let second = std::time::Duration::from_secs(1);
        let unavailable = || Answer::Unavailable { retry_after: Some(second), why: None };
        for dialect in [of("application/grpc", false), of("application/json", true)] {
            assert_eq!(dialect.tell(unavailable()).headers()["retry-after"], "1");
        }
        let told = of("application/grpc", false).tell(unavailable());
        assert_eq!(told.headers()["grpc-retry-pushback-ms"], "1000");
    }

    #[test]
    fn an_error_of_connect_is_json_whatever_it_says() {
        let error = Code::Aborted.as_error("a \"b\" \\ \n ü");
        assert_eq!(error, r#"{"code":"aborted","message":"a \"b\" \\ \u000a ü"}"#);
    }

    #[test]
    fn a_message_is_visible_ascii() {
        assert_eq!(percent_encode("50% \"of\" ü\n"), "50%25 \"of\" %C3%BC%0A");
    }
}

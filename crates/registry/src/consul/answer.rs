//! Answers, and what is wrong instead of one.

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::Value;

use super::{catalog::Refused, fields::Wrong};

#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    body: Body,
    index: Option<u64>,
}

#[derive(Debug)]
enum Body {
    Empty,
    Json(Value),
    /// JSON that has been written already.
    Written(Bytes),
    Raw(Bytes),
    /// In the text format of Prometheus.
    Text(String),
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) text: String,
    /// Methods, for who came with another.
    allow: Option<&'static str>,
}

impl Answer {
    pub(super) const fn empty() -> Self {
        Self { status: StatusCode::OK, body: Body::Empty, index: None }
    }

    pub(super) fn json(value: impl Into<Value>) -> Self {
        Self { status: StatusCode::OK, body: Body::Json(value.into()), index: None }
    }

    pub(super) const fn written(json: Bytes) -> Self {
        Self { status: StatusCode::OK, body: Body::Written(json), index: None }
    }

    pub(super) const fn raw(value: Bytes) -> Self {
        Self { status: StatusCode::OK, body: Body::Raw(value), index: None }
    }

    pub(super) const fn text(text: String) -> Self {
        Self { status: StatusCode::OK, body: Body::Text(text), index: None }
    }

    pub(super) const fn not_found() -> Self {
        Self { status: StatusCode::NOT_FOUND, body: Body::Empty, index: None }
    }

    pub(super) const fn at(mut self, index: u64) -> Self {
        self.index = Some(index);
        self
    }

    pub(super) fn into_response(self, pretty: bool) -> Response<Full<Bytes>> {
        let (body, kind) = match self.body {
            Body::Empty => (Bytes::new(), None),
            Body::Json(value) if pretty => {
                (format!("{value:#}\n").into(), Some("application/json"))
            }
            Body::Json(value) => (value.to_string().into(), Some("application/json")),
            Body::Written(json) => (json, Some("application/json")),
            Body::Raw(bytes) => (bytes, Some("application/octet-stream")),
            Body::Text(text) => (text.into(), Some("text/plain; version=0.0.4; charset=utf-8")),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(kind) = kind {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
        if let Some(index) = self.index {
            headers.insert("x-consul-index", HeaderValue::from(index));
            headers.insert("x-consul-knownleader", HeaderValue::from_static("true"));
            headers.insert("x-consul-lastcontact", HeaderValue::from_static("0"));
        }
        response
    }
}

impl Failure {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), allow: None }
    }

    pub(super) fn bad(text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, text)
    }

    pub(super) fn not_found(text: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, text)
    }

    pub(super) fn full(text: impl Into<String>) -> Self {
        Self::new(StatusCode::INSUFFICIENT_STORAGE, text)
    }

    pub(super) fn method(method: &Method, allow: &'static str) -> Self {
        let text = format!("method {method} not allowed, only {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, text) }
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.text + "\n")));
        *response.status_mut() = self.status;
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, text);
        if let Some(allow) = self.allow {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Wrong> for Failure {
    fn from(Wrong(what): Wrong) -> Self {
        Self::bad(what)
    }
}

impl Refused {
    /// `id`: of what was asked for.
    pub(super) fn about(self, id: &str) -> Failure {
        match self {
            Self::NoSuchService => Failure::not_found(format!(
                "Unknown service ID {id:?}. Ensure that the service ID is passed, not the service name."
            )),
            Self::NoSuchCheck => Failure::not_found(format!(
                "Unknown check ID {id:?}. Ensure that the check ID is passed, not the check name."
            )),
            Self::NoSuchNode => Failure::not_found(format!("Unknown node {id:?}")),
            Self::NoTtl => Failure::bad(format!("Check {id:?} has no TTL")),
            Self::Full => Failure::full("this registry is full"),
            Self::Superseded => {
                let what = format!("{id:?} is registered by a younger run of it");
                Failure::new(StatusCode::CONFLICT, what)
            }
            Self::TooManyChecks => Failure::bad("more than 16 checks of one service"),
        }
    }
}

//! Statuses of gRPC as answers of HTTP.

use std::time::Duration;

use bytes::Bytes;
use gusset_call::{Context, Problem};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;

use super::fields::decode;

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Status {
    code: usize,
    message: String,
    retry_after: Option<Duration>,
}

/// The names of codes, and the statuses that `google/rpc/code.proto` gives them.
const CODES: [(&str, u16); 17] = [
    ("OK", 200),
    ("CANCELLED", 499),
    ("UNKNOWN", 500),
    ("INVALID_ARGUMENT", 400),
    ("DEADLINE_EXCEEDED", 504),
    ("NOT_FOUND", 404),
    ("ALREADY_EXISTS", 409),
    ("PERMISSION_DENIED", 403),
    ("RESOURCE_EXHAUSTED", 429),
    ("FAILED_PRECONDITION", 400),
    ("ABORTED", 409),
    ("OUT_OF_RANGE", 400),
    ("UNIMPLEMENTED", 501),
    ("INTERNAL", 500),
    ("UNAVAILABLE", 503),
    ("DATA_LOSS", 500),
    ("UNAUTHENTICATED", 401),
];

const UNKNOWN: usize = 2;

impl Status {
    /// That of trailers, or of a head without messages. A code that is none is `UNKNOWN`.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
        let code = text(headers.get("grpc-status")?).and_then(|code| code.parse::<usize>().ok());
        let message = headers.get("grpc-message").and_then(text).unwrap_or_default();
        let pushback = headers.get("grpc-retry-pushback-ms").and_then(text);
        Some(Self {
            code: code.filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN),
            message: decode(&message, false).unwrap_or(message),
            // A negative one says not to come back at all.
            retry_after: pushback.and_then(|ms| ms.parse().ok()).map(Duration::from_millis),
        })
    }

    pub(super) const fn is_ok(&self) -> bool {
        self.code == 0
    }

    pub(super) fn answer(self) -> Response<Full<Bytes>> {
        let (name, status) = CODES[self.code];
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut problem = Problem::new(status).with("code", name);
        if !self.message.is_empty() {
            problem = problem.detail(self.message);
        }
        if let Some(span) = self.retry_after {
            problem = problem.retry_after(span);
        }
        if let Some(trace) = Context::current().trace() {
            problem = problem.with("trace_id", trace.trace_id().to_string());
        }
        problem.into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    fn of(lines: &[(&'static str, &'static str)]) -> Option<Status> {
        let line =
            |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        Status::of(&lines.iter().map(line).collect())
    }

    #[test]
    fn a_status_is_a_problem_with_its_message_decoded() {
        let status = of(&[
            ("grpc-status", "5"),
            ("grpc-message", "no order 7%25 %C3%BC"),
            ("grpc-retry-pushback-ms", "1500"),
        ]);
        let status = status.unwrap();
        assert_eq!(status.message, "no order 7% ü");
        let answer = status.answer();
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["retry-after"]),
            (404, &"2".parse().unwrap())
        );
    }

    #[test]
    fn what_is_no_code_is_unknown_and_no_status_is_none() {
        for code in ["17", "-1", "", "x", "99999999999999999999"] {
            assert_eq!(of(&[("grpc-status", code)]).unwrap().code, UNKNOWN, "{code}");
        }
        assert_eq!(of(&[("grpc-message", "x")]), None);
        let bad = of(&[("grpc-status", "13"), ("grpc-message", "100%")]).unwrap();
        assert_eq!(bad.message, "100%");
        assert_eq!(
            of(&[("grpc-status", "0"), ("grpc-retry-pushback-ms", "-1")]).unwrap().retry_after,
            None
        );
    }
}

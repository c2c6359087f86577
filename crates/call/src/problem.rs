use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value};

use crate::Refusal;

/// An error as HTTP shows it: RFC 9457 problem details.
///
/// ```
/// use gusset_call::Problem;
/// use http::StatusCode;
///
/// let answer = Problem::new(StatusCode::CONFLICT)
///     .detail("only 3 of product 7 are left")
///     .with("available", 3)
///     .into_response();
/// assert_eq!(answer.headers()["content-type"], "application/problem+json");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    title: Option<Cow<'static, str>>,
    detail: Option<String>,
    retry_after: Option<Duration>,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem with this status code. Its `type` is `about:blank` and its title the reason phrase, until
    /// told otherwise.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        Self { status, title: None, detail: None, retry_after: None, members: Map::new() }
    }

    /// The problem that tells of `refusal`.
    #[must_use]
    pub fn of(refusal: &dyn Refusal) -> Self {
        let status =
            StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        Self { retry_after: refusal.retry_after(), ..Self::new(status).detail(refusal.to_string()) }
    }

    /// A summary of this kind of problem, the same at every occurrence.
    #[must_use]
    pub fn title(mut self, title: impl Into<Cow<'static, str>>) -> Self {
        self.title = Some(title.into());
        self
    }

    /// What happened this time, for a human.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// When to come back: `Retry-After` in whole seconds, rounded up, at least 1.
    #[must_use]
    pub const fn retry_after(mut self, span: Duration) -> Self {
        self.retry_after = Some(span);
        self
    }

    /// Adds an extension member for programs to read. The members of RFC 9457 itself (`type`, `title`, `status`,
    /// `detail`) win over an extension of the same name, `type` excepted: it may be set this way.
    #[must_use]
    pub fn with(mut self, member: impl Into<String>, value: impl Into<Value>) -> Self {
        self.members.insert(member.into(), value.into());
        self
    }

    /// The status code.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The problem as an answer with an `application/problem+json` body.
    #[must_use]
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let title = self.title.as_deref().or_else(|| self.status.canonical_reason());
        let mut body = self.members;
        body.entry("type").or_insert_with(|| "about:blank".into());
        body.insert("status".into(), self.status.as_u16().into());
        body.insert("title".into(), title.unwrap_or("Error").into());
        if let Some(detail) = self.detail {
            body.insert("detail".into(), detail.into());
        }

        let mut response = Response::new(Full::from(Value::Object(body).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(span) = self.retry_after {
            headers.insert(header::RETRY_AFTER, whole_seconds(span).into());
        }
        response
    }
}

/// `Retry-After` knows whole seconds only; 0 would invite the caller to come back at once.
fn whole_seconds(span: Duration) -> u64 {
    span.as_secs().saturating_add(u64::from(span.subsec_nanos() > 0)).max(1)
}

#[cfg(feature = "axum")]
impl axum_core::response::IntoResponse for Problem {
    fn into_response(self) -> axum_core::response::Response {
        self.into_response().map(axum_core::body::Body::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limited, NoInstance};
    use http_body_util::BodyExt;

    fn body_of(problem: Problem) -> Value {
        let body = problem.into_response().into_body();
        let bytes = block_on(body.collect()).unwrap().to_bytes();
        serde_json::from_slice(&bytes).unwrap()
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn retry_after_is_rounded_up_and_never_zero() {
        for (span, seconds) in [(0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (59_999, "60")] {
            let limited = Limited::new(Duration::from_millis(span));
            let answer = Problem::of(&limited).into_response();
            assert_eq!(answer.headers()["retry-after"], seconds, "{span} ms");
        }
        assert_eq!(whole_seconds(Duration::MAX), u64::MAX);
    }

    #[test]
    fn no_retry_after_where_nobody_knows() {
        let answer = Problem::of(&NoInstance::new("cart")).into_response();
        assert!(!answer.headers().contains_key("retry-after"));
    }

    #[test]
    fn the_body_has_the_members_of_rfc_9457_and_extensions_beside_them() {
        let problem = Problem::new(StatusCode::CONFLICT)
            .detail("quotes \" and \n survive")
            .with("available", 3)
            .with("status", 200);
        assert_eq!(
            body_of(problem),
            serde_json::json!({
                "type": "about:blank", "title": "Conflict", "status": 409,
                "detail": "quotes \" and \n survive", "available": 3,
            })
        );
    }
}

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value};

use crate::{BoxError, Refusal, ServiceLimit, limited::whole_seconds, refusal_in};

/// The problem type of `draft-ietf-httpapi-ratelimit-headers`, section 5.1.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// Its member with the names of the policies.
const VIOLATED: &str = "violated-policies";

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
    limits: Box<[ServiceLimit]>,
    members: Map<String, Value>,
}

/// For `?` in handlers that call other services: a [`Refusal`] becomes the problem [of it](Problem::of), every other error a 500 without
/// its text, which is for the log and not for clients.
impl From<BoxError> for Problem {
    fn from(error: BoxError) -> Self {
        refusal_in(&*error).map_or_else(|| Self::new(StatusCode::INTERNAL_SERVER_ERROR), Self::of)
    }
}

impl Problem {
    /// A problem with this status code. Its `type` is `about:blank` and its title the reason phrase, until
    /// told otherwise.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            title: None,
            detail: None,
            retry_after: None,
            limits: Box::default(),
            members: Map::new(),
        }
    }

    /// The problem that tells of `refusal`. If that knows of quotas, its type is `quota-exceeded` with the names of those that were, and
    /// the answer has the fields that [`ServiceLimit::tell`] writes.
    #[must_use]
    pub fn of(refusal: &dyn Refusal) -> Self {
        let status =
            StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let limits: Box<[_]> = refusal.limits().into();
        Self {
            title: (!limits.is_empty()).then_some("Quota Exceeded".into()),
            retry_after: refusal.retry_after(),
            limits,
            ..Self::new(status).detail(refusal.to_string())
        }
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
        let mut response = Response::new(Full::from(self.body()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(span) = self.retry_after {
            // 0 would invite the caller to come back at once.
            headers.insert(header::RETRY_AFTER, whole_seconds(span).max(1).into());
        }
        ServiceLimit::tell(&self.limits, headers);
        response
    }

    /// Written member by member: a map would take an allocation or two for each, and who is under attack answers with little else.
    fn body(&self) -> Vec<u8> {
        let title = self.title.as_deref().or_else(|| self.status.canonical_reason());
        let kind = if self.limits.is_empty() { "about:blank" } else { QUOTA_EXCEEDED };
        let mut body = Body(Vec::with_capacity(256));
        // Writing to a vector does not fail, and a value has no keys that are no strings.
        if !self.members.contains_key("type") {
            let _ = serde_json::to_writer(body.member("type"), kind);
        }
        let _ = serde_json::to_writer(body.member("title"), title.unwrap_or("Error"));
        let _ = serde_json::to_writer(body.member("status"), &self.status.as_u16());
        if let Some(detail) = &self.detail {
            let _ = serde_json::to_writer(body.member("detail"), detail);
        }
        if !self.limits.is_empty() && !self.members.contains_key(VIOLATED) {
            let violated = Vec::from_iter(ServiceLimit::violated(&self.limits));
            let _ = serde_json::to_writer(body.member(VIOLATED), &violated);
        }
        for (name, value) in &self.members {
            let detail = name == "detail" && self.detail.is_some();
            if !detail && !matches!(&**name, "title" | "status") {
                let _ = serde_json::to_writer(body.member(name), value);
            }
        }
        body.0.push(b'}');
        body.0
    }
}

/// An object as far as it is written.
struct Body(Vec<u8>);

impl Body {
    /// Where the value of the next member is to be written.
    fn member(&mut self, name: &str) -> &mut Vec<u8> {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        let _ = serde_json::to_writer(&mut self.0, name);
        self.0.push(b':');
        &mut self.0
    }
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
    use crate::{Limited, NoInstance, QuotaPolicy};
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
    fn a_refusal_that_knows_its_quotas_tells_them_in_fields_and_body() {
        let second = Duration::from_secs(1);
        let limit = |name, left| ServiceLimit::new(QuotaPolicy::new(name, 9, second), left);
        let limited = Limited::new(second)
            .with_limits([limit("burst", 0).within(second).exceeded(), limit("daily", 7)]);
        let problem = Problem::of(&limited);
        let answer = problem.clone().into_response();
        assert_eq!(answer.headers()["ratelimit"], "\"burst\";r=0;t=1, \"daily\";r=7");
        assert_eq!(answer.headers()["ratelimit-policy"], "\"burst\";q=9;w=1, \"daily\";q=9;w=1");
        assert_eq!(
            body_of(problem),
            serde_json::json!({
                "type": QUOTA_EXCEEDED, "title": "Quota Exceeded", "status": 429,
                "detail": "rate limit exceeded, come back in 1 s",
                "violated-policies": ["burst"],
            })
        );
        let silent = Problem::of(&Limited::new(second));
        assert_eq!(body_of(silent)["type"], "about:blank");
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

    proptest::proptest! {
        #[test]
        fn whatever_it_says_the_body_is_an_object_with_each_member_once(
            detail: Option<String>, title: String, names in proptest::collection::vec("[a-z\"\\\\ü]{0,3}|type|title|status|detail|violated-policies", 0..6),
            limited: bool,
        ) {
            let limit = ServiceLimit::new(QuotaPolicy::new("a", 1, Duration::ZERO), 0).exceeded();
            let refusal = Limited::new(Duration::ZERO);
            let refusal = if limited { refusal.with_limits([limit]) } else { refusal };
            let mut problem = Problem::of(&refusal).title(title.clone());
            if let Some(detail) = &detail {
                problem = problem.detail(detail.clone());
            }
            for name in &names {
                problem = problem.with(name.clone(), "x");
            }
            let written = problem.clone().body();
            let body = body_of(problem);
            // One that were there twice would be lost in reading.
            proptest::prop_assert_eq!(body.to_string().len(), written.len());
            proptest::prop_assert_eq!(&body["title"], &Value::from(title));
            if let Some(detail) = detail {
                proptest::prop_assert_eq!(&body["detail"], &Value::from(detail));
            }
            for name in names.iter().filter(|name| !["title", "status", "detail"].contains(&&***name)) {
                proptest::prop_assert_eq!(&body[name], "x");
            }
        }
    }
}

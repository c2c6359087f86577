use axum::body::Body;
use bytes::Bytes;
use gusset_call::Problem;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::Value;

pub(crate) type Answer = Response<Body>;

/// What the page may do: load its own script and style, and ask here. No text becomes markup or code: the browser refuses even a mistake of the script's.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// What every answer says.
pub(crate) fn guarded(mut answer: Answer) -> Answer {
    for (name, value) in HEADERS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

pub(crate) fn problem(status: StatusCode, why: &str) -> Answer {
    Problem::new(status).detail(why).into_response().map(Body::new)
}

pub(crate) fn json(value: &Value) -> Answer {
    typed("application/json", Bytes::from(value.to_string()))
}

pub(crate) fn typed(kind: &'static str, body: impl Into<Body>) -> Answer {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

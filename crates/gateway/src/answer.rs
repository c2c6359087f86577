//! What clients are told when the gateway answers itself.

use std::time::Duration;

use bytes::Bytes;
use gusset_call::{BoxError, Context, Limited, Problem, refusal_in};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use crate::{
    body::ClientFault,
    idempotency::KeyFault,
    identity::Denied,
    path::BadPath,
    routes::{Allowed, Given},
};

/// An answer of the gateway's own. None of them names a service, an address or an error of the inside, but to [other services](Answer::among_services).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    BadHost,
    BadPath(BadPath),
    BadBody,
    /// A transfer coding other than chunks.
    Coding,
    /// The request does not fit the message that it is to become, for this reason.
    #[cfg(feature = "grpc-json")]
    Unfit(String),
    /// The body is something else than JSON.
    #[cfg(feature = "grpc-json")]
    WrongMedia,
    SlowBody,
    NotFound,
    WrongMethod(Allowed),
    Denied(Denied),
    Key(KeyFault),
    /// A preflight of CORS.
    Preflight(HeaderMap),
    /// What a route says by itself.
    Given(Box<Given>),
    TooLarge {
        limit: u64,
    },
    Limited(Limited),
    BadGateway,
    /// The gateway has too much to do, or the route.
    Overloaded,
    Unavailable {
        retry_after: Option<Duration>,
        /// Whom it is about, for those who may know.
        why: Option<Box<str>>,
    },
    Timeout,
}

impl Answer {
    /// The answer to a call that ended in `error`. `limit` is that of the request's body.
    pub(crate) fn to_error(error: &BoxError, limit: u64) -> Self {
        match ClientFault::in_error(&**error) {
            Some(ClientFault::TooLarge) => return Self::TooLarge { limit },
            Some(ClientFault::Broken(_)) => return Self::BadBody,
            Some(ClientFault::Slow) => return Self::SlowBody,
            None => {}
        }
        let Some(refusal) = refusal_in(&**error) else { return Self::BadGateway };
        let retry_after = refusal.retry_after();
        match refusal.status() {
            429 => Self::Limited(Limited::new(retry_after.unwrap_or_default())),
            504 => Self::Timeout,
            _ => Self::Unavailable { retry_after, why: None },
        }
    }

    /// Says by whom a call was refused, to a client that is a service itself.
    pub(crate) fn among_services(mut self, error: &BoxError) -> Self {
        if let (Self::Unavailable { why, .. }, Some(refusal)) = (&mut self, refusal_in(&**error)) {
            *why = Some(refusal.to_string().into());
        }
        self
    }

    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::BadHost | Self::BadPath(_) | Self::BadBody => StatusCode::BAD_REQUEST,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            #[cfg(feature = "grpc-json")]
            Self::Unfit(_) => StatusCode::BAD_REQUEST,
            #[cfg(feature = "grpc-json")]
            Self::WrongMedia => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::SlowBody => StatusCode::REQUEST_TIMEOUT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::WrongMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Denied(denied) => denied.status(),
            Self::Preflight(_) => StatusCode::NO_CONTENT,
            Self::Given(given) => given.status,
            Self::Key(KeyFault::Missing | KeyFault::Malformed) => StatusCode::BAD_REQUEST,
            Self::Key(KeyFault::Running | KeyFault::Unkept) => StatusCode::CONFLICT,
            Self::Key(KeyFault::Different) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Limited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::BadGateway => StatusCode::BAD_GATEWAY,
            Self::Overloaded | Self::Unavailable { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    pub(crate) fn detail(&self) -> String {
        match self {
            Self::BadHost => "the request must name exactly one valid host".into(),
            Self::BadPath(BadPath::Relative) => "the path must begin with a slash".into(),
            Self::BadPath(BadPath::Encoding) => "the path is not well encoded".into(),
            Self::BadPath(BadPath::Ambiguous) => "the path can be read in more than one way".into(),
            Self::BadBody => "the request body could not be read".into(),
            Self::Coding => "the only transfer coding that is taken is chunked".into(),
            #[cfg(feature = "grpc-json")]
            Self::Unfit(why) => why.clone(),
            #[cfg(feature = "grpc-json")]
            Self::WrongMedia => "the body must be JSON, and say so in Content-Type".into(),
            Self::SlowBody => "the request body took too long".into(),
            Self::NotFound => "nothing is served at this path".into(),
            Self::WrongMethod(allowed) => format!("this path takes {allowed}"),
            Self::Denied(denied) => denied.error.to_string(),
            Self::Preflight(_) | Self::Given(_) => String::new(),
            Self::Key(fault) => match fault {
                KeyFault::Missing => "an Idempotency-Key is required here",
                KeyFault::Malformed => "there must be one Idempotency-Key, of at most 255 visible characters",
                KeyFault::Running => "the first request with this Idempotency-Key is still under way",
                KeyFault::Unkept => "the request with this Idempotency-Key was answered, but its answer was too large to be kept",
                KeyFault::Different => "this Idempotency-Key was used for another request",
            }
            .into(),
            Self::TooLarge { limit } => format!("at most {limit} bytes are taken here"),
            Self::Limited(_) => "too many requests of this client".into(),
            Self::BadGateway => "the service did not answer properly".into(),
            Self::Overloaded => "there is too much to do at present".into(),
            Self::Unavailable { why: Some(why), .. } => why.to_string(),
            Self::Unavailable { .. } => "the service cannot answer at present".into(),
            Self::Timeout => "the service did not answer in time".into(),
        }
    }

    /// Whether it says that the request will not be served.
    pub(crate) const fn is_refusal(&self) -> bool {
        !matches!(self, Self::Preflight(_) | Self::Given(_))
    }

    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        match self {
            Self::Preflight(headers) => {
                let status = StatusCode::NO_CONTENT;
                return Given { status, headers, body: Bytes::new() }.into_response();
            }
            Self::Given(given) => return given.into_response(),
            _ => {}
        }
        let mut problem = match &self {
            Self::Limited(limited) => Problem::of(limited),
            _ => Problem::new(self.status()),
        };
        problem = problem.detail(self.detail());
        if let Self::Unavailable { retry_after: Some(span), .. } = self {
            problem = problem.retry_after(span);
        }
        if let Some(trace) = Context::current().trace() {
            problem = problem.with("trace_id", trace.trace_id().to_string());
        }
        let mut response = problem.into_response();
        let headers = response.headers_mut();
        match &self {
            Self::WrongMethod(allowed) => {
                if let Ok(allowed) = HeaderValue::try_from(allowed.to_string()) {
                    headers.insert(header::ALLOW, allowed);
                }
            }
            Self::Denied(denied) => denied.describe(headers),
            Self::Key(KeyFault::Running) | Self::Overloaded => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // What is left of the body is not going to be read.
            Self::TooLarge { .. } | Self::BadBody | Self::SlowBody | Self::Coding => {
                headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gusset_call::{DeadlineExceeded, NoInstance, Open};

    #[test]
    fn errors_have_distinct_answers_and_tell_nothing_of_the_inside() {
        let second = Duration::from_secs(1);
        let open = Open::new("10.0.0.7:80").with_retry_after(second);
        let errors: [(BoxError, u16); 7] = [
            (ClientFault::TooLarge.into(), 413),
            (ClientFault::Broken("bad chunk".into()).into(), 400),
            (ClientFault::Slow.into(), 408),
            (open.into(), 503),
            (NoInstance::new("orders").into(), 503),
            (DeadlineExceeded.into(), 504),
            ("connection to 10.0.0.7 refused".into(), 502),
        ];
        for (error, status) in errors {
            let answer = Answer::to_error(&error, 10);
            assert_eq!(answer.status(), status, "{error}");
            let detail = answer.detail();
            assert!(!detail.contains("10.0.0.7") && !detail.contains("orders"), "{detail}");
        }
    }
}

use bytes::Bytes;
use gusset_call::Problem;
use http::{Response, StatusCode};
use http_body_util::Full;

/// Why a head is not taken. Its connection ends with the answer, for nobody knows where the next request would begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Malformed(&'static str),
    /// It did not come in time.
    TooSlow,
    TargetTooLong,
    HeadTooLarge,
    /// A transfer coding other than chunked.
    Coding,
    Version,
}

impl Refusal {
    const fn status(self) -> StatusCode {
        match self {
            Self::Malformed(_) => StatusCode::BAD_REQUEST,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
        }
    }

    const fn detail(self) -> &'static str {
        match self {
            Self::Malformed(detail) => detail,
            Self::TooSlow => "the head of the request took too long",
            Self::TargetTooLong => "the target of the request is too long",
            Self::HeadTooLarge => "the head of the request is too large",
            Self::Coding => "the only transfer coding that is taken is chunked",
            Self::Version => "HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here",
        }
    }

    pub(super) fn answer(self) -> Response<Full<Bytes>> {
        Problem::new(self.status()).detail(self.detail()).into_response()
    }
}

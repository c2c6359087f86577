use std::fmt;

use crate::Outcome;

/// Judges results. A refusal of the family that comes from inside is [`Outcome::Ignored`] whatever is said of it here, but for
/// `NoInstance` and `DeadlineExceeded`. Closures `|&Result<Response, Error>| -> Outcome` do.
pub trait Classify<Res, E> {
    /// What `result` says about the service. Runs on the path of every call, under no lock.
    fn classify(&self, result: &Result<Res, E>) -> Outcome;

    /// Says what was wrong with a response that is a failure, for [`Open::cause`](gusset_call::Open::cause). Called only if it
    /// opens the circuit.
    ///
    /// # Errors
    ///
    /// Those of the formatter.
    fn describe(&self, _: &Res, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("its response")
    }
}

impl<F, Res, E> Classify<Res, E> for F
where
    F: Fn(&Result<Res, E>) -> Outcome,
{
    fn classify(&self, result: &Result<Res, E>) -> Outcome {
        self(result)
    }
}

/// Every error is a failure, every response a success.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorsFail;

impl<Res, E> Classify<Res, E> for ErrorsFail {
    fn classify(&self, result: &Result<Res, E>) -> Outcome {
        if result.is_ok() { Outcome::Success } else { Outcome::Failure }
    }
}

/// Errors and 5xx are failures; 408 and 429 are ignored; all else is a success, other 4xx among them: the service has looked at
/// the request and answered, so it works.
///
/// 408 and 429 say more about the client's behaviour than about the service, but a service that sheds its load has not
/// recovered either.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, Default)]
pub struct HttpStatus;

#[cfg(feature = "http")]
impl<B, E> Classify<http::Response<B>, E> for HttpStatus {
    fn classify(&self, result: &Result<http::Response<B>, E>) -> Outcome {
        match result.as_ref().map(|response| response.status().as_u16()) {
            Err(_) | Ok(500..) => Outcome::Failure,
            Ok(408 | 429) => Outcome::Ignored,
            Ok(_) => Outcome::Success,
        }
    }

    fn describe(&self, response: &http::Response<B>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", response.status().as_u16())
    }
}

/// Errors and the gRPC codes 2 `UNKNOWN`, 4 `DEADLINE_EXCEEDED`, 13 `INTERNAL`, 14 `UNAVAILABLE` and 15 `DATA_LOSS` are
/// failures; 1 `CANCELLED` and 8 `RESOURCE_EXHAUSTED` are ignored; all else is a success, as [`HttpStatus`] sees it.
///
/// Only a code in the headers is seen, as in a trailers-only answer, which is how servers usually report errors of unary calls.
/// An answer without one is judged by its HTTP status as [`HttpStatus`] does.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, Default)]
pub struct GrpcStatus;

/// No constant, which would be made and dropped wherever it is used; and no text, which would be parsed.
#[cfg(feature = "http")]
static STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");

#[cfg(feature = "http")]
impl<B, E> Classify<http::Response<B>, E> for GrpcStatus {
    fn classify(&self, result: &Result<http::Response<B>, E>) -> Outcome {
        let code = result.as_ref().ok().and_then(|response| response.headers().get(&STATUS));
        match code.map(http::HeaderValue::as_bytes) {
            None => HttpStatus.classify(result),
            Some(b"2" | b"4" | b"13" | b"14" | b"15") => Outcome::Failure,
            Some(b"1" | b"8") => Outcome::Ignored,
            Some(_) => Outcome::Success,
        }
    }

    fn describe(&self, response: &http::Response<B>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match response.headers().get(&STATUS).and_then(|code| code.to_str().ok()) {
            Some(code) => write!(f, "gRPC code {code}"),
            None => <HttpStatus as Classify<_, E>>::describe(&HttpStatus, response, f),
        }
    }
}

#[cfg(feature = "http")]
#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;

    fn with_status(status: u16) -> Result<Response<()>, ()> {
        Ok(Response::builder().status(status).body(()).unwrap())
    }

    #[test]
    fn http_status_tells_broken_services_from_wrong_requests() {
        for (status, outcome) in [
            (200, Outcome::Success),
            (304, Outcome::Success),
            (404, Outcome::Success),
            (408, Outcome::Ignored),
            (429, Outcome::Ignored),
            (500, Outcome::Failure),
            (503, Outcome::Failure),
        ] {
            assert_eq!(HttpStatus.classify(&with_status(status)), outcome, "{status}");
        }
        assert_eq!(HttpStatus.classify(&Err::<Response<()>, _>(())), Outcome::Failure);
    }

    #[test]
    fn grpc_status_is_read_from_the_headers() {
        for (code, outcome) in [
            ("0", Outcome::Success),
            ("5", Outcome::Success),
            ("1", Outcome::Ignored),
            ("8", Outcome::Ignored),
            ("14", Outcome::Failure),
            ("4", Outcome::Failure),
        ] {
            let answer = Response::builder().header("grpc-status", code).body(()).unwrap();
            assert_eq!(GrpcStatus.classify(&Ok::<_, ()>(answer)), outcome, "{code}");
        }
        assert_eq!(GrpcStatus.classify(&with_status(200)), Outcome::Success);
        assert_eq!(GrpcStatus.classify(&with_status(502)), Outcome::Failure);
    }
}

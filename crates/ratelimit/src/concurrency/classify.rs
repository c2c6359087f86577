use std::{any::Any, error::Error, io};

use gusset_call::{BoxError, DeadlineExceeded, Limited, Overloaded};

/// What the end of a call says about the load of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was served; how long that took is a sample. Overload if it took as long as
    /// [`Concurrency::timeout`](crate::Concurrency::timeout).
    Success,
    /// It was not served, and nobody says why: overload if it ran as long as
    /// [`Concurrency::timeout`](crate::Concurrency::timeout), else nothing. Also that of a call that is dropped.
    Failure,
    /// The service had too much to do.
    Overload,
    /// Nothing, however long it took.
    Ignored,
}

/// Judges results. Closures `|&Result<Response, Error>| -> Outcome` do.
pub trait Classify<Res, E> {
    /// What `result` says about the load. Runs on the path of every call, under no lock.
    fn classify(&self, result: &Result<Res, E>) -> Outcome;
}

impl<F, Res, E> Classify<Res, E> for F
where
    F: Fn(&Result<Res, E>) -> Outcome,
{
    fn classify(&self, result: &Result<Res, E>) -> Outcome {
        self(result)
    }
}

/// Every response is a success. An error is overload if it is, or was caused by, one of [`Overloaded`], [`Limited`],
/// [`DeadlineExceeded`], [`tokio::time::error::Elapsed`], or an [`io::Error`] of the kind `TimedOut`. Other errors are
/// failures: a service that fails fast is not slow.
///
/// Other timeouts, such as tower's, are failures as well; they count as overload if they are as long as
/// [`Concurrency::timeout`](crate::Concurrency::timeout). Causes are found in boxed errors and in the types named here.
#[derive(Clone, Copy, Debug, Default)]
pub struct RefusalsAreOverload;

impl<Res, E: 'static> Classify<Res, E> for RefusalsAreOverload {
    fn classify(&self, result: &Result<Res, E>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(error) if means_overload(error) => Outcome::Overload,
            Err(_) => Outcome::Failure,
        }
    }
}

fn means_overload(error: &dyn Any) -> bool {
    let mut next: Option<&(dyn Error + 'static)> = match error.downcast_ref::<BoxError>() {
        Some(boxed) => Some(&**boxed),
        None => known::<Overloaded>(error)
            .or_else(|| known::<Limited>(error))
            .or_else(|| known::<DeadlineExceeded>(error))
            .or_else(|| known::<tokio::time::error::Elapsed>(error))
            .or_else(|| known::<io::Error>(error)),
    };
    while let Some(error) = next {
        let as_io = error.downcast_ref::<io::Error>();
        let timed_out = as_io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
        if timed_out
            || error.is::<Overloaded>()
            || error.is::<Limited>()
            || error.is::<DeadlineExceeded>()
            || error.is::<tokio::time::error::Elapsed>()
        {
            return true;
        }
        // What an `io::Error` carries is not its source, but itself.
        let carried =
            as_io.and_then(io::Error::get_ref).map(|error| error as &(dyn Error + 'static));
        next = carried.or_else(|| error.source());
    }
    false
}

fn known<E: Error + 'static>(error: &dyn Any) -> Option<&(dyn Error + 'static)> {
    error.downcast_ref::<E>().map(|error| error as _)
}

/// For HTTP and gRPC: 429, 503 and 504, and the gRPC codes 4 `DEADLINE_EXCEEDED`, 8 `RESOURCE_EXHAUSTED` and 14
/// `UNAVAILABLE`, are overload. Other 5xx and codes are failures, other 4xx are ignored, for they cost less than the work.
/// All else is a success. Errors are judged as [`RefusalsAreOverload`] does.
///
/// Only a gRPC code in the headers is seen, as in a trailers-only answer, which is how servers usually report errors.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, Default)]
pub struct OverloadStatus;

#[cfg(feature = "http")]
impl<B, E: 'static> Classify<http::Response<B>, E> for OverloadStatus {
    fn classify(&self, result: &Result<http::Response<B>, E>) -> Outcome {
        let Ok(response) = result else {
            return RefusalsAreOverload.classify(result);
        };
        let code = response.headers().get("grpc-status").map(http::HeaderValue::as_bytes);
        match (response.status().as_u16(), code) {
            (429 | 503 | 504, _) | (_, Some(b"4" | b"8" | b"14")) => Outcome::Overload,
            (400..500, _) => Outcome::Ignored,
            (500.., _) => Outcome::Failure,
            (_, None | Some(b"0")) => Outcome::Success,
            (_, Some(_)) => Outcome::Failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<E: 'static>(error: E) -> Outcome {
        RefusalsAreOverload.classify(&Err::<(), E>(error))
    }

    #[test]
    fn refusals_and_timeouts_are_overload_boxed_or_not() {
        assert_eq!(of(Overloaded::new("db")), Outcome::Overload);
        assert_eq!(of(BoxError::from(Overloaded::new("db"))), Outcome::Overload);
        assert_eq!(of(DeadlineExceeded), Outcome::Overload);
        assert_eq!(of(io::Error::from(io::ErrorKind::TimedOut)), Outcome::Overload);
        let wrapped = io::Error::other(BoxError::from(Limited::new(std::time::Duration::ZERO)));
        assert_eq!(of(BoxError::from(wrapped)), Outcome::Overload);
    }

    #[test]
    fn other_errors_are_failures() {
        assert_eq!(of(gusset_call::Open::new("db")), Outcome::Failure);
        assert_eq!(of(BoxError::from("no")), Outcome::Failure);
        assert_eq!(of(io::Error::from(io::ErrorKind::ConnectionRefused)), Outcome::Failure);
        assert_eq!(of("no"), Outcome::Failure);
    }

    #[cfg(feature = "http")]
    #[test]
    fn the_status_tells_overload_from_other_failures() {
        let with = |status: u16, code: Option<&str>| {
            let mut answer = http::Response::builder().status(status);
            if let Some(code) = code {
                answer = answer.header("grpc-status", code);
            }
            OverloadStatus.classify(&Ok::<_, std::fmt::Error>(answer.body(()).unwrap()))
        };
        for (status, outcome) in [
            (200, Outcome::Success),
            (304, Outcome::Success),
            (404, Outcome::Ignored),
            (429, Outcome::Overload),
            (500, Outcome::Failure),
            (503, Outcome::Overload),
            (504, Outcome::Overload),
        ] {
            assert_eq!(with(status, None), outcome, "{status}");
        }
        for (code, outcome) in
            [("0", Outcome::Success), ("8", Outcome::Overload), ("13", Outcome::Failure)]
        {
            assert_eq!(with(200, Some(code)), outcome, "{code}");
        }
    }
}

use std::{error::Error, time::Duration};

#[cfg(doc)]
use gusset_call::DeadlineExceeded;
use gusset_call::{BoxError, NoInstance, never_made, refusal_in};
use http::{HeaderMap, HeaderName, Method, Request, Response};

use super::{
    unsent::{causes, never_sent},
    wait::{pushback, retry_after},
};

/// What the result of an attempt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The result stands.
    Final,
    /// The attempt failed, and the service may have acted on it: to be made again only if that does no harm.
    Failed {
        /// The shortest wait that the service asked for.
        after: Option<Duration>,
    },
    /// The request never reached the service: any request may be made again.
    NotSent {
        /// The shortest wait that whoever refused asked for.
        after: Option<Duration>,
    },
}

/// Judges the results of attempts. Closures `|&Result<Response<B>, BoxError>| -> Verdict` do.
pub trait Classify<B> {
    /// What `result` asks for. Runs after every attempt, under no lock.
    fn classify(&self, result: &Result<Response<B>, BoxError>) -> Verdict;
}

impl<F, B> Classify<B> for F
where
    F: Fn(&Result<Response<B>, BoxError>) -> Verdict,
{
    fn classify(&self, result: &Result<Response<B>, BoxError>) -> Verdict {
        self(result)
    }
}

/// What usually passes when tried again.
///
/// | result | verdict |
/// |---|---|
/// | 502, 503, 504; gRPC 14 `UNAVAILABLE` | failed |
/// | 429; gRPC 8 `RESOURCE_EXHAUSTED` | failed, if they say when to come back; else final |
/// | a negative `grpc-retry-pushback-ms` | final |
/// | any other answer | final |
/// | [`DeadlineExceeded`] | final: the caller has gone |
/// | [`NoInstance`] | final: the balancer has waited for one already |
/// | [`Inadmissible`](gusset_call::Inadmissible) | final: time does not mend it |
/// | [`PerhapsMade`](gusset_call::PerhapsMade), of retries inside of these | failed |
/// | any other refusal of the family | not sent |
/// | no connection: refused, no route, no network | not sent |
/// | with the feature `hyper`: any other error of connecting; a connection that was over before the request was written; HTTP/2 `REFUSED_STREAM`, and `GOAWAY` for the streams that it leaves out | not sent |
/// | any other error, for instance a connection that breaks | failed |
///
/// A gRPC status is that of the headers, or of the trailers where no message stands before them: see
/// [`RetryLayer`](crate::RetryLayer#grpc). Errors are known by their types among the sources of the error, `std::io::Error` and
/// those of hyper, hyper-util's client and h2, which reqwest and tonic pass on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Transient;

impl<B> Classify<B> for Transient {
    fn classify(&self, result: &Result<Response<B>, BoxError>) -> Verdict {
        match result {
            Ok(response) => of_answer(response.status().as_u16(), response.headers()),
            Err(error) => of_error(&**error),
        }
    }
}

/// No constant, which would be made and dropped wherever it is used.
pub(super) static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

fn of_answer(status: u16, headers: &HeaderMap) -> Verdict {
    let grpc_status = headers.get(&GRPC_STATUS).map(http::HeaderValue::as_bytes);
    if grpc_status.is_none_or(|code| code == b"0") && (200..300).contains(&status) {
        return Verdict::Final;
    }
    let after = match pushback(headers) {
        Some(Err(_)) => return Verdict::Final,
        Some(Ok(span)) => Some(span),
        None => retry_after(headers),
    };
    match (status, grpc_status) {
        (502..=504, _) | (_, Some(b"14")) => Verdict::Failed { after },
        (429, _) | (_, Some(b"8")) if after.is_some() => Verdict::Failed { after },
        _ => Verdict::Final,
    }
}

fn of_error(error: &(dyn Error + 'static)) -> Verdict {
    /// The gRPC code of `DeadlineExceeded`, the one refusal of a call that may well have been sent.
    const DEADLINE_EXCEEDED: u8 = 4;
    /// That of `Inadmissible`, which is refused again however often it comes.
    const PERMISSION_DENIED: u8 = 7;
    if let Some(refusal) = refusal_in(error) {
        return match refusal.grpc_code() {
            _ if causes(error).any(<dyn Error>::is::<NoInstance>) => Verdict::Final,
            DEADLINE_EXCEEDED | PERMISSION_DENIED => Verdict::Final,
            // By retries inside of these.
            _ if never_made(error).is_none() => Verdict::Failed { after: refusal.retry_after() },
            _ => Verdict::NotSent { after: refusal.retry_after() },
        };
    }
    if never_sent(error) {
        Verdict::NotSent { after: None }
    } else {
        Verdict::Failed { after: None }
    }
}

/// Says in a request's extensions whether making it twice does the same as making it once. It overrules what the method and the headers
/// tell; for gRPC, where every method is POST, there is no other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotent(
    /// Whether it does.
    pub bool,
);

impl Idempotent {
    /// Whether `request` may be made twice: by its extension, or else by RFC 9110 (GET, HEAD, OPTIONS, TRACE, PUT, DELETE), or by
    /// an `Idempotency-Key`, with which the client promises that the service can tell.
    pub(crate) fn is<B>(request: &Request<B>) -> bool {
        if let Some(Self(said)) = request.extensions().get() {
            return *said;
        }
        match *request.method() {
            Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE => true,
            Method::PUT | Method::DELETE => true,
            _ => request.headers().contains_key(&IDEMPOTENCY_KEY),
        }
    }
}

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    use gusset_call::{DeadlineExceeded, Inadmissible, Limited, NoInstance, Open};

    fn answer(status: u16, headers: &[(&str, &str)]) -> Verdict {
        let response = headers
            .iter()
            .fold(Response::builder().status(status), |response, (k, v)| response.header(*k, *v))
            .body(())
            .unwrap();
        Transient.classify(&Ok(response))
    }

    fn error(error: impl Into<BoxError>) -> Verdict {
        Classify::<()>::classify(&Transient, &Err(error.into()))
    }

    const SOON: Option<Duration> = Some(Duration::from_secs(2));

    #[test]
    fn answers_of_a_missing_or_overloaded_upstream_are_failures() {
        for status in [502, 503, 504] {
            assert_eq!(answer(status, &[]), Verdict::Failed { after: None }, "{status}");
        }
        assert_eq!(answer(503, &[("retry-after", "2")]), Verdict::Failed { after: SOON });
        for status in [200, 302, 400, 404, 409, 500, 501, 505] {
            assert_eq!(answer(status, &[]), Verdict::Final, "{status}");
        }
    }

    #[test]
    fn too_many_requests_are_tried_again_only_at_an_appointed_time() {
        assert_eq!(answer(429, &[]), Verdict::Final);
        assert_eq!(answer(429, &[("retry-after", "2")]), Verdict::Failed { after: SOON });
    }

    #[test]
    fn grpc_is_judged_by_its_status_and_pushback() {
        let pushback = ("grpc-retry-pushback-ms", "2000");
        let code = |code| ("grpc-status", code);
        assert_eq!(answer(200, &[code("0")]), Verdict::Final);
        assert_eq!(answer(200, &[code("14")]), Verdict::Failed { after: None });
        assert_eq!(answer(200, &[code("14"), pushback]), Verdict::Failed { after: SOON });
        assert_eq!(answer(200, &[code("8")]), Verdict::Final);
        assert_eq!(answer(200, &[code("8"), pushback]), Verdict::Failed { after: SOON });
        for stop in ["-1", "soon"] {
            let stop = ("grpc-retry-pushback-ms", stop);
            assert_eq!(answer(200, &[code("14"), stop]), Verdict::Final);
        }
        assert_eq!(answer(200, &[code("13")]), Verdict::Final);
    }

    #[test]
    fn refusals_were_never_sent_unless_the_deadline_passed() {
        let open = Open::new("c").with_retry_after(Duration::from_secs(2));
        assert_eq!(error(open), Verdict::NotSent { after: SOON });
        assert_eq!(error(NoInstance::new("s")), Verdict::Final, "the balancer has waited already");
        assert_eq!(error(Limited::new(Duration::from_secs(2))), Verdict::NotSent { after: SOON });
        assert_eq!(error(DeadlineExceeded), Verdict::Final);
        assert_eq!(error(Inadmissible::new("no key")), Verdict::Final, "it would be refused again");
    }

    #[test]
    fn a_connection_that_was_never_made_is_told_from_one_that_broke() {
        assert_eq!(
            error(io::Error::from(io::ErrorKind::ConnectionRefused)),
            Verdict::NotSent { after: None }
        );
        assert_eq!(
            error(io::Error::from(io::ErrorKind::ConnectionReset)),
            Verdict::Failed { after: None }
        );
        assert_eq!(error("who knows"), Verdict::Failed { after: None });
    }

    #[test]
    fn what_may_be_made_twice() {
        let request = |method: &str| Request::builder().method(method);
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert!(Idempotent::is(&request(method).body(()).unwrap()), "{method}");
        }
        for method in ["POST", "PATCH", "CONNECT", "BREW"] {
            assert!(!Idempotent::is(&request(method).body(()).unwrap()), "{method}");
        }
        let keyed = request("POST").header("Idempotency-Key", "k1");
        assert!(Idempotent::is(&keyed.body(()).unwrap()));
        let told = request("GET").extension(Idempotent(false));
        assert!(!Idempotent::is(&told.body(()).unwrap()));
    }
}

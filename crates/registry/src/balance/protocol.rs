use gusset_call::Tried;

/// What a balancer understands of the requests and responses that pass through it. Each call carries a clone, so it is small: most have no
/// fields at all.
pub trait Protocol<Req, Res> {
    /// The list of instances that earlier tries of the same call went to, if the request carries one.
    fn tried(&self, request: &Req) -> Option<Tried>;

    /// Whether this answer means that the instance failed. Errors of the service always do.
    fn is_failure(&self, response: &Res) -> bool;
}

/// Understands nothing: no request carries [`Tried`], every response is a success.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opaque;

impl<Req, Res> Protocol<Req, Res> for Opaque {
    fn tried(&self, _: &Req) -> Option<Tried> {
        None
    }

    fn is_failure(&self, _: &Res) -> bool {
        false
    }
}

/// Reads [`Tried`] from the extensions of HTTP requests, or asks the retry layer that makes the call for it. 5xx and the gRPC codes 2, 4, 13, 14 and 15 in the headers of
/// a response are failures.
#[cfg(feature = "http")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Http;

#[cfg(feature = "http")]
impl<B, C> Protocol<http::Request<B>, http::Response<C>> for Http {
    fn tried(&self, request: &http::Request<B>) -> Option<Tried> {
        request.extensions().get::<Tried>().cloned().or_else(Tried::current)
    }

    fn is_failure(&self, response: &http::Response<C>) -> bool {
        static STATUS: http::HeaderName = http::HeaderName::from_static("grpc-status");
        let code = response.headers().get(&STATUS).map(http::HeaderValue::as_bytes);
        matches!(code, Some(b"2" | b"4" | b"13" | b"14" | b"15"))
            || response.status().is_server_error()
    }
}

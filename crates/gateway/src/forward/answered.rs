//! What becomes of the answer of an upstream.

use http::{HeaderValue, Response, StatusCode, Version, header};
use http_body_util::Either;

use super::{AnyBody, MadeBody, UpstreamBody};
use crate::{
    answer::Answer,
    grpc_web::GrpcWeb,
    headers::{add_via, remove_hop_by_hop},
    transport::Switched,
};

/// The answer as a client of gRPC-Web takes it, if that is what it is and its upstream does not speak that.
pub(super) fn translated(web: Option<GrpcWeb>, response: Response<AnyBody>) -> Response<AnyBody> {
    let Some(web) = web else { return response };
    match web.answer(response) {
        Ok(response) => {
            response.map(|body| Either::Right(Either::Right(Either::Right(MadeBody::new(body)))))
        }
        Err(response) => response,
    }
}

/// An upstream's answer as one of the gateway's.
pub(crate) fn passed_back(
    mut response: Response<UpstreamBody>,
) -> Result<Response<UpstreamBody>, Answer> {
    let switched = response.extensions_mut().remove::<Switched>();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && switched.is_none() {
        return Err(Answer::BadGateway);
    }
    let version = response.version();
    remove_hop_by_hop(response.headers_mut());
    if let Some(Switched(protocol)) = switched {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    add_via(response.headers_mut(), version);
    // An intermediary speaks its own version, and not that of an instance which may be older (RFC 9110, 2.5).
    *response.version_mut() = Version::HTTP_11;
    Ok(response)
}

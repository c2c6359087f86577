//! WebSocket over HTTP/2 (RFC 8441): behind the server an extended CONNECT is a request that asks to switch, as one of HTTP/1.1 is.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::ext::Protocol;

const WEBSOCKET: &str = "websocket";

/// Makes such a request of an extended CONNECT, and says whether it was one.
pub(super) fn ask<B>(request: &mut Request<B>) -> bool {
    let protocol = request.extensions().get::<Protocol>();
    let asks = protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case(WEBSOCKET));
    if !asks || request.method() != Method::CONNECT {
        return false;
    }
    *request.method_mut() = Method::GET;
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
    // In HTTP/2 there is none, and HTTP/1.1 asks for one.
    let key = STANDARD.encode(rand::random::<[u8; 16]>());
    if let Ok(key) = HeaderValue::try_from(key) {
        headers.insert(header::SEC_WEBSOCKET_KEY, key);
    }
    true
}

/// Tells the client of such a request what became of it. Any answer of success would mean that both speak WebSocket now.
pub(super) fn tell<B>(response: &mut Response<B>) {
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => {
            *response.status_mut() = StatusCode::OK;
            let headers = response.headers_mut();
            for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
                headers.remove(name);
            }
        }
        status if status.is_success() => *response.status_mut() = StatusCode::BAD_GATEWAY,
        _ => {}
    }
}

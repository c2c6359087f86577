//! The head of a request in HTTP/2 (RFC 9113, 8).

use http::{
    HeaderValue, Method, Request, Uri, Version, header,
    request::Parts,
    uri::{self, Authority, Scheme},
};

use super::request_head::Framing;

/// What belongs to the connection or the stream is set here, whatever `head` says of it.
pub(super) fn of(mut head: Parts, authority: &str, tls: bool, framing: Framing) -> Request<()> {
    let host = head.headers.remove(header::HOST);
    let named = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut target = uri::Parts::default();
    target.path_and_query = head.uri.path_and_query().cloned();
    if target.path_and_query.is_none() {
        target.path_and_query = Some(uri::PathAndQuery::from_static("/"));
    }
    target.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    target.authority = named.or_else(|| authority.parse().ok());
    // Without an authority the connection refuses it, as it does an address that nobody can reach.
    head.uri = Uri::from_parts(target).unwrap_or_default();
    head.version = Version::HTTP_2;
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        head.headers.remove(name);
    }
    let length = match framing {
        Framing::Length(length) => Some(HeaderValue::from(length)),
        Framing::Empty if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => {
            Some(HeaderValue::from_static("0"))
        }
        Framing::Empty | Framing::Chunked | Framing::UntilClose => None,
    };
    match length {
        Some(length) => drop(head.headers.insert(header::CONTENT_LENGTH, length)),
        None => drop(head.headers.remove(header::CONTENT_LENGTH)),
    }
    Request::from_parts(head, ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(request: http::request::Builder, framing: Framing) -> Request<()> {
        of(request.body(()).unwrap().into_parts().0, "10.0.0.1:80", false, framing)
    }

    #[test]
    fn a_head_has_an_authority_and_nothing_of_a_connection() {
        let request = Request::get("http://elsewhere/a?b=c")
            .header("x-a", "1")
            .header("connection", "close")
            .header("content-length", "7")
            .header("transfer-encoding", "gzip");
        let head = made(request, Framing::Chunked);
        assert_eq!(head.uri(), "http://10.0.0.1:80/a?b=c");
        assert_eq!(head.headers().len(), 1, "{head:?}");
    }

    #[test]
    fn a_host_that_is_to_be_kept_stands_in_place_of_the_authority() {
        let head = made(Request::post("/").header("host", "shop.example"), Framing::Empty);
        assert_eq!(head.uri(), "http://shop.example/");
        assert_eq!(head.headers()["content-length"], "0");
        let head = made(Request::put("/").header("host", "no host"), Framing::Length(10));
        assert_eq!(head.uri(), "http://10.0.0.1:80/");
        assert_eq!(head.headers()["content-length"], "10");
    }
}

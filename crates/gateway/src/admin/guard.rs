use std::{net::IpAddr, str::FromStr};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header, uri::Authority};
use http_body_util::Full;
use sha2::{Digest, Sha256};

use super::problem;
use crate::host::host_of;

/// Who may ask.
#[derive(Default)]
pub(super) struct Guard {
    /// The hash of the token, so that comparing it says nothing of it.
    token: Option<[u8; 32]>,
    hosts: Vec<String>,
}

impl Guard {
    pub(super) fn token(&mut self, token: &str) {
        self.token = Some(Sha256::digest(token.as_bytes()).into());
    }

    pub(super) fn host(&mut self, name: String) {
        self.hosts.push(name.to_ascii_lowercase());
    }

    /// The answer to who may not ask. `probe` tells nothing that needs a token.
    pub(super) fn refuses<B>(
        &self,
        request: &Request<B>,
        probe: bool,
    ) -> Option<Response<Full<Bytes>>> {
        let headers = request.headers();
        let host = host_of(request.uri(), headers).and_then(|host| Authority::from_str(host).ok());
        let Some(host) = host.filter(|host| self.is_ours(host.host())) else {
            let reason = "the host is neither an address, nor localhost, nor one of this gateway's";
            return Some(problem(StatusCode::FORBIDDEN, reason));
        };
        // Browsers say who asks: with an origin for all that changes something, and with where the page is from for the rest.
        let own = |origin: &HeaderValue| {
            let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
            origin.is_some_and(|(_, of)| of == host.as_str())
        };
        let site = headers.get("sec-fetch-site");
        let foreign = site.is_some_and(|site| site != "same-origin" && site != "none");
        if foreign || !headers.get_all(header::ORIGIN).iter().all(own) {
            return Some(problem(StatusCode::FORBIDDEN, "web pages may not ask here"));
        }
        match &self.token {
            Some(token) if !probe && !shows(headers, token) => {
                let mut response = problem(StatusCode::UNAUTHORIZED, "show the token");
                let challenge = HeaderValue::from_static("Bearer");
                response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
                Some(response)
            }
            _ => None,
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        host == "localhost" || host.parse::<IpAddr>().is_ok() || self.hosts.contains(&host)
    }
}

fn shows(headers: &http::HeaderMap, token: &[u8; 32]) -> bool {
    let line = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let shown = line.and_then(|line| match line.split_at_checked(7) {
        Some((scheme, shown)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(shown),
        _ => None,
    });
    shown.is_some_and(|shown| <[u8; 32]>::from(Sha256::digest(shown)) == *token)
}

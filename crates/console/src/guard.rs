use std::{net::IpAddr, str::FromStr};

use http::{HeaderMap, HeaderValue, Request, StatusCode, header, uri::Authority};
use sha2::{Digest, Sha256};

use crate::answer::{Answer, problem};

/// Who may look, and who may act.
#[derive(Default)]
pub(crate) struct Guard {
    /// The hash of the operator's token, so that comparing it says nothing of it.
    token: Option<[u8; 32]>,
    /// Whether looking needs the token as well.
    pub(crate) readers_too: bool,
    /// In small letters.
    hosts: Vec<String>,
}

impl Guard {
    pub(crate) fn token(&mut self, token: &str) {
        self.token = Some(Sha256::digest(token.as_bytes()).into());
    }

    pub(crate) fn host(&mut self, name: &str) {
        self.hosts.push(name.to_ascii_lowercase());
    }

    pub(crate) const fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The refusal of a request that a page of somebody else sent, or that came here by a name that is not ours: the owner of a name can let it point to this machine, and
    /// so make a browser believe that his page may ask here.
    pub(crate) fn refuses_stranger<B>(&self, request: &Request<B>) -> Option<Answer> {
        let headers = request.headers();
        let Some(host) = host_of(request).filter(|host| self.is_ours(host.host())) else {
            let reason = "the host is neither an address, nor localhost, nor one of this console's";
            return Some(problem(StatusCode::FORBIDDEN, reason));
        };
        let own = |origin: &HeaderValue| {
            let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
            origin.is_some_and(|(_, of)| of.eq_ignore_ascii_case(host.as_str()))
        };
        let site = headers.get("sec-fetch-site");
        // Who follows a link to the page comes from another site, and gets the page, which says nothing.
        let page = request.uri().path() == "/" && request.method().is_safe();
        let foreign = site.is_some_and(|site| site != "same-origin" && site != "none");
        if foreign && !page || !headers.get_all(header::ORIGIN).iter().all(own) {
            return Some(problem(StatusCode::FORBIDDEN, "pages of others may not ask here"));
        }
        None
    }

    /// The refusal of who does not show the token, where one is needed.
    pub(crate) fn refuses_reader(&self, headers: &HeaderMap) -> Option<Answer> {
        (self.readers_too && !self.is_operator(headers)).then(challenge)
    }

    /// The refusal of who may not act.
    pub(crate) fn refuses_actor(&self, headers: &HeaderMap) -> Option<Answer> {
        if self.token.is_none() {
            let reason = "this console has no operator's token, and so changes nothing";
            return Some(problem(StatusCode::FORBIDDEN, reason));
        }
        (!self.is_operator(headers)).then(challenge)
    }

    pub(crate) fn is_operator(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let line = lines.next().map(HeaderValue::as_bytes).filter(|_| lines.next().is_none());
        let shown = line.and_then(|line| match line.split_at_checked(7) {
            Some((scheme, shown)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(shown),
            _ => None,
        });
        let Some((shown, token)) = shown.zip(self.token) else { return false };
        // Of hashes, how long the comparison takes says nothing.
        <[u8; 32]>::from(Sha256::digest(shown)) == token
    }

    fn is_ours(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        host == "localhost" || host.parse::<IpAddr>().is_ok() || self.hosts.contains(&host)
    }
}

/// The one host that the request is for, with its port.
fn host_of<B>(request: &Request<B>) -> Option<Authority> {
    let mut lines = request.headers().get_all(header::HOST).iter();
    let line = lines.next();
    if lines.next().is_some() {
        return None;
    }
    let host = match request.uri().authority() {
        Some(authority) => authority.clone(),
        None => Authority::from_str(line?.to_str().ok()?).ok()?,
    };
    (!host.as_str().contains('@')).then_some(host)
}

fn challenge() -> Answer {
    let mut response = problem(StatusCode::UNAUTHORIZED, "show the operator's token");
    let bearer = HeaderValue::from_static("Bearer");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
    response
}

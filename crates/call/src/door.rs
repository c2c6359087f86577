use std::{fmt, hint::black_box, net::IpAddr, str::FromStr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, uri::Authority};
use http_body_util::Full;

use crate::Problem;

/// Decides who may ask at a listener that is for operators and their tools, and not for the world.
///
/// ```
/// use gusset_call::{Asked, Door};
/// use http::Request;
///
/// let door = Door::new().token("6f1c0f4c9d4e4b0c");
/// let ask = |token: &str| {
///     let line = format!("Bearer {token}");
///     Request::post("/drain").header("host", "localhost:9090").header("authorization", line).body(()).unwrap()
/// };
/// assert!(door.refuses(&ask("6f1c0f4c9d4e4b0c"), Asked::Kept).is_none());
/// assert_eq!(door.refuses(&ask("guessed"), Asked::Kept).unwrap().status(), 401);
/// ```
///
/// It keeps out three that come by the browser of somebody who may ask:
///
/// | who | how it is known | answer |
/// |---|---|---|
/// | a page of another origin | `Origin` that is not this host, or `Sec-Fetch-Site` | 403 |
/// | a page whose own name was made to lead to this machine (DNS rebinding) | a `Host` that is neither an address, nor `localhost`, nor [named](Door::host) | 403 |
/// | whoever does not show the token | `Authorization: Bearer` | 401 |
///
/// Who shows the token may come by any name: no page of somebody else has it, and no cookie stands in for it. Requests with no host, with two, or with a user in it are for nobody.
///
/// It does not hinder guessing: take a token with 128 bits of chance or more.
#[derive(Clone, Default)]
pub struct Door {
    token: Option<Arc<[u8]>>,
    /// In small letters.
    hosts: Vec<String>,
}

/// What is asked for, as a [`Door`] sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// What is kept for those who show the token. Without a token it is for all who come by a right name.
    Kept,
    /// What everybody may ask, but no page of somebody else.
    Open,
    /// Whether it works, and no more. Orchestrators ask so by whatever name, and have no token; where there is no token, the name has to be right.
    Probe,
    /// A page to which links from elsewhere may lead, since it tells nothing by itself.
    Page,
}

impl Door {
    /// Without a token: whoever comes by a right name may ask for everything. Then let it listen on loopback alone.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What has to be shown. Nobody can show an empty one.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.as_bytes().into());
        self
    }

    /// One more name by which it is reached, without a port; `localhost` and addresses need none.
    #[must_use]
    pub fn host(mut self, name: &str) -> Self {
        self.hosts.push(name.to_ascii_lowercase());
        self
    }

    /// Whether there is a token.
    #[must_use]
    pub const fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether the token is shown, in the one `Authorization` line. How long it takes to see tells no more than how long what was shown is.
    #[must_use]
    pub fn is_shown_token(&self, headers: &HeaderMap) -> bool {
        let mut lines = headers.get_all(header::AUTHORIZATION).iter();
        let line = lines.next().map(HeaderValue::as_bytes).filter(|_| lines.next().is_none());
        let shown = line.and_then(|line| match line.split_at_checked(7) {
            Some((scheme, shown)) if scheme.eq_ignore_ascii_case(b"bearer ") => Some(shown),
            _ => None,
        });
        let token = self.token.as_deref().filter(|token| !token.is_empty());
        shown.zip(token).is_some_and(|(shown, token)| same(shown, token))
    }

    /// The answer to who may not ask for this; `None` to who may.
    #[must_use]
    pub fn refuses<B>(&self, request: &Request<B>, what: Asked) -> Option<Response<Full<Bytes>>> {
        let host = host_of(request);
        if is_of_another_page(request.headers(), host.as_ref(), what) {
            return Some(refusal(StatusCode::FORBIDDEN, "pages of others may not ask here"));
        }
        let is_shown = self.is_shown_token(request.headers());
        match what {
            Asked::Kept if self.has_token() && !is_shown => return Some(Self::challenge()),
            Asked::Probe if self.has_token() => return None,
            _ => {}
        }
        if is_shown || host.is_some_and(|host| self.is_ours(host.host())) {
            return None;
        }
        let reason =
            "the host is neither an address, nor localhost, nor one of the names of this listener";
        Some(refusal(StatusCode::FORBIDDEN, reason))
    }

    /// The answer to who has to show the token: 401.
    #[must_use]
    pub fn challenge() -> Response<Full<Bytes>> {
        let mut response = refusal(StatusCode::UNAUTHORIZED, "show the token");
        let bearer = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        response
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

/// Browsers say who asks: by an origin for all that changes something, and by where the page is from for the rest.
fn is_of_another_page(headers: &HeaderMap, host: Option<&Authority>, what: Asked) -> bool {
    let is_own = |origin: &HeaderValue| {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
        origin.zip(host).is_some_and(|((_, of), host)| of.eq_ignore_ascii_case(host.as_str()))
    };
    let is_foreign = |site: &HeaderValue| site != "same-origin" && site != "none";
    let mut sites = headers.get_all("sec-fetch-site").iter();
    what != Asked::Page && sites.any(is_foreign)
        || !headers.get_all(header::ORIGIN).iter().all(is_own)
}

/// Looks at every byte that was shown, whichever is wrong first. `token` is not empty.
fn same(shown: &[u8], token: &[u8]) -> bool {
    let bytes = shown.iter().zip(token.iter().cycle());
    let differs = bytes.fold(0, |differs, (a, b)| black_box(differs | (a ^ b)));
    differs == 0 && shown.len() == token.len()
}

fn refusal(status: StatusCode, why: &'static str) -> Response<Full<Bytes>> {
    Problem::new(status).detail(why).into_response()
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door")
            .field("has_token", &self.has_token())
            .field("hosts", &self.hosts)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Asked; 4] = [Asked::Kept, Asked::Open, Asked::Probe, Asked::Page];

    fn status(door: &Door, lines: &[(&str, &str)], what: Asked) -> u16 {
        let mut request = Request::get("/");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let refused = door.refuses(&request.body(()).unwrap(), what);
        refused.map_or(200, |refused| refused.status().as_u16())
    }

    #[test]
    fn a_name_that_is_not_its_own_gets_no_answer() {
        let door = Door::new().host("Gateway.internal");
        for what in ALL {
            for host in ["localhost", "LOCALHOST:80", "10.0.0.7:1", "[::1]:90", "gateway.INTERNAL"]
            {
                assert_eq!(status(&door, &[("host", host)], what), 200, "{host}");
            }
            for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""] {
                assert_eq!(status(&door, &[("host", host)], what), 403, "{host}");
            }
            let lines = [("host", "localhost"), ("host", "localhost")];
            assert_eq!(status(&door, &lines, what), 403);
            assert_eq!(status(&door, &[("host", "user@localhost")], what), 403);
            assert_eq!(status(&door, &[], what), 403);
        }
    }

    #[test]
    fn a_page_of_another_origin_gets_no_answer_and_a_link_leads_to_a_page() {
        let door = Door::new();
        let with = |name, value| [("host", "localhost:90"), (name, value)];
        for what in ALL {
            let own = with("origin", "http://localhost:90");
            assert_eq!(status(&door, &own, what), 200);
            for origin in ["http://localhost:91", "http://localhost", "null", "localhost:90"] {
                assert_eq!(status(&door, &with("origin", origin), what), 403, "{origin}");
            }
            for site in ["same-origin", "none"] {
                assert_eq!(status(&door, &with("sec-fetch-site", site), what), 200);
            }
            for site in ["cross-site", "same-site"] {
                let wanted = if what == Asked::Page { 200 } else { 403 };
                assert_eq!(status(&door, &with("sec-fetch-site", site), what), wanted);
            }
        }
    }

    #[test]
    fn what_is_kept_is_for_who_shows_the_token_by_whatever_name() {
        let door = Door::new().token("s3cret");
        let ask = |shown: &str, what| {
            status(&door, &[("host", "a.example"), ("authorization", shown)], what)
        };
        for right in ["Bearer s3cret", "bearer s3cret"] {
            assert_eq!(ask(right, Asked::Kept), 200);
            assert_eq!(ask(right, Asked::Open), 200);
        }
        for wrong in [
            "Bearer s3cre",
            "Bearer s3crets3cret",
            "Bearer s3creT",
            "Bearer ",
            "Bearer",
            "s3cret",
            "Basic s3cret",
        ] {
            assert_eq!(ask(wrong, Asked::Kept), 401, "{wrong}");
            assert_eq!(ask(wrong, Asked::Open), 403, "{wrong}");
            assert_eq!(ask(wrong, Asked::Probe), 200, "{wrong}");
        }
        let line = ("authorization", "Bearer s3cret");
        assert_eq!(status(&door, &[("host", "localhost"), line, line], Asked::Kept), 401);
        let page = [("host", "localhost"), ("origin", "http://evil.example"), line];
        assert_eq!(status(&door, &page, Asked::Kept), 403);
    }

    #[test]
    fn nobody_can_show_an_empty_token() {
        let door = Door::new().token("");
        let lines = [("host", "localhost"), ("authorization", "Bearer ")];
        assert_eq!(status(&door, &lines, Asked::Kept), 401);
    }

    #[test]
    fn a_token_is_in_no_debug_text() {
        assert!(!format!("{:?}", Door::new().token("s3cret")).contains("s3cret"));
    }
}

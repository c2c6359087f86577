//! Texts with gaps that each request fills.

use http::{HeaderName, request::Parts};

use super::{
    pattern::{self, Captures, Pattern},
    table::without_port,
};
use crate::client::Origin;

/// A text with gaps, checked against the path of its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Parameter(usize),
    Host,
    HostName,
    Path,
    Query,
    Method,
    Header(HeaderName),
    Client,
}

/// A request, as far as templates see it.
#[derive(Clone, Copy)]
pub(crate) struct View<'r> {
    pub(crate) head: &'r Parts,
    pub(crate) host: &'r str,
    /// In its normal form.
    pub(crate) path: &'r str,
    pub(crate) captures: &'r Captures,
    pub(crate) origin: &'r Origin,
}

impl Template {
    /// # Errors
    ///
    /// If a gap has no name that is known.
    pub(crate) fn parse(text: &str, pattern: &Pattern) -> Result<Self, String> {
        let pieces = pattern::pieces(text)?.into_iter();
        let piece = |piece| match piece {
            pattern::Piece::Text(text) => Ok(Piece::Literal(text)),
            pattern::Piece::Name(name) => Piece::named(&name, pattern),
        };
        pieces.map(piece).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn fill(&self, view: &View<'_>) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            piece.fill(view, &mut text);
        }
        text
    }

    /// The text, if it has no gap.
    pub(crate) fn literal(&self) -> Option<&str> {
        match &*self.0 {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Whether it is a target for clients: a path, or a scheme and a host that it names itself. Whoever chooses the host of a redirect sends
    /// visitors wherever it likes, with the gateway's name on the link.
    pub(crate) fn is_target(&self) -> bool {
        let Some((first, rest)) = self.0.split_first() else { return false };
        let authority = match first {
            Piece::Path => return true,
            Piece::Literal(text) if text.starts_with('/') => return !text.starts_with("//"),
            Piece::Literal(text) => {
                text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))
            }
            _ => None,
        };
        let Some(authority) = authority else { return false };
        if authority.contains('/') {
            return !authority.starts_with('/');
        }
        let mut names_one = !authority.is_empty();
        for (at, piece) in rest.iter().enumerate() {
            match piece {
                Piece::Literal(text) => {
                    if text.contains('/') {
                        return names_one || !text.starts_with('/');
                    }
                    names_one = true;
                }
                Piece::Host | Piece::HostName => names_one = true,
                // A label below a domain that stands there.
                Piece::Parameter(_) => match rest.get(at + 1) {
                    Some(Piece::Literal(text)) if text.starts_with('.') => {}
                    _ => return false,
                },
                Piece::Path => return names_one,
                _ => return false,
            }
        }
        names_one
    }
}

impl Piece {
    fn named(name: &str, pattern: &Pattern) -> Result<Self, String> {
        if let Some(field) = name.strip_prefix("request.header.") {
            return HeaderName::try_from(field)
                .map(Self::Header)
                .map_err(|_| format!("{field:?} is no name of a header field"));
        }
        match name {
            "request.host" => Ok(Self::Host),
            "request.hostname" => Ok(Self::HostName),
            "request.path" => Ok(Self::Path),
            "request.query" => Ok(Self::Query),
            "request.method" => Ok(Self::Method),
            "client.address" => Ok(Self::Client),
            _ => match pattern.place(name.trim_start_matches('*')) {
                Some(place) => Ok(Self::Parameter(place)),
                None if name.contains('.') => Err(format!(
                    "{{{name}}} is none of request.host, .hostname, .path, .query, .method, .header.NAME, and client.address"
                )),
                None => {
                    Err(format!("the path has no parameter {name:?}, but {}", pattern.described()))
                }
            },
        }
    }

    fn fill(&self, view: &View<'_>, text: &mut String) {
        match self {
            Self::Literal(literal) => text.push_str(literal),
            Self::Parameter(place) => text.push_str(view.captures.get(view.path, *place)),
            Self::Host => text.push_str(view.host),
            Self::HostName => text.push_str(without_port(view.host)),
            Self::Path => text.push_str(view.path),
            Self::Query => text.push_str(view.head.uri.query().unwrap_or_default()),
            Self::Method => text.push_str(view.head.method.as_str()),
            Self::Header(name) => {
                let line = view.head.headers.get(name).and_then(|line| line.to_str().ok());
                text.push_str(line.unwrap_or_default());
            }
            Self::Client => {
                if let Some(address) = view.origin.client {
                    text.push_str(&address.to_string());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Proxies;

    #[test]
    fn gaps_are_filled_from_the_request() {
        let pattern = Pattern::parse("/orders/{id}/{*rest}").unwrap();
        let mut paths = super::super::paths::Paths::<()>::default();
        paths.at(&pattern);
        let request = http::Request::get("/orders/7/a/b?x=1").header("x-tenant", "blue");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let origin = Origin::of(&head.headers, &head.extensions, &Proxies::new(Vec::new()));
        let filled = |text: &str| {
            let template = Template::parse(text, &pattern).unwrap();
            let mut filled = String::new();
            paths.find("/orders/7/a/b", &mut |(), captures| {
                let path = "/orders/7/a/b";
                let host = "shop.example:8080";
                filled =
                    template.fill(&View { head: &head, host, path, captures, origin: &origin });
                true
            });
            filled
        };
        for (text, expected) in [
            ("", ""),
            ("{{id}}", "{id}"),
            ("o-{id}/{rest}!", "o-7/a/b!"),
            ("{request.method} {request.path}?{request.query}", "GET /orders/7/a/b?x=1"),
            ("{request.host} {request.hostname}", "shop.example:8080 shop.example"),
            ("{request.header.x-tenant}{request.header.x-none}{client.address}", "blue"),
        ] {
            assert_eq!(filled(text), expected, "{text}");
        }
    }

    #[test]
    fn an_unknown_gap_is_refused_with_those_that_there_are() {
        let pattern = Pattern::parse("/{id}").unwrap();
        let refused = |text| Template::parse(text, &pattern).unwrap_err();
        assert_eq!(refused("{ident}"), "the path has no parameter \"ident\", but \"id\"");
        assert!(refused("{request.port}").contains(".hostname"));
        assert!(Template::parse("{request.header.a b}", &pattern).is_err());
        assert!(Template::parse("{", &pattern).is_err());
    }

    #[test]
    fn a_target_names_its_host() {
        let pattern = Pattern::parse("/{tenant}/{*rest}").unwrap();
        let is_target = |text| Template::parse(text, &pattern).unwrap().is_target();
        for good in [
            "/",
            "/{rest}",
            "{request.path}",
            "https://shop.example",
            "https://shop.example/{rest}",
            "https://{request.hostname}{request.path}",
            "https://{request.hostname}:8443/{rest}",
            "https://{tenant}.shop.example/{rest}",
            "https://shop.example{request.path}",
        ] {
            assert!(is_target(good), "{good}");
        }
        for bad in [
            "",
            "x",
            "//evil/{rest}",
            "{rest}",
            "https://{tenant}",
            "https://{tenant}/x",
            "https://{tenant}{request.path}",
            "https:///x",
            "https://",
            "javascript:{rest}",
            "https://a{request.header.x}/",
            "{request.header.x}",
            "https://{request.path}",
        ] {
            assert!(!is_target(bad), "{bad}");
        }
    }
}

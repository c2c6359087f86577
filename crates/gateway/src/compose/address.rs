//! What a branch is asked for, made of what the client asked for.

use std::fmt::Write;

use http::{Uri, uri::PathAndQuery};

use crate::routes::{Captures, Pattern, Rewrite};

/// The path and query of a branch, checked against the template of its route when the gateway is built.
#[derive(Clone, Debug)]
pub(super) struct Address {
    path: Rewrite,
    query: Vec<Piece>,
    /// Of the client's query, what goes on.
    passed: Vec<Box<str>>,
}

#[derive(Clone, Debug)]
enum Piece {
    Literal(String),
    Parameter(usize),
}

impl Address {
    /// # Errors
    ///
    /// Why `target` makes no sense on a route with this path.
    pub(super) fn compile(
        pattern: &Pattern,
        target: &str,
        passed: &[Box<str>],
    ) -> Result<Self, String> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if target.contains('#') {
            return Err(format!("{target:?} has a fragment, which no server is asked for"));
        }
        let own = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
        let own: Vec<&str> = own.collect();
        for name in passed {
            if own.contains(&&**name) {
                return Err(format!(
                    "{target:?} says {name:?} itself, so that of the client cannot go on"
                ));
            }
        }
        let query = pieces(pattern, query)?;
        let path = Rewrite::template(pattern, path)?;
        if PathAndQuery::try_from(target.replace(['{', '}', '*'], "")).is_err() {
            return Err(format!("{target:?} is no path with a query"));
        }
        Ok(Self { path, query, passed: passed.to_vec() })
    }

    /// For the request of `uri`, in which the path's parameters stand for these. `None` if that makes no address.
    pub(super) fn of(&self, uri: &Uri, captures: &Captures) -> Option<Uri> {
        let mut target = self.path.apply(uri.path(), captures).ok()?.into_owned();
        if !self.query.is_empty() {
            target.push('?');
        }
        for piece in &self.query {
            match piece {
                Piece::Literal(literal) => target.push_str(literal),
                Piece::Parameter(place) => encode(captures.get(uri.path(), *place), &mut target),
            }
        }
        for pair in uri.query().unwrap_or_default().split('&') {
            let name = pair.split_once('=').map_or(pair, |(name, _)| name);
            if self.passed.iter().any(|passed| **passed == *name) {
                let separator = if target.contains('?') { '&' } else { '?' };
                let _ = write!(target, "{separator}{pair}");
            }
        }
        PathAndQuery::try_from(target).ok().map(Uri::from)
    }
}

/// A query as literals and parameters.
fn pieces(pattern: &Pattern, query: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    for (at, piece) in query.split('{').enumerate() {
        let literal = match piece.split_once('}').filter(|_| at > 0) {
            Some((name, literal)) => {
                let name = name.trim_start_matches('*');
                let Some(place) = pattern.place(name) else {
                    let names = pattern.described();
                    return Err(format!("the path has no parameter {name:?}, but {names}"));
                };
                pieces.push(Piece::Parameter(place));
                literal
            }
            None if at > 0 => {
                return Err(format!("the query {query:?} has a brace without its like"));
            }
            None => piece,
        };
        if literal.contains('}') {
            return Err(format!("the query {query:?} has a brace without its like"));
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.to_owned()));
        }
    }
    Ok(pieces)
}

/// Adds what stood in a path to a query, as a part of one value: `&`, `=`, `+` and `;` mean something there. What is encoded already stays so.
fn encode(value: &str, query: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'%' => {
                query.push(char::from(byte));
            }
            // It fails only where memory does.
            _ => drop(write!(query, "%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(target: &str, passed: &[&str], asked: &str) -> String {
        let pattern = Pattern::parse("/home/{id}/{*rest}").unwrap();
        let passed: Vec<Box<str>> = passed.iter().map(|&name| name.into()).collect();
        let address = Address::compile(&pattern, target, &passed).unwrap();
        let uri: Uri = asked.parse().unwrap();
        address.of(&uri, &pattern.captures(uri.path()).unwrap()).unwrap().to_string()
    }

    #[test]
    fn parameters_of_the_path_stand_in_path_and_query() {
        assert_eq!(of("/users/{id}", &[], "/home/7/a"), "/users/7");
        assert_eq!(of("/o?user={id}&in={*rest}", &[], "/home/7/a/b"), "/o?user=7&in=a%2Fb");
        assert_eq!(of("/fixed?x=1", &[], "/home/7/a?y=2"), "/fixed?x=1");
    }

    #[test]
    fn a_segment_cannot_become_more_than_one_value_of_a_query() {
        assert_eq!(
            of("/o?user={id}&role=user", &[], "/home/7&role=admin;x=1+2%26y/a"),
            "/o?user=7%26role%3Dadmin%3Bx%3D1%2B2%26y&role=user"
        );
    }

    #[test]
    fn only_the_parameters_that_were_named_go_on_as_they_are_spelled() {
        let asked = "/home/7/a?page=2&debug=1&page=%33&pages=9&page";
        assert_eq!(of("/o", &["page"], asked), "/o?page=2&page=%33&page");
        assert_eq!(of("/o?x=1", &["page"], asked), "/o?x=1&page=2&page=%33&page");
        assert_eq!(of("/o", &["none"], asked), "/o");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_reason() {
        for (target, passed, reason) in [
            ("users", "other", "begin with a slash"),
            ("/users/{name}", "other", "no parameter \"name\""),
            ("/users?x={name}", "other", "no parameter \"name\""),
            ("/users?x={id", "other", "a brace without its like"),
            ("/users?x=id}", "other", "a brace without its like"),
            ("/users#x", "other", "a fragment"),
            ("/us ers", "other", "no path with a query"),
            ("/users?page=1", "page", "itself"),
        ] {
            let pattern = Pattern::parse("/home/{id}").unwrap();
            let error = Address::compile(&pattern, target, &[passed.into()]).unwrap_err();
            assert!(error.contains(reason), "{target}: {error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_stands_in_the_path_a_query_keeps_its_parameters(
            id in "([a-z&=+;:@!$'()*,~-]|%2[0-9]|%C3%BC){1,12}"
        ) {
            let target = of("/o?a={id}&b=1", &[], &format!("/home/{id}/x"));
            let query = target.strip_prefix("/o?").unwrap();
            let pairs: Vec<_> = query.split('&').map(|pair| pair.split_once('=').unwrap()).collect();
            proptest::prop_assert_eq!(pairs.len(), 2);
            proptest::prop_assert_eq!((pairs[0].0, pairs[1]), ("a", ("b", "1")));
            proptest::prop_assert!(!pairs[0].1.contains(['=', '+', ';']));
        }
    }
}

//! What path the upstream sees.

use std::borrow::Cow;

use super::pattern::{self, Captures, Pattern};
use crate::path::{BadPath, normalise};

/// A rewriting of paths, checked against the template of its route when the gateway is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rewrite {
    /// The path stays as it came, in its normal form.
    Keep,
    /// These many bytes go, which the template says are literal.
    StripPrefix(usize),
    /// Literals and parameters in turn.
    Template(Vec<Piece>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Literal(String),
    Parameter(usize),
}

impl Rewrite {
    /// # Errors
    ///
    /// If `template` does not begin with the literal `prefix` as whole segments.
    pub(crate) fn strip_prefix(template: &str, prefix: &str) -> Result<Self, String> {
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let literal = prefix.starts_with('/') && !prefix.contains(['{', '}']);
        match template.strip_prefix(prefix) {
            Some(rest) if literal && (rest.is_empty() || rest.starts_with('/')) => {
                Ok(Self::StripPrefix(prefix.len()))
            }
            _ => Err(format!(
                "the path does not begin with the prefix {prefix:?}, which must be whole segments without parameters"
            )),
        }
    }

    /// # Errors
    ///
    /// If `target` is no absolute path, or uses what the route's path does not have.
    pub(crate) fn template(pattern: &Pattern, target: &str) -> Result<Self, String> {
        if !target.starts_with('/') {
            return Err(format!("the new path must begin with a slash: \"/{target}\""));
        }
        let mut pieces = Vec::new();
        let parsed = pattern::pieces(target)?;
        for (at, piece) in parsed.iter().enumerate() {
            let name = match piece {
                pattern::Piece::Text(text) => {
                    pieces.push(Piece::Literal(text.clone()));
                    continue;
                }
                pattern::Piece::Name(name) => name.trim_start_matches('*'),
            };
            let Some(place) = pattern.place(name) else {
                let names = pattern.described();
                return Err(format!("the path has no parameter {name:?}, but {names}"));
            };
            // A tail may end in a slash; whatever followed would make an empty segment.
            if pattern.has_tail(name) && at + 1 < parsed.len() {
                return Err(format!("{name:?} may only stand at the end of the new path"));
            }
            pieces.push(Piece::Parameter(place));
        }
        let literal = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Parameter(_) => "x".to_owned(),
        };
        let example: String = pieces.iter().map(literal).collect();
        match normalise(&example) {
            Ok(normal) if normal == example => Ok(Self::Template(pieces)),
            _ => Err(format!("the new path {target:?} is not in normal form")),
        }
    }

    /// The path that the upstream is asked for.
    ///
    /// # Errors
    ///
    /// If parameters that are parts of segments make it one that servers read in different ways.
    pub(crate) fn apply<'p>(
        &self,
        path: &'p str,
        captures: &Captures,
    ) -> Result<Cow<'p, str>, BadPath> {
        match self {
            Self::Keep => Ok(Cow::Borrowed(path)),
            Self::StripPrefix(length) => Ok(match path.get(*length..) {
                None | Some("") => Cow::Borrowed("/"),
                Some(rest) => Cow::Borrowed(rest),
            }),
            Self::Template(pieces) => {
                let values = pieces.iter().map(|piece| match piece {
                    Piece::Literal(literal) => literal.as_str(),
                    Piece::Parameter(place) => captures.get(path, *place),
                });
                let new: String = values.collect();
                match normalise(&new) {
                    Ok(normal) if normal == new => Ok(Cow::Owned(new)),
                    _ => Err(BadPath::Ambiguous),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::paths::Paths;

    fn applied(rewrite: &Rewrite, template: &str, path: &str) -> Result<String, BadPath> {
        let mut paths = Paths::<()>::default();
        paths.at(&Pattern::parse(template).unwrap());
        let mut new = None;
        paths.find(path, &mut |(), captures| {
            new = Some(rewrite.apply(path, captures).map(Cow::into_owned));
            true
        });
        new.unwrap()
    }

    fn template(template: &str, target: &str) -> Result<Rewrite, String> {
        Rewrite::template(&Pattern::parse(template).unwrap(), target)
    }

    #[test]
    fn a_prefix_is_stripped_as_whole_segments() {
        for (template, prefix, path, seen) in [
            ("/api/{*rest}", "/api", "/api/orders/7", "/orders/7"),
            ("/api/{*rest}", "/api/", "/api/orders/7", "/orders/7"),
            ("/api", "/api", "/api", "/"),
            ("/api/", "/api", "/api/", "/"),
        ] {
            let rewrite = Rewrite::strip_prefix(template, prefix).unwrap();
            assert_eq!(applied(&rewrite, template, path).as_deref(), Ok(seen));
        }
    }

    #[test]
    fn a_template_takes_the_parameters_of_the_path() {
        for (path, target, asked, seen) in [
            (
                "/users/{user}/files/{*rest}",
                "/v2/of/{user}/{rest}",
                "/users/7/files/a/b",
                "/v2/of/7/a/b",
            ),
            ("/a", "/b", "/a", "/b"),
            ("/{file}.json", "/data/{file}.v{file}", "/x.json", "/data/x.vx"),
            ("/{*rest}", "/{{{rest}", "/a/", "/{a/"),
        ] {
            let rewrite = template(path, target).unwrap();
            assert_eq!(applied(&rewrite, path, asked).as_deref(), Ok(seen));
        }
    }

    #[test]
    fn parts_of_segments_cannot_be_put_together_to_dot_segments() {
        for (path, target, asked) in [
            ("/v{n}", "/{n}", "/v.."),
            ("/v{n}", "/a/{n}/b", "/v."),
            ("/v{n}", "/.{n}/b", "/v."),
            ("/{a}/{b}", "/.{a}{b}", "/;/x"),
        ] {
            let rewrite = template(path, target).unwrap();
            assert_eq!(applied(&rewrite, path, asked), Err(BadPath::Ambiguous), "{path} {target}");
        }
    }

    #[test]
    fn what_cannot_be_applied_is_refused_when_built() {
        for (template, prefix) in
            [("/api/{x}", "/apiary"), ("/apiary/{x}", "/api"), ("/{a}/b", "/{a}"), ("/api", "api")]
        {
            assert!(Rewrite::strip_prefix(template, prefix).is_err(), "{template} {prefix}");
        }
        for target in ["v2", "/{other}", "/{id", "/{}", "/a//b", "/../{id}", "/a%2f{id}"] {
            assert!(template("/a/{id}", target).is_err(), "{target}");
        }
        assert!(template("/a/{*rest}", "/{rest}/b").is_err());
    }
}

//! What path the upstream sees.

use std::borrow::Cow;

use matchit::Params;

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
    Parameter(String),
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
    /// If `target` is no absolute path, or uses what `template` does not have, or uses it as a part of a segment.
    pub(crate) fn template(template: &str, target: &str) -> Result<Self, String> {
        if !target.starts_with('/') {
            return Err(format!("the new path must begin with a slash: \"/{target}\""));
        }
        let mut pieces = Vec::new();
        let mut rest = target;
        while let Some(at) = rest.find('{') {
            let (literal, found) = rest.split_at(at);
            let Some(end) = found.find('}') else {
                return Err(format!(
                    "the new path {target:?} has a brace that is not closed by }}"
                ));
            };
            let name = found[1..end].trim_start_matches('*');
            let is_tail = template.ends_with(&format!("{{*{name}}}"));
            if name.is_empty() || !(is_tail || template.contains(&format!("{{{name}}}"))) {
                return Err(format!("the path has no parameter {name:?}, but {}", names(template)));
            }
            rest = &found[end + 1..];
            // A tail may end in a slash; whatever followed would make an empty segment.
            if is_tail && !rest.is_empty() {
                return Err(format!("{name:?} may only stand at the end of the new path"));
            }
            // A parameter glued to a literal could make a dot segment of what is none.
            if !literal.ends_with('/') || !(rest.is_empty() || rest.starts_with('/')) {
                return Err(format!("{name:?} is no whole segment of the new path {target:?}"));
            }
            pieces.push(Piece::Literal(literal.to_owned()));
            pieces.push(Piece::Parameter(name.to_owned()));
        }
        pieces.push(Piece::Literal(rest.to_owned()));
        Ok(Self::Template(pieces))
    }

    pub(crate) fn apply<'p>(&self, path: &'p str, params: &Params<'_, '_>) -> Cow<'p, str> {
        match self {
            Self::Keep => Cow::Borrowed(path),
            Self::StripPrefix(length) => match path.get(*length..) {
                None | Some("") => Cow::Borrowed("/"),
                Some(rest) => Cow::Borrowed(rest),
            },
            Self::Template(pieces) => {
                let values = pieces.iter().map(|piece| match piece {
                    Piece::Literal(literal) => literal.as_str(),
                    Piece::Parameter(name) => params.get(name).unwrap_or_default(),
                });
                Cow::Owned(values.collect())
            }
        }
    }
}

/// The parameters of a template, as they are told of.
fn names(template: &str) -> String {
    let names = template.split('{').skip(1).filter_map(|rest| rest.split_once('}'));
    let names: Vec<_> =
        names.map(|(name, _)| format!("{:?}", name.trim_start_matches('*'))).collect();
    if names.is_empty() { "none at all".to_owned() } else { names.join(" and ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(rewrite: Result<Rewrite, String>, template: &str, path: &str) -> String {
        let mut router = matchit::Router::new();
        router.insert(template, ()).unwrap();
        let matched = router.at(path).unwrap();
        rewrite.unwrap().apply(path, &matched.params).into_owned()
    }

    #[test]
    fn a_prefix_is_stripped_as_whole_segments() {
        for (template, prefix, path, seen) in [
            ("/api/{*rest}", "/api", "/api/orders/7", "/orders/7"),
            ("/api/{*rest}", "/api/", "/api/orders/7", "/orders/7"),
            ("/api", "/api", "/api", "/"),
            ("/api/", "/api", "/api/", "/"),
        ] {
            assert_eq!(applied(Rewrite::strip_prefix(template, prefix), template, path), seen);
        }
    }

    #[test]
    fn a_template_takes_the_parameters_of_the_path() {
        let template = "/users/{user}/files/{*rest}";
        let rewrite = Rewrite::template(template, "/v2/of/{user}/{rest}");
        assert_eq!(applied(rewrite, template, "/users/7/files/a/b"), "/v2/of/7/a/b");
        assert_eq!(applied(Rewrite::template("/a", "/b"), "/a", "/a"), "/b");
    }

    #[test]
    fn what_cannot_be_applied_is_refused_when_built() {
        for (template, prefix) in
            [("/api/{x}", "/apiary"), ("/apiary/{x}", "/api"), ("/{a}/b", "/{a}"), ("/api", "api")]
        {
            assert!(Rewrite::strip_prefix(template, prefix).is_err(), "{template} {prefix}");
        }
        for target in ["v2", "/{other}", "/{id", "/{}", "/.{id}", "/{id}.json"] {
            assert!(Rewrite::template("/a/{id}", target).is_err(), "{target}");
        }
        assert!(Rewrite::template("/a/{*rest}", "/{rest}/b").is_err());
    }
}

//! `google.api.http`: which requests stand for a method (google/api/http.proto).

use http::Method;
use prost::Message;
use prost_reflect::MethodDescriptor;

use super::{GrpcMethod, descriptors::Options, grpc_method::Piece};

/// The annotation, as far as it is read.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HttpRule {
    #[prost(string, optional, tag = "2")]
    get: Option<String>,
    #[prost(string, optional, tag = "3")]
    put: Option<String>,
    #[prost(string, optional, tag = "4")]
    post: Option<String>,
    #[prost(string, optional, tag = "5")]
    delete: Option<String>,
    #[prost(string, optional, tag = "6")]
    patch: Option<String>,
    #[prost(message, optional, tag = "8")]
    custom: Option<Custom>,
    #[prost(string, tag = "7")]
    body: String,
    #[prost(string, tag = "12")]
    response_body: String,
    #[prost(message, repeated, tag = "11")]
    additional: Vec<HttpRule>,
}

#[derive(Clone, PartialEq, Message)]
struct Custom {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    path: String,
}

/// One way to ask for a method.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) grpc: GrpcMethod,
}

/// All that the annotation of `method` says.
///
/// # Errors
///
/// Why it makes no sense.
pub(super) fn of(method: &MethodDescriptor) -> Result<Vec<Rule>, String> {
    let Some(rule) = Options::of(method).http else { return Ok(Vec::new()) };
    if rule.additional.iter().any(|rule| !rule.additional.is_empty()) {
        return Err("additional bindings have none themselves".into());
    }
    std::iter::once(&rule).chain(&rule.additional).map(|rule| rule.read(method)).collect()
}

impl HttpRule {
    fn read(&self, method: &MethodDescriptor) -> Result<Rule, String> {
        let usual = [
            (Method::GET, &self.get),
            (Method::PUT, &self.put),
            (Method::POST, &self.post),
            (Method::DELETE, &self.delete),
            (Method::PATCH, &self.patch),
        ];
        let mut patterns: Vec<(Method, &str)> = usual
            .into_iter()
            .filter_map(|(method, path)| Some((method, path.as_deref()?)))
            .collect();
        if let Some(Custom { kind, path }) = &self.custom {
            let method = Method::from_bytes(kind.as_bytes());
            patterns.push((method.map_err(|_| format!("{kind:?} is no method"))?, path));
        }
        let [(http, pattern)] = &*patterns else {
            return Err("it names not exactly one method and path".into());
        };
        let template = Template::parse(pattern)?;
        let mut grpc = GrpcMethod::new(method.clone()).paths(template.fields);
        grpc = if self.body.is_empty() { grpc.no_body() } else { grpc.body(&*self.body) };
        if !self.response_body.is_empty() {
            grpc = grpc.response_body(&*self.response_body);
        }
        Ok(Rule { method: http.clone(), path: template.path, grpc })
    }
}

/// A path as routes have it, and what fields are made of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Template {
    path: String,
    fields: Vec<(String, Vec<Piece>)>,
    parameters: Vec<String>,
}

impl Template {
    fn parse(pattern: &str) -> Result<Self, String> {
        let rest = pattern
            .strip_prefix('/')
            .ok_or_else(|| format!("{pattern:?} must begin with a slash"))?;
        let mut template = Self::default();
        let segments = segments(rest);
        let count = segments.len();
        for (at, segment) in segments.into_iter().enumerate() {
            let Some(variable) = segment.strip_prefix('{') else {
                template.segment(segment, "part")?;
                continue;
            };
            let Some((variable, verb)) = variable.split_once('}') else {
                return Err(format!("{pattern:?} has a brace that is not closed"));
            };
            if !(verb.is_empty() || (verb.starts_with(':') && at + 1 == count)) {
                return Err(format!("{verb:?} cannot follow a parameter"));
            }
            let (field, parts) = variable.split_once('=').unwrap_or((variable, "*"));
            let mut pieces = Vec::new();
            for (at, part) in parts.split('/').enumerate() {
                if at > 0 {
                    pieces.push(Piece::Literal("/".into()));
                }
                pieces.push(template.segment(part, field)?);
            }
            template.fields.push((field.to_owned(), pieces));
            if !verb.is_empty() && template.path.contains("{*") {
                return Err("nothing can follow **".into());
            }
            template.path.push_str(verb);
        }
        Ok(template)
    }

    /// Adds one segment of the path, a part of `field`.
    fn segment(&mut self, segment: &str, field: &str) -> Result<Piece, String> {
        if self.path.contains("{*") {
            return Err("nothing can follow **".into());
        }
        if segment.contains(['{', '}', '=']) || (segment.contains('*') && segment.len() > 2) {
            return Err(format!("{segment:?} is no segment of a path"));
        }
        // Names of parameters have no dots.
        let mut name = field.replace('.', "_");
        if self.parameters.contains(&name) {
            name = format!("{name}_{}", self.parameters.len() + 1);
        }
        self.path.push('/');
        match segment {
            "*" => self.path.push_str(&format!("{{{name}}}")),
            "**" => self.path.push_str(&format!("{{*{name}}}")),
            literal => {
                self.path.push_str(literal);
                return Ok(Piece::Literal(literal.to_owned()));
            }
        }
        self.parameters.push(name.clone());
        Ok(Piece::Parameter(name))
    }
}

/// Splits at slashes, but for those within braces.
fn segments(path: &str) -> Vec<&str> {
    let mut depth = 0u32;
    path.split(|letter| {
        match letter {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == '/' && depth == 0
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameter(name: &str) -> Piece {
        Piece::Parameter(name.into())
    }

    fn piece(text: &str) -> Piece {
        let name = text.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
        name.map_or_else(|| Piece::Literal(text.into()), parameter)
    }

    #[test]
    fn patterns_become_paths_of_routes() {
        let read = |pattern| {
            let Template { path, fields, .. } = Template::parse(pattern).unwrap();
            (path, fields)
        };
        assert_eq!(read("/v1/orders"), ("/v1/orders".into(), vec![]));
        assert_eq!(read("/v1/orders:find"), ("/v1/orders:find".into(), vec![]));
        let id = ("order.id".into(), vec![parameter("order_id")]);
        assert_eq!(read("/v1/{order.id}/items"), ("/v1/{order_id}/items".into(), vec![id]));
        let name = ["shelves", "/", "{name}", "/", "books", "/", "{name_2}"].map(piece).into();
        assert_eq!(
            read("/v1/{name=shelves/*/books/*}"),
            ("/v1/shelves/{name}/books/{name_2}".into(), vec![("name".into(), name)])
        );
        let id = ["orders", "/", "{id}"].map(piece).into();
        let cancel = read("/v1/{id=orders/*}:cancel");
        assert_eq!(cancel, ("/v1/orders/{id}:cancel".into(), vec![("id".into(), id)]));
        let file = ["files", "/", "{file}"].map(piece).into();
        let files = read("/v1/*/{file=files/**}");
        assert_eq!(files, ("/v1/{part}/files/{*file}".into(), vec![("file".into(), file)]));
    }

    #[test]
    fn what_no_route_can_do_is_refused_with_its_reason() {
        for (pattern, reason) in [
            ("v1", "begin with a slash"),
            ("/v1/{id", "not closed"),
            ("/v1/{id}x", "cannot follow a parameter"),
            ("/v1/{id}:cancel/x", "cannot follow a parameter"),
            ("/v1/{id=**}:cancel", "nothing can follow"),
            ("/v1/{a=**}/x", "nothing can follow"),
            ("/v1/{a=x*y}", "no segment"),
            ("/v1/a}b", "no segment"),
        ] {
            let error = Template::parse(pattern).unwrap_err();
            assert!(error.contains(reason), "{pattern}: {error}");
        }
    }
}

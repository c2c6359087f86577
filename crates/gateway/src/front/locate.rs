//! Which route a request has.

use std::borrow::Cow;

use http::{Method, Uri, request::Parts};

use super::{Front, gate::Found};
use crate::{
    answer::Answer,
    client::Origin,
    cors,
    headers::has_coding,
    host::host_of,
    path::{BadPath, normalise},
    routes::{Asked, Lookup, View},
};

/// Where a request is to go.
pub(super) enum Located {
    Route(Found),
    /// It asks whether a page may use the route of this number with this method.
    Preflight(usize, Method),
    /// It may have a route, and still make no sense there.
    Nowhere(Option<usize>, Answer),
}

impl Front {
    /// The path that is matched, and forwarded.
    fn path_of<'r>(&self, uri: &'r Uri) -> Result<Cow<'r, str>, BadPath> {
        match uri.path() {
            path if self.between_services && path.starts_with('/') => Ok(Cow::Borrowed(path)),
            path => normalise(path),
        }
    }

    pub(super) fn locate(&self, head: &Parts, origin: &Origin) -> Located {
        if has_coding(&head.headers) {
            return Located::Nowhere(None, Answer::Coding);
        }
        let Some(host) = host_of(&head.uri, &head.headers) else {
            return Located::Nowhere(None, Answer::BadHost);
        };
        let path = match self.path_of(&head.uri) {
            Ok(path) => path,
            Err(bad) => return Located::Nowhere(None, Answer::BadPath(bad)),
        };
        let (headers, query) = (Some(&head.headers), head.uri.query());
        let asked = Asked { host, path: &path, method: &head.method, query, headers };
        if let Some(method) = cors::asked_method(&head.method, &head.headers) {
            let asked = Asked { method: &method, headers: None, ..asked };
            if let Lookup::Found(number, _) = self.table.find(&asked) {
                if self.gates[number].cors.is_some() {
                    return Located::Preflight(number, method);
                }
            }
        }
        match self.table.find(&asked) {
            Lookup::Found(number, captures) => {
                let view = View { head, host, path: &path, captures: &captures, origin };
                match self.gates[number].found(number, &view) {
                    Ok(found) => Located::Route(found),
                    Err(answer) => Located::Nowhere(Some(number), answer),
                }
            }
            Lookup::WrongMethod(allowed) => Located::Nowhere(None, Answer::WrongMethod(allowed)),
            Lookup::Unknown => Located::Nowhere(None, Answer::NotFound),
        }
    }
}

//! Names that come from requests, cut down to sets that cannot grow without bound.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use http::{Extensions, Method};
use serde::{Serialize, Serializer};

/// The route or operation that a call belongs to, such as `/orders/{id}`: a name from the program's own text, never
/// from the request, so that there are only so many.
///
/// Routers put it into the extensions of the request or of the response; a name in the response wins, for it is known
/// later. Clones are cheap.
///
/// ```
/// use gusset_sidecar::Route;
///
/// let response = http::Response::builder().extension(Route::from("/orders/{id}")).body(())?;
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone)]
pub struct Route(Name);

#[derive(Clone)]
enum Name {
    Static(&'static str),
    Shared(Arc<str>),
}

/// Finds the route in what a router left in a request's extensions; for routers that have a type of their own for it.
pub type RouteOf = fn(&Extensions) -> Option<Route>;

/// How a layer comes to the name of a call.
#[derive(Clone, Debug)]
pub(crate) enum Naming {
    /// A server: from the request's extensions.
    Router(Option<RouteOf>),
    /// A client: the service that it calls. A route in the extensions is that of the request which caused the call.
    Upstream(Option<Route>),
}

impl Naming {
    pub(crate) fn name(&self, extensions: &Extensions) -> Option<Route> {
        match self {
            Self::Upstream(upstream) => upstream.clone(),
            Self::Router(route_of) => route_of
                .and_then(|route_of| route_of(extensions))
                .or_else(|| extensions.get().cloned()),
        }
    }

    /// Only servers have routes.
    pub(crate) fn set_route_of(&mut self, set: RouteOf) {
        if let Self::Router(route_of) = self {
            *route_of = Some(set);
        }
    }

    /// Only clients have upstreams.
    pub(crate) fn set_upstream(&mut self, set: Route) {
        if let Self::Upstream(upstream) = self {
            *upstream = Some(set);
        }
    }
}

impl Deref for Route {
    type Target = str;

    fn deref(&self) -> &str {
        match &self.0 {
            Name::Static(name) => name,
            Name::Shared(name) => name,
        }
    }
}

impl Borrow<str> for Route {
    fn borrow(&self) -> &str {
        self
    }
}

impl From<&'static str> for Route {
    fn from(name: &'static str) -> Self {
        Self(Name::Static(name))
    }
}

impl From<String> for Route {
    fn from(name: String) -> Self {
        Self(Name::Shared(name.into()))
    }
}

impl From<Arc<str>> for Route {
    fn from(name: Arc<str>) -> Self {
        Self(Name::Shared(name))
    }
}

impl PartialEq for Route {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Route {}

impl std::hash::Hash for Route {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl Serialize for Route {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

/// A request method as a label: one of those that HTTP defines, or `_OTHER`. A client can invent methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MethodName(u8);

impl MethodName {
    pub(crate) const COUNT: usize = NAMES.len();
    /// Of work that is no HTTP request.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn of(method: &Method) -> Self {
        Self(match *method {
            Method::GET => 2,
            Method::HEAD => 3,
            Method::POST => 4,
            Method::PUT => 5,
            Method::DELETE => 6,
            Method::PATCH => 7,
            Method::OPTIONS => 8,
            Method::CONNECT => 9,
            Method::TRACE => 10,
            _ => 1,
        })
    }

    /// The one that is displayed like this.
    pub(crate) fn named(name: &str) -> Self {
        Self::all().find(|method| method.as_str() == name).unwrap_or(Self(1))
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).take(Self::COUNT).map(Self)
    }

    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn as_str(self) -> &'static str {
        NAMES.get(self.index()).copied().unwrap_or("_OTHER")
    }
}

const NAMES: [&str; 11] =
    ["", "_OTHER", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invented_method_is_other() {
        assert_eq!(MethodName::of(&Method::PATCH).as_str(), "PATCH");
        assert_eq!(MethodName::of(&"X-1234".parse().unwrap()).as_str(), "_OTHER");
        assert_eq!(MethodName::all().last().unwrap().as_str(), "TRACE");
    }

    #[test]
    fn routes_are_equal_by_name_however_they_were_made() {
        assert_eq!(Route::from("/a"), Route::from(String::from("/a")));
    }
}

//! Keys from HTTP requests that are no addresses, and keys of several parts.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::{Extensions, HeaderName, HeaderValue, Method, Request};

use crate::Extract;

/// The value of a header, for instance an API key that something outside has checked. The first one, if there are several.
///
/// A client that may choose the value gets a new bucket with each value it makes up. Use it inside of what checks the value.
#[derive(Clone, Debug)]
pub struct Header(HeaderName);

impl Header {
    /// The header called `name`.
    #[must_use]
    pub const fn new(name: HeaderName) -> Self {
        Self(name)
    }
}

impl<B> Extract<Request<B>> for Header {
    type Key = HeaderValue;

    fn extract(&self, request: &Request<B>) -> Option<HeaderValue> {
        request.headers().get(&self.0).cloned()
    }
}

/// A value that something outside has put into the request's extensions, for instance the authenticated subject.
pub struct Extension<T>(std::marker::PhantomData<fn() -> T>);

impl<T> Extension<T> {
    /// The extension of type `T`.
    #[must_use]
    pub const fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T> Default for Extension<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Extension<T> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<T> std::fmt::Debug for Extension<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Extension<{}>", std::any::type_name::<T>())
    }
}

impl<T, B> Extract<Request<B>> for Extension<T>
where
    T: Hash + Clone + Send + Sync + 'static,
{
    type Key = T;

    fn extract(&self, request: &Request<B>) -> Option<T> {
        request.extensions().get().cloned()
    }
}

/// The route that a request matched: its method and the template of its path, as in `GET /users/{id}`. Alone it makes a limit
/// for each route, in a tuple one for each client on each route: `(PeerIp::new(), Route::by(...))`.
///
/// A router knows the template and leaves it in the extensions:
///
/// ```text
/// Route::by(|x| Some(x.get::<MatchedPath>()?.as_str()))          axum, in Router::layer
/// ```
///
/// The path itself is no good key, which is why there is none for it: each user of `/users/{id}` would have a bucket of its own, and
/// so would each path that an attacker makes up. For the same reason all methods but the nine of the standards count as one. A request that matches no route
/// has no key.
#[derive(Clone, Copy, Debug)]
pub struct Route(fn(&Extensions) -> Option<&str>);

impl Route {
    /// RFC 9110 and RFC 5789.
    const METHODS: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];

    /// The template is what `find` finds in the extensions of the request.
    #[must_use]
    pub const fn by(find: fn(&Extensions) -> Option<&str>) -> Self {
        Self(find)
    }
}

/// A route as a key. It is known by a hash of 64 bits; routes are few and not the clients' to choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteKey(u64);

impl<B> Extract<Request<B>> for Route {
    type Key = RouteKey;

    fn extract(&self, request: &Request<B>) -> Option<RouteKey> {
        let template = (self.0)(request.extensions())?;
        // A key is owned, and the template is not; its hash costs no allocation.
        let mut hasher = DefaultHasher::new();
        let method = Self::METHODS.iter().position(|known| known == request.method());
        (method, template).hash(&mut hasher);
        Some(RouteKey(hasher.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_extensions_are_keys() {
        let mut request = Request::builder().header("x-api-key", "k1").body(()).unwrap();
        request.extensions_mut().insert(7_u64);
        let header = Header::new(HeaderName::from_static("x-api-key"));
        assert_eq!(header.extract(&request).unwrap(), "k1");
        assert_eq!(Extension::<u64>::new().extract(&request), Some(7));
        assert_eq!(Extension::<u32>::new().extract(&request), None);
    }

    #[test]
    fn a_route_is_a_method_and_a_template() {
        let route = Route::by(|x| x.get::<&'static str>().copied());
        let key = |method, template: Option<&'static str>| {
            let mut request = Request::builder().method(method).uri("/users/7").body(()).unwrap();
            if let Some(template) = template {
                request.extensions_mut().insert(template);
            }
            route.extract(&request)
        };
        let one = key("GET", Some("/users/{id}"));
        assert!(one.is_some());
        assert_eq!(one, key("GET", Some("/users/{id}")));
        assert_ne!(one, key("PUT", Some("/users/{id}")));
        assert_ne!(one, key("GET", Some("/users")));
        assert_eq!(key("GET", None), None);
        let made_up = key("X1", Some("/users"));
        assert_eq!(made_up, key("X2", Some("/users")), "made-up methods are one");
        assert_ne!(made_up, key("GET", Some("/users")));
    }

    #[test]
    fn a_key_of_several_parts_needs_all_of_them() {
        let both = (Extension::<u64>::new(), Extension::<u8>::new());
        let three = (Extension::<u64>::new(), Extension::<u8>::new(), |_: &Request<()>| Some(true));
        let mut request = Request::new(());
        request.extensions_mut().insert(7_u64);
        assert_eq!(both.extract(&request), None);
        assert_eq!(three.extract(&request), None);
        request.extensions_mut().insert(8_u8);
        assert_eq!(both.extract(&request), Some((7, 8)));
        assert_eq!(three.extract(&request), Some((7, 8, true)));
    }
}

//! The head of a request, kept for the next attempt as text in memory that is used again. Most calls never need it, and a clone counts
//! references for every part: that is slower than to copy the bytes, and slower than all else that a retry layer does.

use std::{cell::RefCell, fmt};

use http::{
    Extensions, HeaderName, HeaderValue, Method, Request, Uri, Version,
    uri::{Authority, PathAndQuery, Scheme},
};

/// Most copies whose memory a thread keeps, to use it again.
const SPARE: usize = 32;
/// Most headers that such memory has room for, and most bytes of text; with all of them it is 7 KiB.
const SPARE_HEADERS: usize = 32;
const SPARE_TEXT: usize = 4 << 10;

thread_local! {
    static SPARES: RefCell<Vec<Place>> = const { RefCell::new(Vec::new()) };
}

/// A copy of a request's head.
pub(crate) struct Head(
    /// Taken when it is dropped.
    Option<Place>,
);

/// On the heap, since a call moves into the futures around.
type Place = Box<Copied>;

#[derive(Default)]
struct Copied {
    line: Option<Line>,
    /// In their order.
    headers: Vec<Field>,
    /// The target of the request, and then the values of all headers but long ones.
    text: Vec<u8>,
}

struct Line {
    method: Method,
    target: Target,
    version: Version,
    extensions: Extensions,
}

enum Target {
    /// Where in the text the authority ends, and where the path and the query do.
    Text { scheme: Option<Scheme>, authority: usize, path: usize },
    /// Such as `*`, or that of CONNECT.
    Odd(Uri),
}

struct Field {
    name: HeaderName,
    value: Kept,
}

enum Kept {
    /// Where in the text it ends. It begins where the one before it does.
    Text {
        end: usize,
        sensitive: bool,
    },
    Whole(HeaderValue),
}

/// From how many bytes on a value is no text: to count a reference is quicker than to copy so much.
const LONG: usize = 512;

impl Head {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        let spare = SPARES.try_with(|spares| spares.borrow_mut().pop());
        let mut copied = spare.ok().flatten().unwrap_or_default();
        let Copied { line, headers, text } = &mut *copied;
        *line = Some(Line {
            method: request.method().clone(),
            target: Target::of(request.uri(), text),
            version: request.version(),
            extensions: request.extensions().clone(),
        });
        for (name, value) in request.headers() {
            let kept = if value.len() < LONG {
                text.extend_from_slice(value.as_bytes());
                Kept::Text { end: text.len(), sensitive: value.is_sensitive() }
            } else {
                Kept::Whole(value.clone())
            };
            headers.push(Field { name: name.clone(), value: kept });
        }
        Self(Some(copied))
    }

    /// A request with this head. There is none only if it had parts that the `http` crate does not take, which unsafe code alone can make.
    pub(crate) fn request<B>(&self, body: B) -> Option<Request<B>> {
        let Copied { line: Some(line), headers, text } = self.0.as_deref()? else { return None };
        let mut request = Request::new(body);
        *request.method_mut() = line.method.clone();
        let (uri, mut begin) = line.target.uri(text)?;
        *request.uri_mut() = uri;
        *request.version_mut() = line.version;
        *request.extensions_mut() = line.extensions.clone();
        request.headers_mut().reserve(headers.len());
        for Field { name, value } in headers {
            let value = match value {
                Kept::Text { end, sensitive } => {
                    let mut value = HeaderValue::from_bytes(text.get(begin..*end)?).ok()?;
                    value.set_sensitive(*sensitive);
                    begin = *end;
                    value
                }
                Kept::Whole(value) => value.clone(),
            };
            request.headers_mut().append(name, value);
        }
        Some(request)
    }
}

impl Target {
    fn of(uri: &Uri, text: &mut Vec<u8>) -> Self {
        let path = uri.path_and_query().map(PathAndQuery::as_str);
        let Some(path) = path.filter(|path| path.starts_with('/')) else {
            return Self::Odd(uri.clone());
        };
        text.extend_from_slice(uri.authority().map_or("", Authority::as_str).as_bytes());
        let authority = text.len();
        text.extend_from_slice(path.as_bytes());
        Self::Text { scheme: uri.scheme().cloned(), authority, path: text.len() }
    }

    /// It, and where it ends in the text.
    fn uri(&self, text: &[u8]) -> Option<(Uri, usize)> {
        let (scheme, authority, end) = match self {
            Self::Odd(uri) => return Some((uri.clone(), 0)),
            Self::Text { scheme, authority, path } => (scheme, *authority, *path),
        };
        let mut uri = Uri::builder().path_and_query(text.get(authority..end)?);
        if let Some(scheme) = scheme {
            uri = uri.scheme(scheme.clone()).authority(text.get(..authority)?);
        }
        Some((uri.build().ok()?, end))
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let Some(mut copied) = self.0.take() else { return };
        // Here, for the extensions are of types that are not ours.
        copied.line = None;
        copied.headers.clear();
        copied.headers.shrink_to(SPARE_HEADERS);
        copied.text.clear();
        copied.text.shrink_to(SPARE_TEXT);
        // In a thread that ends there are no spares any more.
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE {
                spares.push(copied);
            }
        });
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of them are alive is counted.
    #[derive(Clone)]
    struct Mark(std::sync::Arc<()>);

    fn request(uri: &str, headers: usize, mark: &Mark) -> Request<u8> {
        let mut request = Request::put(uri).version(Version::HTTP_2);
        for number in 0..headers {
            let name = format!("x-{number}");
            request = request
                .header("x-list", number.to_string())
                .header(name, "v".repeat(99 + 300 * (number % 3)));
        }
        let mut request = request.header("accept", "").extension(mark.clone()).body(7).unwrap();
        let mut secret = HeaderValue::from_bytes(b"\xfc").unwrap();
        secret.set_sensitive(true);
        request.headers_mut().append("x-list", secret);
        request
    }

    #[test]
    fn a_copy_is_the_head_as_it_was() {
        let mark = Mark(Default::default());
        let uris = [
            "/",
            "/a?b=c",
            "*",
            "h:80",
            "http://user:pw@h:81/a?b=c",
            "https://h",
            "x+y://h/?",
            "/%F0/?",
        ];
        for (headers, uri) in
            [0, 3, 40].into_iter().zip(uris.into_iter().cycle()).chain(uris.map(|uri| (1, uri)))
        {
            let request = request(uri, headers, &mark);
            let copy = Head::of(&request).request(7).unwrap();
            assert_eq!((copy.method(), copy.uri()), (request.method(), request.uri()));
            assert_eq!(copy.uri().to_string(), request.uri().to_string());
            assert_eq!((copy.version(), copy.body()), (request.version(), request.body()));
            assert!(copy.headers().iter().eq(request.headers()), "in the same order");
            let secrets = |of: &Request<u8>| {
                of.headers().values().map(HeaderValue::is_sensitive).collect::<Vec<_>>()
            };
            assert_eq!(secrets(&copy), secrets(&request));
            assert!(copy.extensions().get::<Mark>().is_some());
        }
        assert_eq!(std::sync::Arc::strong_count(&mark.0), 1, "spares hold nothing");
    }

    #[test]
    fn the_memory_that_is_used_again_is_bounded() {
        let request = request("/", 100, &Mark(Default::default()));
        drop((0..3 * SPARE).map(|_| Head::of(&request)).collect::<Vec<_>>());
        SPARES.with(|spares| {
            let spares = spares.borrow();
            assert_eq!(spares.len(), SPARE);
            let small = |spare: &Copied| {
                spare.headers.capacity() <= SPARE_HEADERS && spare.text.capacity() <= SPARE_TEXT
            };
            assert!(spares.iter().all(|spare| small(spare)));
        });
    }

    proptest::proptest! {
        #[test]
        fn whatever_is_a_request_is_copied(path in "/[ -~]{0,40}", host in "[a-z0-9.:@%-]{1,20}", value in "[ -~]{0,40}") {
            for uri in [path.clone(), format!("http://{host}{path}"), host, path.replace('/', "")] {
                let Ok(uri) = uri.parse::<Uri>() else { continue };
                let mut request = Request::new(());
                *request.uri_mut() = uri;
                request.headers_mut().insert("x-a", value.parse().unwrap());
                let copy = Head::of(&request).request(()).unwrap();
                proptest::prop_assert_eq!(copy.uri(), request.uri());
                proptest::prop_assert_eq!(copy.headers(), request.headers());
            }
        }
    }
}

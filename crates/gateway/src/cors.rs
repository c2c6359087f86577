use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// Which web pages may read the answers of a route (CORS, as the Fetch standard has it). The gateway answers preflights itself, before it looks at
/// credentials, and says the same for its own errors. What an upstream says of CORS is replaced.
///
/// Pages of other origins get no CORS field at all. Their requests still reach the upstream unless they need a preflight: CORS protects answers, and not from
/// requests.
///
/// ```
/// use gusset_gateway::{Cors, Route};
///
/// let cors = Cors::origins(["https://shop.example", "https://*.shop.example"]).credentials();
/// let orders = Route::new("/orders").to("order-service").cors(cors);
/// ```
#[derive(Clone, Debug)]
pub struct Cors {
    /// `None` for any.
    origins: Option<Vec<String>>,
    headers: Vec<HeaderName>,
    exposed: Vec<HeaderName>,
    credentials: bool,
    private_network: bool,
    max_age: Duration,
}

impl Cors {
    /// Pages of these origins, as browsers write them: `https://shop.example`, `http://localhost:3000`. `https://*.shop.example` stands for all hosts below
    /// that one, and not for itself.
    pub fn origins<O: Into<String>>(origins: impl IntoIterator<Item = O>) -> Self {
        Self::of(Some(origins.into_iter().map(Into::into).collect()))
    }

    /// All pages, also those without an origin of their own (`null`). Not together with [`credentials`](Self::credentials).
    #[must_use]
    pub fn any() -> Self {
        Self::of(None)
    }

    fn of(origins: Option<Vec<String>>) -> Self {
        let idempotency_key = HeaderName::from_static("idempotency-key");
        Self {
            origins,
            headers: vec![header::AUTHORIZATION, header::CONTENT_TYPE, idempotency_key],
            exposed: Vec::new(),
            credentials: false,
            private_network: false,
            max_age: Duration::from_secs(600),
        }
    }

    /// The fields that pages may set, besides those that they always may. Default `Authorization`, `Content-Type` and `Idempotency-Key`.
    #[must_use]
    pub fn headers(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.headers = names.into_iter().collect();
        self
    }

    /// The fields of an answer that pages may read, besides those that they always may. Default none.
    #[must_use]
    pub fn expose(mut self, names: impl IntoIterator<Item = HeaderName>) -> Self {
        self.exposed = names.into_iter().collect();
        self
    }

    /// Pages may send cookies and client certificates along. Default no.
    #[must_use]
    pub const fn credentials(mut self) -> Self {
        self.credentials = true;
        self
    }

    /// Pages of the internet may ask a gateway in a private network. Default no.
    #[must_use]
    pub const fn private_network(mut self) -> Self {
        self.private_network = true;
        self
    }

    /// How long browsers may keep what a preflight said, in whole seconds. Default ten minutes, after which a change is seen.
    #[must_use]
    pub const fn max_age(mut self, span: Duration) -> Self {
        self.max_age = span;
        self
    }

    /// # Errors
    ///
    /// What is wrong with it.
    pub(crate) fn compile(&self) -> Result<Policy, String> {
        if self.origins.is_none() && self.credentials {
            return Err(
                "any origin together with credentials lets every page act for its visitor; name the origins".into(),
            );
        }
        let origins = self.origins.as_ref();
        let origins = origins.map(|all| all.iter().map(|origin| Pattern::parse(origin)).collect());
        Ok(Policy {
            origins: origins.transpose()?,
            headers: list(&self.headers),
            exposed: list(&self.exposed),
            credentials: self.credentials,
            private_network: self.private_network,
            max_age: self.max_age.as_secs().into(),
        })
    }
}

fn list(names: &[HeaderName]) -> Option<HeaderValue> {
    let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|line| !line.is_empty())
}

/// An origin, or those of all hosts below one.
#[derive(Debug)]
enum Pattern {
    Exact(String),
    Below { scheme: String, suffix: String },
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |reason: &str| format!("origin {text:?}: {reason}");
        let Some((scheme, authority)) = text.split_once("://") else {
            return Err(wrong("it is a scheme and a host, https://shop.example"));
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let in_host = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._[]:".contains(&byte)
        };
        let in_scheme = |byte: u8| byte.is_ascii_lowercase() || b"+-.0123456789".contains(&byte);
        let below = host.strip_prefix("*.");
        let name = below.unwrap_or(host);
        if scheme.is_empty() || !scheme.bytes().all(in_scheme) {
            return Err(wrong("its scheme is written in lower case"));
        }
        if name.is_empty() || !name.bytes().all(in_host) {
            return Err(wrong(
                "browsers write a host in lower case, with nothing after it but a port; *. may stand at its begin",
            ));
        }
        if below.is_some() && !name.contains('.') {
            return Err(wrong("a whole top-level domain belongs to nobody"));
        }
        match port {
            Some("80") if scheme == "http" => Err(wrong("browsers leave out the default port")),
            Some("443") if scheme == "https" => Err(wrong("browsers leave out the default port")),
            Some(port)
                if port.parse::<u16>().map(|port| port.to_string()).as_deref() != Ok(port) =>
            {
                Err(wrong("its port is no number"))
            }
            _ => Ok(match authority.strip_prefix('*') {
                Some(suffix) => {
                    Self::Below { scheme: format!("{scheme}://"), suffix: suffix.to_owned() }
                }
                None => Self::Exact(text.to_owned()),
            }),
        }
    }

    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == origin,
            Self::Below { scheme, suffix } => {
                let host = origin.strip_prefix(&**scheme).and_then(|o| o.strip_suffix(&**suffix));
                let is_label = |label: &str| {
                    let in_label = |byte: u8| {
                        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)
                    };
                    !label.is_empty() && label.bytes().all(in_label)
                };
                host.is_some_and(|labels| labels.split('.').all(is_label))
            }
        }
    }
}

/// A [`Cors`] that has been checked.
#[derive(Debug)]
pub(crate) struct Policy {
    /// `None` for any.
    origins: Option<Vec<Pattern>>,
    headers: Option<HeaderValue>,
    exposed: Option<HeaderValue>,
    credentials: bool,
    private_network: bool,
    max_age: HeaderValue,
}

/// What a policy says to the page that a request is of.
#[derive(Clone, Debug)]
pub(crate) struct Grant {
    policy: Arc<Policy>,
    /// `None` if the page may not, or if there is none.
    origin: Option<HeaderValue>,
}

impl Grant {
    pub(crate) fn of(policy: &Arc<Policy>, headers: &HeaderMap) -> Self {
        let origin = match &policy.origins {
            None => Some(HeaderValue::from_static("*")),
            Some(patterns) => only(headers, &header::ORIGIN).cloned().filter(|origin| {
                let origin = origin.to_str().ok();
                origin.is_some_and(|origin| patterns.iter().any(|p| p.matches(origin)))
            }),
        };
        Self { policy: policy.clone(), origin }
    }

    /// Whether there is a page that may read the answer.
    pub(crate) const fn is_given(&self) -> bool {
        self.origin.is_some()
    }

    /// Makes an upstream's answer say what the policy does, and nothing else.
    pub(crate) fn replace(&self, headers: &mut HeaderMap) {
        remove(headers);
        self.say(headers);
    }

    /// Makes an answer of the gateway's own say what the policy does.
    pub(crate) fn say(&self, headers: &mut HeaderMap) {
        // Without it, a cache would hand the answer for one page to another.
        if self.policy.origins.is_some() {
            vary(headers, "origin");
        }
        let Some(origin) = &self.origin else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.policy.credentials {
            let yes = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        if let Some(exposed) = &self.policy.exposed {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }

    /// The fields of the answer to a preflight for `method`, which a route takes.
    pub(crate) fn preflight(&self, method: &Method, asked: &HeaderMap) -> HeaderMap {
        let mut headers = HeaderMap::new();
        vary(&mut headers, "access-control-request-method");
        if self.origin.is_none() {
            return headers;
        }
        if let Ok(method) = HeaderValue::try_from(method.as_str()) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method);
        }
        if let Some(names) = &self.policy.headers {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.policy.max_age.clone());
        let wants = only(asked, &REQUEST_PRIVATE_NETWORK).is_some_and(|asks| asks == "true");
        if self.policy.private_network && wants {
            headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
        }
        headers
    }
}

/// The method that a preflight asks for.
pub(crate) fn asked_method(method: &Method, headers: &HeaderMap) -> Option<Method> {
    if *method != Method::OPTIONS {
        return None;
    }
    only(headers, &header::ORIGIN)?;
    let asked = only(headers, &header::ACCESS_CONTROL_REQUEST_METHOD)?;
    Method::from_bytes(asked.as_bytes()).ok()
}

/// The value of a field that stands there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn remove(headers: &mut HeaderMap) {
    let is_of_cors = |name: &HeaderName| {
        name.as_str().starts_with("access-control-allow-")
            || *name == header::ACCESS_CONTROL_EXPOSE_HEADERS
            || *name == header::ACCESS_CONTROL_MAX_AGE
    };
    crate::headers::remove_where(headers, is_of_cors);
}

fn vary(headers: &mut HeaderMap, name: &'static str) {
    let names = |line: &HeaderValue| {
        let mut members = line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        members.any(|member| member == b"*" || member.eq_ignore_ascii_case(name.as_bytes()))
    };
    if !headers.get_all(header::VARY).iter().any(names) {
        headers.append(header::VARY, HeaderValue::from_static(name));
    }
}

#[cfg(test)]
mod tests;

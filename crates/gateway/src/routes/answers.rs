use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri, header};
use http_body_util::Full;

use super::{
    Leads, Route,
    pattern::Pattern,
    template::{Template, View},
};
use crate::host::is_host;

/// Sends clients elsewhere: [`Route::redirect`].
///
/// The target is a template, as of [`HeaderEdits`](crate::HeaderEdits). The query goes along, unless the target has one or
/// [`without_query`](Self::without_query) says so.
///
/// ```
/// use gusset_gateway::{Redirect, Route};
///
/// let old = Route::new("/orders/{id}").redirect(Redirect::permanent("/api/orders/{id}"));
/// let apex = Route::new("/{*rest}").host("www.shop.example").redirect(Redirect::permanent("https://shop.example{request.path}"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    target: String,
    status: StatusCode,
    query: bool,
}

impl Redirect {
    /// It has moved for good: 308, which keeps method and body. Browsers remember it for long.
    pub fn permanent(target: impl Into<String>) -> Self {
        Self { target: target.into(), status: StatusCode::PERMANENT_REDIRECT, query: true }
    }

    /// It is elsewhere this time: 307, which keeps method and body.
    pub fn temporary(target: impl Into<String>) -> Self {
        Self { target: target.into(), status: StatusCode::TEMPORARY_REDIRECT, query: true }
    }

    /// Another status: 301, 302, 303, 307 or 308. After the first three clients ask with GET.
    #[must_use]
    pub const fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The query does not go along.
    #[must_use]
    pub const fn without_query(mut self) -> Self {
        self.query = false;
        self
    }

    /// # Errors
    ///
    /// Why it leads nowhere, or anywhere.
    pub(crate) fn compile(&self, pattern: &Pattern) -> Result<Moved, String> {
        if !matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Err(format!("{} redirects nobody; 301, 302, 303, 307 and 308 do", self.status));
        }
        let target = Template::parse(&self.target, pattern)?;
        if !target.is_target() {
            return Err(format!(
                "{:?} is no target of a redirect: that is a path, or http(s):// and a host that stands there",
                self.target
            ));
        }
        let query = self.query && !self.target.contains('?');
        Ok(Moved { target, status: self.status, query })
    }
}

impl Route {
    /// Clients are sent elsewhere. What the route asks of its requests, senders and quotas too, comes before.
    #[must_use]
    pub fn redirect(mut self, to: Redirect) -> Self {
        self.leads = Leads::Redirect(to);
        self
    }

    /// The answer is always this one, and no upstream is asked. What the route asks of its requests, senders and quotas too, comes before.
    #[must_use]
    pub fn answer(mut self, answer: FixedAnswer) -> Self {
        self.leads = Leads::Answer(answer);
        self
    }
}

/// A redirect that has been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    target: Template,
    status: StatusCode,
    query: bool,
}

impl Moved {
    /// `None` if what the request says makes no target of it.
    pub(crate) fn answer(&self, view: &View<'_>) -> Option<Given> {
        let mut target = self.target.fill(view);
        if let Some(query) = view.head.uri.query().filter(|_| self.query) {
            target.push('?');
            target.push_str(query);
        }
        let location = Some(target).filter(|target| is_target(target))?;
        let location = HeaderValue::try_from(location).ok()?;
        let headers = HeaderMap::from_iter([(header::LOCATION, location)]);
        Some(Given { status: self.status, headers, body: Bytes::new() })
    }
}

/// Whether browsers read `target` as we do: what fills its gaps must not make another host of it.
fn is_target(target: &str) -> bool {
    let authority = target.strip_prefix("https://").or_else(|| target.strip_prefix("http://"));
    let is_ours = match authority {
        Some(rest) => is_host(rest.split(['/', '?', '#']).next().unwrap_or_default()),
        None => !target.starts_with("//"),
    };
    is_ours && !target.contains('\\') && target.parse::<Uri>().is_ok()
}

/// An answer that is always the same: [`Route::answer`]. For health checks, `robots.txt`, and what is gone.
///
/// ```
/// use gusset_gateway::{FixedAnswer, Route};
/// use http::StatusCode;
///
/// let healthy = Route::new("/healthz").answer(FixedAnswer::text("ok"));
/// let gone = Route::new("/v1/{*rest}").answer(FixedAnswer::new(StatusCode::GONE));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FixedAnswer(pub(crate) Given);

/// An answer of the gateway's own that is no problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl FixedAnswer {
    /// This status, and nothing else.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        Self(Given { status, headers: HeaderMap::new(), body: Bytes::new() })
    }

    /// 200 and this text.
    pub fn text(text: impl Into<Bytes>) -> Self {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        Self::new(StatusCode::OK).header(header::CONTENT_TYPE, plain).body(text)
    }

    /// With this field, beside others of its name.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.append(name, value);
        self
    }

    /// With this body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.0.body = body.into();
        self
    }

    /// # Errors
    ///
    /// Why it is no answer.
    pub(crate) fn mistake(&self) -> Option<String> {
        let status = self.0.status;
        let bodyless = matches!(status.as_u16(), 204 | 205 | 304);
        if status.is_informational() {
            return Some(format!("{status} is no answer, but something before one"));
        }
        (bodyless && !self.0.body.is_empty()).then(|| format!("an answer of {status} has no body"))
    }
}

impl Given {
    pub(crate) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

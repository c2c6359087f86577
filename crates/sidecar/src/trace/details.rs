use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::record::{MAX_TEXT, Text, beginning};

/// What a [`TraceLayer`](crate::TraceLayer) records of calls beyond what every record has. Nothing unless it is named here: paths and headers may hold
/// names and tokens of people.
///
/// ```
/// use gusset_sidecar::{Details, Recorder, TraceLayer};
/// use http::header::USER_AGENT;
///
/// let details = Details::new().paths().header(USER_AGENT);
/// let server = TraceLayer::server(Recorder::new("orders")).record(details);
/// # let _ = server;
/// ```
#[derive(Clone, Debug, Default)]
pub struct Details {
    pub(super) paths: bool,
    headers: Vec<Named>,
}

#[derive(Clone, Debug)]
struct Named {
    name: HeaderName,
    secret: bool,
}

/// Those that let somebody in.
const SECRETS: [HeaderName; 4] =
    [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, header::SET_COOKIE];

/// On which side of a call headers are, as attributes name it.
pub(super) const REQUEST: &str = "http.request.header.";
pub(super) const RESPONSE: &str = "http.response.header.";

impl Details {
    /// Nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { paths: false, headers: Vec::new() }
    }

    /// The paths of a server's requests, for the attribute `url.path` of what is exported; never a query. They are kept of
    /// calls that are sampled, failed, did not end, or took 100 ms; that costs those an allocation.
    #[must_use]
    pub const fn paths(mut self) -> Self {
        self.paths = true;
        self
    }

    /// This header of requests and of answers, as the tags `http.request.header.` and `http.response.header.` with its name. Several of that name are one text, with commas between them. At most 256 bytes of it are kept, and 16 tags
    /// of a call.
    ///
    /// `Authorization`, `Proxy-Authorization`, `Cookie` and `Set-Cookie` are not recorded by this, nor values that are marked as sensitive.
    #[must_use]
    pub fn header(mut self, name: HeaderName) -> Self {
        if !SECRETS.contains(&name) {
            self.headers.push(Named { name, secret: false });
        }
        self
    }

    /// The same of a header whose value may let somebody in who reads it: whoever sees the records, the exported spans and what is made of them.
    #[must_use]
    pub fn secret_header(mut self, name: HeaderName) -> Self {
        self.headers.push(Named { name, secret: true });
        self
    }

    pub(super) fn has_headers(&self) -> bool {
        !self.headers.is_empty()
    }

    pub(super) fn of<'a>(
        &'a self,
        side: &'a str,
        headers: &'a HeaderMap,
    ) -> impl Iterator<Item = (Text, Text)> + 'a {
        self.headers.iter().filter_map(move |Named { name, secret }| {
            let values = headers.get_all(name).iter();
            let value = joined(values.filter(|value| *secret || !value.is_sensitive()))?;
            Some((format!("{side}{name}").into(), value.into()))
        })
    }
}

/// No more than a record keeps.
fn joined<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Option<String> {
    let mut text: Option<String> = None;
    for value in values {
        let bytes = value.as_bytes();
        let value = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]);
        match &mut text {
            Some(text) if text.len() < MAX_TEXT => text.extend([", ", &value]),
            Some(_) => break,
            None => text = Some(value.into_owned()),
        }
    }
    text.map(|text| beginning(&text).to_owned())
}

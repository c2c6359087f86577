use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    Route,
    pattern::Pattern,
    template::{Template, View},
};
use crate::headers::{is_hop_by_hop, is_ours};

/// What is changed in the fields of a message's head, step by step: [`Route::request_headers`],
/// [`Route::answer_headers`].
///
/// Values are templates. `{name}` stands for a parameter of the route's path, in its encoded form, and:
///
/// | gap | what it stands for |
/// |---|---|
/// | `{request.host}`, `{request.hostname}` | the host that was asked for, with its port and without |
/// | `{request.path}`, `{request.query}` | both as they came; the path in its normal form |
/// | `{request.method}` | the method |
/// | `{request.header.NAME}` | the first line of that field, as it came |
/// | `{client.address}` | the IP address of the client |
///
/// What is not there is empty, and `{{` is a brace. A value that no field can have is left out with its step.
///
/// ```
/// use gusset_gateway::{HeaderEdits, Route};
///
/// let orders = Route::new("/{tenant}/orders")
///     .to("order-service")
///     .request_headers(HeaderEdits::new().set("x-tenant", "{tenant}").remove("x-debug"))
///     .answer_headers(HeaderEdits::new().set("strict-transport-security", "max-age=31536000").remove("server"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits(Vec<(Op, String, String)>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Set,
    SetIfAbsent,
    Add,
    Remove,
}

impl HeaderEdits {
    /// Changes nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// `name` has this value, whatever it had.
    #[must_use]
    pub fn set(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.and(Op::Set, name, value)
    }

    /// `name` has this value if there is no such field.
    #[must_use]
    pub fn set_if_absent(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.and(Op::SetIfAbsent, name, value)
    }

    /// There is another line `name`, of this value.
    #[must_use]
    pub fn add(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.and(Op::Add, name, value)
    }

    /// There is no field `name`.
    #[must_use]
    pub fn remove(self, name: impl Into<String>) -> Self {
        self.and(Op::Remove, name, String::new())
    }

    fn and(mut self, op: Op, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((op, name.into(), value.into()));
        self
    }

    /// # Errors
    ///
    /// Which step makes no sense.
    pub(crate) fn compile(&self, pattern: &Pattern) -> Result<Edits, String> {
        let step = |(op, name, value): &(Op, String, String)| {
            let Ok(name) = HeaderName::try_from(name.as_str()) else {
                return Err(format!("{name:?} is no name of a header field"));
            };
            if is_not_to_be_edited(&name) {
                return Err(format!(
                    "{name} is the gateway's to say, for messages would be read in more than one way"
                ));
            }
            let template = Template::parse(value, pattern)
                .map_err(|reason| format!("the value of {name}: {reason}"))?;
            if template.literal().is_some_and(|value| HeaderValue::from_str(value).is_err()) {
                return Err(format!("{value:?} is no value of a header field"));
            }
            Ok((*op, name, template))
        };
        self.0.iter().map(step).collect::<Result<_, _>>().map(Edits)
    }
}

impl Route {
    /// What is changed in the fields that the upstream sees. It comes after everything else that the gateway changes in them, but for who the sender is.
    #[must_use]
    pub fn request_headers(mut self, edits: HeaderEdits) -> Self {
        self.request_headers = edits;
        self
    }

    /// What is changed in the fields of answers that the client sees, also of the gateway's own for this route. What CORS has to say comes after it.
    #[must_use]
    pub fn answer_headers(mut self, edits: HeaderEdits) -> Self {
        self.answer_headers = edits;
        self
    }

    /// The `Host` that the upstream sees, a template as of [`HeaderEdits`]: `{request.host}` keeps the client's. Default: the instance's. A request that makes no
    /// host of it is answered with 400.
    #[must_use]
    pub fn host_header(mut self, host: impl Into<String>) -> Self {
        self.new_host = Some(host.into());
        self
    }
}

/// The `Host` that the upstream is to see; an extension of requests.
#[derive(Clone, Debug)]
pub(crate) struct HostAs(pub(crate) HeaderValue);

/// What frames a message, leads it, or is believed because nobody else says it.
fn is_not_to_be_edited(name: &HeaderName) -> bool {
    const OURS: [HeaderName; 4] =
        [header::HOST, header::CONTENT_LENGTH, header::TE, header::TRAILER];
    OURS.contains(name) || is_hop_by_hop(name) || is_ours(name)
}

/// Edits that have been checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edits(Vec<(Op, HeaderName, Template)>);

/// Edits for one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filled(Vec<(Op, HeaderName, HeaderValue)>);

impl Edits {
    pub(crate) fn fill(&self, view: &View<'_>) -> Filled {
        let step = |(op, name, template): &(Op, HeaderName, Template)| {
            let value = match template.literal() {
                Some(literal) => HeaderValue::from_str(literal),
                None => HeaderValue::try_from(template.fill(view)),
            };
            Some((*op, name.clone(), value.ok()?))
        };
        Filled(self.0.iter().filter_map(step).collect())
    }
}

impl Filled {
    /// Adds another line.
    pub(crate) fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.0.push((Op::Add, name, value));
    }

    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        for (op, name, value) in self.0 {
            match op {
                Op::Set => drop(headers.insert(name, value)),
                Op::SetIfAbsent => drop(headers.entry(name).or_insert(value)),
                Op::Add => drop(headers.append(name, value)),
                Op::Remove => drop(headers.remove(name)),
            }
        }
    }
}

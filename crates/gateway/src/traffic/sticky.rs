use gusset_registry::hash_key;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::routes::cookies;

/// What keeps a client with the variant that it got: [`Split::sticky`](super::Split::sticky).
///
/// A key is hashed to a variant such that each gets the part of the keys that its weight says, and that a change of weights moves only the keys that it must: those of a canary
/// stay there while it grows, and nobody stays with a variant of weight 0. The choice is the same in every gateway and after a
/// restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky(By);

#[derive(Clone, Debug, PartialEq, Eq)]
enum By {
    Cookie(String),
    Header(String),
    Sender,
}

impl Sticky {
    /// A cookie of this name, which clients without one get: a random number, for the session of the browser, `HttpOnly`, `SameSite=Lax`, for all paths.
    /// Answers that set it are for one client: let no shared cache keep what such a route answers.
    pub fn cookie(name: impl Into<String>) -> Self {
        Self(By::Cookie(name.into()))
    }

    /// The first line of this field. Requests without it go by chance.
    pub fn header(name: impl Into<String>) -> Self {
        Self(By::Header(name.into()))
    }

    /// The authenticated sender, where the route asks for one, and else the client's address; of an IPv6 one its /64 network.
    #[must_use]
    pub const fn sender() -> Self {
        Self(By::Sender)
    }

    /// # Errors
    ///
    /// What is wrong with its name.
    pub(crate) fn compile(&self) -> Result<Keeping, String> {
        match &self.0 {
            By::Header(name) => match HeaderName::try_from(name.as_str()) {
                Ok(name) => Ok(Keeping::Header(name)),
                Err(_) => Err(format!("{name:?} is no name of a header field")),
            },
            By::Cookie(name) => {
                // `token` of RFC 9110, as names of fields.
                if HeaderName::try_from(name.as_str()).is_err() {
                    return Err(format!("{name:?} is no name of a cookie"));
                }
                Ok(Keeping::Cookie(name.as_str().into()))
            }
            By::Sender => Ok(Keeping::Sender),
        }
    }
}

/// The key of a request, as an extension of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SplitKey(pub(crate) u64);

/// A [`Sticky`] that has been checked.
#[derive(Clone, Debug)]
pub(crate) enum Keeping {
    Cookie(Box<str>),
    Header(HeaderName),
    Sender,
}

impl Keeping {
    /// The key of a request with these fields, and the cookie that its client gets.
    pub(super) fn key(&self, headers: &HeaderMap) -> (Option<SplitKey>, Option<HeaderValue>) {
        let key = |bytes: &[u8]| Some(SplitKey(hash_key(bytes)));
        match self {
            Self::Sender => (None, None),
            Self::Header(name) => (headers.get(name).and_then(|line| key(line.as_bytes())), None),
            Self::Cookie(name) => {
                let mut values = cookies(headers, name).filter(|value| !value.is_empty());
                if let Some(value) = values.next() {
                    return (key(value), None);
                }
                let value = format!("{:016x}", rand::random::<u64>());
                let line = format!("{name}={value}; Path=/; HttpOnly; SameSite=Lax");
                (key(value.as_bytes()), HeaderValue::try_from(line).ok())
            }
        }
    }
}

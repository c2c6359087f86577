use std::{fmt, sync::Arc};

use http::request::Parts;

/// Finds out who sent a request. Closures `Fn(&Parts) -> Result<Identity, AuthError>` do.
///
/// ```
/// use gusset_gateway::{AuthError, Authenticate, Identity};
///
/// let by_key = |head: &http::request::Parts| match head.headers.get("x-api-key") {
///     None => Err(AuthError::Missing),
///     Some(key) if key == "s3cret" => Ok(Identity::new("billing-job")),
///     Some(_) => Err(AuthError::Invalid),
/// };
/// let head = http::Request::new(()).into_parts().0;
/// assert_eq!(by_key.authenticate(&head), Err(AuthError::Missing));
/// ```
pub trait Authenticate: Send + Sync + 'static {
    /// Who sent the request with this head. It runs on the path of every request of a route that is
    /// [`authenticated`](crate::Route::authenticated), under no lock, and must not block: verify a signature or look into a
    /// cache here, fetch keys elsewhere.
    ///
    /// # Errors
    ///
    /// [`AuthError`] if that cannot be told, or if the sender may not.
    fn authenticate(&self, head: &Parts) -> Result<Identity, AuthError>;
}

impl<F> Authenticate for F
where
    F: Fn(&Parts) -> Result<Identity, AuthError> + Send + Sync + 'static,
{
    fn authenticate(&self, head: &Parts) -> Result<Identity, AuthError> {
        self(head)
    }
}

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    subject: Arc<str>,
}

impl Identity {
    /// The one with this name, unique among all that the gateway may see. Upstreams read it as `x-gusset-subject`, in UTF-8; a
    /// subject with control characters cannot be sent and is answered with 401.
    pub fn new(subject: impl Into<Arc<str>>) -> Self {
        Self { subject: subject.into() }
    }

    /// The name.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    pub(crate) const fn shared_subject(&self) -> &Arc<str> {
        &self.subject
    }
}

/// Why a request is not taken for anybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthError {
    /// It says nothing of its sender: 401.
    Missing,
    /// What it says is wrong or has expired: 401, with `error="invalid_token"`.
    Invalid,
    /// The sender is known and may not: 403, with `error="insufficient_scope"`.
    Forbidden,
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "authentication is required",
            Self::Invalid => "the credentials are not valid",
            Self::Forbidden => "the credentials do not allow this",
        })
    }
}

impl std::error::Error for AuthError {}

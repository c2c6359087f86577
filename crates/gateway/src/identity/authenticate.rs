use std::{fmt, future::Future, pin::Pin};

use http::{header, request::Parts};

use super::Identity;

/// Finds out who sent a request. Closures `Fn(&Parts) -> Result<Identity, AuthError>` do.
///
/// A gateway may have several ([`Builder::authenticate`](crate::Builder::authenticate)): they are asked in turn until one finds its kind of
/// credential, and that one decides.
///
/// ```
/// use gusset_gateway::{AuthError, Authenticate, Authenticating, Identity};
///
/// let by_key = |head: &http::request::Parts| match head.headers.get("x-api-key") {
///     None => Err(AuthError::Missing),
///     Some(key) if key == "s3cret" => Ok(Identity::new("billing-job")),
///     Some(_) => Err(AuthError::Invalid),
/// };
/// let head = http::Request::new(()).into_parts().0;
/// assert!(matches!(by_key.authenticate(&head), Authenticating::Done(Err(AuthError::Missing))));
/// ```
pub trait Authenticate: Send + Sync + 'static {
    /// Who sent the request with this head. It runs on the path of every request of a route that is
    /// [`authenticated`](crate::Route::authenticated), under no lock, and must not block: verify a signature or look into a
    /// cache here, and wait for what must be fetched in [`Authenticating::Later`].
    ///
    /// [`AuthError::Missing`] means that the request has no credential of this kind.
    fn authenticate(&self, head: &Parts) -> Authenticating;

    /// The scheme that clients without a credential are told of in `WWW-Authenticate`. Default `Bearer`; `None` says nothing.
    fn challenge(&self) -> Option<&str> {
        Some("Bearer")
    }

    /// Removes the credential from a request that goes on to an upstream, whether it was looked at or not. Default: the
    /// `Authorization` field.
    fn withhold(&self, head: &mut Parts) {
        head.headers.remove(header::AUTHORIZATION);
    }
}

impl<F> Authenticate for F
where
    F: Fn(&Parts) -> Result<Identity, AuthError> + Send + Sync + 'static,
{
    fn authenticate(&self, head: &Parts) -> Authenticating {
        Authenticating::Done(self(head))
    }
}

/// The outcome of [`Authenticate::authenticate`], or the way to it.
pub enum Authenticating {
    /// It is decided. The usual case, which costs no allocation.
    Done(Result<Identity, AuthError>),
    /// Something must be fetched first. The future should have a limit of time, for the route's own begins later.
    Later(Pin<Box<dyn Future<Output = Result<Identity, AuthError>> + Send>>),
}

impl fmt::Debug for Authenticating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(result) => f.debug_tuple("Done").field(result).finish(),
            Self::Later(_) => f.write_str("Later"),
        }
    }
}

/// Why a request is not taken for anybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AuthError {
    /// It says nothing of its sender: 401.
    Missing,
    /// What it says is wrong: 401, with `error="invalid_token"`. Which part is wrong is not told.
    Invalid,
    /// What it says was right once: 401, with `error="invalid_token"`. Only for what is known to be genuine.
    Expired,
    /// The sender is known and may not: 403, with `error="insufficient_scope"`.
    Forbidden,
    /// It cannot be told at present, for the keys cannot be had: 503.
    Unavailable,
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "authentication is required",
            Self::Invalid => "the credentials are not valid",
            Self::Expired => "the credentials have expired",
            Self::Forbidden => "the credentials do not allow this",
            Self::Unavailable => "credentials cannot be checked at present",
        })
    }
}

impl std::error::Error for AuthError {}

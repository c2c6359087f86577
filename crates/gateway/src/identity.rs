//! Who sends a request, and what they may: credentials become an [`Identity`], which upstreams are told in header fields.

mod authenticate;
mod sender;

mod api_key;
mod certificate;
#[cfg(feature = "jwt")]
mod jwt;

mod denied;
mod headers;
mod requirement;

#[cfg(all(any(test, fuzzing), feature = "jwt"))]
pub(crate) mod fuzz;

mod api_key_file;
mod der;
mod source;
mod wall;

#[cfg(feature = "jwt")]
mod claims;
#[cfg(feature = "jwt")]
mod fetch;
#[cfg(all(feature = "jwt", feature = "tls"))]
mod fetch_tls;
#[cfg(feature = "jwt")]
mod jwks;
#[cfg(feature = "jwt")]
mod key;
#[cfg(feature = "jwt")]
mod token;
#[cfg(feature = "jwt")]
mod verified;

pub use api_key::{ApiKey, ApiKeys};
pub use api_key_file::ApiKeyFileError;
pub use authenticate::{AuthError, Authenticate, Authenticating};
pub use certificate::{ByCertificate, MalformedCertificate, PeerCertificate};
pub use headers::IdentityHeaders;
pub use sender::Identity;
#[cfg(feature = "jwt")]
pub use {
    jwks::JwksError,
    jwt::Jwt,
    key::{JwtAlgorithm, JwtKey, JwtKeyError},
};

pub(crate) use denied::Denied;
pub(crate) use requirement::Requirement;

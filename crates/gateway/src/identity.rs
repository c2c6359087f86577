//! Who sends a request, and what they may: credentials become an [`Identity`], which upstreams are told in header fields.

mod authenticate;
mod sender;

mod api_key;
mod certificate;

mod denied;
mod headers;
mod requirement;

mod api_key_file;
mod der;
mod source;
mod wall;

pub use api_key::{ApiKey, ApiKeys};
pub use api_key_file::ApiKeyFileError;
pub use authenticate::{AuthError, Authenticate, Authenticating};
pub use certificate::{ByCertificate, MalformedCertificate, PeerCertificate};
pub use headers::IdentityHeaders;
pub use sender::Identity;

pub(crate) use denied::Denied;
pub(crate) use requirement::Requirement;

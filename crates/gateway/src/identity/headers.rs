use http::{HeaderName, request::Parts};

use super::Identity;
use crate::headers::{begins, reads};

const SUBJECT: HeaderName = HeaderName::from_static("x-gusset-subject");
const SCOPES: HeaderName = HeaderName::from_static("x-gusset-scopes");
const ROLES: HeaderName = HeaderName::from_static("x-gusset-roles");

/// What the fields of claims begin with.
pub(super) const CLAIM_PREFIX: &str = "x-gusset-claim-";

/// The fields by which upstreams are told who sent a request. Only the gateway sets them: what a client says there is removed on every route, also what a
/// trusted proxy says, and also where it is spelled with `_`.
///
/// | field | value |
/// |---|---|
/// | `x-gusset-subject` | the subject, in UTF-8 |
/// | `x-gusset-scopes` | scopes, with a space between them |
/// | `x-gusset-roles` | roles, with a comma between them |
/// | `x-gusset-claim-` and a name | a claim that was asked for |
///
/// A list that is empty is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    subject: HeaderName,
    scopes: HeaderName,
    roles: HeaderName,
}

impl IdentityHeaders {
    /// Those of the table.
    #[must_use]
    pub const fn new() -> Self {
        Self { subject: SUBJECT, scopes: SCOPES, roles: ROLES }
    }

    /// Another name for that of the subject. Those of the table are removed from requests all the same.
    #[must_use]
    pub fn subject(mut self, name: HeaderName) -> Self {
        self.subject = name;
        self
    }

    /// Another name for that of the scopes.
    #[must_use]
    pub fn scopes(mut self, name: HeaderName) -> Self {
        self.scopes = name;
        self
    }

    /// Another name for that of the roles.
    #[must_use]
    pub fn roles(mut self, name: HeaderName) -> Self {
        self.roles = name;
        self
    }

    /// Whether services would take a field for one of these.
    pub(crate) fn contain(&self, name: &HeaderName) -> bool {
        let of_ours = [&SUBJECT, &SCOPES, &ROLES, &self.subject, &self.scopes, &self.roles];
        begins(name, CLAIM_PREFIX) || of_ours.iter().any(|ours| reads(name, ours.as_str()))
    }

    /// Tells the upstream. `Err` if `identity` cannot be written.
    pub(crate) fn tell(&self, identity: &Identity, head: &mut Parts) -> Result<(), Unwritable> {
        let lines = identity.lines().ok_or(Unwritable)?;
        head.headers.insert(self.subject.clone(), lines.subject.clone());
        for (name, line) in [(&self.scopes, &lines.scopes), (&self.roles, &lines.roles)] {
            if let Some(line) = line {
                head.headers.insert(name.clone(), line.clone());
            }
        }
        for (name, line) in &lines.claims {
            head.headers.insert(name.clone(), line.clone());
        }
        Ok(())
    }
}

/// An identity that cannot be a header field.
pub(crate) struct Unwritable;

impl Default for IdentityHeaders {
    fn default() -> Self {
        Self::new()
    }
}

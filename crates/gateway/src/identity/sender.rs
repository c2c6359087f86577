use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use http::{HeaderName, HeaderValue};

use super::headers::CLAIM_PREFIX;

/// Who sent a request, and what they may. Cheap to clone.
///
/// Upstreams read it in header fields ([`IdentityHeaders`](crate::IdentityHeaders)). One that cannot be written there without a second reading (control characters,
/// a space around the subject or in a scope, a comma in a role) is answered with 401.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    known: Known,
    /// As upstreams are told. `None` inside if that cannot be.
    lines: OnceLock<Option<Lines>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Known {
    subject: Arc<str>,
    scopes: Vec<Box<str>>,
    roles: Vec<Box<str>>,
    claims: Vec<(Box<str>, Box<str>)>,
    quota_key: Option<Arc<str>>,
}

/// An identity as header fields. A field that would be empty is not sent.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    pub(super) subject: HeaderValue,
    pub(super) scopes: Option<HeaderValue>,
    pub(super) roles: Option<HeaderValue>,
    pub(super) claims: Vec<(HeaderName, HeaderValue)>,
}

impl Identity {
    /// The one with this name, unique among all that the gateway may see; without scopes and roles.
    pub fn new(subject: impl Into<Arc<str>>) -> Self {
        Self::of(Known {
            subject: subject.into(),
            scopes: Vec::new(),
            roles: Vec::new(),
            claims: Vec::new(),
            quota_key: None,
        })
    }

    /// What it may, as tokens of OAuth 2.0.
    #[must_use]
    pub fn with_scopes<S: Into<Box<str>>>(self, scopes: impl IntoIterator<Item = S>) -> Self {
        let scopes = scopes.into_iter().map(Into::into).collect();
        self.with(|known| known.scopes = scopes)
    }

    /// What it is.
    #[must_use]
    pub fn with_roles<S: Into<Box<str>>>(self, roles: impl IntoIterator<Item = S>) -> Self {
        let roles = roles.into_iter().map(Into::into).collect();
        self.with(|known| known.roles = roles)
    }

    /// Something else that upstreams shall know, as `x-gusset-claim-` and the name in lower case.
    #[must_use]
    pub fn with_claim(self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        let claim = (name.into(), value.into());
        self.with(|known| known.claims.push(claim))
    }

    /// By what quotas count it. Default: its subject.
    #[must_use]
    pub fn with_quota_key(self, key: impl Into<Arc<str>>) -> Self {
        let key = key.into();
        self.with(|known| known.quota_key = Some(key))
    }

    /// The name.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.known.subject
    }

    /// What it may.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.0.known.scopes.iter().any(|has| **has == *scope)
    }

    /// What it is.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.0.known.roles.iter().any(|has| **has == *role)
    }

    /// One of the claims that upstreams are told of.
    #[must_use]
    pub fn claim(&self, name: &str) -> Option<&str> {
        let mut claims = self.0.known.claims.iter();
        claims.find(|(has, _)| **has == *name).map(|(_, value)| &**value)
    }

    pub(crate) fn quota_key(&self) -> &Arc<str> {
        self.0.known.quota_key.as_ref().unwrap_or(&self.0.known.subject)
    }

    pub(super) fn lines(&self) -> Option<&Lines> {
        self.0.lines.get_or_init(|| self.0.known.lines()).as_ref()
    }

    fn of(known: Known) -> Self {
        Self(Arc::new(Inner { known, lines: OnceLock::new() }))
    }

    fn with(self, change: impl FnOnce(&mut Known)) -> Self {
        let mut known = match Arc::try_unwrap(self.0) {
            Ok(inner) => inner.known,
            Err(shared) => shared.known.clone(),
        };
        change(&mut known);
        Self::of(known)
    }
}

impl Known {
    fn lines(&self) -> Option<Lines> {
        let name = |name: &str| HeaderName::try_from(format!("{CLAIM_PREFIX}{name}")).ok();
        let claim = |(of, value): &(Box<str>, Box<str>)| Some((name(of)?, line(value)?));
        Some(Lines {
            subject: line(&self.subject)?,
            scopes: list(&self.scopes, ' ')?,
            roles: list(&self.roles, ',')?,
            claims: self.claims.iter().map(claim).collect::<Option<_>>()?,
        })
    }
}

/// `None` outside if it cannot be sent, inside if there is nothing to send.
fn list(members: &[Box<str>], separator: char) -> Option<Option<HeaderValue>> {
    if members.is_empty() {
        return Some(None);
    }
    let is_plain = |member: &str| !member.contains(separator) && line(member).is_some();
    if !members.iter().all(|member| is_plain(member)) {
        return None;
    }
    line(&members.join(separator.encode_utf8(&mut [0; 4]))).map(Some)
}

/// A value that is read as it was written: servers cut off spaces at both ends, and must not see a line's end.
fn line(value: &str) -> Option<HeaderValue> {
    let sendable = !value.is_empty() && value.trim() == value && !value.contains('\t');
    sendable.then(|| HeaderValue::from_bytes(value.as_bytes()).ok()).flatten()
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.0.known == other.0.known
    }
}

impl Eq for Identity {}

impl std::hash::Hash for Identity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.known.hash(state);
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Known { subject, scopes, roles, claims, quota_key } = &self.0.known;
        f.debug_struct("Identity")
            .field("subject", subject)
            .field("scopes", scopes)
            .field("roles", roles)
            .field("claims", claims)
            .field("quota_key", quota_key)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_read_in_two_ways_is_not_sent() {
        let alice = Identity::new("alice");
        assert!(alice.lines().is_some());
        for bad in [
            Identity::new(""),
            Identity::new(" alice"),
            Identity::new("alice\r\nx-gusset-roles: admin"),
            alice.clone().with_scopes(["a b"]),
            alice.clone().with_scopes([""]),
            alice.clone().with_roles(["user,admin"]),
            alice.clone().with_claim("email", "a\nb"),
            alice.clone().with_claim("e mail", "a"),
        ] {
            assert!(bad.lines().is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_changed_clone_leaves_the_first_as_it_was() {
        let alice = Identity::new("alice").with_roles(["user"]);
        assert!(alice.lines().is_some());
        let admin = alice.clone().with_roles(["user", "admin"]);
        assert!(!alice.has_role("admin") && admin.has_role("admin"));
        assert_eq!(admin.lines().unwrap().roles.as_ref().unwrap(), "user,admin");
        assert_eq!(**alice.quota_key(), *"alice");
    }
}

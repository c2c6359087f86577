use super::Route;
use crate::identity::Requirement;

/// Who may send.
impl Route {
    /// Only requests of a known sender: the gateway's [`Authenticate`](crate::Authenticate) is asked, and the upstream told who it is
    /// ([`IdentityHeaders`](crate::IdentityHeaders)). Others are answered with 401 or 403.
    ///
    /// The credential itself does not go on, so that no upstream can use it elsewhere or write it to a log; see
    /// [`keep_credentials`](Self::keep_credentials).
    #[must_use]
    pub fn authenticated(mut self) -> Self {
        self.required();
        self
    }

    /// Only senders with all of these scopes; others are answered with 403. It implies [`authenticated`](Self::authenticated).
    #[must_use]
    pub fn scopes<S: Into<Box<str>>>(mut self, all_of: impl IntoIterator<Item = S>) -> Self {
        self.required().scopes = all_of.into_iter().map(Into::into).collect();
        self
    }

    /// Only senders with one of these scopes at least. It implies [`authenticated`](Self::authenticated).
    #[must_use]
    pub fn any_scope<S: Into<Box<str>>>(mut self, of: impl IntoIterator<Item = S>) -> Self {
        self.required().any_scope = Some(of.into_iter().map(Into::into).collect());
        self
    }

    /// Only senders with all of these roles. It implies [`authenticated`](Self::authenticated).
    #[must_use]
    pub fn roles<S: Into<Box<str>>>(mut self, all_of: impl IntoIterator<Item = S>) -> Self {
        self.required().roles = all_of.into_iter().map(Into::into).collect();
        self
    }

    /// Only senders with one of these roles at least. It implies [`authenticated`](Self::authenticated).
    #[must_use]
    pub fn any_role<S: Into<Box<str>>>(mut self, of: impl IntoIterator<Item = S>) -> Self {
        self.required().any_role = Some(of.into_iter().map(Into::into).collect());
        self
    }

    fn required(&mut self) -> &mut Requirement {
        self.requires.get_or_insert_default()
    }

    /// Credentials go on to the upstream, which calls others with them or looks at them itself. Only for upstreams that may do all that the sender may.
    #[must_use]
    pub const fn keep_credentials(mut self) -> Self {
        self.keeps_credentials = true;
        self
    }
}

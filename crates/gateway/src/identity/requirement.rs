use super::Identity;

/// What a route asks of its senders. All of it must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requirement {
    pub(crate) scopes: Vec<Box<str>>,
    pub(crate) any_scope: Option<Vec<Box<str>>>,
    pub(crate) roles: Vec<Box<str>>,
    pub(crate) any_role: Option<Vec<Box<str>>>,
}

impl Requirement {
    /// Why it cannot be, if it cannot.
    pub(crate) fn mistake(&self) -> Option<String> {
        if self.any_scope.as_ref().is_some_and(Vec::is_empty) {
            return Some("any_scope([]) lets nobody pass; name at least one scope".into());
        }
        if self.any_role.as_ref().is_some_and(Vec::is_empty) {
            return Some("any_role([]) lets nobody pass; name at least one role".into());
        }
        let mut scopes = self.scopes.iter().chain(self.any_scope.iter().flatten());
        let bad = scopes.find(|scope| !is_scope(scope))?;
        Some(format!("{bad:?} is no scope: visible ASCII without quotes and backslashes"))
    }

    /// `Err` with the scopes that would have done, empty if it is not for a scope.
    pub(crate) fn check(&self, identity: &Identity) -> Result<(), String> {
        let any_scope = self
            .any_scope
            .as_ref()
            .is_none_or(|any| any.iter().any(|scope| identity.has_scope(scope)));
        if !self.scopes.iter().all(|scope| identity.has_scope(scope)) || !any_scope {
            let any = self.any_scope.iter().flatten().filter(|_| !any_scope);
            let wanted: Vec<&str> = self.scopes.iter().chain(any).map(|scope| &**scope).collect();
            return Err(wanted.join(" "));
        }
        let any_role =
            self.any_role.as_ref().is_none_or(|any| any.iter().any(|role| identity.has_role(role)));
        let all_roles = self.roles.iter().all(|role| identity.has_role(role));
        if all_roles && any_role { Ok(()) } else { Err(String::new()) }
    }
}

/// `scope-token` of RFC 6749, 3.3.
fn is_scope(scope: &str) -> bool {
    let in_scope = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    !scope.is_empty() && scope.bytes().all(in_scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<const N: usize>(names: [&str; N]) -> Vec<Box<str>> {
        names.map(Into::into).into()
    }

    #[test]
    fn all_scopes_and_one_role_are_asked_for_exactly() {
        let asks = Requirement {
            scopes: of(["read", "write"]),
            any_role: Some(of(["admin", "owner"])),
            ..Requirement::default()
        };
        let alice = Identity::new("alice");
        let both = alice.clone().with_scopes(["write", "read", "more"]);
        assert_eq!(asks.check(&both.clone().with_roles(["owner"])), Ok(()));
        assert_eq!(asks.check(&both.clone().with_roles(["own", "Admin"])), Err(String::new()));
        assert_eq!(asks.check(&both), Err(String::new()));
        let half = alice.with_scopes(["read", "writer"]).with_roles(["admin"]);
        assert_eq!(asks.check(&half), Err("read write".into()));
    }

    #[test]
    fn what_lets_nobody_pass_is_a_mistake() {
        let nobody = Requirement { any_role: Some(Vec::new()), ..Requirement::default() };
        assert!(nobody.mistake().is_some());
        let quoted = Requirement { scopes: of(["a\"b"]), ..Requirement::default() };
        assert!(quoted.mistake().is_some());
        assert_eq!(Requirement { scopes: of(["a:b"]), ..Requirement::default() }.mistake(), None);
    }
}

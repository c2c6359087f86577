use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::AuthError;

/// The answer to a request whose sender is unknown or may not (RFC 6750, 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) error: AuthError,
    challenges: Vec<HeaderValue>,
}

impl Denied {
    /// `schemes` are those by which the client could have said more, `scope` what it would have had to have.
    pub(crate) fn new<'s>(
        error: AuthError,
        schemes: impl IntoIterator<Item = &'s str>,
        scope: Option<&str>,
    ) -> Self {
        let challenges = schemes.into_iter().filter_map(|scheme| challenge(error, scheme, scope));
        let mut distinct: Vec<HeaderValue> = Vec::new();
        for challenge in challenges {
            if !distinct.contains(&challenge) {
                distinct.push(challenge);
            }
        }
        Self { error, challenges: distinct }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        match self.error {
            AuthError::Missing | AuthError::Invalid | AuthError::Expired => {
                StatusCode::UNAUTHORIZED
            }
            AuthError::Forbidden => StatusCode::FORBIDDEN,
            AuthError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(crate) fn describe(&self, headers: &mut HeaderMap) {
        for challenge in &self.challenges {
            headers.append(header::WWW_AUTHENTICATE, challenge.clone());
        }
        if self.error == AuthError::Unavailable {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
    }
}

fn challenge(error: AuthError, scheme: &str, scope: Option<&str>) -> Option<HeaderValue> {
    let bearer = scheme.eq_ignore_ascii_case("bearer");
    let attributes = match error {
        AuthError::Missing => "",
        AuthError::Invalid if bearer => {
            r#" error="invalid_token", error_description="the token is not valid""#
        }
        AuthError::Expired if bearer => {
            r#" error="invalid_token", error_description="the token has expired""#
        }
        AuthError::Invalid | AuthError::Expired => "",
        AuthError::Forbidden if bearer => r#" error="insufficient_scope""#,
        // Another credential of these kinds is not asked for.
        AuthError::Forbidden | AuthError::Unavailable => return None,
    };
    let scope = scope.filter(|scope| bearer && !scope.is_empty());
    let scope = scope.map(|scope| format!(r#", scope="{scope}""#)).unwrap_or_default();
    HeaderValue::try_from(format!("{scheme}{attributes}{scope}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_names_what_is_missing_and_nothing_of_what_is_wrong() {
        let lines = |error, scope| {
            let mut headers = HeaderMap::new();
            Denied::new(error, ["Bearer", "ApiKey", "Bearer"], scope).describe(&mut headers);
            let lines = headers.get_all(header::WWW_AUTHENTICATE).iter();
            lines.map(|line| line.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(lines(AuthError::Missing, None), ["Bearer", "ApiKey"]);
        assert_eq!(
            lines(AuthError::Forbidden, Some("read write")),
            [r#"Bearer error="insufficient_scope", scope="read write""#]
        );
        assert_eq!(lines(AuthError::Unavailable, None), [""; 0]);
    }
}

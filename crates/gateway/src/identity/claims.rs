//! What a genuine token must say, and whom it makes of its sender.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::{AuthError, Identity};

type Claims = Map<String, Value>;

/// What is asked of claims.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) issuers: Vec<Box<str>>,
    pub(super) audiences: Vec<Box<str>>,
    pub(super) any_audience: bool,
    pub(super) leeway: Duration,
    pub(super) required: Vec<Box<str>>,
    pub(super) token_type: Option<Box<str>>,
    pub(super) subject: Box<str>,
    pub(super) roles: Box<str>,
    pub(super) passed: Vec<Box<str>>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            issuers: Vec::new(),
            audiences: Vec::new(),
            any_audience: false,
            leeway: Duration::from_secs(60),
            required: Vec::new(),
            token_type: None,
            subject: "sub".into(),
            roles: "roles".into(),
            passed: Vec::new(),
        }
    }
}

/// When a token holds, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    expires: i64,
    not_before: Option<i64>,
    issued: Option<i64>,
}

impl Times {
    pub(super) const fn expires(&self) -> i64 {
        self.expires
    }

    #[cfg(test)]
    pub(super) const fn until(expires: i64) -> Self {
        Self { expires, not_before: None, issued: None }
    }

    /// By the clock on the wall, whatever it said before: a token that is kept is judged anew each time.
    pub(super) fn check(&self, now: SystemTime, leeway: Duration) -> Result<(), AuthError> {
        let now = seconds(now);
        let leeway = i64::try_from(leeway.as_secs()).unwrap_or(i64::MAX);
        let begins = |at: Option<i64>| at.is_none_or(|at| at <= now.saturating_add(leeway));
        if now >= self.expires.saturating_add(leeway) {
            return Err(AuthError::Expired);
        }
        if begins(self.not_before) && begins(self.issued) {
            Ok(())
        } else {
            Err(AuthError::Invalid)
        }
    }
}

/// Before 1970 it is negative.
fn seconds(at: SystemTime) -> i64 {
    let whole = |span: Duration| i64::try_from(span.as_secs()).unwrap_or(i64::MAX);
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => whole(since),
        Err(before) => -whole(before.duration()),
    }
}

impl Rules {
    pub(super) fn takes_type(&self, of_token: Option<&str>) -> bool {
        let Some(wanted) = &self.token_type else { return true };
        // `application/` may be left out (RFC 7515, 4.1.9).
        let short =
            |name: &str| name.to_ascii_lowercase().trim_start_matches("application/").to_owned();
        of_token.is_some_and(|found| short(found) == short(wanted))
    }

    /// Whom the claims make of the sender, and how long that holds. Times are not looked at. The error is for logs.
    pub(super) fn read(&self, claims: &[u8]) -> Result<(Times, Identity), &'static str> {
        let claims: Claims =
            serde_json::from_slice(claims).map_err(|_| "its claims are no JSON object")?;
        let times = times(&claims).ok_or("exp is missing, or one of exp, nbf, iat is no date")?;
        let issuer = claims.get("iss").and_then(Value::as_str);
        let known = |issuer: &str| self.issuers.iter().any(|one| **one == *issuer);
        if !self.issuers.is_empty() && !issuer.is_some_and(known) {
            return Err("iss is none of the issuers");
        }
        if !self.takes_audience(claims.get("aud")) {
            return Err(match self.audiences[..] {
                [] => "it has an aud, and no audience is set",
                _ => "aud is none of the audiences",
            });
        }
        let has = |name: &str| at(&claims, name).is_some_and(|value| !value.is_null());
        if !self.required.iter().all(|name| has(name)) {
            return Err("a claim that is required is missing");
        }
        let identity = self.identity(&claims).ok_or("the claim of the subject is missing")?;
        Ok((times, identity))
    }

    fn takes_audience(&self, audience: Option<&Value>) -> bool {
        let is_ours = |one: &Value| {
            one.as_str().is_some_and(|one| self.audiences.iter().any(|ours| **ours == *one))
        };
        match audience {
            _ if self.any_audience => true,
            // For somebody, and nobody said for whom we are (RFC 7519, 4.1.3).
            Some(_) if self.audiences.is_empty() => false,
            Some(Value::Array(several)) => several.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => self.audiences.is_empty(),
        }
    }

    fn identity(&self, claims: &Claims) -> Option<Identity> {
        let subject = at(claims, &self.subject)?.as_str().filter(|subject| !subject.is_empty())?;
        let scopes = ["scope", "scp"].into_iter().find_map(|name| claims.get(name));
        let mut identity = Identity::new(subject)
            .with_scopes(scopes.map(words).unwrap_or_default())
            .with_roles(at(claims, &self.roles).map(words).unwrap_or_default());
        for name in &self.passed {
            let value = match at(claims, name) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) if text.is_empty() => continue,
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
            };
            identity = identity.with_claim(name.to_ascii_lowercase().replace('.', "-"), value);
        }
        Some(identity)
    }
}

/// `None` if they do not say when it ends, or say nonsense.
fn times(claims: &Claims) -> Option<Times> {
    Some(Times {
        expires: date(claims, "exp")??,
        not_before: date(claims, "nbf")?,
        issued: date(claims, "iat")?,
    })
}

/// A claim by its name, or by the names on the way to it with dots between them.
fn at<'c>(claims: &'c Claims, name: &str) -> Option<&'c Value> {
    claims.get(name).or_else(|| {
        let mut names = name.split('.');
        let first = claims.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    })
}

/// A list of text, or a text with spaces between its members.
fn words(value: &Value) -> Vec<Box<str>> {
    match value {
        Value::String(text) => text.split_ascii_whitespace().map(Into::into).collect(),
        Value::Array(several) => several.iter().filter_map(Value::as_str).map(Into::into).collect(),
        _ => Vec::new(),
    }
}

/// `NumericDate` (RFC 7519, 2). `None` outside if it is no number.
fn date(claims: &Claims, name: &str) -> Option<Option<i64>> {
    const FARTHEST: f64 = 9e15;
    match claims.get(name) {
        None => Some(None),
        Some(Value::Number(number)) => {
            let seconds = number.as_f64().filter(|seconds| seconds.abs() < FARTHEST)?;
            Some(Some(seconds.floor() as i64))
        }
        Some(_) => None,
    }
}

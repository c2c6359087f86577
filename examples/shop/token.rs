//! Tokens of logged-in users: JSON Web Tokens signed with HMAC-SHA-256 (RFC 7519, `HS256`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

/// `{"alg":"HS256","typ":"JWT"}`: the only header that is ever written or accepted, so no token can choose its algorithm.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9";

/// How long a token is good for.
const LIFETIME: Duration = Duration::from_secs(3600);

/// Signs and verifies tokens. Clones share the key.
#[derive(Clone)]
pub struct Tokens {
    mac: Hmac<Sha256>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: Uuid,
    exp: u64,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadToken {
    /// It is not of the three parts, or not by us.
    Forged,
    /// It was good once.
    Expired,
}

impl std::fmt::Display for BadToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Forged => "the token was not issued here",
            Self::Expired => "the token has expired, log in again",
        })
    }
}

impl std::error::Error for BadToken {}

impl Tokens {
    /// Tokens under a key that nobody else knows and that dies with the process.
    #[must_use]
    pub fn random() -> Self {
        Self::with_key(rand::random())
    }

    /// Tokens under a secret that others know as well. Of one that is longer than 64 bytes the beginning counts.
    #[must_use]
    pub fn signed_by(secret: &str) -> Self {
        let mut key = [0; 64];
        // HMAC fills a key up with zeros in any case (RFC 2104).
        for (byte, of_secret) in key.iter_mut().zip(secret.bytes()) {
            *byte = of_secret;
        }
        Self::with_key(key)
    }

    fn with_key(key: [u8; 64]) -> Self {
        Self { mac: Hmac::new(&key.into()) }
    }

    /// A token for `user`.
    #[must_use]
    pub fn issue(&self, user: Uuid) -> String {
        self.issue_at(user, now())
    }

    fn issue_at(&self, sub: Uuid, now: u64) -> String {
        let claims = Claims { sub, exp: now + LIFETIME.as_secs() };
        let claims = serde_json::json!(claims).to_string();
        let signed = format!("{HEADER}.{}", URL_SAFE_NO_PAD.encode(claims));
        let mut mac = self.mac.clone();
        mac.update(signed.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        format!("{signed}.{signature}")
    }

    /// What operators show to the consoles of all processes that know the key. A token of a user is signed with a dot in it, and so is never this.
    pub(crate) fn of_operators(&self) -> String {
        let mut mac = self.mac.clone();
        mac.update(b"operators of the consoles");
        URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
    }

    /// The user that a token was issued for.
    ///
    /// # Errors
    ///
    /// [`BadToken`] if it was not issued here or is too old.
    pub fn verify(&self, token: &str) -> Result<Uuid, BadToken> {
        self.verify_at(token, now())
    }

    fn verify_at(&self, token: &str, now: u64) -> Result<Uuid, BadToken> {
        let claims = self.signed_claims(token).ok_or(BadToken::Forged)?;
        if claims.exp <= now { Err(BadToken::Expired) } else { Ok(claims.sub) }
    }

    fn signed_claims(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let claims = signed.strip_prefix(HEADER)?.strip_prefix('.')?;
        let mut mac = self.mac.clone();
        mac.update(signed.as_bytes());
        mac.verify_slice(&URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

#[expect(clippy::disallowed_methods, reason = "RFC 7519 counts in seconds of the wall clock")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_user_until_it_expires() {
        let (tokens, user) = (Tokens::with_key([7; 64]), Uuid::now_v7());
        let token = tokens.issue_at(user, 1_000);
        assert_eq!(tokens.verify_at(&token, 4_599), Ok(user));
        assert_eq!(tokens.verify_at(&token, 4_600), Err(BadToken::Expired));
    }

    #[test]
    fn what_was_not_issued_here_is_refused() {
        let tokens = Tokens::with_key([7; 64]);
        let token = tokens.issue(Uuid::now_v7());
        let foreign = Tokens::with_key([8; 64]).issue(Uuid::now_v7());
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let unsigned = format!("{none}.{}.", token.split('.').nth(1).unwrap());
        let mut tampered = token.clone().into_bytes();
        tampered[HEADER.len() + 5] ^= 1;
        let tampered = String::from_utf8(tampered).unwrap();
        for bad in [&foreign, &unsigned, &tampered, "", "..", "a.b.c", &token[..token.len() - 1]] {
            assert_eq!(tokens.verify(bad), Err(BadToken::Forged), "{bad}");
        }
    }
}

//! A signed token in its compact form (RFC 7515), taken apart before anything of it is believed.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, de::IgnoredAny};

/// A longer one is refused unread. Servers take heads of 8 to 32 KiB.
pub(super) const LONGEST: usize = 8 * 1024;

/// Names of keys are compared with each key.
const LONGEST_KID: usize = 256;

pub(super) struct Token<'t> {
    pub(super) header: Header,
    /// Header and claims as they were signed.
    pub(super) signed: &'t str,
    pub(super) claims: Vec<u8>,
    pub(super) signature: Vec<u8>,
}

/// Fields that stand there twice are refused by serde. Keys and addresses of keys in a header (`jwk`, `jku`, `x5c`, `x5u`) are not looked at: the sender
/// wrote them.
#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    #[serde(default)]
    pub(super) kid: Option<String>,
    #[serde(default)]
    pub(super) typ: Option<String>,
    #[serde(default)]
    crit: Present,
    #[serde(default)]
    b64: Present,
}

/// Whether a field stands there, with whatever value.
#[derive(Default)]
struct Present(bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
    }
}

impl<'t> Token<'t> {
    /// `None` for what is no such token, or demands what is not understood (`crit`).
    pub(super) fn parse(token: &'t str) -> Option<Self> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        if claims.contains('.') {
            return None;
        }
        // The engine refuses bits that mean nothing, so a token has one spelling.
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let header: Header = serde_json::from_slice(&decode(header)?).ok()?;
        let too_long = header.kid.as_ref().is_some_and(|kid| kid.len() > LONGEST_KID);
        if header.crit.0 || header.b64.0 || too_long {
            return None;
        }
        Some(Self { header, signed, claims: decode(claims)?, signature: decode(signature)? })
    }
}

use std::{fmt, sync::Arc};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    hmac,
    signature::{self, RsaPublicKeyComponents, UnparsedPublicKey},
};
use serde::Deserialize;
use thiserror::Error;

use super::der::{BIT_STRING, Der, INTEGER, OID, SEQUENCE};

/// How a token is signed (RFC 7518, 3.1). There is no `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSA, PKCS #1 1.5, with SHA-256.
    Rs256,
    /// RSA, PKCS #1 1.5, with SHA-384.
    Rs384,
    /// RSA, PKCS #1 1.5, with SHA-512.
    Rs512,
    /// RSA, PSS, with SHA-256.
    Ps256,
    /// RSA, PSS, with SHA-384.
    Ps384,
    /// RSA, PSS, with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

use JwtAlgorithm::{
    EdDsa, Es256, Es384, Hs256, Hs384, Hs512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512,
};

impl JwtAlgorithm {
    const RSA: [Self; 6] = [Rs256, Rs384, Rs512, Ps256, Ps384, Ps512];

    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Hs256,
            "HS384" => Hs384,
            "HS512" => Hs512,
            "RS256" => Rs256,
            "RS384" => Rs384,
            "RS512" => Rs512,
            "PS256" => Ps256,
            "PS384" => Ps384,
            "PS512" => Ps512,
            "ES256" => Es256,
            "ES384" => Es384,
            "EdDSA" | "Ed25519" => EdDsa,
            _ => return None,
        })
    }
}

/// A key that tokens are verified with, and the algorithms that it may be used for: those of its kind, so that the public key of an issuer is never taken for
/// a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JwtKey {
    pub(super) kid: Option<Box<str>>,
    algorithms: Vec<JwtAlgorithm>,
    material: Material,
}

#[derive(Clone, PartialEq, Eq)]
enum Material {
    Secret(Arc<[u8]>),
    /// Without leading zeros.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl JwtKey {
    /// A secret that issuer and gateway share, for `HS256`.
    ///
    /// # Errors
    ///
    /// [`JwtKeyError::Short`] below 32 bytes (RFC 7518, 3.2): whoever has one token could find it out.
    pub fn secret(secret: impl AsRef<[u8]>) -> Result<Self, JwtKeyError> {
        Self::new(Material::Secret(secret.as_ref().into()), [Hs256])
    }

    /// A public key in PEM (`PUBLIC KEY` or `RSA PUBLIC KEY`): RSA of 2,048 to 8,192 bits for `RS…` and `PS…`, P-256 for `ES256`, P-384 for
    /// `ES384`, Ed25519 for `EdDSA`.
    ///
    /// # Errors
    ///
    /// [`JwtKeyError`] for what is none of these; also for private keys, which a gateway should not have.
    pub fn pem(pem: impl AsRef<[u8]>) -> Result<Self, JwtKeyError> {
        let text = std::str::from_utf8(pem.as_ref()).map_err(|_| JwtKeyError::Malformed)?;
        let (kind, der) = from_pem(text).ok_or(JwtKeyError::Malformed)?;
        let material = match kind {
            "PUBLIC KEY" => public_key(&der),
            "RSA PUBLIC KEY" => rsa_public_key(&der),
            kind if kind.ends_with("PRIVATE KEY") => return Err(JwtKeyError::Private),
            _ => None,
        };
        Self::of(material.ok_or(JwtKeyError::Unknown)?)
    }

    /// A key in JSON (RFC 7517).
    ///
    /// # Errors
    ///
    /// [`JwtKeyError`] for a key that cannot verify tokens, or not with an algorithm that is known here.
    pub fn jwk(json: impl AsRef<[u8]>) -> Result<Self, JwtKeyError> {
        let jwk: Jwk = serde_json::from_slice(json.as_ref()).map_err(|_| JwtKeyError::Malformed)?;
        jwk.into_key()
    }

    /// Its name: tokens that name another key are not verified with it. Without one it takes tokens with any name.
    #[must_use]
    pub fn kid(mut self, name: impl Into<Box<str>>) -> Self {
        self.kid = Some(name.into());
        self
    }

    /// Only these algorithms, which must be of its kind.
    ///
    /// # Errors
    ///
    /// [`JwtKeyError::Unknown`] if one is not, or if there is none; [`JwtKeyError::Short`] if a secret is shorter than its hash.
    pub fn algorithms(
        self,
        only: impl IntoIterator<Item = JwtAlgorithm>,
    ) -> Result<Self, JwtKeyError> {
        let algorithms: Vec<_> = only.into_iter().collect();
        if algorithms.is_empty() || !algorithms.iter().all(|&one| self.material.fits(one)) {
            return Err(JwtKeyError::Unknown);
        }
        let key = Self::new(self.material, algorithms)?;
        Ok(Self { kid: self.kid, ..key })
    }

    fn of(material: Material) -> Result<Self, JwtKeyError> {
        match material {
            Material::Secret(_) => Self::new(material, [Hs256]),
            Material::Rsa { .. } => Self::new(material, JwtAlgorithm::RSA),
            Material::P256(_) => Self::new(material, [Es256]),
            Material::P384(_) => Self::new(material, [Es384]),
            Material::Ed25519(_) => Self::new(material, [EdDsa]),
        }
    }

    fn new(
        material: Material,
        algorithms: impl Into<Vec<JwtAlgorithm>>,
    ) -> Result<Self, JwtKeyError> {
        let algorithms = algorithms.into();
        let bits = |bytes: &[u8]| 8 * bytes.len();
        let good = match &material {
            Material::Secret(secret) => {
                let least = |one: &JwtAlgorithm| match one {
                    Hs384 => 48,
                    Hs512 => 64,
                    _ => 32,
                };
                if algorithms.iter().any(|one| secret.len() < least(one)) {
                    return Err(JwtKeyError::Short);
                }
                true
            }
            Material::Rsa { n, .. } if bits(n) < 2048 => return Err(JwtKeyError::Short),
            Material::Rsa { n, e } => bits(n) <= 8192 && !e.is_empty() && e.len() <= 4,
            Material::P256(point) => point.len() == 65 && point[0] == 4,
            Material::P384(point) => point.len() == 97 && point[0] == 4,
            Material::Ed25519(point) => point.len() == 32,
        };
        if good {
            Ok(Self { kid: None, algorithms, material })
        } else {
            Err(JwtKeyError::Malformed)
        }
    }

    pub(super) fn takes(&self, algorithm: JwtAlgorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    pub(super) const fn is_secret(&self) -> bool {
        matches!(self.material, Material::Secret(_))
    }

    /// Whether `signature` is of this key, by an algorithm that it may be used for.
    pub(super) fn verifies(
        &self,
        algorithm: JwtAlgorithm,
        signed: &[u8],
        signature: &[u8],
    ) -> bool {
        if !self.takes(algorithm) {
            return false;
        }
        match (&self.material, algorithm) {
            (Material::Secret(secret), _) => {
                let hash = match algorithm {
                    Hs256 => hmac::HMAC_SHA256,
                    Hs384 => hmac::HMAC_SHA384,
                    Hs512 => hmac::HMAC_SHA512,
                    _ => return false,
                };
                hmac::verify(&hmac::Key::new(hash, secret), signed, signature).is_ok()
            }
            (Material::Rsa { n, e }, _) => {
                let kind = match algorithm {
                    Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                RsaPublicKeyComponents { n, e }.verify(kind, signed, signature).is_ok()
            }
            (Material::P256(point), Es256) => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point);
                key.verify(signed, signature).is_ok()
            }
            (Material::P384(point), Es384) => {
                let key = UnparsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, point);
                key.verify(signed, signature).is_ok()
            }
            (Material::Ed25519(point), EdDsa) => {
                let key = UnparsedPublicKey::new(&signature::ED25519, point);
                key.verify(signed, signature).is_ok()
            }
            _ => false,
        }
    }
}

impl Material {
    fn fits(&self, algorithm: JwtAlgorithm) -> bool {
        match self {
            Self::Secret(_) => [Hs256, Hs384, Hs512].contains(&algorithm),
            Self::Rsa { .. } => JwtAlgorithm::RSA.contains(&algorithm),
            Self::P256(_) => algorithm == Es256,
            Self::P384(_) => algorithm == Es384,
            Self::Ed25519(_) => algorithm == EdDsa,
        }
    }
}

/// The label of the first section and what is in it.
fn from_pem(text: &str) -> Option<(&str, Vec<u8>)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    let digits: String = body.split_ascii_whitespace().collect();
    Some((label, STANDARD.decode(digits).ok()?))
}

/// `SubjectPublicKeyInfo` (RFC 5280, 4.1).
fn public_key(der: &[u8]) -> Option<Material> {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
    const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
    const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
    let mut info = Der::new(der).enter(SEQUENCE)?;
    let mut kind = info.enter(SEQUENCE)?;
    // The first byte of a bit string says how many bits at its end are none.
    let (0, key) = info.take(BIT_STRING)?.split_first()? else { return None };
    match kind.take(OID)? {
        RSA => rsa_public_key(key),
        ED25519 => Some(Material::Ed25519(key.to_vec())),
        EC => match kind.take(OID)? {
            P256 => Some(Material::P256(key.to_vec())),
            P384 => Some(Material::P384(key.to_vec())),
            _ => None,
        },
        _ => None,
    }
}

/// `RSAPublicKey` (RFC 8017, A.1.1).
fn rsa_public_key(der: &[u8]) -> Option<Material> {
    let mut key = Der::new(der).enter(SEQUENCE)?;
    Some(Material::Rsa { n: trimmed(key.take(INTEGER)?), e: trimmed(key.take(INTEGER)?) })
}

fn trimmed(number: &[u8]) -> Vec<u8> {
    number.iter().copied().skip_while(|byte| *byte == 0).collect()
}

/// A key in JSON. What is not asked for is not looked at.
#[derive(Deserialize)]
pub(super) struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    d: Option<serde::de::IgnoredAny>,
}

impl Jwk {
    pub(super) fn into_key(self) -> Result<JwtKey, JwtKeyError> {
        let verifies = |ops: &Vec<String>| ops.iter().any(|op| op == "verify");
        let for_signatures = self.purpose.as_ref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(verifies);
        if !for_signatures {
            return Err(JwtKeyError::Unknown);
        }
        if self.d.is_some() {
            return Err(JwtKeyError::Private);
        }
        let key = JwtKey::of(self.material()?);
        let key = match self.alg.as_deref() {
            None => key?,
            Some(alg) => {
                let one = JwtAlgorithm::named(alg).ok_or(JwtKeyError::Unknown)?;
                // A secret is judged by the algorithm that it is for.
                key?.algorithms([one])?
            }
        };
        Ok(match self.kid {
            Some(kid) => key.kid(kid),
            None => key,
        })
    }

    fn material(&self) -> Result<Material, JwtKeyError> {
        let part = |part: &Option<String>| {
            let bytes = part.as_ref().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
            bytes.ok_or(JwtKeyError::Malformed)
        };
        let point = || Ok::<_, JwtKeyError>([vec![4], part(&self.x)?, part(&self.y)?].concat());
        Ok(match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) => Material::Secret(part(&self.k)?.into()),
            ("RSA", _) => {
                Material::Rsa { n: trimmed(&part(&self.n)?), e: trimmed(&part(&self.e)?) }
            }
            ("EC", Some("P-256")) => Material::P256(point()?),
            ("EC", Some("P-384")) => Material::P384(point()?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(part(&self.x)?),
            _ => return Err(JwtKeyError::Unknown),
        })
    }
}

/// Without the key.
impl fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JwtKey")
            .field("kid", &self.kid)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

/// Why a key cannot verify tokens. It shows nothing of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JwtKeyError {
    /// It is neither PEM nor JSON of a key, or has parts that are none.
    #[error("the key is malformed")]
    Malformed,
    /// It is of a kind, or for a use or an algorithm, that is not known here.
    #[error("the key is of no kind that verifies tokens here")]
    Unknown,
    /// A secret of less than 32, 48 or 64 bytes for `HS256`, `HS384` or `HS512`, or RSA of less than 2,048 bits.
    #[error("the key is too short; HS256 needs 32 bytes, HS384 48, HS512 64, and RSA 2,048 bits")]
    Short,
    /// It is a private key, which only the issuer should have.
    #[error("the key is a private one; the gateway needs the public one")]
    Private,
}

use std::{fmt, sync::Arc};

use http::request::Parts;

use super::{
    AuthError, Authenticate, Authenticating, Identity,
    der::{Der, OCTET_STRING, OID, SEQUENCE},
};

/// The certificate that a client proved to have when its TLS connection began; an extension of its requests, set by what serves them.
///
/// Whoever sets it must have verified the chain, as rustls does with a client verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerCertificate(Arc<Certificate>);

#[derive(PartialEq, Eq)]
struct Certificate {
    der: Vec<u8>,
    names: Names,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Names {
    uris: Vec<Box<str>>,
    dns: Vec<Box<str>>,
}

/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

impl PeerCertificate {
    /// Reads the names in the certificate of the client itself, the first of its chain.
    ///
    /// # Errors
    ///
    /// [`MalformedCertificate`] if it is no X.509 certificate in DER.
    pub fn from_der(der: impl Into<Vec<u8>>) -> Result<Self, MalformedCertificate> {
        let der = der.into();
        let names = alternative_names(&der).ok_or(MalformedCertificate)?;
        Ok(Self(Arc::new(Certificate { der, names })))
    }

    /// The certificate as it came.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.0.der
    }

    /// Its names that are URIs, such as SPIFFE identifiers.
    pub fn uris(&self) -> impl Iterator<Item = &str> {
        self.0.names.uris.iter().map(|name| &**name)
    }

    /// Its names that are hosts.
    pub fn dns_names(&self) -> impl Iterator<Item = &str> {
        self.0.names.dns.iter().map(|name| &**name)
    }
}

/// The URIs and the host names among the subject's alternative names (RFC 5280, 4.2.1.6).
fn alternative_names(der: &[u8]) -> Option<Names> {
    const VERSION: u8 = 0xa0;
    const EXTENSIONS: u8 = 0xa3;
    const DNS: u8 = 0x82;
    const URI: u8 = 0x86;
    let mut certificate = Der::new(der).enter(SEQUENCE)?.enter(SEQUENCE)?;
    let (first, _) = certificate.next()?;
    // Serial number, signature, issuer, validity, subject, key; a version before them if it is not the first.
    for _ in 0..(if first == VERSION { 6 } else { 5 }) {
        certificate.next()?;
    }
    let mut found = Names::default();
    while !certificate.is_empty() {
        let (EXTENSIONS, content) = certificate.next()? else { continue };
        let mut extensions = Der::new(content).enter(SEQUENCE)?;
        while !extensions.is_empty() {
            let mut extension = extensions.enter(SEQUENCE)?;
            if extension.take(OID)? != SUBJECT_ALT_NAME {
                continue;
            }
            let mut value = None;
            while !extension.is_empty() {
                let (tag, content) = extension.next()?;
                value = (tag == OCTET_STRING).then_some(content);
            }
            let mut names = Der::new(value?).enter(SEQUENCE)?;
            while !names.is_empty() {
                let (tag, name) = names.next()?;
                let text = || std::str::from_utf8(name).ok().filter(|name| name.is_ascii());
                match tag {
                    URI => found.uris.push(text()?.into()),
                    DNS => found.dns.push(text()?.into()),
                    _ => {}
                }
            }
        }
    }
    Some(found)
}

impl fmt::Debug for PeerCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = &self.0.names;
        f.debug_struct("PeerCertificate").field("names", names).finish_non_exhaustive()
    }
}

/// The bytes are no X.509 certificate in DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedCertificate;

impl fmt::Display for MalformedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate could not be read")
    }
}

impl std::error::Error for MalformedCertificate {}

/// Takes senders for what their client certificate says ([`PeerCertificate`]): its one URI, such as `spiffe://shop.example/cart`, or else its first host
/// name. One without either is nobody's: 401. The common name is not read, for anything may stand there.
#[derive(Clone, Debug, Default)]
pub struct ByCertificate {
    trust_domain: Option<Box<str>>,
}

impl ByCertificate {
    /// Any certificate that the server has verified.
    #[must_use]
    pub const fn new() -> Self {
        Self { trust_domain: None }
    }

    /// Only SPIFFE identifiers of this trust domain, `shop.example`. They begin with `spiffe://shop.example/`; every other certificate is
    /// answered with 401.
    #[must_use]
    pub fn trust_domain(domain: impl Into<Box<str>>) -> Self {
        Self { trust_domain: Some(domain.into()) }
    }

    fn subject<'c>(&self, certificate: &'c PeerCertificate) -> Option<&'c str> {
        let mut uris = certificate.uris();
        let (uri, another) = (uris.next(), uris.next());
        // SPIFFE allows exactly one, so that nobody can choose among several.
        if another.is_some() {
            return None;
        }
        let Some(domain) = &self.trust_domain else {
            return uri.or_else(|| certificate.dns_names().next());
        };
        let path = uri?.strip_prefix("spiffe://")?.strip_prefix(&**domain)?;
        uri.filter(|_| path.starts_with('/') && path.len() > 1)
    }
}

impl Authenticate for ByCertificate {
    fn authenticate(&self, head: &Parts) -> Authenticating {
        Authenticating::Done(match head.extensions.get::<PeerCertificate>() {
            None => Err(AuthError::Missing),
            Some(certificate) => {
                self.subject(certificate).map(Identity::new).ok_or(AuthError::Invalid)
            }
        })
    }

    /// A client is asked for it by TLS.
    fn challenge(&self) -> Option<&str> {
        None
    }

    /// It does not go on by itself.
    fn withhold(&self, _: &mut Parts) {}
}

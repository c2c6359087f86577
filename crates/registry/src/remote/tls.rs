use std::{fmt, io, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use crate::Error;

/// How a [`RemoteRegistry`](crate::RemoteRegistry) knows its server, and the server it. Feature `remote-tls`.
///
/// Certificates that the system trusts are not: a registry mostly has an authority of its own.
///
/// ```
/// # fn example(ca: Vec<u8>) -> Result<(), gusset_registry::Error> {
/// use gusset_registry::{RemotePolicy, RemoteRegistry, RemoteTls};
///
/// let policy = RemotePolicy::default().tls(RemoteTls::new(&ca)?);
/// let registry = RemoteRegistry::new("https://registry.internal:8501", policy)?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct RemoteTls(Arc<ClientConfig>);

impl RemoteTls {
    /// Believes servers whose certificates come from this authority, or one of these, in PEM.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is wrong with it.
    pub fn new(authority: &[u8]) -> Result<Self, Error> {
        Self::with(roots(authority)?, None)
    }

    /// The same, and shows a certificate, with its chain, to a server that asks for one; both in PEM.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is wrong with them.
    pub fn with_identity(authority: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, Error> {
        let chain = certificates("client certificate", certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| invalid("key of the client certificate", "holds no private key in PEM"))?;
        Self::with(roots(authority)?, Some((chain, key)))
    }

    fn with(
        roots: RootCertStore,
        identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Result<Self, Error> {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| invalid("TLS", "has no version that both sides know"))?
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some((chain, key)) => config
                .with_client_auth_cert(chain, key)
                .map_err(|_| invalid("key of the client certificate", "belongs to another one"))?,
        };
        Ok(Self(Arc::new(config)))
    }

    pub(super) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(self.0.clone()).connect(name, stream).await
    }
}

fn roots(authority: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("authority", authority)? {
        roots.add(certificate).map_err(|_| invalid("authority", "is no certificate"))?;
    }
    Ok(roots)
}

fn certificates(field: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|_| invalid(field, "is no PEM"))?;
    if read.is_empty() {
        return Err(invalid(field, "holds no certificate in PEM"));
    }
    Ok(read)
}

fn invalid(field: &'static str, reason: &'static str) -> Error {
    Error::Invalid { field, value: String::from("…"), reason }
}

/// The same one, not one that is alike.
impl PartialEq for RemoteTls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for RemoteTls {}

impl fmt::Debug for RemoteTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteTls").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_named() {
        let authority = RemoteTls::new(b"none").unwrap_err();
        assert!(authority.to_string().contains("authority"), "{authority}");
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let broken = RemoteTls::new(broken).unwrap_err();
        assert!(broken.to_string().contains("is no certificate"), "{broken}");
    }
}

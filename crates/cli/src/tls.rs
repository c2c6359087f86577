//! TLS of a listener.

use std::{path::Path, sync::Arc};

use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// Of a chain of certificates, that of the server first, and its key, both as PEM.
pub(crate) fn acceptor(certificates: &Path, key: &Path) -> Result<TlsAcceptor, String> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    };
    let wrong = |path: &Path, what: &str| format!("{}: {what}", path.display());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(certificates)?).collect();
    let chain = chain.map_err(|error| wrong(certificates, &error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(certificates, "holds no certificate in PEM"));
    }
    let secret = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| wrong(key, &format!("holds no private key in PEM: {error}")))?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| wrong(key, &format!("does not go with the certificate: {error}")))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

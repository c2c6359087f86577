//! TLS to the collector.

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

use super::settings::TlsFiles;
use crate::telemetry::{InitError, environment::Environment};

/// How a collector is known, and this process to it. Feature `otlp-tls`.
///
/// Where the program gives none, the files that `OTEL_EXPORTER_OTLP_CERTIFICATE`, `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE` and
/// `OTEL_EXPORTER_OTLP_CLIENT_KEY` name are read, or those for one signal, and without the first the system's bundle of authorities: `SSL_CERT_FILE`, or
/// where Linux distributions keep it.
#[derive(Clone)]
pub struct OtlpTls {
    http: Arc<ClientConfig>,
    grpc: Arc<ClientConfig>,
}

/// Debian and Alpine; Red Hat; BSD and macOS.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

impl OtlpTls {
    /// Believes collectors whose certificates come from this authority, or one of these, in PEM.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn new(authority: &[u8]) -> Result<Self, InitError> {
        Self::with(authority, None)
    }

    /// The same, and shows a certificate, with its chain, to a collector that asks for one; both in PEM.
    ///
    /// # Errors
    ///
    /// If they are none, or the key belongs to another certificate.
    pub fn with_identity(
        authority: &[u8],
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, InitError> {
        Self::with(authority, Some((certificate, key)))
    }

    /// By the environment.
    pub(super) fn of(files: &TlsFiles, environment: &Environment) -> Result<Self, InitError> {
        let read = |variable: &'static str, path: &str| {
            std::fs::read(path).map_err(|error| InitError::new(variable, error))
        };
        let of = |file: &Option<(&'static str, String)>| {
            file.as_ref().map(|(variable, path)| read(variable, path)).transpose()
        };
        let authority = match of(&files.authority)? {
            Some(authority) => authority,
            None => match environment.get("SSL_CERT_FILE") {
                Some(path) => read("SSL_CERT_FILE", &path)?,
                None => BUNDLES
                    .iter()
                    .find_map(|path| std::fs::read(path).ok())
                    .ok_or_else(|| InitError::new("TLS", "no bundle of authorities was found"))?,
            },
        };
        match (of(&files.certificate)?, of(&files.key)?) {
            (Some(certificate), Some(key)) => Self::with_identity(&authority, &certificate, &key),
            (None, None) => Self::new(&authority),
            _ => Err(InitError::new("TLS", "a client certificate and its key go together")),
        }
    }

    fn with(authority: &[u8], identity: Option<(&[u8], &[u8])>) -> Result<Self, InitError> {
        let mut roots = RootCertStore::empty();
        // A bundle may hold one that nobody can read any more.
        let (added, _) = roots.add_parsable_certificates(certificates(authority)?);
        if added == 0 {
            return Err(InitError::new("TLS", "the authority is no certificate"));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| InitError::new("TLS", error))?
            .with_root_certificates(roots);
        let config = match identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|_| InitError::new("TLS", "the key is no private key in PEM"))?;
                config
                    .with_client_auth_cert(certificates(certificate)?, key)
                    .map_err(|error| InitError::new("TLS", error))?
            }
        };
        let mut grpc = config.clone();
        grpc.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { http: Arc::new(config), grpc: Arc::new(grpc) })
    }

    pub(super) async fn connect(
        &self,
        host: &str,
        grpc: bool,
        stream: TcpStream,
    ) -> io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let config = if grpc { &self.grpc } else { &self.http };
        TlsConnector::from(config.clone()).connect(name, stream).await
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, InitError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    read.map_err(|_| InitError::new("TLS", "a certificate is no PEM"))
}

impl fmt::Debug for OtlpTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpTls").finish_non_exhaustive()
    }
}

//! TLS towards instances.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore,
        SignatureScheme,
        client::{
            WebPkiServerVerifier,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
            verify_server_cert_signed_by_trust_anchor,
        },
        crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
        server::ParsedCertificate,
    },
};

use crate::{
    PeerCertificate, TlsError,
    server::{certificates, tls_error},
    stamps::Stamps,
};

/// How often the files are looked at for changes, at most.
const LOOK: Duration = Duration::from_secs(5);

/// Whom a gateway takes for an instance, and what it shows itself. Feature `tls`.
///
/// TLS 1.2 and 1.3, by rustls with ring. The files are read again when they change, which is looked for when a connection is made, at most every 5 s; a change that is not usable
/// as a whole is logged, and the old ones stay until it is. Connections that are open go on until their
/// [`max_age`](crate::Connections::max_age).
///
/// ```no_run
/// use gusset_gateway::{Transport, UpstreamTls};
///
/// # fn example() -> Result<(), gusset_gateway::TlsError> {
/// let tls = UpstreamTls::trusting("/etc/mesh/ca.pem")
///     .certificate("/etc/mesh/gateway.pem", "/etc/mesh/gateway.key")
///     .spiffe_id("spiffe://shop.example/orders")
///     .read()?;
/// let transport = Transport::http2().tls(tls);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct UpstreamTlsFiles {
    authorities: PathBuf,
    own: Option<(PathBuf, PathBuf)>,
    expected: Expected,
}

/// Who an instance has to be, beside having a certificate of a known authority.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    /// The host of its address.
    Host,
    Name(String),
    SpiffeId(String),
    TrustDomain(String),
}

/// What [`UpstreamTlsFiles::read`] has read. Clones are one.
#[derive(Clone)]
pub struct UpstreamTls(Arc<Shared>);

struct Shared {
    files: UpstreamTlsFiles,
    configs: RwLock<Configs>,
    looked: Mutex<Looked>,
}

/// For HTTP/1.1 and for HTTP/2, which differ in what they say by ALPN.
#[derive(Clone)]
struct Configs([Arc<ClientConfig>; 2]);

struct Looked {
    at: Instant,
    /// Of the files that were read, or tried.
    written: Stamps,
}

impl UpstreamTls {
    /// Instances whose certificate one of these authorities, in PEM, has signed. On Debian those that browsers trust are in `/etc/ssl/certs/ca-certificates.crt`.
    pub fn trusting(authorities: impl Into<PathBuf>) -> UpstreamTlsFiles {
        UpstreamTlsFiles { authorities: authorities.into(), own: None, expected: Expected::Host }
    }

    /// Reads all files again, now.
    ///
    /// # Errors
    ///
    /// [`TlsError`], and then what was read before stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let written = self.0.files.written();
        let configs = self.0.files.configs();
        // Also if it failed: what has failed is tried again when it has changed.
        self.0.looked.lock().unwrap_or_else(PoisonError::into_inner).written = written;
        *self.0.configs.write().unwrap_or_else(PoisonError::into_inner) = configs?;
        Ok(())
    }

    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        authority: &str,
        http2: bool,
    ) -> io::Result<TlsStream<TcpStream>> {
        if self.is_due() {
            let tls = self.clone();
            // Files may lie where reading takes its time.
            let _ = tokio::task::spawn_blocking(move || tls.reload_changed()).await;
        }
        let config = self.config(http2);
        let name = self.0.files.server_name(authority)?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        if http2 && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("the instance does not speak HTTP/2"));
        }
        Ok(stream)
    }

    fn config(&self, http2: bool) -> Arc<ClientConfig> {
        let configs = self.0.configs.read().unwrap_or_else(PoisonError::into_inner);
        configs.0[usize::from(http2)].clone()
    }

    /// Whether the files are to be looked at, and by this caller.
    fn is_due(&self) -> bool {
        let mut looked = self.0.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = now.saturating_duration_since(looked.at) >= LOOK;
        if due {
            looked.at = now;
        }
        due
    }

    fn reload_changed(&self) {
        let written = self.0.files.written();
        if self.0.looked.lock().unwrap_or_else(PoisonError::into_inner).written == written {
            return;
        }
        match self.reload() {
            Ok(()) => tracing::info!("certificates towards instances read again"),
            Err(error) => tracing::warn!(%error, "certificates are the old ones still"),
        }
    }
}

impl UpstreamTlsFiles {
    /// What the gateway shows of itself where an instance asks: a chain of certificates, its own first, and its key, both in PEM.
    #[must_use]
    pub fn certificate(
        mut self,
        certificates: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Self {
        self.own = Some((certificates.into(), key.into()));
        self
    }

    /// Instances have a certificate for this host, and are asked for it by SNI, whatever their address. Default: the host of their address, which in a registry is often an IP address.
    #[must_use]
    pub fn name(mut self, host: impl Into<String>) -> Self {
        self.expected = Expected::Name(host.into());
        self
    }

    /// Instances have exactly this SPIFFE identifier, `spiffe://shop.example/orders`, as the one URI in their certificate. Their host does not matter.
    #[must_use]
    pub fn spiffe_id(mut self, id: impl Into<String>) -> Self {
        self.expected = Expected::SpiffeId(id.into());
        self
    }

    /// Instances have any SPIFFE identifier of this trust domain, `shop.example`. Whoever has a certificate of it can pass for any service.
    #[must_use]
    pub fn trust_domain(mut self, domain: impl Into<String>) -> Self {
        self.expected = Expected::TrustDomain(domain.into());
        self
    }

    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`TlsError`] names the file, and what is wrong with it.
    pub fn read(self) -> Result<UpstreamTls, TlsError> {
        let (written, configs) = (self.written(), self.configs()?);
        let looked = Mutex::new(Looked { at: Instant::now(), written });
        Ok(UpstreamTls(Arc::new(Shared { files: self, configs: RwLock::new(configs), looked })))
    }

    fn written(&self) -> Stamps {
        let own = self.own.iter().flat_map(|(certificates, key)| [certificates, key]);
        let files = own.chain([&self.authorities]);
        Stamps::of(files)
    }

    fn configs(&self) -> Result<Configs, TlsError> {
        let mut http1 = self.client_config()?;
        let mut http2 = http1.clone();
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        http2.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Configs([Arc::new(http1), Arc::new(http2)]))
    }

    fn client_config(&self) -> Result<ClientConfig, TlsError> {
        let authorities = &self.authorities;
        if let Expected::Name(name) = &self.expected {
            ServerName::try_from(&**name)
                .map_err(|_| tls_error(authorities, format!("{name:?} is no host")))?;
        }
        let mut roots = RootCertStore::empty();
        for root in certificates(authorities)? {
            roots.add(root).map_err(|error| tls_error(authorities, error))?;
        }
        let provider = Arc::new(ring::default_provider());
        let roots = Arc::new(roots);
        let verifier: Arc<dyn ServerCertVerifier> = match &self.expected {
            Expected::Host | Expected::Name(_) => {
                WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                    .build()
                    .map_err(|error| tls_error(authorities, error))?
            }
            Expected::SpiffeId(_) | Expected::TrustDomain(_) => Arc::new(BySpiffe {
                roots,
                algorithms: provider.signature_verification_algorithms,
                expected: self.expected.clone(),
            }),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| tls_error(Path::new(""), error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let Some((file, key_file)) = &self.own else { return Ok(builder.with_no_client_auth()) };
        let chain = certificates(file)?;
        let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
            tls_error(key_file, format!("it holds no private key in PEM: {error}"))
        })?;
        builder.with_client_auth_cert(chain, key).map_err(|error| {
            tls_error(key_file, format!("it does not go with {}: {error}", file.display()))
        })
    }

    /// The name that an instance at `authority` is asked for.
    fn server_name(&self, authority: &str) -> io::Result<ServerName<'static>> {
        let host = match &self.expected {
            Expected::Name(name) => name,
            _ => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        ServerName::try_from(host).map_err(|_| io::ErrorKind::InvalidInput.into())
    }
}

/// Takes certificates by the identifier in them, and not by a host.
#[derive(Debug)]
struct BySpiffe {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    expected: Expected,
}

impl BySpiffe {
    fn is_expected(&self, certificate: &PeerCertificate) -> bool {
        let mut uris = certificate.uris();
        // SPIFFE allows exactly one, so that nobody can choose among several.
        let (Some(uri), None) = (uris.next(), uris.next()) else { return false };
        match &self.expected {
            Expected::SpiffeId(id) => uri == id,
            Expected::TrustDomain(domain) => {
                let path = uri.strip_prefix("spiffe://").and_then(|id| id.strip_prefix(&**domain));
                path.is_some_and(|path| path.starts_with('/') && path.len() > 1)
            }
            Expected::Host | Expected::Name(_) => false,
        }
    }
}

impl ServerCertVerifier for BySpiffe {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        let certificate = PeerCertificate::from_der(end_entity.as_ref())
            .map_err(|error| CertificateError::Other(OtherError(Arc::new(error))))?;
        if self.is_expected(&certificate) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::Other(OtherError(Arc::new(AnotherIdentity))).into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The certificate is good, but another one's.
#[derive(Debug)]
struct AnotherIdentity;

impl fmt::Display for AnotherIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate does not have the expected SPIFFE identifier")
    }
}

impl std::error::Error for AnotherIdentity {}

impl fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamTls").field("files", &self.0.files).finish_non_exhaustive()
    }
}

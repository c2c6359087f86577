use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::time::sleep;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::{
            ClientHello, NoClientAuth, ResolvesServerCert, WebPkiClientVerifier,
            danger::ClientCertVerifier,
        },
        sign::CertifiedKey,
    },
};

use crate::stamps::Stamps;

/// How often the files are looked at for changes.
const LOOK: Duration = Duration::from_secs(5);

/// The certificates that a [`Server`](crate::Server) shows, and those it asks its clients for. Feature `tls`.
///
/// They are read from files, and read again when these change, which the server looks for every 5 s: connections that are made from then on have the new ones.
/// A change that is not usable as a whole (a key that does not go with its certificate, half a file) is logged, and the old ones stay until it is.
///
/// TLS 1.2 and 1.3, by rustls with ring. Clients choose HTTP/2 or HTTP/1.1 by ALPN.
///
/// ```no_run
/// use gusset_gateway::{Server, Tls};
///
/// # fn example() -> Result<(), gusset_gateway::TlsError> {
/// let tls = Tls::new("/etc/tls/shop.pem", "/etc/tls/shop.key")
///     .and("/etc/tls/admin.pem", "/etc/tls/admin.key")
///     .read()?;
/// let server = Server::new().tls(tls);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pairs: Vec<(PathBuf, PathBuf)>,
    authority: Option<(PathBuf, bool)>,
}

/// What [`TlsFiles::read`] has read. Clones are one.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
    /// When the files that were read, or tried, had been written.
    seen: Mutex<Stamps>,
}

impl Tls {
    /// A chain of certificates, that of the server first, and its key, both in PEM. It is shown to clients that ask for one of its names, and to those whose name
    /// no certificate has, or who give none.
    #[allow(clippy::new_ret_no_self, reason = "files are named first, and read then")]
    pub fn new(certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> TlsFiles {
        TlsFiles { pairs: vec![(certificates.into(), key.into())], authority: None }
    }

    /// Reads all files again, now.
    ///
    /// # Errors
    ///
    /// [`TlsError`], and then what was read before stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let seen = self.0.files.written();
        let config = self.0.files.config();
        // Also if it failed: what has failed is tried again when it has changed.
        *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        *self.0.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config?);
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        self.0.config.read().unwrap_or_else(PoisonError::into_inner).clone().into()
    }

    /// Reads the files again whenever they change. Never ends.
    pub(super) async fn follow(&self) {
        loop {
            sleep(LOOK).await;
            let tls = self.clone();
            // Files may lie where reading takes its time.
            let _ = tokio::task::spawn_blocking(move || tls.reload_changed()).await;
        }
    }

    fn reload_changed(&self) {
        let written = self.0.files.written();
        if *self.0.seen.lock().unwrap_or_else(PoisonError::into_inner) == written {
            return;
        }
        match self.reload() {
            Ok(()) => tracing::info!("certificates read again"),
            Err(error) => tracing::warn!(%error, "certificates are the old ones still"),
        }
    }
}

impl TlsFiles {
    /// Another one, for clients that ask for one of its names: those in its certificate, of which `*.example.org` stands for one label more.
    #[must_use]
    pub fn and(mut self, certificates: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.pairs.push((certificates.into(), key.into()));
        self
    }

    /// Clients must show a certificate that one of these authorities, in PEM, has signed; others are refused in the handshake.
    #[must_use]
    pub fn require_clients(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.authority = Some((authorities.into(), true));
        self
    }

    /// Clients may show such a certificate. One that another authority has signed is refused; who shows none is not.
    #[must_use]
    pub fn know_clients(mut self, authorities: impl Into<PathBuf>) -> Self {
        self.authority = Some((authorities.into(), false));
        self
    }

    /// Reads the files.
    ///
    /// # Errors
    ///
    /// [`TlsError`] names the file, and what is wrong with it.
    pub fn read(self) -> Result<Tls, TlsError> {
        let (seen, config) = (self.written(), self.config()?);
        let config = RwLock::new(Arc::new(config));
        Ok(Tls(Arc::new(Shared { files: self, config, seen: Mutex::new(seen) })))
    }

    fn written(&self) -> Stamps {
        let pairs = self.pairs.iter().flat_map(|(certificates, key)| [certificates, key]);
        let files = pairs.chain(self.authority.iter().map(|(file, _)| file));
        Stamps::of(files)
    }

    fn config(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let mut certificates = Certificates::default();
        for (chain, key) in &self.pairs {
            certificates.add(chain, key, &provider)?;
        }
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new(Path::new(""), error))?;
        let mut config = builder
            .with_client_cert_verifier(self.verifier(provider)?)
            .with_cert_resolver(Arc::new(certificates));
        let http2 = cfg!(feature = "http2").then(|| b"h2".to_vec());
        config.alpn_protocols = http2.into_iter().chain([b"http/1.1".to_vec()]).collect();
        Ok(config)
    }

    fn verifier(
        &self,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let Some((file, required)) = &self.authority else { return Ok(Arc::new(NoClientAuth)) };
        let mut roots = RootCertStore::empty();
        for root in certificates(file)? {
            roots.add(root).map_err(|error| TlsError::new(file, error))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let builder = if *required { builder } else { builder.allow_unauthenticated() };
        builder.build().map_err(|error| TlsError::new(file, error))
    }
}

/// By the names that clients ask for, in lower case.
#[derive(Debug, Default)]
struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// Without the star and its dot.
    wild: HashMap<String, Arc<CertifiedKey>>,
    first: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    fn add(
        &mut self,
        file: &Path,
        key_file: &Path,
        provider: &CryptoProvider,
    ) -> Result<(), TlsError> {
        let chain = certificates(file)?;
        let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
            TlsError::new(key_file, format!("it holds no private key in PEM: {error}"))
        })?;
        let names = names(file, &chain)?;
        let certified = CertifiedKey::from_der(chain, key, provider).map_err(|error| {
            TlsError::new(key_file, format!("it does not go with {}: {error}", file.display()))
        })?;
        let certified = Arc::new(certified);
        for name in names {
            let (names, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wild, parent.to_owned()),
                None => (&mut self.exact, name),
            };
            // The earlier of two for the same name is the one.
            names.entry(name).or_insert_with(|| certified.clone());
        }
        self.first.get_or_insert(certified);
        Ok(())
    }

    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        self.exact.get(&name).or_else(|| self.wild.get(name.split_once('.')?.1))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello.server_name().and_then(|name| self.find(name)).or(self.first.as_ref()).cloned()
    }
}

/// All that the file holds, at least one.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| TlsError::new(file, error))?;
    if certificates.is_empty() {
        return Err(TlsError::new(file, "it holds no certificate in PEM"));
    }
    Ok(certificates)
}

/// The names of the first certificate, in lower case.
fn names(file: &Path, chain: &[CertificateDer<'_>]) -> Result<Vec<String>, TlsError> {
    let Some(first) = chain.first() else { return Ok(Vec::new()) };
    let first = webpki::EndEntityCert::try_from(first)
        .map_err(|error| TlsError::new(file, format!("it cannot be read: {error}")))?;
    Ok(first.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.0.files).finish_non_exhaustive()
    }
}

/// A file that [`TlsFiles`], or `UpstreamTlsFiles`, cannot use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    file: PathBuf,
    reason: String,
}

/// That of `file`.
pub(crate) fn tls_error(file: &Path, reason: impl fmt::Display) -> TlsError {
    TlsError::new(file, reason)
}

impl TlsError {
    fn new(file: &Path, reason: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), reason: reason.to_string() }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.reason)
    }
}

impl std::error::Error for TlsError {}

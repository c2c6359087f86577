use std::fmt;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// How an [`EtcdRegistry`](crate::EtcdRegistry) knows its etcd, and etcd it. Feature `etcd-tls`.
///
/// Certificates that the system trusts are not: an etcd has an authority of its own.
///
/// ```
/// # fn example(ca: Vec<u8>, certificate: Vec<u8>, key: Vec<u8>) -> gusset_registry::EtcdPolicy {
/// use gusset_registry::{EtcdPolicy, EtcdTls};
///
/// let tls = EtcdTls::new(ca).identity(certificate, key);
/// let policy = EtcdPolicy::default().tls(tls);
/// # policy }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdTls {
    authority: Vec<u8>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    server_name: Option<String>,
}

impl EtcdTls {
    /// Believes servers whose certificates come from this authority, or one of these, in PEM.
    pub fn new(authority: impl Into<Vec<u8>>) -> Self {
        Self { authority: authority.into(), identity: None, server_name: None }
    }

    /// Shows this certificate, with its chain, in PEM; for an etcd that asks for one. Default none.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// The name that has to be in the certificate of every endpoint. Default the host that each is reached by.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// `None` if what should be PEM is not.
    pub(super) fn over(&self, endpoint: Endpoint) -> Option<Endpoint> {
        let authority = Certificate::from_pem(&self.authority);
        let mut config = ClientTlsConfig::new().ca_certificate(authority);
        if let Some((certificate, key)) = &self.identity {
            config = config.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        endpoint.tls_config(config).ok()
    }
}

/// Without the key.
impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdTls")
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

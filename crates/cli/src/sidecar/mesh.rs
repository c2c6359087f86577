//! Sidecars know one another by certificates with SPIFFE identifiers: `spiffe://shop.example/cart`.

use std::{
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
};

use gusset_gateway::{
    AuthError, Authenticate, Authenticating, Identity, IdentityHeaders, PeerCertificate, Tls,
    TlsError, UpstreamTls,
};
use http::{HeaderName, HeaderValue, Request, request::Parts};
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use tower_service::Service;

/// Who a sidecar is, and whom it believes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mesh {
    pub(super) trust_domain: String,
    pub(super) authorities: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
    /// Services that may call; all of the trust domain if empty.
    pub(super) allow: Vec<String>,
}

impl Mesh {
    fn id(&self, service: &str) -> String {
        format!("spiffe://{}/{service}", self.trust_domain)
    }

    /// What the door shows and asks for. A certificate that callers would not believe is found out here.
    pub(super) fn door(&self, service: &str) -> Result<Tls, String> {
        let wrong = |what: String| format!("{}: {what}", self.certificate.display());
        let own = CertificateDer::from_pem_file(&self.certificate)
            .map_err(|error| wrong(format!("it holds no certificate in PEM: {error}")))?;
        let own = PeerCertificate::from_der(own.as_ref()).map_err(|e| wrong(e.to_string()))?;
        let (id, found): (_, Vec<_>) = (self.id(service), own.uris().collect());
        if found != [id.as_str()] {
            return Err(wrong(format!("its one URI must be {id}; it has {found:?}")));
        }
        let files = Tls::new(&self.certificate, &self.key).require_clients(&self.authorities);
        files.read().map_err(|error| error.to_string())
    }

    /// How instances of a service are called.
    pub(super) fn towards(&self, service: &str) -> Result<UpstreamTls, TlsError> {
        UpstreamTls::trusting(&self.authorities)
            .certificate(&self.certificate, &self.key)
            .spiffe_id(self.id(service))
            .read()
    }

    /// Whether a caller with this certificate may call.
    fn admits<'c>(&self, certificate: &'c PeerCertificate) -> Option<&'c str> {
        let mut uris = certificate.uris();
        let (Some(id), None) = (uris.next(), uris.next()) else { return None };
        let path = id.strip_prefix("spiffe://")?.strip_prefix(self.trust_domain.as_str())?;
        let service = path.strip_prefix('/').filter(|service| !service.is_empty())?;
        let may = self.allow.is_empty() || self.allow.iter().any(|allowed| allowed == service);
        may.then_some(id)
    }
}

/// Tells what is behind it by [`CALLER`] who calls, where a [`Mesh`] knows the caller. Nobody else can say that.
///
/// # Readiness
///
/// That of the inner service.
///
/// # Cancellation
///
/// Dropping the future drops the inner one.
#[derive(Clone)]
pub(super) struct Callers<S> {
    inner: S,
    mesh: Option<Arc<Mesh>>,
}

/// Who calls.
pub(super) const CALLER: HeaderName = HeaderName::from_static("x-gusset-caller");

impl<S> Callers<S> {
    pub(super) fn new(inner: S, mesh: Option<Mesh>) -> Self {
        Self { inner, mesh: mesh.map(Arc::new) }
    }
}

impl<S, B> Service<Request<B>> for Callers<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        // Servers that cannot tell `_` from `-` read any of them as the one that is believed.
        while let Some(name) = request.headers().keys().find(|name| is_caller(name)).cloned() {
            request.headers_mut().remove(name);
        }
        if let Some(mesh) = &self.mesh {
            let certificate = request.extensions().get::<PeerCertificate>();
            let caller = certificate.and_then(|certificate| mesh.admits(certificate));
            if let Some(Ok(caller)) = caller.map(HeaderValue::from_str) {
                request.headers_mut().insert(CALLER, caller);
            } else {
                let names = certificate.map(|certificate| certificate.uris().collect::<Vec<_>>());
                tracing::info!(?names, "a caller is refused");
            }
        }
        self.inner.call(request)
    }
}

/// Refuses whom [`Callers`] does not know: within the gateway, so that it is logged, counted, and told in the protocol of the call.
pub(super) struct Known;

impl Known {
    /// The app is told by the field that says it already.
    pub(super) fn headers() -> IdentityHeaders {
        IdentityHeaders::new().subject(CALLER)
    }
}

impl Authenticate for Known {
    fn authenticate(&self, head: &Parts) -> Authenticating {
        let caller = head.headers.get(CALLER).and_then(|caller| caller.to_str().ok());
        Authenticating::Done(caller.map(Identity::new).ok_or(AuthError::Forbidden))
    }

    /// Certificates are asked for before anything is said.
    fn challenge(&self) -> Option<&str> {
        None
    }

    /// What else the caller shows is for the app.
    fn withhold(&self, _: &mut Parts) {}
}

fn is_caller(name: &HeaderName) -> bool {
    let dashed = name.as_str().bytes().map(|byte| if byte == b'_' { b'-' } else { byte });
    dashed.eq(CALLER.as_str().bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_spelling_of_a_header_is_the_callers_and_all_are_known() {
        for name in ["x-gusset-caller", "x_gusset_caller", "x-gusset_caller"] {
            assert!(is_caller(&HeaderName::from_static(name)), "{name}");
        }
        for name in ["x-gusset-call", "x-gusset-caller-2", "x-gusset-subject"] {
            assert!(!is_caller(&HeaderName::from_static(name)), "{name}");
        }
    }
}

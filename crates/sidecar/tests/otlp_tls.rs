//! A collector behind TLS, with certificates of OpenSSL's making.

#![cfg(feature = "otlp-tls")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use gusset_sidecar::{
    Sidecar,
    telemetry::{self, Otlp, OtlpTls},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};

/// A directory with an authority, and certificates of it for the collector and for the process.
struct Certificates(PathBuf);

impl Certificates {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("gusset-otlp-{name}-{}", std::process::id()));
        fs::create_dir_all(&place).unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        openssl(&place, &format!("req -x509 {key} -subj /CN=ca -keyout ca.key -out ca.pem"));
        for (name, names) in [("server", "DNS:localhost,IP:127.0.0.1"), ("client", "DNS:orders")] {
            let request = format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr");
            openssl(&place, &request);
            fs::write(place.join("names"), format!("subjectAltName={names}")).unwrap();
            let sign = "x509 -req -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names";
            openssl(&place, &format!("{sign} -in {name}.csr -out {name}.pem"));
        }
        Self(place)
    }

    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.0.join(file)).unwrap()
    }

    fn path(&self, file: &str) -> String {
        self.0.join(file).to_str().unwrap().to_owned()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn openssl(place: &Path, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(place)
        .output()
        .unwrap_or_else(|error| panic!("openssl ({error}); ./test installs it"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What a connection was: the protocol that both agreed on, and the first bytes.
type Seen = (Option<Vec<u8>>, String);

/// Answers each request with 200, to clients that show a certificate.
fn collector(certificates: &Certificates) -> (SocketAddr, mpsc::Receiver<Seen>) {
    let mut roots = RootCertStore::empty();
    let of = |file| CertificateDer::from_pem_slice(&certificates.read(file)).unwrap();
    roots.add(of("ca.pem")).unwrap();
    let provider = Arc::new(ring::default_provider());
    let clients = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let key = PrivateKeyDer::from_pem_slice(&certificates.read("server.key")).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(vec![of("server.pem")], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (sender, seen) = mpsc::channel();
    let (addr_sender, addr) = mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            addr_sender.send(listener.local_addr().unwrap()).unwrap();
            let acceptor = TlsAcceptor::from(Arc::new(config));
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // One that believes neither side ends here.
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut bytes = vec![0; 1 << 16];
                let Ok(read) = stream.read(&mut bytes).await else { continue };
                let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
                let text = String::from_utf8_lossy(&bytes[..read]).into_owned();
                let _ = sender.send((protocol, text));
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                let _ = stream.flush().await;
            }
        });
    });
    (addr.recv().unwrap(), seen)
}

fn export(otlp: Otlp, variables: &[(&str, &str)]) -> telemetry::ExportStats {
    let sidecar = Sidecar::new("orders");
    let none = [("OTEL_METRICS_EXPORTER", "none"), ("OTEL_LOGS_EXPORTER", "none")];
    let init = telemetry::init("orders").writer(io::sink).sidecar(&sidecar);
    let otlp = otlp.every(Duration::from_millis(5)).flush_within(Duration::from_secs(2));
    let init = init.otlp(otlp).variables(none.iter().chain(variables).copied());
    let (_, telemetry) = init.build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        sidecar.intercept("work", async { Ok::<_, String>(()) }).await.unwrap();
        telemetry.flush().await;
    });
    telemetry.export_stats().unwrap()
}

#[test]
fn both_sides_know_each_other_by_their_authority() {
    let certificates = Certificates::new("both");
    let (addr, seen) = collector(&certificates);
    let url = format!("https://{addr}");
    let read = |file| certificates.read(file);
    let tls = OtlpTls::with_identity(&read("ca.pem"), &read("client.pem"), &read("client.key"));
    let stats = export(Otlp::new().endpoint(&url).tls(tls.unwrap()), &[]);
    assert_eq!(stats.traces.exported, 1);
    let (protocol, head) = seen.recv().unwrap();
    assert_eq!(protocol, None);
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");

    // By the environment.
    let files = ["ca.pem", "client.pem", "client.key"].map(|file| certificates.path(file));
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*url),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", &files[0]),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &files[1]),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", &files[2]),
    ];
    assert_eq!(export(Otlp::new(), &variables).traces.exported, 1);

    // Nobody sends spans to somebody that he does not know.
    let other = Certificates::new("other");
    let stranger = Otlp::new().endpoint(&url).tls(OtlpTls::new(&other.read("ca.pem")).unwrap());
    let stats = export(stranger, &[]);
    assert_eq!((stats.traces.exported, stats.traces.failures > 0), (0, true));
}

#[cfg(feature = "otlp-grpc")]
#[test]
fn over_grpc_they_agree_on_http_2() {
    let certificates = Certificates::new("grpc");
    let (addr, seen) = collector(&certificates);
    let read = |file| certificates.read(file);
    let tls = OtlpTls::with_identity(&read("ca.pem"), &read("client.pem"), &read("client.key"));
    let otlp = Otlp::new().endpoint(format!("https://{addr}")).tls(tls.unwrap());
    export(otlp, &[("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
    let (protocol, preface) = seen.recv().unwrap();
    assert_eq!(protocol.as_deref(), Some(&b"h2"[..]));
    assert!(preface.starts_with("PRI * HTTP/2.0"), "{preface}");
}

#[test]
fn what_is_no_certificate_is_told_at_the_start() {
    let build = |name: &str, path: &str| {
        let init = telemetry::init("s").otlp(Otlp::new().endpoint("https://localhost:1"));
        init.variables([(name, path)]).build().map(drop).unwrap_err()
    };
    let error = build("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere");
    assert!(error.to_string().ends_with(": OTEL_EXPORTER_OTLP_CERTIFICATE"), "{error}");
    let error = build("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/dev/null");
    assert!(error.to_string().ends_with(": TLS"), "{error}");
    assert!(OtlpTls::new(b"none").is_err());
}

//! A PostgreSQL that speaks TLS.

use std::{error::Error, process::Command, sync::Arc};

use gusset_engines::{Folder, Postgres, run};
use gusset_saga::{PostgresOptions, PostgresStore};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use crate::{
    harness::Server,
    orders::{Ledger, definition, orchestrator, place},
};

/// A server with a certificate of its own for 127.0.0.1, and where that lies.
fn start() -> (Server, Folder) {
    let folder = Folder::new("pgtls");
    let make = "req -x509 -days 2 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout key.pem -out certificate.pem -subj /CN=postgres \
                -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:127.0.0.1";
    run(Command::new("openssl").args(make.split_whitespace()).current_dir(&folder));
    Postgres::give(&folder);
    let file = |name: &str| folder.join(name).display().to_string();
    let (certificate, key) = (file("certificate.pem"), file("key.pem"));
    let server = Server::start_with(&[
        "ssl=on",
        &format!("ssl_cert_file={certificate}"),
        &format!("ssl_key_file={key}"),
    ]);
    (server, folder)
}

/// What trusts this certificate and nothing else.
fn trust(certificate: &Folder) -> MakeRustlsConnect {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate.join("certificate.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth())
}

fn options(server: &Server) -> PostgresOptions {
    let port = server.port();
    PostgresOptions::new(&format!("postgres://postgres@127.0.0.1:{port}/postgres?sslmode=require"))
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_sagas_run_and_outlive_a_restart() {
    let (mut server, certificate) = start();
    let store = PostgresStore::connect_with(options(&server), trust(&certificate)).await.unwrap();
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'postgres' AND pid <> pg_backend_pid()";
    let ledger = Ledger::here();
    let (sagas, definition) = (orchestrator(store), Arc::new(definition(&ledger)));
    place(sagas.clone(), definition.clone(), 1).await;
    assert_eq!(server.psql(encrypted), "t");
    server.kill();
    server.restart();
    place(sagas.clone(), definition, 2).await;
    assert_eq!(server.psql(encrypted), "t");
    ledger.balances(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_known_is_told_nothing() {
    let (server, _certificate) = start();
    let (_other, stranger) = start();
    let refused = PostgresStore::connect_with(options(&server), trust(&stranger)).await;
    let told = refused.unwrap_err().source().unwrap().to_string();
    assert!(told.contains("certificate"), "{told}");
    let plain = PostgresStore::connect(options(&server)).await.unwrap_err();
    let told = plain.source().unwrap().to_string();
    assert!(told.contains("TLS"), "{told}");
}

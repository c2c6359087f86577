//! etcd that speaks TLS and asks for certificates.

use std::process::Command;

use gusset_engines::{Folder, run};
use gusset_registry::{Error, EtcdTls};

use super::*;

/// An authority, a certificate for etcd and one for a client, gone with the value.
struct Certificates(Folder);

impl Certificates {
    fn make() -> Self {
        let made = Self(Folder::new("tls"));
        for authority in ["ca", "stranger"] {
            made.openssl(&format!(
                "req -x509 -days 2 {KEY} -keyout {authority}.key -out {authority}.pem -subj /CN={authority}"
            ));
        }
        let names = "subjectAltName=IP:127.0.0.1,DNS:etcd.internal";
        std::fs::write(made.0.join("names"), names).unwrap();
        for (name, authority) in [("etcd", "ca"), ("client", "ca"), ("burglar", "stranger")] {
            made.openssl(&format!("req {KEY} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
            made.openssl(&format!(
                "x509 -req -days 2 -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -extfile names -out {name}.pem"
            ));
        }
        made
    }

    fn openssl(&self, arguments: &str) {
        run(Command::new("openssl").args(arguments.split(' ')).current_dir(&self.0));
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.0.join(file)).unwrap()
    }

    fn tls(&self, authority: &str, client: &str) -> EtcdTls {
        let (certificate, key) = (format!("{client}.pem"), format!("{client}.key"));
        EtcdTls::new(self.read(authority)).identity(self.read(&certificate), self.read(&key))
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_everything_works_and_outlives_a_restart() {
    let certificates = Certificates::make();
    let mut server = Etcd::start_with_tls(&certificates.0);
    let policy = policy().tls(certificates.tls("ca.pem", "client"));
    let registry = EtcdRegistry::spawn([server.tls_address()], policy).unwrap();
    let registration = Registration::spawn(registry.clone(), instance("cart", "a"));
    registration.registered().await.unwrap();
    let plain = registry_at(std::slice::from_ref(&server));
    let (watch, seen) = (registry.watch("cart"), plain.watch("cart"));
    shows(&watch, "a").await;
    shows(&seen, "a").await;
    server.kill();
    eventually("etcd is away", async || registry.state().is_away()).await;
    server.restart();
    eventually("etcd is back", async || !registry.state().is_away()).await;
    plain.register(instance("cart", "b")).await.unwrap();
    shows(&watch, "a b").await;
}

#[tokio::test]
async fn who_is_not_known_is_not_spoken_to_in_either_direction() {
    let certificates = Certificates::make();
    let server = Etcd::start_with_tls(&certificates.0);
    let connects = async |tls: EtcdTls| {
        let policy = policy().tls(tls);
        let registry = EtcdRegistry::spawn([server.tls_address()], policy).unwrap();
        registry.register(instance("cart", "a")).await
    };
    connects(certificates.tls("ca.pem", "client").server_name("etcd.internal")).await.unwrap();
    for stranger in [
        certificates.tls("stranger.pem", "client"),
        certificates.tls("ca.pem", "burglar"),
        certificates.tls("ca.pem", "client").server_name("another.internal"),
        EtcdTls::new(certificates.read("ca.pem")),
    ] {
        let error = connects(stranger.clone()).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{stranger:?}: {error}");
    }
}

#[tokio::test]
async fn half_of_tls_is_refused_at_once() {
    let tls = EtcdTls::new("no PEM").identity("none", "either");
    let refused = |endpoint: &str, policy: EtcdPolicy| {
        let error = EtcdRegistry::spawn([endpoint], policy).unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        error.to_string()
    };
    assert!(refused("127.0.0.1:1", policy().tls(tls.clone())).contains("PEM"));
    assert!(refused("http://127.0.0.1:1", policy().tls(tls.clone())).contains("TLS"));
    assert!(refused("https://127.0.0.1:1", policy()).contains("TLS"));
    assert!(!format!("{:?}", policy().tls(tls)).contains("either"));
}

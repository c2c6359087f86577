//! HTTPS, as curl and the client of the family see it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use common::{Registry, gusset};
use gusset_engines::{Folder, run};

use gusset_registry::{Instance, Registry as _, RemotePolicy, RemoteRegistry, RemoteTls};

/// A folder with a certificate for `localhost` and its key.
fn certified() -> Folder {
    let folder = Folder::new("cli-tls");
    run(Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(&folder));
    folder
}

fn curl(args: &[&str]) -> Output {
    let output = Command::new("curl").args(["-sS", "--max-time", "30"]).args(args).output();
    output.unwrap_or_else(|error| {
        panic!("cannot run curl ({error}); ./test installs it: apt-get install curl")
    })
}

fn options<'a>(certificates: &'a Path, key: &'a Path) -> [&'a str; 4] {
    ["--tls-cert", certificates.to_str().unwrap(), "--tls-key", key.to_str().unwrap()]
}

/// A registry over TLS, and its port.
fn serving(folder: &Folder) -> (Registry, String) {
    let (certificates, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let registry = Registry::start(&options(&certificates, &key));
    let port = registry.address.rsplit(':').next().unwrap().to_owned();
    (registry, port)
}

#[tokio::test]
async fn the_client_of_the_family_finds_services_over_https_if_it_knows_the_certificate() {
    let folder = certified();
    let (_process, port) = serving(&folder);
    let url = format!("https://localhost:{port}");
    let trusting = |name: &str| {
        let tls = RemoteTls::new(&fs::read(folder.join(name)).unwrap()).unwrap();
        RemoteRegistry::new(&url, RemotePolicy::default().tls(tls)).unwrap()
    };
    let registry = trusting("cert.pem");
    registry.register(Instance::new("cart", "10.0.0.7", 80)).await.unwrap();
    let found = registry.instances("cart").await.unwrap();
    assert_eq!(&*found.instances()[0].host, "10.0.0.7");
    assert!(registry.kv().put("a", "1").await.is_ok());

    let other = certified();
    fs::copy(other.join("cert.pem"), folder.join("other.pem")).unwrap();
    let refused = trusting("other.pem").services().await.unwrap_err();
    let mut said = refused.to_string();
    let mut cause = std::error::Error::source(&refused);
    while let Some(error) = cause {
        said = format!("{said}: {error}");
        cause = error.source();
    }
    assert!(said.contains("certificate"), "{said}");
}

#[test]
fn with_a_certificate_it_speaks_https_and_nothing_else() {
    let folder = certified();
    let (_process, port) = serving(&folder);
    let url = |scheme: &str| format!("{scheme}://localhost:{port}/v1/kv/a?raw");
    let authority = folder.join("cert.pem");
    let trusting = ["--cacert", authority.to_str().unwrap()];

    let put = curl(&[trusting[0], trusting[1], "-X", "PUT", "-d", "on", &url("https")]);
    assert_eq!(
        String::from_utf8(put.stdout).unwrap(),
        "true",
        "{}",
        String::from_utf8_lossy(&put.stderr)
    );
    let get = curl(&[trusting[0], trusting[1], &url("https"), &url("https")]);
    assert_eq!(get.stdout, b"onon");
    // Who does not know the certificate, and who speaks no TLS, gets nowhere, and holds up nobody.
    assert!(!curl(&[&url("https")]).status.success());
    assert!(!curl(&[&url("http")]).status.success());
    assert_eq!(curl(&[trusting[0], trusting[1], &url("https")]).stdout, b"on");
}

#[test]
fn what_is_wrong_with_the_files_is_named_with_exit_code_2() {
    let folder = certified();
    let (good, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let other = certified();
    let none = folder.join("none.pem");
    for (certificates, key, said) in [
        (&none, &key, format!("cannot read {}", none.display())),
        (&key, &key, format!("{}: holds no certificate in PEM", key.display())),
        (&good, &good, format!("{}: holds no private key in PEM", good.display())),
        (&good, &other.join("key.pem"), "does not go with the certificate".into()),
    ] {
        let output = gusset()
            .args(["registry", "--listen", "127.0.0.1:0"])
            .args(options(certificates, key))
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(error.contains(&said), "{error}");
    }
}

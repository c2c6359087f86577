//! HTTPS, as curl and the client of the family see it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use gusset_registry::{Instance, Registry as _, RemotePolicy, RemoteRegistry, RemoteTls};

/// A folder with a certificate for `localhost` and its key; gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gusset-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(&path)
            .output();
        let made = made.unwrap_or_else(|error| {
            panic!("cannot run openssl ({error}); ./test installs it: apt-get install openssl")
        });
        assert!(made.status.success(), "{made:?}");
        Self(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn registry(certificates: &Path, key: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gusset"));
    command.args(["registry", "--listen", "127.0.0.1:0", "--tls-cert"]).arg(certificates);
    command.arg("--tls-key").arg(key).env_remove("GUSSET_TOKEN").stdout(Stdio::piped());
    command
}

fn curl(args: &[&str]) -> Output {
    let output = Command::new("curl").args(["-sS", "--max-time", "30"]).args(args).output();
    output.unwrap_or_else(|error| {
        panic!("cannot run curl ({error}); ./test installs it: apt-get install curl")
    })
}

/// A registry over TLS, and its port.
fn serving(folder: &Folder) -> (Ended, String) {
    let (certificates, key) = (folder.file("cert.pem"), folder.file("key.pem"));
    let mut process = Ended(registry(&certificates, &key).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(process.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let port = line.split("https://127.0.0.1:").nth(1).unwrap().split(';').next().unwrap();
    (process, port.into())
}

#[tokio::test]
async fn the_client_of_the_family_finds_services_over_https_if_it_knows_the_certificate() {
    let folder = Folder::new("tls-client");
    let (_process, port) = serving(&folder);
    let url = format!("https://localhost:{port}");
    let trusting = |name: &str| {
        let tls = RemoteTls::new(&fs::read(folder.file(name)).unwrap()).unwrap();
        RemoteRegistry::new(&url, RemotePolicy::default().tls(tls)).unwrap()
    };
    let registry = trusting("cert.pem");
    registry.register(Instance::new("cart", "10.0.0.7", 80)).await.unwrap();
    let found = registry.instances("cart").await.unwrap();
    assert_eq!(&*found.instances()[0].host, "10.0.0.7");
    assert!(registry.kv().put("a", "1").await.is_ok());

    let other = Folder::new("tls-stranger");
    fs::copy(other.file("cert.pem"), folder.file("other.pem")).unwrap();
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
    let folder = Folder::new("tls");
    let (_process, port) = serving(&folder);
    let url = |scheme: &str| format!("{scheme}://localhost:{port}/v1/kv/a?raw");
    let authority = folder.file("cert.pem");
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
    let folder = Folder::new("tls-wrong");
    let (good, key) = (folder.file("cert.pem"), folder.file("key.pem"));
    let other = Folder::new("tls-other");
    let none = folder.file("none.pem");
    for (certificates, key, said) in [
        (&none, &key, format!("cannot read {}", none.display())),
        (&key, &key, format!("{}: holds no certificate in PEM", key.display())),
        (&good, &good, format!("{}: holds no private key in PEM", good.display())),
        (&good, &other.file("key.pem"), "does not go with the certificate".into()),
    ] {
        let output = registry(certificates, key).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(error.contains(&said), "{error}");
    }
}

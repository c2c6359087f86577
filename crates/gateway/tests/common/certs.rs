//! Certificates made by openssl.

use std::{fs, path::PathBuf, process::Command};

use gusset_gateway::{Tls, TlsFiles};
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

/// A folder of certificates; gone afterwards.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gusset-tls-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let folder = Self(path);
        folder.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        );
        folder
    }

    pub fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        let made = command.args(arguments.split(' ')).current_dir(&self.0).output();
        let made = made.unwrap_or_else(|error| {
            panic!("cannot run openssl ({error}); ./test installs it: apt-get install openssl")
        });
        assert!(made.status.success(), "{made:?}");
    }

    /// A certificate of the folder's authority for `names`, hosts or URIs, in `file.pem`, with its key in `file.key`.
    pub fn certificate(&self, file: &str, names: &str) {
        let kind = |name: &str| match name.contains("://") {
            true => format!("URI:{name}"),
            false => format!("DNS:{name}"),
        };
        let names: Vec<_> = names.split(' ').map(kind).collect();
        let extension = format!("subjectAltName={}", names.join(","));
        fs::write(self.file("extensions"), extension).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={file} -keyout {file}.key -out {file}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {file}.pem"
        ));
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn files(&self, name: &str) -> TlsFiles {
        Tls::new(self.file(&format!("{name}.pem")), self.file(&format!("{name}.key")))
    }

    pub fn der(&self, name: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(self.file(name)).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

//! Sidecars that know one another by certificates.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::mpsc,
};

use crate::harness::*;

/// A folder with an authority and what it signs; gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("gusset-mesh-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let folder = Self(path);
        folder.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem");
        folder
    }

    fn openssl(&self, arguments: &str) {
        let made = Command::new("openssl").args(arguments.split(' ')).current_dir(&self.0).output();
        let made = made.unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    /// `file.pem` and `file.key`, for this SPIFFE identifier.
    fn identity(&self, file: &str, id: &str) {
        fs::write(self.0.join("extensions"), format!("subjectAltName=URI:{id}")).unwrap();
        self.openssl(&format!("req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={file} -keyout {file}.key -out {file}.csr"));
        self.openssl(&format!("x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out {file}.pem"));
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// The options of a sidecar with this identity.
    fn options(&self, file: &str) -> Vec<String> {
        let of = |name: &str, value: String| [name.to_owned(), value];
        [
            of("--trust-domain", "shop.example".into()),
            of("--mtls-ca", self.file("ca.pem")),
            of("--mtls-cert", self.file(&format!("{file}.pem"))),
            of("--mtls-key", self.file(&format!("{file}.key"))),
        ]
        .concat()
    }

    fn sidecar(
        &self,
        service: &str,
        app: SocketAddr,
        registry: &Registry,
        more: &[&str],
    ) -> Sidecar {
        let options = self.options(service);
        let options: Vec<_> =
            options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        Sidecar::start(service, app, registry, &options)
    }

    /// What a client with this certificate, if any, gets from `address`.
    fn ask(&self, address: SocketAddr, file: Option<&str>, head: &str) -> String {
        let mut command = Command::new("openssl");
        command.args([
            "s_client",
            "-quiet",
            "-connect",
            &address.to_string(),
            "-CAfile",
            &self.file("ca.pem"),
        ]);
        if let Some(file) = file {
            let [certificate, key] =
                ["pem", "key"].map(|kind| self.file(&format!("{file}.{kind}")));
            command.args(["-cert", &certificate, "-key", &key]);
        }
        let mut client = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let request = format!("{head}\r\nConnection: close\r\n\r\n");
        let _ = client.stdin.as_mut().unwrap().write_all(request.as_bytes());
        // It stays open, for a client that ends first gets no answer.
        let stdin = client.stdin.take();
        let answer = client.wait_with_output().unwrap().stdout;
        drop(stdin);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: cart";

#[test]
fn sidecars_call_one_another_by_their_identities_and_the_app_is_told_who_calls() {
    let folder = Folder::new("calls");
    folder.identity("cart", "spiffe://shop.example/cart");
    folder.identity("shop", "spiffe://shop.example/shop");
    let registry = Registry::start();
    let (seen, heads) = mpsc::channel();
    let cart = App::start(move |head| {
        seen.send(head.to_owned()).unwrap();
        "items".into()
    });
    let shop = App::start(|_| String::new());
    let _cart_side = folder.sidecar("cart", cart.address, &registry, &[]);
    let shop_side = folder.sidecar("shop", shop.address, &registry, &[]);
    registry.wait_for("cart", 1);
    let forged = "GET /a HTTP/1.1\r\nHost: cart\r\nConnection: close\r\nX-Gusset-Caller: spiffe://shop.example/root\r\nX_Gusset_Caller: root\r\n\r\n";
    let answer = eventually("discovery", || {
        let answer = parted(&http(shop_side.outbound, forged));
        (answer.0 != 503).then_some(answer)
    });
    assert_eq!(answer, (200, "items".into()));
    let head = heads.recv_timeout(PATIENCE).unwrap();
    assert!(head.contains("\r\nx-gusset-caller: spiffe://shop.example/shop\r\n"), "{head}");
    assert!(!head.contains("root"), "{head}");
}

#[test]
fn a_peer_without_a_valid_certificate_gets_nowhere() {
    let (folder, other) = (Folder::new("door"), Folder::new("stranger"));
    for (file, id) in [
        ("cart", "spiffe://shop.example/cart"),
        ("shop", "spiffe://shop.example/shop"),
        ("mail", "spiffe://shop.example/mail"),
        ("far", "spiffe://else.example/shop"),
        ("near", "spiffe://shop.example.evil/shop"),
        ("web", "https://shop.example/shop"),
    ] {
        folder.identity(file, id);
    }
    other.identity("shop", "spiffe://shop.example/shop");
    let registry = Registry::start();
    let (seen, heads) = mpsc::channel();
    let cart = App::start(move |_| {
        seen.send(()).unwrap();
        "items".into()
    });
    let log = folder.file("requests");
    let more = ["--allow", "shop", "--access-log", &log];
    let side = folder.sidecar("cart", cart.address, &registry, &more);
    registry.wait_for("cart", 1);
    let answer = folder.ask(side.inbound, Some("shop"), GET);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    heads.recv_timeout(PATIENCE).unwrap();

    for file in ["mail", "far", "near", "web"] {
        let answer = folder.ask(side.inbound, Some(file), GET);
        assert!(answer.starts_with("HTTP/1.1 403"), "{file}: {answer}");
    }
    assert_eq!(folder.ask(side.inbound, None, GET), "", "without a certificate");
    // Signed by somebody else.
    fs::copy(folder.file("ca.pem"), other.file("ca.pem")).unwrap();
    assert_eq!(other.ask(side.inbound, Some("shop"), GET), "", "of another authority");
    let plain = try_http(side.inbound, &format!("{GET}\r\nConnection: close\r\n\r\n"));
    assert!(!plain.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")));
    assert!(heads.try_recv().is_err(), "the app has seen none of them");
    let lines = eventually("who is known and may not is logged", || {
        fs::read_to_string(&log).ok().filter(|text| text.lines().count() == 5)
    });
    assert_eq!(lines.matches("\"status\":403").count(), 4, "{lines}");
    let (_, metrics) = side.admin("/metrics");
    assert!(metrics.contains("http_response_status_code=\"403\""), "{metrics}");
}

#[test]
fn an_instance_that_is_not_the_service_is_not_called() {
    let folder = Folder::new("instance");
    folder.identity("mail", "spiffe://shop.example/mail");
    folder.identity("shop", "spiffe://shop.example/shop");
    let registry = Registry::start();
    let app = App::start(|_| "secret".into());
    let mail = folder.sidecar("mail", app.address, &registry, &[]);
    let shop = folder.sidecar("shop", app.address, &registry, &[]);
    // Somebody who may write to the registry says that the cart is there.
    registry.register("cart", mail.inbound);
    registry.wait_for("cart", 1);
    let answer = shop.found("cart", "/");
    assert_eq!(answer.0, 502);
    assert!(!answer.1.contains("secret"));
}

#[test]
fn certificates_are_read_again_when_they_change() {
    let folder = Folder::new("change");
    folder.identity("cart", "spiffe://shop.example/cart");
    folder.identity("shop", "spiffe://shop.example/shop");
    let registry = Registry::start();
    let app = App::start(|_| "items".into());
    let cart = folder.sidecar("cart", app.address, &registry, &[]);
    let shop = folder.sidecar("shop", app.address, &registry, &[]);
    registry.wait_for("cart", 1);
    let asks = || get(shop.outbound, "cart", "/").0;
    eventually("discovery", || (asks() == 200).then_some(()));
    // A new authority, and certificates of it: those of before are nobody's any more.
    let old = Folder::new("change-old");
    for name in ["ca.pem", "shop.pem", "shop.key"] {
        fs::copy(folder.file(name), old.file(name)).unwrap();
    }
    folder.openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca2 -keyout ca.key -out ca.pem");
    folder.identity("cart", "spiffe://shop.example/cart");
    folder.identity("shop", "spiffe://shop.example/shop");
    eventually("the door has the new one", || {
        folder.ask(cart.inbound, Some("shop"), GET).starts_with("HTTP/1.1 200").then_some(())
    });
    assert_eq!(old.ask(cart.inbound, Some("shop"), GET), "");
    eventually("so has who calls", || (asks() == 200).then_some(()));
}

#[test]
fn a_certificate_that_nobody_would_believe_is_found_out_before_anything_begins() {
    let folder = Folder::new("check");
    folder.identity("cart", "spiffe://shop.example/mail");
    let options = folder.options("cart");
    let least = ["--service", "cart", "--app", "127.0.0.1:9", "--registry", "http://127.0.0.1:9"];
    let all: Vec<_> = least.into_iter().chain(options.iter().map(String::as_str)).collect();
    for check in [&["--check"][..], &[]] {
        let ended = run(&[&all[..], check].concat());
        let error = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{error}");
        assert!(error.contains("its one URI must be spiffe://shop.example/cart"), "{error}");
    }
    folder.identity("cart", "spiffe://shop.example/cart");
    let ended = run(&[&all[..], &["--check"]].concat());
    let said = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(
        (ended.status.code(), &*said),
        (Some(0), "ok: cart at 127.0.0.1:9, registry http://127.0.0.1:9\n")
    );
}

//! TLS towards clients, with certificates made by openssl.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod common;

use std::{fs, path::Path, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use common::{certs::Folder, *};
use gusset_gateway::{ByCertificate, Gateway, Route, Server, Tls, Upstream};
use gusset_registry::MemoryRegistry;
use http::HeaderMap;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

async fn front_of(tls: Tls) -> (Running, Front) {
    let subject = async |headers: HeaderMap| {
        let subject = headers.get("x-gusset-subject").map(|subject| subject.to_str().unwrap());
        subject.unwrap_or("nobody").to_owned()
    };
    let proto =
        async |headers: HeaderMap| headers["x-forwarded-proto"].to_str().unwrap().to_owned();
    let router = Router::new()
        .route("/a", get(async || "hello"))
        .route("/proto", get(proto))
        .route("/who", get(subject));
    let service = upstream(router).await;
    let upstream = Upstream::fixed([service.address]);
    let gateway = Gateway::builder(MemoryRegistry::default())
        .authenticate(ByCertificate::new())
        .route(Route::new("/a").to(upstream.clone()))
        .route(Route::new("/proto").to(upstream.clone()))
        .route(Route::new("/who").to(upstream).authenticated())
        .build()
        .unwrap();
    let server = Server::new().tls(tls);
    (service, front_by(server, gateway).await)
}

async fn connect(
    folder: &Folder,
    front: &Front,
    name: &str,
    identity: Option<&str>,
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(folder.der("ca.pem")).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_file(folder.file(&format!("{identity}.key")));
            let chain = vec![folder.der(&format!("{identity}.pem"))];
            builder.with_client_auth_cert(chain, key.unwrap()).unwrap()
        }
    };
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(front.address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// What the server answers, of which a refused handshake shows only here.
async fn get_a(stream: &mut TlsStream<TcpStream>) -> std::io::Result<String> {
    get_at(stream, "/a").await
}

async fn get_at(stream: &mut TlsStream<TcpStream>, path: &str) -> std::io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.unwrap()?;
    Ok(String::from_utf8(answer).unwrap())
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}

#[tokio::test]
async fn each_name_has_its_certificate_and_who_asks_for_another_gets_the_first() {
    let folder = Folder::new("names");
    folder.certificate("shop", "shop.example");
    folder.certificate("wild", "*.wild.example Admin.Example");
    let wild = (folder.file("wild.pem"), folder.file("wild.key"));
    let tls = folder.files("shop").and(wild.0, wild.1).read().unwrap();
    let (_service, front) = front_of(tls).await;
    for (name, file) in [
        ("shop.example", "shop.pem"),
        ("a.wild.example", "wild.pem"),
        ("admin.example", "wild.pem"),
    ] {
        let mut stream = connect(&folder, &front, name, None, &[]).await.unwrap();
        assert_eq!(shown(&stream), folder.der(file), "{name}");
        assert!(get_a(&mut stream).await.unwrap().ends_with("hello"));
    }
    for name in ["wild.example", "a.b.wild.example", "other.example"] {
        let error = connect(&folder, &front, name, None, &[]).await.unwrap_err();
        assert!(
            error.to_string().contains("only valid for DnsName(\"shop.example\")"),
            "it is shop's: {error}"
        );
    }
}

#[tokio::test]
async fn an_instance_is_told_that_the_client_came_over_tls() {
    let folder = Folder::new("proto");
    folder.certificate("shop", "shop.example");
    let (_service, front) = front_of(folder.files("shop").read().unwrap()).await;
    let mut stream = connect(&folder, &front, "shop.example", None, &[]).await.unwrap();
    assert!(get_at(&mut stream, "/proto").await.unwrap().ends_with("\r\nhttps"));
}

#[tokio::test]
async fn the_version_of_http_is_agreed_upon_in_the_handshake() {
    let folder = Folder::new("alpn");
    folder.certificate("shop", "shop.example");
    let (_service, front) = front_of(folder.files("shop").read().unwrap()).await;
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let stream = connect(&folder, &front, "shop.example", None, offered).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
    }
    // Of HTTP/2 the server speaks first.
    let mut stream = connect(&folder, &front, "shop.example", None, &["h2"]).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "its settings");
}

#[tokio::test]
async fn a_client_without_a_certificate_that_is_believed_gets_nowhere() {
    let folder = Folder::new("clients");
    folder.certificate("shop", "shop.example");
    folder.certificate("cart", "cart.internal");
    let stranger = Folder::new("stranger");
    stranger.certificate("cart", "cart.internal");
    for file in ["cart.pem", "cart.key"] {
        fs::copy(stranger.file(file), folder.file(&format!("other-{file}"))).unwrap();
    }
    fs::rename(folder.file("other-cart.pem"), folder.file("other.pem")).unwrap();
    fs::rename(folder.file("other-cart.key"), folder.file("other.key")).unwrap();
    let asked = async |front: &Front, identity| {
        let mut stream = connect(&folder, front, "shop.example", identity, &[]).await?;
        get_a(&mut stream).await
    };
    let authority = folder.file("ca.pem");
    let required = folder.files("shop").require_clients(&authority).read().unwrap();
    let (_service, front) = front_of(required).await;
    assert!(asked(&front, Some("cart")).await.unwrap().ends_with("hello"));
    assert!(asked(&front, None).await.is_err());
    assert!(asked(&front, Some("other")).await.is_err());
    let mut stream = connect(&folder, &front, "shop.example", Some("cart"), &[]).await.unwrap();
    assert!(get_at(&mut stream, "/who").await.unwrap().ends_with("\r\n\r\ncart.internal"));
    let known = folder.files("shop").know_clients(&authority).read().unwrap();
    let (_service, front) = front_of(known).await;
    assert!(asked(&front, None).await.unwrap().ends_with("hello"));
    assert!(asked(&front, Some("other")).await.is_err());
    let mut stream = connect(&folder, &front, "shop.example", None, &[]).await.unwrap();
    assert!(get_at(&mut stream, "/who").await.unwrap().starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn a_changed_certificate_is_shown_to_new_connections_and_a_broken_one_never() {
    let folder = Folder::new("reload");
    folder.certificate("shop", "shop.example");
    let tls = folder.files("shop").read().unwrap();
    let (_service, front) = front_of(tls.clone()).await;
    let first = folder.der("shop.pem");
    let mut old = connect(&folder, &front, "shop.example", None, &[]).await.unwrap();
    // Half of the change: the key is that of another certificate.
    fs::write(folder.file("shop.key"), fs::read(folder.file("ca.key")).unwrap()).unwrap();
    let error = tls.reload().unwrap_err();
    assert_eq!(error.file(), folder.file("shop.key"));
    let stream = connect(&folder, &front, "shop.example", None, &[]).await.unwrap();
    assert_eq!(shown(&stream), first);
    // All of it, which the server finds by itself.
    folder.certificate("shop", "shop.example");
    let second = folder.der("shop.pem");
    let changed = async {
        loop {
            let stream = connect(&folder, &front, "shop.example", None, &[]).await.unwrap();
            if shown(&stream) == second {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(60), changed).await.unwrap();
    assert!(get_a(&mut old).await.unwrap().ends_with("hello"), "an old connection stays");
}

#[test]
fn an_error_names_the_file_and_what_is_wrong_with_it() {
    let folder = Folder::new("errors");
    folder.certificate("shop", "shop.example");
    fs::write(folder.file("empty"), "").unwrap();
    let error = |certificates: &str, key: &str| {
        let error = Tls::new(folder.file(certificates), folder.file(key)).read().unwrap_err();
        (error.file().file_name().unwrap().to_str().unwrap().to_owned(), error.to_string())
    };
    let (file, told) = error("none.pem", "shop.key");
    assert!(file == "none.pem" && told.contains("No such file"), "{told}");
    let (file, told) = error("empty", "shop.key");
    assert!(file == "empty" && told.ends_with("it holds no certificate in PEM"), "{told}");
    let (file, told) = error("shop.pem", "empty");
    assert!(file == "empty" && told.contains("it holds no private key in PEM"), "{told}");
    let (file, told) = error("shop.pem", "ca.key");
    assert!(file == "ca.key" && told.contains("it does not go with"), "{told}");
    let clients = folder.files("shop").require_clients(Path::new("empty")).read().unwrap_err();
    assert_eq!(clients.file(), Path::new("empty"));
}

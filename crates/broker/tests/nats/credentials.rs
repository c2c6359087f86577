use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use gusset_broker::{Broker, Limits, NatsEngine, NatsError, NatsOptions};
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::harness::{Server, connect, listen};

async fn refusal(options: NatsOptions) -> NatsError {
    let options = options.call_within(Duration::from_secs(2));
    NatsEngine::connect(options, Limits::new()).await.unwrap_err()
}

async fn works(broker: Broker) {
    let (_subscription, log) = listen(&broker, ">", "g").await;
    broker.publish("a", &1).await.unwrap();
    log.has(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_passwords_and_nkeys_are_shown_and_wrong_ones_refused() {
    let key = KeyPair::new_user();
    let server = Server::configured(&format!(
        "authorization {{ users = [ {{ user: ada, password: s3cret }}, {{ nkey: {} }} ] }}",
        key.public_key()
    ));
    works(connect(server.options().user("ada", "s3cret")).await).await;
    works(connect(server.options().nkey(key.seed().unwrap())).await).await;
    let stranger = KeyPair::new_user().seed().unwrap();
    for options in [
        server.options(),
        server.options().user("ada", "wrong"),
        server.options().nkey(stranger),
        server.options().nkey("SUnonsense"),
    ] {
        let error = refusal(options).await;
        assert!(matches!(error, NatsError::Unreachable(_)), "{error:?}");
    }
}

/// As `nsc` would write it.
fn jwt(issuer: &KeyPair, subject: &KeyPair, claims: Value) -> String {
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({
        "jti": subject.public_key(),
        "iat": 1_700_000_000,
        "iss": issuer.public_key(),
        "name": "test",
        "sub": subject.public_key(),
        "nats": claims,
    });
    let text = [header, body].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_credentials_opens_an_account_and_another_s_does_not() {
    let (operator, account, system) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let account_claims = json!({
        "type": "account", "version": 2,
        "limits": {
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
        },
    });
    let mut system_claims = account_claims.clone();
    for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
        system_claims["limits"][limit] = 0.into();
    }
    let server = Server::configured(&format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}\n",
        jwt(&operator, &operator, json!({ "type": "operator", "version": 2 })),
        system.public_key(),
        account.public_key(),
        jwt(&operator, &account, account_claims),
        system.public_key(),
        jwt(&operator, &system, system_claims),
    ));
    let scratch = Scratch::new("credentials");
    let credentials = |name: &str, issuer: &KeyPair| {
        let user = KeyPair::new_user();
        let claims = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
        let file = scratch.0.join(name);
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            jwt(issuer, &user, claims),
            user.seed().unwrap()
        );
        std::fs::write(&file, text).unwrap();
        file
    };
    let good = credentials("good.creds", &account);
    works(connect(server.options().credentials_file(good)).await).await;
    let foreign = credentials("foreign.creds", &KeyPair::new_account());
    let error = refusal(server.options().credentials_file(foreign)).await;
    assert!(matches!(error, NatsError::Unreachable(_)), "{error:?}");
    let error = refusal(server.options().credentials_file("/nowhere.creds")).await;
    assert!(matches!(error, NatsError::Credentials(_)), "{error:?}");
}

struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let place = std::env::temp_dir().join(format!("gusset-nats-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        Self(place)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(feature = "nats-tls")]
mod tls {
    use gusset_broker::NatsTls;

    use super::*;

    fn openssl(place: &Path, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(place)
            .output()
            .unwrap_or_else(|error| panic!("openssl ({error}); ./test installs it"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// An authority, and a key with its certificate for a server and one for a client.
    fn certificates(place: &Path) {
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30";
        openssl(place, &format!("req -x509 {key} -subj /CN=authority -keyout ca.key -out ca.pem"));
        for name in ["server", "client"] {
            openssl(
                place,
                &format!("req {key} -subj /CN={name} -keyout {name}.key -out {name}.csr"),
            );
            std::fs::write(place.join("names"), "subjectAltName=IP:127.0.0.1,DNS:localhost")
                .unwrap();
            openssl(
                place,
                &format!(
                    "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 -extfile names -out {name}.pem"
                ),
            );
        }
    }

    fn server(place: &Path, verify: bool) -> Server {
        let at = |name: &str| place.join(name).display().to_string();
        Server::configured(&format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: {verify} }}",
            at("server.pem"),
            at("server.key"),
            at("ca.pem")
        ))
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_with_tls_is_believed_if_its_authority_is_and_restarts_like_any_other() {
        let scratch = Scratch::new("tls");
        certificates(&scratch.0);
        let mut server = server(&scratch.0, false);
        let roots = || NatsTls::required().roots(scratch.0.join("ca.pem"));
        let broker = connect(server.options().tls(roots())).await;
        works(broker.clone()).await;
        server.restart();
        let (_subscription, log) = listen(&broker, ">", "later").await;
        broker.publish("a", &1).await.unwrap();
        log.has(1).await;
        // Nobody vouches for it.
        let error = refusal(server.options()).await;
        assert!(matches!(error, NatsError::Unreachable(_)), "{error:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_that_wants_to_know_the_client_is_shown_its_certificate() {
        let scratch = Scratch::new("mtls");
        certificates(&scratch.0);
        let server = server(&scratch.0, true);
        let roots = || NatsTls::default().roots(scratch.0.join("ca.pem"));
        let known = roots().identity(scratch.0.join("client.pem"), scratch.0.join("client.key"));
        works(connect(server.options().tls(known)).await).await;
        let error = refusal(server.options().tls(roots())).await;
        assert!(matches!(error, NatsError::Unreachable(_)), "{error:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_server_without_tls_is_refused_where_it_is_required() {
        let server = Server::start();
        let error = refusal(server.options().tls(NatsTls::required())).await;
        assert!(matches!(error, NatsError::Unreachable(_)), "{error:?}");
    }
}

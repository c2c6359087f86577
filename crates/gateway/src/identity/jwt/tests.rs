use super::*;
use std::sync::LazyLock;

use crate::identity::key::JwtKeyError;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use http::Request;
use proptest::prelude::*;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair,
    },
};
use serde_json::{Value, json};

const SECRET: &[u8] = b"thirty-two bytes are the least!!";
const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn encode(part: &Value) -> String {
    B64.encode(part.to_string())
}

/// A token with this header and these claims, signed with `secret` by HMAC.
fn signed_with(secret: &[u8], header: &Value, claims: &Value) -> String {
    let signed = format!("{}.{}", encode(header), encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let signature = B64.encode(hmac::sign(&key, signed.as_bytes()));
    format!("{signed}.{signature}")
}

fn hs256(claims: &Value) -> String {
    signed_with(SECRET, &json!({ "alg": "HS256", "typ": "JWT" }), claims)
}

fn claims() -> Value {
    json!({ "sub": "alice", "exp": NOW + 100 })
}

/// The same with one more.
fn and(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn jwt() -> Jwt {
    Jwt::new([JwtKey::secret(SECRET).unwrap()])
}

/// What is said of a token at this time, with the keys that are there.
fn decided(jwt: &Jwt, token: &str, now: u64) -> Result<Identity, AuthError> {
    match jwt.decide(token, at(now)) {
        Decision::Known(result) => result,
        Decision::Unknown(error) => Err(error),
    }
}

fn accepts(jwt: &Jwt, claims: &Value) -> bool {
    decided(jwt, &hs256(claims), NOW).is_ok()
}

#[test]
fn a_genuine_token_names_its_sender() {
    let claims = json!({
        "sub": "alice", "exp": NOW + 100, "scope": "a b", "realm": { "roles": ["x", "y"] },
        "email": "alice@shop.example", "level": 3,
    });
    let jwt = jwt().roles_claim("realm.roles").pass_claim("email").pass_claim("level");
    let expected = Identity::new("alice")
        .with_scopes(["a", "b"])
        .with_roles(["x", "y"])
        .with_claim("email", "alice@shop.example")
        .with_claim("level", "3");
    for round in ["verified", "kept"] {
        assert_eq!(decided(&jwt, &hs256(&claims), NOW), Ok(expected.clone()), "{round}");
    }
}

#[test]
fn the_subject_may_stand_in_another_claim_and_then_nowhere_else() {
    let jwt = jwt().subject_claim("client_id");
    let known = decided(&jwt, &hs256(&and("client_id", "shop")), NOW).unwrap();
    assert_eq!(known.subject(), "shop");
    assert!(!accepts(&jwt, &claims()));
}

#[test]
fn an_unsigned_token_is_refused_however_it_says_so() {
    let jwt = jwt();
    for alg in ["none", "None", "NONE", "nOnE", "", "HS", "hs256"] {
        let header = json!({ "alg": alg });
        let unsigned = format!("{}.{}.", encode(&header), encode(&claims()));
        assert_eq!(decided(&jwt, &unsigned, NOW), Err(AuthError::Invalid), "{alg}");
        let signed = signed_with(SECRET, &header, &claims());
        assert_eq!(decided(&jwt, &signed, NOW), Err(AuthError::Invalid), "{alg}");
    }
    let token = hs256(&claims());
    let (rest, _) = token.rsplit_once('.').unwrap();
    for stripped in [rest.to_owned(), format!("{rest}.")] {
        assert_eq!(decided(&jwt, &stripped, NOW), Err(AuthError::Invalid));
    }
}

/// A public RSA key, in both of its forms and as the number itself.
const RSA_PEM: &str = include_str!("rsa.pem");
const RSA_TOKEN: &str = include_str!("rs256.jwt");

#[test]
fn the_public_key_of_an_issuer_is_no_secret_for_hmac() {
    let jwt = Jwt::new([JwtKey::pem(RSA_PEM).unwrap()]);
    assert!(decided(&jwt, RSA_TOKEN.trim(), NOW).is_ok(), "the genuine one");
    let der: String = RSA_PEM.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(der).unwrap();
    for secret in [RSA_PEM.as_bytes(), RSA_PEM.trim().as_bytes(), &der] {
        for alg in ["HS256", "RS256", "PS256"] {
            let forged = signed_with(secret, &json!({ "alg": alg }), &claims());
            assert_eq!(decided(&jwt, &forged, NOW), Err(AuthError::Invalid));
        }
    }
}

#[test]
fn an_algorithm_that_the_key_is_not_for_is_refused() {
    let key = || JwtKey::pem(RSA_PEM).unwrap();
    let only_pss = key().algorithms([JwtAlgorithm::Ps256]).unwrap();
    let token = RSA_TOKEN.trim();
    assert_eq!(decided(&Jwt::new([only_pss]), token, NOW), Err(AuthError::Invalid));
    assert_eq!(key().algorithms([JwtAlgorithm::Hs256]), Err(JwtKeyError::Unknown));
    assert_eq!(key().algorithms([JwtAlgorithm::Es256]), Err(JwtKeyError::Unknown));
    assert_eq!(key().algorithms([]), Err(JwtKeyError::Unknown));
}

#[test]
fn a_key_in_the_header_is_not_believed() {
    let own = json!({ "kty": "oct", "k": B64.encode([7; 32]) });
    for name in ["jwk", "jku", "x5u", "x5c"] {
        let mut header = json!({ "alg": "HS256" });
        header[name] = own.clone();
        let forged = signed_with(&[7; 32], &header, &claims());
        assert_eq!(decided(&jwt(), &forged, NOW), Err(AuthError::Invalid), "{name}");
    }
}

#[test]
fn what_a_header_demands_and_is_not_understood_is_refused() {
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!(null)),
        ("crit", json!([])),
        ("b64", json!(false)),
    ] {
        let mut header = json!({ "alg": "HS256" });
        header[name] = value;
        let token = signed_with(SECRET, &header, &claims());
        assert_eq!(decided(&jwt(), &token, NOW), Err(AuthError::Invalid), "{header}");
    }
    let twice = format!("{}.{}", B64.encode(r#"{"alg":"none","alg":"HS256"}"#), encode(&claims()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let token = format!("{twice}.{}", B64.encode(hmac::sign(&key, twice.as_bytes())));
    assert_eq!(decided(&jwt(), &token, NOW), Err(AuthError::Invalid), "one field twice");
}

#[test]
fn an_oversized_or_misshapen_token_is_refused() {
    let jwt = jwt();
    let long = hs256(&and("x", "y".repeat(9000)));
    let kid = json!({ "alg": "HS256", "kid": "k".repeat(300) });
    let padded = format!("{}=", hs256(&claims()));
    let encrypted = "a.b.c.d.e".to_owned();
    for token in
        [long, signed_with(SECRET, &kid, &claims()), padded, encrypted, "..".into(), String::new()]
    {
        assert_eq!(decided(&jwt, &token, NOW), Err(AuthError::Invalid));
    }
}

#[test]
fn times_are_those_of_the_clock_on_the_wall_wherever_it_is_set() {
    let jwt = jwt().leeway(Duration::from_secs(10));
    let token = hs256(&json!({ "sub": "a", "exp": NOW + 100, "nbf": NOW, "iat": NOW }));
    for (now, expected) in [
        (NOW, Ok(())),
        (NOW + 109, Ok(())),
        (NOW + 110, Err(AuthError::Expired)),
        (u64::from(u32::MAX) * 4, Err(AuthError::Expired)),
        // Set back.
        (NOW + 50, Ok(())),
        (NOW - 10, Ok(())),
        (NOW - 11, Err(AuthError::Invalid)),
        (0, Err(AuthError::Invalid)),
        (NOW + 109, Ok(())),
    ] {
        assert_eq!(decided(&jwt, &token, now).map(drop), expected, "{now}");
    }
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::from_secs(5);
    assert!(matches!(jwt.decide(&token, before_1970), Decision::Known(Err(_))));
}

#[test]
fn dates_that_are_none_are_refused() {
    let jwt = jwt();
    assert!(!accepts(&jwt, &json!({ "sub": "a" })), "without an end");
    for bad in [json!("1900000000"), json!(null), json!(1e300), json!(-1e300), json!([])] {
        for name in ["exp", "nbf", "iat"] {
            assert!(!accepts(&jwt, &and(name, bad.clone())), "{name} {bad}");
        }
    }
    assert!(accepts(&jwt, &and("exp", NOW as f64 + 0.5)));
    assert!(accepts(&jwt, &and("exp", 8_999_999_999_999_999_u64)));
}

#[test]
fn only_tokens_of_these_issuers_and_for_us_are_taken() {
    let jwt = jwt().issuer("https://a").issuer("https://b").audience("shop").audience("cart");
    let token = |iss: Value, aud: Value| {
        let mut claims = claims();
        claims["iss"] = iss;
        claims["aud"] = aud;
        claims
    };
    assert!(accepts(&jwt, &token("https://a".into(), "shop".into())));
    assert!(accepts(&jwt, &token("https://b".into(), json!(["other", "cart"]))));
    for (iss, aud) in [
        (json!("https://a/"), json!("shop")),
        (json!(["https://a"]), json!("shop")),
        (json!(null), json!("shop")),
        (json!("https://a"), json!("shops")),
        (json!("https://a"), json!(["other"])),
        (json!("https://a"), json!([])),
        (json!("https://a"), json!(null)),
        (json!("https://a"), json!({ "shop": 1 })),
    ] {
        assert!(!accepts(&jwt, &token(iss.clone(), aud.clone())), "{iss} {aud}");
    }
    assert!(!accepts(&jwt, &claims()));
}

#[test]
fn a_token_for_somebody_else_is_not_ours_by_default() {
    assert!(!accepts(&jwt(), &and("aud", "another service")));
    assert!(accepts(&jwt().any_audience(), &and("aud", "another service")));
}

#[test]
fn claims_that_are_asked_for_must_be_there() {
    let jwt = jwt().require("tenant.id").token_type("at+jwt");
    let token = |typ: &str, claims: &Value| {
        decided(&jwt, &signed_with(SECRET, &json!({ "alg": "HS256", "typ": typ }), claims), NOW)
    };
    let tenant = and("tenant", json!({ "id": 7 }));
    assert!(token("at+JWT", &tenant).is_ok() && token("application/at+jwt", &tenant).is_ok());
    assert!(token("JWT", &tenant).is_err());
    assert!(token("at+jwt", &and("tenant", json!({ "id": null }))).is_err());
    assert!(token("at+jwt", &claims()).is_err());
    assert!(!accepts(&self::jwt(), &json!({ "exp": NOW + 100 })), "without a subject");
    assert!(!accepts(&self::jwt(), &and("sub", 7)));
    assert!(!accepts(&self::jwt(), &and("sub", "")));
}

#[test]
fn each_kind_of_key_verifies_its_own_tokens() {
    let random = SystemRandom::new();
    let ec = |kind: &'static EcdsaSigningAlgorithm| {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).unwrap()
    };
    let (p256, p384) = (ec(&ECDSA_P256_SHA256_FIXED_SIGNING), ec(&ECDSA_P384_SHA384_FIXED_SIGNING));
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let ed25519 = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap();
    let half = |point: &[u8], second: bool| {
        let (x, y) = point[1..].split_at((point.len() - 1) / 2);
        B64.encode(if second { y } else { x })
    };
    let ec_jwk = |crv: &str, point: &[u8]| json!({ "kty": "EC", "crv": crv, "x": half(point, false), "y": half(point, true) });
    let signed = |alg: &str| format!("{}.{}", encode(&json!({ "alg": alg })), encode(&claims()));
    for (alg, jwk, signature) in [
        (
            "ES256",
            ec_jwk("P-256", p256.public_key().as_ref()),
            p256.sign(&random, signed("ES256").as_bytes()).unwrap().as_ref().to_vec(),
        ),
        (
            "ES384",
            ec_jwk("P-384", p384.public_key().as_ref()),
            p384.sign(&random, signed("ES384").as_bytes()).unwrap().as_ref().to_vec(),
        ),
        (
            "EdDSA",
            json!({ "kty": "OKP", "crv": "Ed25519", "x": B64.encode(ed25519.public_key().as_ref()) }),
            ed25519.sign(signed("EdDSA").as_bytes()).as_ref().to_vec(),
        ),
    ] {
        let jwt = Jwt::new([JwtKey::jwk(jwk.to_string()).unwrap()]);
        let token = format!("{}.{}", signed(alg), B64.encode(&signature));
        assert!(decided(&jwt, &token, NOW).is_ok(), "{alg}");
        let zeros = format!("{}.{}", signed(alg), B64.encode(vec![0; signature.len()]));
        assert_eq!(decided(&jwt, &zeros, NOW), Err(AuthError::Invalid), "{alg} of zeros");
    }
}

#[test]
fn weak_private_and_foreign_keys_are_refused() {
    assert_eq!(JwtKey::secret([7; 31]), Err(JwtKeyError::Short));
    let long = JwtKey::secret([7; 48]).unwrap();
    assert!(long.clone().algorithms([JwtAlgorithm::Hs384]).is_ok());
    assert_eq!(long.algorithms([JwtAlgorithm::Hs512]), Err(JwtKeyError::Short));
    let private = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----";
    assert_eq!(JwtKey::pem(private), Err(JwtKeyError::Private));
    for malformed in ["", "text", "-----BEGIN PUBLIC KEY-----\n??\n-----END PUBLIC KEY-----"] {
        assert_eq!(JwtKey::pem(malformed), Err(JwtKeyError::Malformed));
    }
    let small = json!({ "kty": "RSA", "n": B64.encode([255; 128]), "e": "AQAB" });
    assert_eq!(JwtKey::jwk(small.to_string()), Err(JwtKeyError::Short));
    let encrypts = json!({ "kty": "oct", "k": B64.encode([7; 32]), "use": "enc" });
    assert_eq!(JwtKey::jwk(encrypts.to_string()), Err(JwtKeyError::Unknown));
    let signs = json!({ "kty": "oct", "k": B64.encode([7; 32]), "key_ops": ["sign"] });
    assert_eq!(JwtKey::jwk(signs.to_string()), Err(JwtKeyError::Unknown));
    let confused =
        json!({ "kty": "OKP", "crv": "Ed25519", "x": B64.encode([7; 32]), "alg": "HS256" });
    assert_eq!(JwtKey::jwk(confused.to_string()), Err(JwtKeyError::Unknown));
    let shown = format!("{:?}", JwtKey::secret(SECRET).unwrap());
    assert!(!shown.contains("thirty") && !shown.contains("116"), "{shown}");
}

#[test]
fn a_set_gives_the_keys_that_can_be_used_and_no_secret_from_afar() {
    let secret = json!({ "kty": "oct", "kid": "s", "k": B64.encode([7; 32]) });
    let ed = json!({ "kty": "OKP", "kid": "e", "crv": "Ed25519", "x": B64.encode([7; 32]) });
    let set = json!({ "keys": [secret, ed, { "kty": "EC", "crv": "P-521" }, 7] }).to_string();
    let kids = |from| {
        let keys = jwks::parse(set.as_bytes(), from).unwrap();
        keys.into_iter().map(|key| key.kid.unwrap().into_string()).collect::<Vec<_>>()
    };
    assert_eq!(kids(jwks::From::File), ["s", "e"]);
    assert_eq!(kids(jwks::From::Afar), ["e"]);
    assert!(matches!(jwks::parse(b"{\"keys\":[]}", jwks::From::File), Err(JwksError::Empty)));
    assert!(matches!(jwks::parse(b"[]", jwks::From::File), Err(JwksError::Malformed)));
    let many = json!({ "keys": vec![ed; 101] }).to_string();
    assert!(matches!(jwks::parse(many.as_bytes(), jwks::From::Afar), Err(JwksError::Large)));
}

#[test]
fn a_token_that_names_another_key_is_not_verified_with_this_one() {
    let jwt = Jwt::new([JwtKey::secret(SECRET).unwrap().kid("one")]);
    let token = |kid: &str| signed_with(SECRET, &json!({ "alg": "HS256", "kid": kid }), &claims());
    assert!(decided(&jwt, &token("one"), NOW).is_ok());
    assert!(matches!(jwt.decide(&token("two"), at(NOW)), Decision::Unknown(AuthError::Invalid)));
    assert!(decided(&jwt, &hs256(&claims()), NOW).is_ok(), "one that names none");
}

#[test]
fn other_rules_do_not_find_what_was_verified_under_these() {
    let loose = jwt();
    let token = hs256(&and("iss", "https://a"));
    assert!(decided(&loose, &token, NOW).is_ok());
    let strict = loose.clone().issuer("https://b");
    assert_eq!(decided(&strict, &token, NOW), Err(AuthError::Invalid));
    let moved = loose.issuer("https://b");
    assert_eq!(decided(&moved, &token, NOW), Err(AuthError::Invalid), "nor after a change");
}

#[test]
fn the_credential_is_one_line_of_bearer() {
    let asked = |lines: &[&str]| {
        let mut request = Request::get("/");
        for line in lines {
            request = request.header("authorization", *line);
        }
        let head = request.body(()).unwrap().into_parts().0;
        match jwt().authenticate(&head) {
            Authenticating::Done(result) => result.map(drop),
            Authenticating::Later(_) => panic!("nothing is fetched"),
        }
    };
    assert_eq!(asked(&[]), Err(AuthError::Missing));
    assert_eq!(asked(&["Basic YTpi"]), Err(AuthError::Missing));
    assert_eq!(asked(&["bearer x"]), Err(AuthError::Invalid));
    assert_eq!(asked(&["Bearer x", "Bearer x"]), Err(AuthError::Invalid));
}

#[test]
fn the_times_of_a_kept_token_are_its_own() {
    assert_eq!(Times::until(5).check(at(4), Duration::ZERO), Ok(()));
    assert_eq!(Times::until(5).check(at(5), Duration::ZERO), Err(AuthError::Expired));
    assert_eq!(Times::until(i64::MAX).check(at(5), Duration::MAX), Ok(()));
}

static SHARED: LazyLock<Jwt> = LazyLock::new(jwt);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_token_that_was_changed_in_any_byte_is_taken(at: prop::sample::Index, byte: u8, warm: bool) {
        let jwt = if warm { SHARED.clone() } else { jwt() };
        let token = hs256(&claims());
        if warm {
            prop_assert!(decided(&jwt, &token, NOW).is_ok());
        }
        let mut bytes = token.clone().into_bytes();
        let place = at.index(bytes.len());
        bytes[place] = byte;
        if let Ok(changed) = String::from_utf8(bytes) {
            prop_assert_eq!(decided(&jwt, &changed, NOW).is_ok(), changed == token);
        }
    }

    #[test]
    fn nothing_that_is_made_up_is_taken_or_panics(token in "[A-Za-z0-9_.=-]{0,200}") {
        prop_assert!(decided(&jwt(), &token, NOW).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn claims_of_any_kind_do_not_panic(text in "\\PC{0,60}", number: f64) {
        for value in [json!(text), json!(number), json!([text]), json!({ "a": number })] {
            for name in ["sub", "exp", "nbf", "iat", "aud", "scope", "roles"] {
                let _ = decided(&SHARED, &hs256(&and(name, value.clone())), NOW);
            }
        }
    }
}

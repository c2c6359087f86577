use std::{path::PathBuf, time::Duration};

use http::HeaderName;

use crate::config::{Fields, OneOrMore, Place, Placed, Secret, Section};

/// Senders by signed tokens.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct JwtSection {
    pub(in crate::config) keys: JwtKeys,
    pub(in crate::config) issuers: Vec<String>,
    pub(in crate::config) audiences: Vec<String>,
    pub(in crate::config) any_audience: bool,
    pub(in crate::config) leeway: Option<Duration>,
    pub(in crate::config) token_type: Option<String>,
    pub(in crate::config) require: Vec<String>,
    pub(in crate::config) subject_claim: Option<String>,
    pub(in crate::config) roles_claim: Option<String>,
    pub(in crate::config) pass_claims: Vec<String>,
    pub(in crate::config) place: Place,
}

/// What tokens are verified with.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) enum JwtKeys {
    Url { url: Placed<String>, authorities: Option<PathBuf> },
    File(Placed<PathBuf>),
    Secret(Placed<Secret>),
    PublicKey(Placed<PathBuf>),
}

impl Section for JwtSection {
    const NAME: &'static str = "jwt";
    const ABOUT: &'static str = "Senders by signed tokens: Authorization: Bearer and a JWT.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let keys = keys(fields);
        let issuers = fields.optional::<OneOrMore<_>>(
            "issuer",
            "Whose tokens are taken (iss). Default: whoever has the keys.",
        );
        let audiences = fields
            .optional::<OneOrMore<_>>("audience", "For whom tokens must be, one of these (aud). Default: only tokens without aud are taken.");
        let any_audience = fields.flag(
            "any_audience",
            "Tokens for others are taken as well. Only where issuer and keys are for this gateway alone.",
        );
        let leeway =
            fields.optional("leeway", "How far the issuer's clock may be off. Default 1m.");
        let token_type =
            fields.optional("token_type", "The type in its head, at+jwt. Default any.");
        let require =
            fields.list("require", "Claims that must be there besides exp and the subject.");
        let subject_claim =
            fields.optional("subject_claim", "Where the subject stands. Default sub.");
        let roles_claim =
            fields.optional("roles_claim", "Where roles stand, realm_access.roles. Default roles.");
        let pass_claims = fields.list("pass_claims", "Claims that upstreams are told of.");
        let audiences = audiences.unwrap_or_default().0;
        if any_audience && !audiences.is_empty() {
            fields.wrong("any_audience", "it makes audience useless; leave one of them out");
        }
        Some(Self {
            keys: keys?,
            issuers: issuers.unwrap_or_default().0,
            audiences,
            any_audience,
            leeway,
            token_type,
            require,
            subject_claim,
            roles_claim,
            pass_claims,
            place: fields.place(""),
        })
    }
}

fn keys(fields: &mut Fields<'_>) -> Option<JwtKeys> {
    let url = fields.optional("jwks_url", "Where the issuer has its keys, https://….");
    let authorities = fields.optional(
        "authorities",
        "A file in PEM with those who may have signed the certificate of jwks_url. Default: those of the system.",
    );
    let file = fields.optional("jwks_file", "A file with keys, a JSON Web Key Set.");
    let secret = fields.optional("secret", "A secret of 32 bytes or more, for HS256.");
    let public_key = fields.optional("public_key", "A file with a public key in PEM.");
    fields.one_of(&["jwks_url", "jwks_file", "secret", "public_key"]);
    match (url, file, secret, public_key) {
        (Some(url), ..) => Some(JwtKeys::Url { url, authorities }),
        (_, Some(file), ..) => Some(JwtKeys::File(file)),
        (_, _, Some(secret), _) => Some(JwtKeys::Secret(secret)),
        (.., Some(key)) => Some(JwtKeys::PublicKey(key)),
        _ => None,
    }
}

/// Senders by API keys.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct ApiKeysSection {
    pub(in crate::config) file: Placed<PathBuf>,
    pub(in crate::config) header: Option<HeaderName>,
    pub(in crate::config) query: Option<String>,
}

impl Section for ApiKeysSection {
    const NAME: &'static str = "api_keys";
    const ABOUT: &'static str = "Senders by API keys, which are known by their hashes.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let file = fields.required(
            "file",
            "Its first line is `gusset-api-keys 1`; then each key has a line: client, SHA-256, scopes=a,b, roles=a,b, expires=SECONDS, quota=NAME. It is read again when it changes.",
        );
        let header = fields.optional("header", "The field that has the key. Default x-api-key.");
        let query =
            fields.optional("query", "A parameter of the query that may have it. Default none.");
        Some(Self { file: file?, header, query })
    }
}

/// Senders by the certificates that they show.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct CertificatesSection {
    pub(in crate::config) trust_domain: Option<String>,
}

impl Section for CertificatesSection {
    const NAME: &'static str = "certificates";
    const ABOUT: &'static str = "Senders by the certificates that they show.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let about = "Only SPIFFE identifiers of this domain. Default any verified certificate.";
        Some(Self { trust_domain: fields.optional("trust_domain", about) })
    }
}

/// How upstreams are told who sends.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct HeadersSection {
    pub(in crate::config) subject: Option<HeaderName>,
    pub(in crate::config) scopes: Option<HeaderName>,
    pub(in crate::config) roles: Option<HeaderName>,
}

impl Section for HeadersSection {
    const NAME: &'static str = "identity_headers";
    const ABOUT: &'static str = "The fields by which upstreams are told who sends.";

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            subject: fields.optional("subject", "Default x-gusset-subject."),
            scopes: fields.optional("scopes", "Default x-gusset-scopes."),
            roles: fields.optional("roles", "Default x-gusset-roles."),
        })
    }
}

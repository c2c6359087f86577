use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, header, request::Parts};

use super::{
    AuthError, Authenticate, Authenticating, Identity,
    claims::{Rules, Times},
    fetch::Place,
    jwks::{self, JwksError},
    key::{JwtAlgorithm, JwtKey},
    source::{Held, Pace, Source},
    token::{self, Token},
    verified::Verified,
    wall,
};

/// A file is looked at again after this time.
const FILE_PACE: Pace =
    Pace { refresh: Duration::from_secs(5), apart: Duration::from_secs(1), stale: Duration::MAX };

/// Issuers announce a new key for longer than this before they sign with it, and a withdrawn one is gone by then.
const URL_PACE: Pace = Pace {
    refresh: Duration::from_secs(300),
    apart: Duration::from_secs(10),
    stale: Duration::from_secs(24 * 3600),
};

/// As many keys are tried for a token that names none.
const TRIES: usize = 4;

/// Takes senders for whom their signed token names: `Authorization: Bearer` and a JWT (RFC 7519).
///
/// A token must be signed with a key that is known here, by an algorithm which that key is for; it must have `exp`, and `nbf` and `iat`, if they are there, must lie
/// behind. `iss` and `aud` must be what [`issuer`](Self::issuer) and [`audience`](Self::audience) say. Everything else is answered with 401, which does not say what
/// was wrong; an event of `tracing` at the level debug does. The subject is `sub`, scopes are those of `scope` or `scp`, roles those of `roles`.
///
/// Keys are given, or read from a file ([`jwks_file`](Self::jwks_file)), or fetched from the issuer ([`jwks_url`](Self::jwks_url)). Verified tokens are kept, at most 8,192
/// of them, found by a keyed hash, and judged anew by the clock each time; a change of keys drops them. Clones share keys and tokens. Times are those of the clock on the wall: when it
/// is set, that counts at once.
///
/// ```
/// use gusset_gateway::{Jwt, JwtKey};
///
/// let key = JwtKey::secret("a secret of thirty-two bytes or more")?;
/// let tokens = Jwt::new([key]).issuer("https://login.shop.example").audience("shop");
/// # Ok::<(), gusset_gateway::JwtKeyError>(())
/// ```
///
/// # Cost
///
/// A token that was verified lately costs two short hashes of it; a new one the check of its signature, which is far dearer for RSA and ECDSA.
#[derive(Clone)]
pub struct Jwt {
    rules: Arc<Rules>,
    keys: Arc<Source<Vec<JwtKey>>>,
    /// One for all clones with these rules.
    verified: Arc<Verified>,
}

impl Jwt {
    /// With these keys.
    pub fn new(keys: impl IntoIterator<Item = JwtKey>) -> Self {
        Self::by(Source::fixed(keys.into_iter().collect()))
    }

    /// With the keys in this file, a JSON Web Key Set, which is read again within 5 s of a change. A file that has become wrong changes nothing, and the log says
    /// why.
    ///
    /// # Errors
    ///
    /// [`JwksError`] if it cannot be read now, or has no key that can be used.
    pub fn jwks_file(path: impl Into<PathBuf>) -> Result<Self, JwksError> {
        let path: Arc<PathBuf> = Arc::new(path.into());
        let first = jwks::read(&path)?;
        let what = path.display().to_string();
        Ok(Self::by(Source::new(what, Some(first), FILE_PACE, move || {
            let path = path.clone();
            async move { Ok(tokio::task::spawn_blocking(move || jwks::read(&path)).await??) }
        })))
    }

    /// With the keys that this `http://` address answers with, a JSON Web Key Set, without redirects. Only where nobody else can answer for that address; see
    /// `jwks_url_tls`.
    ///
    /// They are fetched when the first token comes, which waits for them, and again after five minutes in the background. A token that names an unknown key has
    /// them fetched at once, at most every ten seconds and for all such tokens together. While the address does not answer, the last keys are used, for 24 hours;
    /// after that, and before the first answer, it is 503. Secrets (`oct`) in the set are not used: everybody could sign with them.
    ///
    /// # Errors
    ///
    /// [`JwksError::Url`] if it is no such address.
    pub fn jwks_url(url: &str) -> Result<Self, JwksError> {
        Ok(Self::fetched(url, Place::new(url, None)?))
    }

    /// The same from an `https://` address, whose certificate one of these authorities, in PEM, has signed: the issuer's own, or those of the system
    /// (`/etc/ssl/certs/ca-certificates.crt` on Debian). Feature `tls`.
    ///
    /// # Errors
    ///
    /// [`JwksError`] if it is no such address, or if there is no such certificate.
    #[cfg(feature = "tls")]
    pub fn jwks_url_tls(url: &str, authorities: impl AsRef<[u8]>) -> Result<Self, JwksError> {
        Ok(Self::fetched(url, Place::new(url, Some(authorities.as_ref()))?))
    }

    fn fetched(url: &str, place: Place) -> Self {
        Self::by(Source::new(url.to_owned(), None, URL_PACE, move || {
            let place = place.clone();
            async move { Ok(jwks::parse(&place.get().await?, jwks::From::Afar)?) }
        }))
    }

    fn by(keys: Arc<Source<Vec<JwtKey>>>) -> Self {
        Self { rules: Arc::default(), keys, verified: Arc::new(Verified::new()) }
    }

    /// Whose tokens are taken: `iss` as a whole. Said again, each of them. Default: whoever has the keys.
    #[must_use]
    pub fn issuer(self, issuer: impl Into<Box<str>>) -> Self {
        let issuer = issuer.into();
        self.with(|rules| rules.issuers.push(issuer))
    }

    /// For whom tokens are: one of `aud`. Said again, each of them. Default: only tokens for nobody in particular are taken.
    #[must_use]
    pub fn audience(self, audience: impl Into<Box<str>>) -> Self {
        let audience = audience.into();
        self.with(|rules| rules.audiences.push(audience))
    }

    /// Tokens for others are taken as well. Only where issuer and keys are for this gateway alone: otherwise each service that gets a token can use it here.
    #[must_use]
    pub fn any_audience(self) -> Self {
        self.with(|rules| rules.any_audience = true)
    }

    /// How far the clock of the issuer may be off. Default one minute.
    #[must_use]
    pub fn leeway(self, span: Duration) -> Self {
        self.with(|rules| rules.leeway = span)
    }

    /// This claim must be there, besides `exp` and the subject. A dot leads into an object: `realm_access.roles`.
    #[must_use]
    pub fn require(self, claim: impl Into<Box<str>>) -> Self {
        let claim = claim.into();
        self.with(|rules| rules.required.push(claim))
    }

    /// The type of token in its header, such as `at+jwt` (RFC 9068), so that a token made for another purpose is not taken. Default any.
    #[must_use]
    pub fn token_type(self, name: impl Into<Box<str>>) -> Self {
        let name = name.into();
        self.with(|rules| rules.token_type = Some(name))
    }

    /// Where the subject stands. Default `sub`. A token without it is refused.
    #[must_use]
    pub fn subject_claim(self, claim: impl Into<Box<str>>) -> Self {
        let claim = claim.into();
        self.with(|rules| rules.subject = claim)
    }

    /// Where the roles stand, in a list or a text with spaces. Default `roles`; a dot leads into an object.
    #[must_use]
    pub fn roles_claim(self, claim: impl Into<Box<str>>) -> Self {
        let claim = claim.into();
        self.with(|rules| rules.roles = claim)
    }

    /// A claim that upstreams are told of, as `x-gusset-claim-` and its name; what is no text, as JSON.
    #[must_use]
    pub fn pass_claim(self, claim: impl Into<Box<str>>) -> Self {
        let claim = claim.into();
        self.with(|rules| rules.passed.push(claim))
    }

    /// Other rules make other identities of the same token, or none.
    fn with(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        change(Arc::make_mut(&mut self.rules));
        self.verified = Arc::new(Verified::new());
        self
    }

    fn decide(&self, token: &str, now: SystemTime) -> Decision {
        if token.len() > token::LONGEST {
            return refused("it is too long");
        }
        let held = self.keys.current();
        if held.value.is_none() || self.keys.is_stale() {
            return Decision::Unknown(AuthError::Unavailable);
        }
        let hash = self.verified.hash(token);
        let (times, identity) = match self.verified.get(hash, held.generation) {
            Some(found) => found,
            None => match self.verify(token, &held) {
                Ok((times, identity)) => {
                    self.verified.put(hash, held.generation, times, identity.clone());
                    (times, identity)
                }
                Err(decision) => return decision,
            },
        };
        match times.check(now, self.rules.leeway) {
            Ok(()) => Decision::Known(Ok(identity)),
            Err(AuthError::Expired) => {
                tracing::debug!("a token is refused: it has expired");
                Decision::Known(Err(AuthError::Expired))
            }
            Err(_) => refused("nbf or iat is in the future by the clock of this machine"),
        }
    }

    fn verify(&self, token: &str, held: &Held<Vec<JwtKey>>) -> Result<(Times, Identity), Decision> {
        let token = Token::parse(token)
            .ok_or_else(|| refused("it is no token of three parts that can be read"))?;
        let algorithm = JwtAlgorithm::named(&token.header.alg)
            .ok_or_else(|| refused("its algorithm is not known here"))?;
        if !self.rules.takes_type(token.header.typ.as_deref()) {
            return Err(refused("it is of another type"));
        }
        let keys = held.value.as_deref().unwrap_or_default();
        let named = |key: &&JwtKey| match (&key.kid, &token.header.kid) {
            (Some(kid), Some(wanted)) => **kid == **wanted,
            _ => true,
        };
        if !keys.iter().any(|key| named(&key)) {
            tracing::debug!(
                "a token is refused, if no new keys say otherwise: its kid is not known"
            );
            return Err(Decision::Unknown(AuthError::Invalid));
        }
        let mut candidates =
            keys.iter().filter(|key| named(key) && key.takes(algorithm)).take(TRIES);
        let (signed, signature) = (token.signed.as_bytes(), &token.signature);
        if !candidates.any(|key| key.verifies(algorithm, signed, signature)) {
            return Err(refused("no key has signed it"));
        }
        self.rules.read(&token.claims).map_err(refused)
    }
}

/// The sender is not told why, so that nobody learns from it how to forge one; the operator is.
fn refused(why: &'static str) -> Decision {
    tracing::debug!(why, "a token is refused");
    Decision::Known(Err(AuthError::Invalid))
}

/// What can be said of a token with the keys that are there.
enum Decision {
    Known(Result<Identity, AuthError>),
    /// Other keys may tell; this, if there are none.
    Unknown(AuthError),
}

/// The token of a request, `None` if it has no such credential.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, AuthError> {
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(AuthError::Invalid);
    }
    let line = line.to_str().map_err(|_| AuthError::Invalid)?;
    match line.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Ok(None),
    }
}

impl Authenticate for Jwt {
    fn authenticate(&self, head: &Parts) -> Authenticating {
        let token = match bearer(&head.headers) {
            Ok(Some(token)) => token,
            Ok(None) => return Authenticating::Done(Err(AuthError::Missing)),
            Err(error) => return Authenticating::Done(Err(error)),
        };
        let error = match self.decide(token, wall::now()) {
            Decision::Known(result) => return Authenticating::Done(result),
            Decision::Unknown(error) => error,
        };
        let Some(refreshed) = self.keys.refreshed() else {
            return Authenticating::Done(Err(error));
        };
        let (this, token) = (self.clone(), token.to_owned());
        Authenticating::Later(Box::pin(async move {
            refreshed.await;
            match this.decide(&token, wall::now()) {
                Decision::Known(result) => result,
                Decision::Unknown(error) => Err(error),
            }
        }))
    }
}

impl fmt::Debug for Jwt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwt").field("rules", &self.rules).field("keys", &self.keys).finish()
    }
}

#[cfg(test)]
mod tests;

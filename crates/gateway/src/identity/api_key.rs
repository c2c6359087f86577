use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::{HeaderName, Uri, request::Parts, uri::PathAndQuery};
use rand::RngExt;
use sha2::{Digest, Sha256};

use super::{
    AuthError, Authenticate, Authenticating, Identity,
    api_key_file::{self, ApiKeyFileError},
    source::{Pace, Source},
    wall,
};

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// A longer credential is refused unread.
const LONGEST: usize = 256;

/// A file is looked at again after this time, which costs a thread of the pool a read.
const FILE_PACE: Pace =
    Pace { refresh: Duration::from_secs(5), apart: Duration::from_secs(1), stale: Duration::MAX };

/// One key of a client, known by its hash.
///
/// Keys must be random, of 128 bits at least (`openssl rand -hex 32`): their hash has no salt, so that one can be found by it, and a key that can be guessed
/// is found from its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub(super) hash: [u8; 32],
    pub(super) identity: Identity,
    pub(super) expires: Option<SystemTime>,
}

impl ApiKey {
    /// The key `secret` of the client `id`. Only its hash is kept.
    pub fn new(id: impl Into<Arc<str>>, secret: impl AsRef<[u8]>) -> Self {
        Self::hashed(id, Sha256::digest(secret.as_ref()).into())
    }

    /// The key of the client `id` with this SHA-256 (`printf %s "$KEY" | sha256sum`).
    pub fn hashed(id: impl Into<Arc<str>>, sha256: [u8; 32]) -> Self {
        Self { hash: sha256, identity: Identity::new(id), expires: None }
    }

    /// What its client may.
    #[must_use]
    pub fn scopes<S: Into<Box<str>>>(mut self, scopes: impl IntoIterator<Item = S>) -> Self {
        self.identity = self.identity.with_scopes(scopes);
        self
    }

    /// What its client is.
    #[must_use]
    pub fn roles<S: Into<Box<str>>>(mut self, roles: impl IntoIterator<Item = S>) -> Self {
        self.identity = self.identity.with_roles(roles);
        self
    }

    /// From when on it is refused. Default never.
    #[must_use]
    pub const fn expires(mut self, at: SystemTime) -> Self {
        self.expires = Some(at);
        self
    }

    /// By what quotas count its client. Default its id; clients with the same share a quota.
    #[must_use]
    pub fn quota_key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.identity = self.identity.with_quota_key(key);
        self
    }
}

/// Without the hash.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("identity", &self.identity)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Takes senders for the clients whose API key they send, in `x-api-key` unless another place is named. The key does not go on to upstreams.
///
/// The time of a look-up says nothing of the keys: what is compared are hashes under a random number of this process.
///
/// ```
/// use gusset_gateway::{ApiKey, ApiKeys};
///
/// let keys = ApiKeys::new([ApiKey::new("billing", "1f0c9a17e7d24b6b8a5c").scopes(["invoices:read"])]);
/// ```
#[derive(Clone)]
pub struct ApiKeys {
    header: HeaderName,
    query: Option<Box<str>>,
    table: Arc<Source<Table>>,
}

impl ApiKeys {
    /// These keys.
    pub fn new(keys: impl IntoIterator<Item = ApiKey>) -> Self {
        let table = Table::new(keys.into_iter().collect());
        Self::by(Source::fixed(table))
    }

    /// The keys in this file, which is read again within 5 s of a change. A file that has become wrong changes nothing, and the log says why.
    ///
    /// The first line is `gusset-api-keys 1`; then each key has a line: its id, its SHA-256 in hexadecimal, and what it needs of `scopes=a,b`, `roles=a,b`,
    /// `expires=` with the seconds since 1970, and `quota=`. A line that begins with `#` is a comment.
    ///
    /// # Errors
    ///
    /// [`ApiKeyFileError`] if it cannot be read now, or for the first line that is wrong.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self, ApiKeyFileError> {
        let path: Arc<PathBuf> = Arc::new(path.into());
        let first = Table::new(api_key_file::read(&path)?);
        let what = path.display().to_string();
        Ok(Self::by(Source::new(what, Some(first), FILE_PACE, move || {
            let path = path.clone();
            async move {
                let read = tokio::task::spawn_blocking(move || api_key_file::read(&path));
                Ok(Table::new(read.await??))
            }
        })))
    }

    fn by(table: Arc<Source<Table>>) -> Self {
        Self { header: X_API_KEY, query: None, table }
    }

    /// The field that has the key.
    #[must_use]
    pub fn in_header(mut self, name: HeaderName) -> Self {
        self.header = name;
        self
    }

    /// The key may also stand in this parameter of the query. Default no: queries are written to logs, histories and `Referer`.
    #[must_use]
    pub fn in_query(mut self, parameter: impl Into<Box<str>>) -> Self {
        self.query = Some(parameter.into());
        self
    }

    /// The one key that the request has.
    fn sent<'r>(&self, head: &'r Parts) -> Result<&'r [u8], AuthError> {
        let lines = head.headers.get_all(&self.header).iter().map(|line| line.as_bytes());
        let query = self.query.as_deref().zip(head.uri.query());
        let in_query = query.into_iter().flat_map(|(name, query)| {
            query.split('&').filter_map(move |pair| value_of(pair, name)).map(str::as_bytes)
        });
        let mut keys = lines.chain(in_query);
        match (keys.next(), keys.next()) {
            (None, _) => Err(AuthError::Missing),
            (Some(key), None) if key.len() <= LONGEST => Ok(key),
            _ => Err(AuthError::Invalid),
        }
    }

    fn identify(&self, head: &Parts, now: SystemTime) -> Result<Identity, AuthError> {
        let sent = self.sent(head)?;
        let held = self.table.current();
        let key = held.value.as_ref().and_then(|table| table.find(sent));
        let key = key.ok_or(AuthError::Invalid)?;
        match key.expires {
            Some(at) if now >= at => Err(AuthError::Expired),
            _ => Ok(key.identity.clone()),
        }
    }
}

fn value_of<'q>(pair: &'q str, name: &str) -> Option<&'q str> {
    pair.strip_prefix(name)?.strip_prefix('=')
}

impl Authenticate for ApiKeys {
    fn authenticate(&self, head: &Parts) -> Authenticating {
        Authenticating::Done(self.identify(head, wall::now()))
    }

    /// There is no registered scheme; this one is common.
    fn challenge(&self) -> Option<&str> {
        Some("ApiKey")
    }

    fn withhold(&self, head: &mut Parts) {
        head.headers.remove(&self.header);
        let Some((name, query)) = self.query.as_deref().zip(head.uri.query()) else { return };
        let is_key = |pair: &&str| value_of(pair, name).is_some();
        if !query.split('&').any(|pair| is_key(&pair)) {
            return;
        }
        let rest: Vec<_> = query.split('&').filter(|pair| !is_key(pair)).collect();
        let path = head.uri.path();
        let target = match rest.is_empty() {
            true => PathAndQuery::try_from(path),
            false => PathAndQuery::try_from(format!("{path}?{}", rest.join("&"))),
        };
        let mut parts = head.uri.clone().into_parts();
        // Parts of a target that was one are one.
        parts.path_and_query = target.ok();
        head.uri = Uri::from_parts(parts).unwrap_or_default();
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeys")
            .field("header", &self.header)
            .field("query", &self.query)
            .finish_non_exhaustive()
    }
}

/// Keys by the hash of their hash and a random number, which nobody outside can aim at.
struct Table {
    salt: [u8; 32],
    keys: HashMap<[u8; 32], ApiKey>,
}

impl Table {
    fn new(keys: Vec<ApiKey>) -> Self {
        let salt = rand::rng().random();
        let keys = keys.into_iter().map(|key| (salted(&salt, &key.hash), key)).collect();
        Self { salt, keys }
    }

    fn find(&self, sent: &[u8]) -> Option<&ApiKey> {
        self.keys.get(&salted(&self.salt, &Sha256::digest(sent).into()))
    }
}

fn salted(salt: &[u8; 32], hash: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(salt).chain_update(hash).finalize().into()
}

/// By the keys, whatever the random number.
impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        let has = |key: &ApiKey| other.keys.get(&salted(&other.salt, &key.hash)) == Some(key);
        self.keys.len() == other.keys.len() && self.keys.values().all(has)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(uri: &str, fields: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::get(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_key_is_its_clients_until_it_expires_by_the_clock_on_the_wall() {
        let keys = ApiKeys::new([ApiKey::new("billing", "secret").expires(at(100))]);
        let request = head("/", &[("x-api-key", "secret")]);
        assert_eq!(keys.identify(&request, at(99)), Ok(Identity::new("billing")));
        assert_eq!(keys.identify(&request, at(100)), Err(AuthError::Expired));
        assert_eq!(keys.identify(&request, at(50)), Ok(Identity::new("billing")), "set back");
        assert_eq!(keys.identify(&head("/", &[]), at(0)), Err(AuthError::Missing));
    }

    #[test]
    fn no_other_key_is_taken_nor_two_at_once() {
        let keys = ApiKeys::new([ApiKey::new("billing", "secret")]).in_query("key");
        let long = "s".repeat(LONGEST + 1);
        for wrong in ["secre", "secrett", "Secret", "", &long] {
            let request = head("/", &[("x-api-key", wrong)]);
            assert_eq!(keys.identify(&request, at(0)), Err(AuthError::Invalid), "{wrong}");
        }
        let twice = head("/", &[("x-api-key", "secret"), ("x-api-key", "secret")]);
        assert_eq!(keys.identify(&twice, at(0)), Err(AuthError::Invalid));
        let both = head("/?key=secret", &[("x-api-key", "secret")]);
        assert_eq!(keys.identify(&both, at(0)), Err(AuthError::Invalid));
    }

    #[test]
    fn a_key_in_the_query_counts_if_that_was_asked_for_and_does_not_go_on() {
        let keys = ApiKeys::new([ApiKey::new("billing", "secret")]);
        let mut request = head("http://shop/a?x=1&key=secret&y=2", &[]);
        assert_eq!(keys.identify(&request, at(0)), Err(AuthError::Missing));
        let keys = keys.in_query("key");
        assert!(keys.identify(&request, at(0)).is_ok());
        keys.withhold(&mut request);
        assert_eq!(request.uri, "http://shop/a?x=1&y=2");
        let mut alone = head("/a?key=secret", &[("x-api-key", "other")]);
        keys.withhold(&mut alone);
        assert_eq!(alone.uri, "/a");
        assert!(alone.headers.is_empty());
    }

    #[test]
    fn a_key_in_a_field_of_ones_own_counts_there_alone_and_does_not_go_on() {
        let own = HeaderName::from_static("x-shop-key");
        let keys = ApiKeys::new([ApiKey::new("billing", "secret")]).in_header(own);
        let elsewhere = head("/", &[("x-api-key", "secret")]);
        assert_eq!(keys.identify(&elsewhere, at(0)), Err(AuthError::Missing));
        let mut request = head("/", &[("x-shop-key", "secret")]);
        assert!(keys.identify(&request, at(0)).is_ok());
        keys.withhold(&mut request);
        assert!(request.headers.is_empty());
    }

    #[test]
    fn keys_are_never_shown() {
        let key = ApiKey::new("billing", "secret");
        let shown = format!("{key:?} {:?}", ApiKeys::new([key.clone()]));
        assert!(!shown.contains("secret") && !shown.contains("hash"), "{shown}");
        assert!(Table::new(vec![key.clone()]) == Table::new(vec![key]));
    }
}

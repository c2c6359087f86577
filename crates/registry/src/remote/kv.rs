use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::{runtime, sync::watch};

use super::{
    address::encoded,
    client::{Answer, Ask, Client},
    failure::Failure,
    kv_watch::KvWatch,
    policy::RemotePolicy,
    state::{RemoteState, RemoteStats},
};
use crate::Error;

/// The key-value store of a [`ConsulServer`](crate::ConsulServer) or of Consul, for configuration: feature flags, prices, limits. Clones share their
/// connections.
///
/// ```no_run
/// use gusset_registry::{RemoteKv, RemotePolicy};
///
/// # async fn example() -> Result<(), gusset_registry::Error> {
/// let kv = RemoteKv::new("http://127.0.0.1:8500", RemotePolicy::default())?;
/// kv.put("shop/flags/new-cart", "on").await?;
///
/// let flags = kv.watch("shop/flags/")?;
/// flags.known().await;
/// let new_cart = flags.snapshot().text("shop/flags/new-cart") == Some("on");
/// # Ok(()) }
/// ```
///
/// Every call has [a limit of time](RemotePolicy::call_within), and fails while the server is away; a [`KvWatch`] goes on with what was known last.
///
/// # Cancellation
///
/// A call that is dropped may have been carried out. What was written can be read again.
///
/// # Bounds
///
/// Keys of at most 512 bytes, values of at most 512 KiB, as in Consul. An answer of more than 64 MiB is a failure.
#[derive(Clone)]
pub struct RemoteKv {
    client: Arc<Client>,
    runtime: runtime::Handle,
}

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KvEntry {
    /// The whole key.
    pub key: Arc<str>,
    /// Its value.
    pub value: Bytes,
    /// A number that goes with the value; the server gives it no meaning.
    pub flags: u64,
    /// Rises with each change of the key: see [`RemoteKv::cas`].
    pub index: u64,
}

const LONGEST_KEY: usize = 512;
const LARGEST_VALUE: usize = 512 << 10;

impl RemoteKv {
    /// A client of the server at `url`, which is `http://host:port` or `host:port`. Nothing is asked yet.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] says what is wrong with the address or the token.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    pub fn new(url: &str, policy: RemotePolicy) -> Result<Self, Error> {
        Ok(Self::of(Arc::new(Client::new(url, policy)?), runtime::Handle::current()))
    }

    pub(super) const fn of(client: Arc<Client>, runtime: runtime::Handle) -> Self {
        Self { client, runtime }
    }

    /// The entry of this key, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::Refused`], [`Error::Unavailable`].
    pub async fn get(&self, key: &str) -> Result<Option<KvEntry>, Error> {
        let ask = Ask::get(path(key, "")?);
        Ok(entries(&self.client, &ask, self.client.call(&ask).await?)?.pop())
    }

    /// Sets the value.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::Refused`] if the store is full among others, [`Error::Unavailable`].
    pub async fn put(&self, key: &str, value: impl Into<Bytes>) -> Result<(), Error> {
        self.write(Ask::put(path(key, "")?, checked(key, value.into())?)).await.map(|_| ())
    }

    /// Sets the value if the key was last changed at `index`, the [`KvEntry::index`] that was read; with 0, if there is no such key. Says whether it did.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::Refused`], [`Error::Unavailable`]: then it may have been set or not, which reading it again tells.
    pub async fn cas(&self, key: &str, value: impl Into<Bytes>, index: u64) -> Result<bool, Error> {
        let path = path(key, &format!("?cas={index}"))?;
        let ask = Ask { again: false, ..Ask::put(path, checked(key, value.into())?) };
        self.write(ask).await
    }

    /// Removes the key, if there is one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::Refused`], [`Error::Unavailable`].
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let ask = Ask { method: Method::DELETE, ..Ask::get(path(key, "")?) };
        self.write(ask).await.map(|_| ())
    }

    /// All entries whose keys begin with `prefix`, sorted by key; with an empty one all there are.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`], [`Error::Refused`], [`Error::Unavailable`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<KvEntry>, Error> {
        let ask = Ask::get(listing(prefix)?);
        Ok(entries(&self.client, &ask, self.client.call(&ask).await?)?)
    }

    /// Follows all keys that begin with `prefix`, by a task that ends with the last clone of the watch. Clones share it; one more call makes one more,
    /// with a question of its own that is always open.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if no key can begin so.
    pub fn watch(&self, prefix: &str) -> Result<KvWatch, Error> {
        Ok(KvWatch::spawn(self.client.clone(), &self.runtime, listing(prefix)?))
    }

    /// Whether the server answers.
    #[must_use]
    pub fn state(&self) -> RemoteState {
        self.client.state().borrow().clone()
    }

    /// Follows whether the server answers.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<RemoteState> {
        self.client.state()
    }

    /// How often what happened.
    #[must_use]
    pub fn stats(&self) -> RemoteStats {
        self.client.meters.stats()
    }

    /// For how long a call may take.
    #[must_use]
    pub fn call_within(&self) -> Duration {
        self.client.policy.call_within
    }

    /// Writes, and returns what the server says of it.
    async fn write(&self, ask: Ask) -> Result<bool, Error> {
        let answer = self.client.call(&ask).await?;
        let answer = self.client.success(&ask, answer)?;
        match answer.body.trim_ascii() {
            b"true" => Ok(true),
            b"false" => Ok(false),
            _ => Err(self.client.garbled(&ask, "it is neither true nor false").into()),
        }
    }
}

fn path(key: &str, query: &str) -> Result<String, Error> {
    match key {
        "" => Err(invalid(key, "is empty")),
        key => Ok(format!("/v1/kv/{}{query}", encoded(valid(key)?))),
    }
}

fn listing(prefix: &str) -> Result<String, Error> {
    Ok(format!("/v1/kv/{}?recurse", encoded(valid(prefix)?)))
}

fn valid(key: &str) -> Result<&str, Error> {
    if key.len() > LONGEST_KEY {
        return Err(invalid(key, "is longer than 512 bytes"));
    }
    // Consul's server would take the path for another.
    let dots = |part: &str| part == "." || part == "..";
    if key.starts_with('/') || key.contains("//") || key.split('/').any(dots) {
        return Err(invalid(key, "begins with a slash, or has an empty part or one of dots"));
    }
    Ok(key)
}

fn checked(key: &str, value: Bytes) -> Result<Bytes, Error> {
    match value.len() {
        0..=LARGEST_VALUE => Ok(value),
        _ => Err(invalid(key, "has a value of more than 512 KiB")),
    }
}

fn invalid(key: &str, reason: &'static str) -> Error {
    Error::Invalid { field: "key", value: key.chars().take(80).collect(), reason }
}

/// What Consul shows of a key.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    key: String,
    #[serde(default)]
    flags: u64,
    /// In base64.
    value: Option<String>,
    modify_index: u64,
}

/// The entries of an answer, sorted.
pub(super) fn entries(client: &Client, ask: &Ask, answer: Answer) -> Result<Vec<KvEntry>, Failure> {
    // Only one with an index is of a store that has no such key, and not of another server.
    if answer.status == StatusCode::NOT_FOUND && answer.index.is_some() {
        return Ok(Vec::new());
    }
    let answer = client.success(ask, answer)?;
    let shown: Vec<Shown> =
        serde_json::from_slice(&answer.body).map_err(|error| client.garbled(ask, error))?;
    let entry = |shown: Shown| {
        let value = STANDARD.decode(shown.value.unwrap_or_default());
        let value = value.map_err(|error| client.garbled(ask, error))?.into();
        let (flags, index) = (shown.flags, shown.modify_index);
        Ok(KvEntry { key: shown.key.into(), value, flags, index })
    };
    let mut entries = shown.into_iter().map(entry).collect::<Result<Vec<_>, Failure>>()?;
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(entries)
}

impl fmt::Debug for RemoteKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteKv").field("state", &self.state()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_another_would_be_taken_for_is_refused() {
        for key in ["", "/a", "a//b", "a/../b", "./a", &"k".repeat(513)] {
            assert!(matches!(path(key, ""), Err(Error::Invalid { field: "key", .. })), "{key}");
        }
        assert_eq!(path("a b/c.d", "?cas=1").unwrap(), "/v1/kv/a%20b/c.d?cas=1");
        assert_eq!(listing("").unwrap(), "/v1/kv/?recurse");
        assert_eq!(listing("shop/").unwrap(), "/v1/kv/shop/?recurse");
    }
}

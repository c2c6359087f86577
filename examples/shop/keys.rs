//! The key-value store of the registry, asked over HTTP as a service in any language would ask it.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use gusset::call::BoxError;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::Deserialize;
use tokio::time::timeout;

/// The largest answer that is read.
const LONGEST: usize = 4 << 20;

/// For how long the server may hold a request that waits for a change.
const HELD: Duration = Duration::from_secs(30);

/// How long any answer may take that is not held.
const PATIENCE: Duration = Duration::from_secs(5);

/// The keys at one address. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Keys {
    base: String,
    http: Client<HttpConnector, Full<Bytes>>,
}

/// All keys under a prefix, and the index under which the server knows that state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What is handed back to wait for the next state.
    pub index: u64,
    /// Values by their whole keys.
    pub values: BTreeMap<String, Bytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    key: String,
    /// In base64; nothing for an empty one.
    value: Option<String>,
}

impl Keys {
    /// Those of the server at `base`, such as `http://127.0.0.1:8500`.
    pub fn at(base: impl Into<String>) -> Self {
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { base: base.into(), http }
    }

    /// Where a key is read and written.
    #[must_use]
    pub fn url(&self, key: &str) -> String {
        format!("{}/v1/kv/{key}", self.base)
    }

    /// Writes a value.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or says no.
    pub async fn put(&self, key: &str, value: &str) -> Result<(), BoxError> {
        self.write(&self.url(key), value).await.map(drop)
    }

    /// Writes a value unless there is one.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or says no.
    pub async fn put_new(&self, key: &str, value: &str) -> Result<(), BoxError> {
        self.write(&format!("{}?cas=0", self.url(key)), value).await.map(drop)
    }

    async fn write(&self, url: &str, value: &str) -> Result<Bytes, BoxError> {
        let request = Request::builder().method(Method::PUT).uri(url);
        let response = self.http.request(request.body(Full::from(value.to_owned()))?);
        let response = timeout(PATIENCE, response).await??;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await?.to_bytes();
        if !status.is_success() {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into());
        }
        Ok(body)
    }

    /// All keys under `prefix`, as soon as the server knows them under another index than `known`; at the latest after 30 s. Zero does not
    /// wait.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached, says no, or answers what is none.
    pub async fn next(&self, prefix: &str, known: u64) -> Result<State, BoxError> {
        let held = if known == 0 { Duration::ZERO } else { HELD };
        let query = format!("recurse&index={known}&wait={}s", HELD.as_secs());
        let url = format!("{}?{query}", self.url(prefix));
        // The server adds up to a sixteenth at random.
        let limit = PATIENCE + held * 17 / 16;
        timeout(limit, self.read(&url)).await?
    }

    async fn read(&self, url: &str) -> Result<State, BoxError> {
        let request = Request::get(url).body(Full::default())?;
        let response = self.http.request(request).await?;
        let status = response.status();
        let index = response.headers().get("x-consul-index");
        let index = index.and_then(|index| index.to_str().ok()?.parse().ok());
        let body = Limited::new(response.into_body(), LONGEST).collect().await?.to_bytes();
        // No key there is an answer like any other.
        let entries: Vec<Entry> = match status {
            StatusCode::NOT_FOUND => Vec::new(),
            status if status.is_success() => serde_json::from_slice(&body)?,
            status => return Err(format!("{status}: {}", String::from_utf8_lossy(&body)).into()),
        };
        let index = index.ok_or("the answer has no index")?;
        let value = |entry: Entry| {
            let value = STANDARD.decode(entry.value.unwrap_or_default())?;
            Ok::<_, BoxError>((entry.key, Bytes::from(value)))
        };
        let values = entries.into_iter().map(value).collect::<Result<_, _>>()?;
        Ok(State { index, values })
    }
}

//! The few questions to JetStream that this engine asks. Written by hand rather than with the client's own types, which
//! demand fields that a server may lack and leave out what one may ignore: here a field that is missing has a default, and
//! what matters is checked in the answer.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::link::{Fault, Link};

pub(crate) const STREAM_NOT_FOUND: u64 = 10_059;
pub(crate) const STREAM_EXISTS: u64 = 10_058;
pub(crate) const CONSUMER_NOT_FOUND: u64 = 10_014;
pub(crate) const MESSAGE_NOT_FOUND: u64 = 10_037;
const STORE_FAILED: u64 = 10_077;
/// A cluster without a leader, or whose servers do not know each other yet; a stream or a consumer that is not running yet.
const PASSING: [u64; 5] = [10_005, 10_008, 10_009, 10_118, 10_119];
const NO_RESOURCES: [u64; 3] = [10_023, 10_047, 10_028];
const NOT_ENABLED: [u64; 2] = [10_039, 10_076];

/// How long it waits before it asks again who cannot answer yet.
const UNSETTLED: Duration = Duration::from_millis(100);

/// What the server says when it says no.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Refusal {
    #[serde(default)]
    pub(crate) code: u64,
    #[serde(default)]
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

impl Refusal {
    /// A stream is at its bounds, or the server at its own.
    pub(crate) fn is_full(&self) -> bool {
        self.err_code == STORE_FAILED || NO_RESOURCES.contains(&self.err_code)
    }

    pub(crate) fn is_passing(&self) -> bool {
        PASSING.contains(&self.err_code)
    }

    pub(crate) fn is_not_enabled(&self) -> bool {
        NOT_ENABLED.contains(&self.err_code)
    }
}

impl Fault {
    pub(crate) fn is_refusal(&self, err_code: u64) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.err_code == err_code)
    }
}

/// What the server said about a message that was published.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Stored {
    /// Its place in the stream.
    pub(crate) seq: u64,
    /// It was there already.
    #[serde(default)]
    pub(crate) duplicate: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StreamInfo {
    pub(crate) config: StreamConfig,
    #[serde(default)]
    pub(crate) state: StreamState,
}

/// What is in it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct StreamState {
    #[serde(default)]
    pub(crate) messages: u64,
    #[serde(default)]
    pub(crate) first_seq: u64,
    /// When the first came.
    #[serde(default)]
    pub(crate) first_ts: String,
    #[serde(default)]
    pub(crate) last_seq: u64,
    #[serde(default)]
    pub(crate) consumer_count: usize,
}

/// Only what this engine sets and checks.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct StreamConfig {
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) subjects: Vec<String>,
    #[serde(default)]
    pub(crate) retention: String,
    #[serde(default)]
    pub(crate) discard: String,
    #[serde(default)]
    pub(crate) num_replicas: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ConsumerInfo {
    pub(crate) config: ConsumerConfig,
    /// When it was made.
    #[serde(default)]
    pub(crate) created: String,
    #[serde(default)]
    pub(crate) delivered: Progress,
    /// Up to here all is settled.
    #[serde(default)]
    pub(crate) ack_floor: Progress,
    #[serde(default)]
    pub(crate) num_ack_pending: u64,
    #[serde(default)]
    pub(crate) num_pending: u64,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(crate) struct Progress {
    #[serde(default)]
    pub(crate) stream_seq: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ConsumerConfig {
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) filter_subject: String,
}

impl Link {
    /// Asks JetStream's API.
    pub(crate) async fn api<T: DeserializeOwned>(
        &self,
        subject: &str,
        body: &(impl Serialize + Sync),
        until: Instant,
    ) -> Result<T, Fault> {
        let body = serde_json::to_vec(body).map_err(|error| Fault::Strange(error.to_string()))?;
        let (subject, body) = (format!("$JS.API.{subject}"), Bytes::from(body));
        loop {
            let answer = self.ask(&subject, None, body.clone(), until).await?;
            let again = Instant::now() + UNSETTLED;
            match read(&answer.payload) {
                // A cluster that is choosing a leader, or a server that is still reading its disk.
                Err(Fault::Refused(refusal)) if refusal.is_passing() && again < until => {
                    sleep_until(again).await;
                }
                read => return read,
            }
        }
    }

    /// Puts a message into a stream; ready when the server has it. Sent again after a reconnection, so it carries an
    /// id by which the server recognises it.
    pub(crate) async fn store(
        &self,
        subject: &str,
        headers: &(dyn Fn() -> HeaderMap + Sync),
        payload: Bytes,
        until: Instant,
    ) -> Result<Stored, Fault> {
        let answer = self.ask(subject, Some(headers), payload, until).await?;
        read(&answer.payload)
    }

    pub(crate) async fn stream(&self, name: &str, until: Instant) -> Result<StreamInfo, Fault> {
        self.api(&format!("STREAM.INFO.{name}"), &json!({}), until).await
    }

    pub(crate) async fn create_stream(
        &self,
        name: &str,
        config: &Value,
        until: Instant,
    ) -> Result<StreamInfo, Fault> {
        self.api(&format!("STREAM.CREATE.{name}"), config, until).await
    }

    pub(crate) async fn consumer(
        &self,
        stream: &str,
        name: &str,
        until: Instant,
    ) -> Result<ConsumerInfo, Fault> {
        self.api(&format!("CONSUMER.INFO.{stream}.{name}"), &json!({}), until).await
    }

    pub(crate) async fn create_consumer(
        &self,
        stream: &str,
        name: &str,
        config: &Value,
        until: Instant,
    ) -> Result<ConsumerInfo, Fault> {
        let body = json!({ "stream_name": stream, "config": config });
        self.api(&format!("CONSUMER.DURABLE.CREATE.{stream}.{name}"), &body, until).await
    }

    /// The groups of a stream.
    pub(crate) async fn consumers(
        &self,
        stream: &str,
        until: Instant,
    ) -> Result<Vec<ConsumerInfo>, Fault> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            total: usize,
            consumers: Option<Vec<ConsumerInfo>>,
        }
        let mut all = Vec::new();
        loop {
            let question = json!({ "offset": all.len() });
            let page: Page = self.api(&format!("CONSUMER.LIST.{stream}"), &question, until).await?;
            let consumers = page.consumers.unwrap_or_default();
            let is_last = consumers.is_empty();
            all.extend(consumers);
            if is_last || all.len() >= page.total {
                return Ok(all);
            }
        }
    }

    /// True if there was one.
    pub(crate) async fn delete_consumer(
        &self,
        stream: &str,
        name: &str,
        until: Instant,
    ) -> Result<bool, Fault> {
        let subject = format!("CONSUMER.DELETE.{stream}.{name}");
        match self.api::<Value>(&subject, &json!({}), until).await {
            Ok(_) => Ok(true),
            Err(fault) if fault.is_refusal(CONSUMER_NOT_FOUND) => Ok(false),
            Err(fault) if fault.is_refusal(STREAM_NOT_FOUND) => Ok(false),
            Err(fault) => Err(fault),
        }
    }
}

/// Reads an answer, of which `error` may be all there is.
fn read<T: DeserializeOwned>(answer: &[u8]) -> Result<T, Fault> {
    #[derive(Deserialize)]
    struct Failed {
        error: Option<Refusal>,
    }
    let strange = |error: serde_json::Error| Fault::Strange(error.to_string());
    let failed: Failed = serde_json::from_slice(answer).map_err(strange)?;
    match failed.error {
        Some(refusal) => Err(Fault::Refused(refusal)),
        None => serde_json::from_slice(answer).map_err(strange),
    }
}

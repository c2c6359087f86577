//! Single messages as they lie in the streams: looked up, deleted, purged.

use async_nats::HeaderMap;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    jetstream::MESSAGE_NOT_FOUND,
    link::{Fault, Link},
};

/// A message as it lies in a stream.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) subject: String,
    pub(crate) seq: u64,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

impl Link {
    /// The message that `question` means; none if there is none.
    pub(crate) async fn look_up(
        &self,
        stream: &str,
        question: &Value,
        until: Instant,
    ) -> Result<Option<Kept>, Fault> {
        #[derive(Deserialize)]
        struct Answer {
            message: Raw,
        }
        #[derive(Deserialize)]
        struct Raw {
            subject: String,
            seq: u64,
            #[serde(default)]
            hdrs: String,
            #[serde(default)]
            data: String,
        }
        let subject = format!("STREAM.MSG.GET.{stream}");
        let raw = match self.api::<Answer>(&subject, question, until).await {
            Ok(answer) => answer.message,
            Err(fault) if fault.is_refusal(MESSAGE_NOT_FOUND) => return Ok(None),
            Err(fault) => return Err(fault),
        };
        let headers = super::wire::parse_headers(&decoded(&raw.hdrs)?);
        Ok(Some(Kept {
            subject: raw.subject,
            seq: raw.seq,
            headers,
            payload: decoded(&raw.data)?.into(),
        }))
    }

    /// False if there is none.
    pub(crate) async fn delete_message(
        &self,
        stream: &str,
        seq: u64,
        until: Instant,
    ) -> Result<bool, Fault> {
        // Without erasing: overwriting the bytes with noise costs another write and serves nobody here.
        let body = json!({ "seq": seq, "no_erase": true });
        match self.api::<Value>(&format!("STREAM.MSG.DELETE.{stream}"), &body, until).await {
            Ok(_) => Ok(true),
            // This call says so in several ways, by the version of the server and by whether there ever was one.
            Err(Fault::Refused(refusal))
                if matches!(refusal.err_code, 10_037 | 10_043 | 10_057) =>
            {
                Ok(false)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Deletes what has this subject; how many that were.
    pub(crate) async fn purge(
        &self,
        stream: &str,
        filter: &str,
        until: Instant,
    ) -> Result<u64, Fault> {
        self.purge_what(stream, &json!({ "filter": filter }), until).await
    }

    /// Deletes all up to this place.
    pub(crate) async fn purge_to(
        &self,
        stream: &str,
        last: u64,
        until: Instant,
    ) -> Result<u64, Fault> {
        self.purge_what(stream, &json!({ "seq": last.saturating_add(1) }), until).await
    }

    async fn purge_what(&self, stream: &str, what: &Value, until: Instant) -> Result<u64, Fault> {
        #[derive(Deserialize)]
        struct Purged {
            #[serde(default)]
            purged: u64,
        }
        let purged: Purged = self.api(&format!("STREAM.PURGE.{stream}"), what, until).await?;
        Ok(purged.purged)
    }
}

fn decoded(text: &str) -> Result<Vec<u8>, Fault> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .map_err(|error| Fault::Strange(error.to_string()))
}

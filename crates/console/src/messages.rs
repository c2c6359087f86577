use std::{fmt::Write, num::NonZeroU32, sync::Arc, time::SystemTime};

use gusset_broker::{
    Broker, DeadLetter, DeadLetterId, Error, Failure, FailureKind, Filter, GroupStats, Stats,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Sources, live::within, millis};

/// Dead letters of one page.
const PAGE: usize = 200;
/// Most bytes of a payload that are shown.
const PAYLOAD: usize = 64 << 10;

pub(crate) async fn page(sources: &Sources) -> Value {
    let Some(broker) = &sources.broker else { return json!({ "absent": true }) };
    let mut page = stats(&broker.stats());
    match within(letters(broker, None)).await {
        Ok(letters) => page["letters"] = letters,
        Err(why) => page["error"] = why.into(),
    }
    page
}

fn stats(stats: &Stats) -> Value {
    json!({
        "unroutable": stats.unroutable,
        "duplicates": stats.duplicates,
        "discarded": stats.discarded,
        "dead_letters": stats.dead_letters,
        "dead_letter_bytes": stats.dead_letter_bytes,
        "dead_letters_dropped": stats.dead_letters_dropped,
        "dead_letters_refused": stats.dead_letters_refused,
        "groups": stats.groups.iter().map(group).collect::<Vec<_>>(),
    })
}

fn group(group: &GroupStats) -> Value {
    json!({
        "group": &*group.group,
        "pattern": group.pattern.as_str(),
        "subscriptions": group.subscriptions,
        "lag": group.lag(),
        "ready": group.ready,
        "in_flight": group.in_flight,
        "delayed": group.delayed,
        "in_lanes": group.in_lanes,
        "bytes": group.bytes,
        "oldest_ms": group.oldest.map(millis),
        "waiting": group.waiting,
        "published": group.published,
        "delivered": group.delivered,
        "redelivered": group.redelivered,
        "redriven": group.redriven,
        "acked": group.acked,
        "dead": group.dead,
        "dropped": group.dropped,
        "expired": group.expired,
        "refused": group.refused,
    })
}

/// The oldest behind `after`.
pub(crate) async fn letters(broker: &Broker, after: Option<u64>) -> Result<Value, Error> {
    let after = after.map(DeadLetterId::new);
    let page = broker.dead_letters().list(&Filter::all(), after, PAGE).await?;
    Ok(page.iter().map(line).collect())
}

fn line(letter: &Arc<DeadLetter>) -> Value {
    json!({
        "id": letter.id.get(),
        "message": letter.message.id().to_string(),
        "subject": letter.message.subject().as_str(),
        "group": &*letter.group,
        "reason": letter.reason.to_string(),
        "attempts": letter.attempts,
        "redrives": letter.redrives,
        "died_at": since_1970(letter.died_at),
        "error": letter.last_failure.as_ref().map(|failure| &*failure.error),
        "bytes": letter.message.payload().len(),
        "trace_id": letter.message.trace().map(|trace| trace.trace_id().to_string()),
    })
}

/// One with its payload and headers; nothing if it is gone.
pub(crate) async fn one(broker: &Broker, id: u64) -> Result<Option<Value>, Error> {
    let Some(letter) = broker.dead_letters().get(DeadLetterId::new(id)).await? else {
        return Ok(None);
    };
    let mut all = line(&letter);
    let payload = letter.message.payload();
    let shown = &payload[..payload.len().min(PAYLOAD)];
    // A cut may fall into a character.
    let valid = match std::str::from_utf8(shown) {
        Ok(text) => Some(text),
        Err(error) if error.error_len().is_none() && shown.len() < payload.len() => {
            std::str::from_utf8(&shown[..error.valid_up_to()]).ok()
        }
        Err(_) => None,
    };
    all["payload"] = match valid {
        Some(text) => json!({ "text": text }),
        None => json!({ "hex": hex(&shown[..shown.len().min(4 << 10)]) }),
    };
    all["headers"] =
        letter.message.headers().iter().map(|(name, value)| json!([name, value])).collect();
    all["published_at"] = since_1970(letter.message.published_at()).into();
    all["first_failure"] = letter.first_failure.as_ref().map(failure).into();
    all["last_failure"] = letter.last_failure.as_ref().map(failure).into();
    Ok(Some(all))
}

fn failure(failure: &Failure) -> Value {
    let kind = match failure.kind {
        FailureKind::Error => "error",
        FailureKind::Panic => "panic",
        FailureKind::Timeout => "timeout",
        FailureKind::Retry => "retry",
        _ => "other",
    };
    json!({ "attempt": failure.attempt, "at": since_1970(failure.at), "kind": kind, "error": &*failure.error })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// In milliseconds.
fn since_1970(at: SystemTime) -> u64 {
    let span = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What an operator can have done with dead letters.
#[derive(Deserialize)]
pub(crate) struct Act {
    #[serde(rename = "do")]
    act: String,
    id: Option<u64>,
    group: Option<String>,
    per_second: Option<NonZeroU32>,
}

/// Redrives this many a second, unless told otherwise, lest what failed under load comes back at once.
const RATE: NonZeroU32 = NonZeroU32::new(100).unwrap();

pub(crate) async fn act(broker: &Broker, act: &Act) -> Result<Value, String> {
    let letters = broker.dead_letters();
    let filter = match &act.group {
        Some(group) => Filter::all().group(&**group),
        None => Filter::all(),
    };
    let text = |error: Error| error.to_string();
    match (&*act.act, act.id) {
        ("redrive", Some(id)) => {
            letters.redrive(DeadLetterId::new(id)).await.map_err(text)?;
            Ok(json!({ "redriven": 1, "kept": 0 }))
        }
        ("redrive_all", None) => {
            let rate = act.per_second.unwrap_or(RATE);
            let done = letters.redrive_all(&filter).per_second(rate).await.map_err(text)?;
            Ok(json!({ "redriven": done.redriven, "kept": done.kept }))
        }
        ("purge", None) => {
            let purged = letters.purge(&filter).await.map_err(text)?;
            Ok(json!({ "purged": purged }))
        }
        _ => Err("do is redrive with an id, or redrive_all or purge without one".to_owned()),
    }
}

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{
    Descriptors,
    frames::{FrameFault, Frames},
    merge::{self, Part, members, merge},
    select::Pointer,
    status::Status,
};

pub use super::transcoder::fuzz::transcoded;

/// A stream of gRPC messages: they are the same however its bytes come in, and together with what stands before them no more than what came.
pub fn frames(data: &[u8]) {
    let whole = taken(data, data.len().max(1));
    if let Ok(messages) = &whole {
        let length: usize = messages.iter().map(|message| message.len() + 5).sum();
        assert!(length <= data.len(), "{length} of {}", data.len());
    }
    for size in [1, 3, data.len() / 2 + 1] {
        assert_eq!(taken(data, size), whole, "in parts of {size} bytes");
    }
}

fn taken(data: &[u8], size: usize) -> Result<Vec<Bytes>, FrameFault> {
    let (mut frames, mut messages) = (Frames::new(64), Vec::new());
    for part in data.chunks(size) {
        frames.push(part);
        while let Some(message) = frames.next()? {
            messages.push(message);
        }
    }
    Ok(messages)
}

/// A descriptor set: its methods become routes, or a reason.
pub fn descriptors(data: &[u8]) {
    let Ok(set) = Descriptors::from_bytes(data) else { return };
    for service in set.services() {
        if let Err(error) = set.routes(&service, "orders") {
            assert!(!error.to_string().is_empty());
        }
    }
}

/// A pointer in the first line, the code and message of an answer in the second, and a document: what is found is part of it, and the whole that is made of it is JSON.
pub fn document(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut parts = text.splitn(3, '\n').map(str::to_owned);
    let mut next = || parts.next().unwrap_or_default();
    let (pointer, said, document) = (next(), next(), next());
    let headers = crate::fuzz::fields(said.replace('\t', "\n").as_bytes());
    let _ = Status::of(&headers).map(|status| status.is_ok());
    let whole = Bytes::from(document.clone());
    if let Ok(pointer) = Pointer::parse(&pointer) {
        if let Some(found) = pointer.find(&whole) {
            assert!(is_json(&found), "{found:?} of {document:?}");
        }
    }
    let object = members(&document).is_some();
    if !is_json(document.as_bytes()) {
        return;
    }
    let there = || merge::Value::There(document.as_bytes());
    let parts = [
        Part { name: &pointer, flat: false, value: there() },
        Part { name: "flat", flat: object, value: there() },
    ];
    let merged = merge(&parts, "missing");
    assert!(is_json(&merged), "{:?}", merged.escape_ascii());
}

/// By the grammar: a number may be larger than any type has.
fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<&RawValue>(text).is_ok()
}

//! Words of HTTP and of networks in a file.

use http::{HeaderName, Method};
use serde_json::{Value as Json, json};

use super::{Schema, Setting, Value};
use crate::Network;

/// A method, in upper case.
impl Setting for Method {
    fn read(value: &Value<'_>) -> Option<Self> {
        const WHAT: &str = "method; write \"GET\" or \"POST\"";
        let text = value.text(WHAT)?;
        // In lower case it is another method, which nobody sends.
        match text.parse() {
            Ok(method) if !text.is_empty() && !text.contains(|c: char| c.is_ascii_lowercase()) => {
                Some(method)
            }
            _ => value.no(WHAT),
        }
    }

    fn describe(_: &mut Schema) -> Json {
        json!({ "type": "string", "examples": ["GET", "POST", "PUT", "PATCH", "DELETE"] })
    }
}

impl Setting for HeaderName {
    fn read(value: &Value<'_>) -> Option<Self> {
        value.parsed("name of a header field; write \"x-api-key\"")
    }

    fn describe(_: &mut Schema) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

impl Setting for Network {
    fn read(value: &Value<'_>) -> Option<Self> {
        value.parsed("range of addresses; write \"10.0.0.0/8\" or \"fd00::1\"")
    }

    fn describe(_: &mut Schema) -> Json {
        json!({ "type": "string", "examples": ["10.0.0.0/8", "fd00::/8"] })
    }
}

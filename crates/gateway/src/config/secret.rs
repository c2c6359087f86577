use std::{fmt, fs::File, io::Read, path::PathBuf};

use serde_json::{Value as Json, json};

use super::{Setting, Value, document::Kind, schema::Schema};

/// A longer file holds no secret.
const LARGEST: u64 = 64 * 1024;

/// Something that must not stand in the file itself: it is read from another one, or from the environment. It is never shown.
///
/// `{ file = "/run/secrets/admin" }`, whose line end is left out, or `{ env = "ADMIN_TOKEN" }`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// What is no secret, where one could stand.
    pub(super) fn plain(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// What it is.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Setting for Secret {
    fn read(value: &Value<'_>) -> Option<Self> {
        let Kind::Table(entries) = &value.node.kind else {
            if !matches!(value.node.kind, Kind::Broken) {
                // What stands there may be the secret.
                value.tell(value.place().error(RIGHT));
            }
            return None;
        };
        let secret = match &entries[..] {
            [entry] if entry.key == "file" => {
                let named = value.below(entry);
                let path = PathBuf::read(&named)?;
                let read = read(&path);
                value.document.files.borrow_mut().push(path);
                read.map_err(|reason| named.wrong(&reason)).ok()?
            }
            [entry] if entry.key == "env" => {
                let named = value.below(entry);
                let name = String::read(&named)?;
                let Some(secret) = value.document.variable(&name) else {
                    named.wrong("is not in the environment; set it");
                    return None;
                };
                secret
            }
            _ => {
                value.tell(value.place().error(RIGHT));
                return None;
            }
        };
        if secret.is_empty() {
            value.wrong("leads to an empty secret");
            return None;
        }
        Some(Self(secret))
    }

    fn describe(_: &mut Schema) -> Json {
        let of = |name: &str| {
            json!({
                "type": "object",
                "properties": { name: { "type": "string", "minLength": 1 } },
                "required": [name],
                "additionalProperties": false,
            })
        };
        json!({ "oneOf": [of("file"), of("env")] })
    }
}

const RIGHT: &str = "a secret does not stand in the file; write { file = \"/run/secrets/name\" } or { env = \"NAME\" }";

fn read(path: &std::path::Path) -> Result<String, String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    file.take(LARGEST + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if text.len() as u64 > LARGEST {
        return Err("has more than 64 KiB".into());
    }
    let line_end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(line_end);
    Ok(text)
}

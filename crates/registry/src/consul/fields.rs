//! Reads JSON as Go's `encoding/json` does: names in any case, null for absent. What is wrong is said with its place.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::span;

/// What is wrong with a request, for the one who sent it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong(pub(super) String);

/// An object of a request.
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// Where it stands, with a dot at the end; empty at the top.
    path: String,
}

/// Consul takes some names in snake case as well: `service_id`.
fn is_name(sent: &str, name: &str) -> bool {
    let letters = sent.bytes().filter(|byte| *byte != b'_');
    letters.map(|byte| byte.to_ascii_lowercase()).eq(name.bytes().map(|b| b.to_ascii_lowercase()))
}

/// Parses a body.
pub(super) fn parse(body: &[u8]) -> Result<Value, Wrong> {
    if body.trim_ascii().is_empty() {
        return Err(Wrong("Request decode failed: the body is empty, JSON is expected".into()));
    }
    serde_json::from_slice(body).map_err(|error| Wrong(format!("Request decode failed: {error}")))
}

/// What was sent: itself where it is short, or what it is.
fn shown(value: &Value) -> String {
    let kind = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => return value.to_string(),
        Value::String(text) if text.len() <= 32 => return format!("{text:?}"),
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    kind.into()
}

impl<'a> Fields<'a> {
    pub(super) fn top(value: &'a Value) -> Result<Self, Wrong> {
        Self::at(value, String::new())
    }

    fn at(value: &'a Value, path: String) -> Result<Self, Wrong> {
        match value {
            Value::Object(object) => Ok(Self { object, path }),
            other => {
                let place = if path.is_empty() { "the body" } else { path.trim_end_matches('.') };
                Err(mismatch(place, "an object", other))
            }
        }
    }

    /// The exact name goes before one in another case.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        let found = self.object.get(name).or_else(|| {
            self.object.iter().find(|(sent, _)| is_name(sent, name)).map(|(_, value)| value)
        });
        found.filter(|value| !value.is_null())
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.object.values().all(Value::is_null)
    }

    pub(super) fn wrong(&self, name: &str, what: &str) -> Wrong {
        Wrong(format!("{}{name}: {what}", self.path))
    }

    fn expected(&self, name: &str, wanted: &str, value: &Value) -> Wrong {
        mismatch(&format!("{}{name}", self.path), wanted, value)
    }

    pub(super) fn text(&self, name: &str, longest: usize) -> Result<String, Wrong> {
        match self.get(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) if text.len() <= longest => Ok(text.clone()),
            Some(Value::String(_)) => {
                Err(self.wrong(name, &format!("longer than {longest} bytes")))
            }
            Some(other) => Err(self.expected(name, "a string", other)),
        }
    }

    /// A text that names something: of 255 bytes at most, and printable.
    pub(super) fn name(&self, name: &str) -> Result<String, Wrong> {
        let text = self.text(name, 255)?;
        match text.chars().any(char::is_control) {
            true => Err(self.wrong(name, "control characters")),
            false => Ok(text),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, Wrong> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.expected(name, "a boolean", other)),
        }
    }

    pub(super) fn number(&self, name: &str, most: u32) -> Result<Option<u32>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| *number <= most) {
            Some(number) => Ok(Some(number)),
            None => Err(self.expected(name, &format!("a whole number from 0 to {most}"), value)),
        }
    }

    /// A span as Go writes it, or a number of nanoseconds.
    pub(super) fn span(&self, name: &str) -> Result<Option<std::time::Duration>, Wrong> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => span::parse(text).map(Some).ok_or_else(|| {
                self.wrong(name, &format!("\"{text}\" is no duration like \"10s\""))
            }),
            Some(value) => match value.as_u64() {
                Some(nanos) => Ok(Some(std::time::Duration::from_nanos(nanos))),
                None => Err(self.expected(name, "a duration like \"10s\"", value)),
            },
        }
    }

    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>, Wrong> {
        let items = self.items(name)?;
        if items.len() > ENTRIES {
            return Err(self.wrong(name, "more than 64 entries"));
        }
        let text = |(place, item): (usize, &Value)| match item {
            Value::String(text) if text.len() <= 255 => Ok(text.clone()),
            other => {
                let place = format!("{name}[{place}]");
                Err(self.expected(&place, "a string of at most 255 bytes", other))
            }
        };
        items.iter().enumerate().map(text).collect()
    }

    fn items(&self, name: &str) -> Result<&'a [Value], Wrong> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(self.expected(name, "an array", other)),
        }
    }

    /// Metadata, within Consul's bounds: 64 entries, keys of 128 bytes, values of 512.
    pub(super) fn meta(&self, name: &str) -> Result<BTreeMap<String, String>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(BTreeMap::new()) };
        let Value::Object(object) = value else {
            return Err(self.expected(name, "an object", value));
        };
        if object.len() > ENTRIES {
            return Err(self.wrong(name, "more than 64 entries"));
        }
        let entry = |(key, value): (&String, &Value)| match value {
            Value::String(text) if key.len() <= 128 && text.len() <= 512 => {
                Ok((key.clone(), text.clone()))
            }
            Value::String(_) => {
                Err(self.wrong(name, "a key is longer than 128 bytes, or a value longer than 512"))
            }
            other => Err(self.expected(&format!("{name}.{key}"), "a string", other)),
        };
        object.iter().map(entry).collect()
    }

    pub(super) fn object(&self, name: &str) -> Result<Option<Self>, Wrong> {
        let Some(value) = self.get(name) else { return Ok(None) };
        Self::at(value, format!("{}{name}.", self.path)).map(Some)
    }

    pub(super) fn objects(&self, name: &str) -> Result<Vec<Self>, Wrong> {
        let items = self.items(name)?.iter().enumerate();
        let fields = |(place, item)| Self::at(item, format!("{}{name}[{place}].", self.path));
        items.map(fields).collect()
    }
}

const ENTRIES: usize = 64;

fn mismatch(place: &str, wanted: &str, value: &Value) -> Wrong {
    Wrong(format!("{place}: expected {wanted}, found {}", shown(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_are_read_in_any_case_and_the_exact_one_goes_first() {
        let value = json!({"port": 1, "PORT": 2, "Port": 3, "enable_tag_override": true});
        let fields = Fields::top(&value).unwrap();
        assert_eq!(fields.number("Port", 9).unwrap(), Some(3));
        assert!(fields.flag("EnableTagOverride").unwrap());
    }

    #[test]
    fn null_is_absent() {
        let value = json!({"Tags": null, "Name": null, "Port": null, "Check": null});
        let fields = Fields::top(&value).unwrap();
        assert!(
            fields.texts("Tags").unwrap().is_empty() && fields.text("Name", 9).unwrap().is_empty()
        );
        assert!(
            fields.number("Port", 9).unwrap().is_none()
                && fields.object("Check").unwrap().is_none()
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let value =
            json!({"Port": "80", "Tags": ["a", 1], "Checks": [{}, {"TTL": "5"}], "Meta": {"a": 1}});
        let fields = Fields::top(&value).unwrap();
        let said = |wrong: Wrong| wrong.0;
        assert_eq!(
            said(fields.number("Port", 65_535).unwrap_err()),
            "Port: expected a whole number from 0 to 65535, found \"80\""
        );
        let value_above = json!({"Port": 70_000, "Name": {}});
        let above = Fields::top(&value_above).unwrap();
        assert_eq!(
            said(above.number("Port", 65_535).unwrap_err()),
            "Port: expected a whole number from 0 to 65535, found 70000"
        );
        assert_eq!(
            said(above.text("Name", 9).unwrap_err()),
            "Name: expected a string, found an object"
        );
        assert_eq!(
            said(parse(b" ").unwrap_err()),
            "Request decode failed: the body is empty, JSON is expected"
        );
        assert!(said(fields.texts("Tags").unwrap_err()).starts_with("Tags[1]: expected a string"));
        assert_eq!(said(fields.meta("Meta").unwrap_err()), "Meta.a: expected a string, found 1");
        let checks = fields.objects("Checks").unwrap();
        assert_eq!(
            said(checks[1].span("TTL").unwrap_err()),
            "Checks[1].TTL: \"5\" is no duration like \"10s\""
        );
        let broken = said(parse(b"{\n\"Name\": }").unwrap_err());
        assert!(broken.contains("line 2 column 9"), "{broken}");
    }
}

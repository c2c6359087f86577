use serde_json::{Map, Value as Json, json};

use super::section::{Section, described};

/// A JSON Schema while it is made.
#[derive(Debug, Default)]
pub struct Schema {
    definitions: Map<String, Json>,
}

impl Schema {
    /// That of a file with the fields of `S`, in its canonical form: indented, with a newline at its end. Editors take it from a first line
    /// `#:schema FILE`.
    #[must_use]
    pub fn of<S: Section>() -> String {
        let mut schema = Self::default();
        let root = described::<S>(&mut schema);
        let mut whole = json!({ "$schema": "http://json-schema.org/draft-07/schema#" });
        if let (Json::Object(whole), Json::Object(root)) = (&mut whole, root) {
            whole.insert("title".into(), S::NAME.into());
            whole.extend(root);
            whole.insert("definitions".into(), schema.definitions.into());
        }
        format!("{whole:#}\n")
    }

    /// A reference to a section, which is described once.
    pub(super) fn section<S: Section>(&mut self) -> Json {
        if !self.definitions.contains_key(S::NAME) {
            self.definitions.insert(S::NAME.into(), Json::Null);
            let section = described::<S>(self);
            self.definitions.insert(S::NAME.into(), section);
        }
        json!({ "allOf": [{ "$ref": format!("#/definitions/{}", S::NAME) }] })
    }

    /// A text of this form, with examples.
    #[must_use]
    pub fn text(pattern: &str, examples: &[&str]) -> Json {
        // Variables are filled in before anything is read.
        json!({ "type": "string", "pattern": format!("^({pattern}|.*\\$\\{{.*)$"), "examples": examples })
    }

    /// One of these texts.
    #[must_use]
    pub fn choice(names: &[&str]) -> Json {
        json!({ "enum": names })
    }
}

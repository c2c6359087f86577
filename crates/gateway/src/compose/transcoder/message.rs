//! The message that a request becomes.

use std::borrow::Cow;

use bytes::Bytes;
use http::request::Parts;
use prost_reflect::{DynamicMessage, FieldDescriptor};
use serde_json::{Map, Value};

use super::{
    super::fields::{How, Unfit, decode, find, put},
    Bound, Placed, Taken, Transcoder,
};
/// A field, and what it is said to be.
struct Said<'f> {
    how: How,
    fields: Cow<'f, [FieldDescriptor]>,
    text: String,
}

impl Transcoder {
    /// What the method is asked, by the path, the query and the body.
    pub(super) fn message(&self, head: &Parts, text: &Bytes) -> Result<DynamicMessage, Unfit> {
        let mut whole = self.of_body(text)?;
        let mut said = self.of_query(head.uri.query().unwrap_or_default())?;
        said.extend(self.of_path(head.uri.path())?);
        for Said { how, fields, text } in &said {
            put(&mut whole, fields, text.clone(), *how)?;
        }
        let message = DynamicMessage::deserialize(self.method.input(), Value::Object(whole));
        message.map_err(|error| self.blame(&said, text, &error))
    }

    fn of_query(&self, query: &str) -> Result<Vec<Said<'_>>, Unfit> {
        let mut said = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
            let encoded = || Unfit("the query is not well encoded".into());
            let name = decode(name, true).ok_or_else(encoded)?;
            let text = decode(text, true).ok_or_else(encoded)?;
            let fields = find(&self.method.input(), &name);
            let fields = fields.map_err(|why| Unfit(format!("query: {why}")))?;
            let of_body = match &self.body {
                Taken::Nothing => false,
                Taken::Message => true,
                Taken::Field(field) => fields.first() == Some(field),
            };
            if of_body || self.paths.iter().any(|(of_path, _)| *of_path == fields) {
                return Err(Unfit(format!("query: {name:?} is said elsewhere")));
            }
            said.push(Said { how: How::Query, fields: fields.into(), text });
        }
        Ok(said)
    }

    fn of_path<'f>(&'f self, path: &str) -> Result<Vec<Said<'f>>, Unfit> {
        let captures = self.pattern.captures(path);
        let said = |(fields, pieces): &'f Bound| {
            let text = pieces.iter().map(|piece| match (piece, &captures) {
                (Placed::Literal(literal), _) => Some(literal.clone()),
                (Placed::Parameter(at), Some(captures)) => decode(captures.get(path, *at), false),
                (Placed::Parameter(_), None) => None,
            });
            let text = text.collect::<Option<String>>();
            let text = text.ok_or_else(|| Unfit("the path is no text".into()))?;
            Ok(Said { how: How::Path, fields: Cow::Borrowed(fields), text })
        };
        self.paths.iter().map(said).collect()
    }

    /// Finds out which part of a request does not fit: errors of values do not tell where they stand.
    fn blame(&self, said: &[Said<'_>], text: &[u8], error: &serde_json::Error) -> Unfit {
        for Said { how, fields, text } in said {
            let mut alone = Map::new();
            let put = put(&mut alone, fields, text.clone(), *how);
            let read = DynamicMessage::deserialize(self.method.input(), Value::Object(alone));
            if let (Ok(()), Err(error)) = (put, read) {
                let names: Vec<_> = fields.iter().map(FieldDescriptor::name).collect();
                return Unfit(format!("{}: {error}", names.join(".")));
            }
        }
        let mut json = serde_json::Deserializer::from_slice(text);
        let message = match (&self.body, &self.body_kind()) {
            (Taken::Message, _) => self.method.input(),
            (Taken::Field(_), Some(message)) => message.clone(),
            _ => return Unfit(format!("body: {error}")),
        };
        match DynamicMessage::deserialize(message, &mut json) {
            Err(error) => Unfit(format!("body: {error}")),
            Ok(_) => Unfit(error.to_string()),
        }
    }

    /// The message that the body is, where it is a field of one.
    fn body_kind(&self) -> Option<prost_reflect::MessageDescriptor> {
        match &self.body {
            Taken::Field(field) if !field.is_list() && !field.is_map() => {
                field.kind().as_message().cloned()
            }
            _ => None,
        }
    }

    fn of_body(&self, text: &[u8]) -> Result<Map<String, Value>, Unfit> {
        let empty = text.trim_ascii().is_empty();
        let value =
            || serde_json::from_slice(text).map_err(|error| Unfit(format!("body: {error}")));
        match &self.body {
            Taken::Nothing if empty => Ok(Map::new()),
            Taken::Nothing => Err(Unfit("body: there is none here".into())),
            Taken::Field(_) | Taken::Message if empty => Ok(Map::new()),
            Taken::Field(field) => Ok(Map::from_iter([(field.json_name().to_owned(), value()?)])),
            Taken::Message => match value()? {
                Value::Object(map) => Ok(map),
                _ => Err(Unfit("body: it is an object".into())),
            },
        }
    }
}

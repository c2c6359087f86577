//! Messages as JSON.

use bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, SerializeOptions};

use super::select::Pointer;

/// How the messages of an answer are written.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) message: MessageDescriptor,
    /// Of the message, what is written.
    pub(super) field: Option<FieldDescriptor>,
    pub(super) defaults: bool,
}

impl Shape {
    /// # Errors
    ///
    /// Why `message` cannot be written.
    pub(super) fn json(&self, message: &Bytes) -> Result<Vec<u8>, String> {
        let message = DynamicMessage::decode(self.message.clone(), message.clone());
        let message = message.map_err(|error| error.to_string())?;
        let text = write(&message, self.defaults)?;
        let Some(field) = &self.field else { return Ok(text) };
        let pointer = Pointer::parse(&format!("/{}", field.json_name()))?;
        if let Some(value) = pointer.find(&text.into()) {
            return Ok(value.to_vec());
        }
        // It has its default, which is not written among others.
        let all = write(&message, true)?;
        Ok(pointer.find(&all.into()).map_or_else(|| b"null".to_vec(), |value| value.to_vec()))
    }
}

fn write(message: &DynamicMessage, defaults: bool) -> Result<Vec<u8>, String> {
    let options = SerializeOptions::new().skip_default_fields(!defaults);
    let mut json = serde_json::Serializer::new(Vec::new());
    message.serialize_with_options(&mut json, &options).map_err(|error| error.to_string())?;
    Ok(json.into_inner())
}

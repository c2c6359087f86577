use bytes::Bytes;
use gusset_call::BoxError;
use serde::{Serialize, de::DeserializeOwned};

use crate::{Headers, Message};

/// A way to write bodies.
pub trait Encode<T: ?Sized> {
    /// What it writes, for the header [`Headers::CONTENT_TYPE`].
    const CONTENT_TYPE: &'static str;

    /// The body as bytes.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    fn encode(body: &T) -> Result<Bytes, BoxError>;
}

/// A way to read bodies.
pub trait Decode<T> {
    /// The body of the message; its headers may say how it was written.
    ///
    /// # Errors
    ///
    /// If the payload is none. The message then becomes a dead letter at once, with the text of the error.
    fn decode(message: &Message) -> Result<T, BoxError>;
}

/// JSON, by serde.
///
/// A message that says it is something else (a header [`Headers::CONTENT_TYPE`] without `json` in it) is not read; one that says nothing is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl<T: Serialize + ?Sized> Encode<T> for Json {
    const CONTENT_TYPE: &'static str = "application/json";

    fn encode(body: &T) -> Result<Bytes, BoxError> {
        Ok(serde_json::to_vec(body)?.into())
    }
}

impl<T: DeserializeOwned> Decode<T> for Json {
    fn decode(message: &Message) -> Result<T, BoxError> {
        match message.headers().get(Headers::CONTENT_TYPE) {
            Some(other) if !other.contains("json") => Err(format!("{other} is not JSON").into()),
            _ => Ok(serde_json::from_slice(message.payload())?),
        }
    }
}

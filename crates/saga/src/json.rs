use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::BoxError;

/// A value as the journal holds it: JSON text, at most [`Json::MAX`] bytes. Clones share the text.
#[derive(Clone)]
pub struct Json(Arc<RawValue>);

impl Json {
    /// Longest text, in bytes: 1 MiB. What is larger belongs into a store of its own, and its name into the saga.
    pub const MAX: usize = 1 << 20;

    /// The value as JSON.
    ///
    /// # Errors
    ///
    /// When the value has no JSON form, or one that is longer than [`Json::MAX`].
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, BoxError> {
        let text = serde_json::value::to_raw_value(value)?;
        if text.get().len() > Self::MAX {
            return Err(
                format!("{} bytes of JSON, more than {}", text.get().len(), Self::MAX).into()
            );
        }
        Ok(Self(text.into()))
    }

    /// What a step returns that returns nothing.
    #[must_use]
    pub fn null() -> Self {
        static NULL: LazyLock<Json> = LazyLock::new(|| Json(RawValue::NULL.to_owned().into()));
        NULL.clone()
    }

    /// The value that this is the JSON of.
    ///
    /// # Errors
    ///
    /// When it is not of that type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.0.get())
    }

    /// The text.
    #[must_use]
    pub fn get(&self) -> &str {
        self.0.get()
    }

    /// Whether both mean the same, whatever the order of their fields.
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self == other
            || matches!(
                (self.decode::<serde_json::Value>(), other.decode::<serde_json::Value>()),
                (Ok(one), Ok(two)) if one == two
            )
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.get())
    }
}

impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.get() == other.get()
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Box::<RawValue>::deserialize(deserializer)?.into()))
    }
}

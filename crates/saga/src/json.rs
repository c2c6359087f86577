use std::{fmt, io, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::BoxError;

/// A value as the journal holds it: JSON text, at most [`Json::MAX`] bytes. Clones share the text.
#[derive(Clone)]
pub struct Json(Text);

#[derive(Clone)]
enum Text {
    /// Numbers, flags, ids: no allocation.
    Short(Short),
    Long(Arc<RawValue>),
}

/// A text of so few bytes that it takes no more room than the pointer to a longer one, and its tag.
#[derive(Clone, Copy, Default)]
struct Short {
    length: u8,
    bytes: [u8; 22],
}

impl Short {
    fn of(text: &str) -> Option<Self> {
        let mut short = Self::default();
        io::Write::write_all(&mut short, text.as_bytes()).ok().map(|()| short)
    }

    /// What was written into it is the text of a whole value.
    fn get(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl io::Write for Short {
    fn write(&mut self, more: &[u8]) -> io::Result<usize> {
        let from = usize::from(self.length);
        let room = self.bytes.get_mut(from..from + more.len());
        room.ok_or(io::ErrorKind::WriteZero)?.copy_from_slice(more);
        self.length += more.len() as u8;
        Ok(more.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Json {
    /// Longest text, in bytes: 1 MiB. What is larger belongs into a store of its own, and its name into the saga.
    pub const MAX: usize = 1 << 20;

    /// The value as JSON.
    ///
    /// # Errors
    ///
    /// When the value has no JSON form, or one that is longer than [`Json::MAX`].
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self, BoxError> {
        let mut short = Short::default();
        if serde_json::to_writer(&mut short, value).is_ok() {
            return Ok(Self(Text::Short(short)));
        }
        let text = serde_json::value::to_raw_value(value)?;
        if text.get().len() > Self::MAX {
            return Err(
                format!("{} bytes of JSON, more than {}", text.get().len(), Self::MAX).into()
            );
        }
        Ok(Self(Text::Long(text.into())))
    }

    /// What a step returns that returns nothing.
    #[must_use]
    pub fn null() -> Self {
        Self(Text::Short(Short::of(RawValue::NULL.get()).unwrap_or_default()))
    }

    /// The value that this is the JSON of.
    ///
    /// # Errors
    ///
    /// When it is not of that type.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.get())
    }

    /// The text.
    #[must_use]
    pub fn get(&self) -> &str {
        match &self.0 {
            Text::Short(text) => text.get(),
            Text::Long(text) => text.get(),
        }
    }

    /// The text, if it is short enough to be kept without an allocation.
    pub(crate) fn short(&self) -> Option<&[u8]> {
        match &self.0 {
            Text::Short(text) => Some(&text.bytes[..usize::from(text.length)]),
            Text::Long(_) => None,
        }
    }

    /// The value of such a text.
    pub(crate) fn of_short(text: &[u8]) -> Option<Self> {
        let short = Short::of(std::str::from_utf8(text).ok()?)?;
        Some(Self(Text::Short(short)))
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
        self.get() == other.get()
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            // Of the same form as the others: as it stands.
            Text::Short(text) => {
                let raw: &RawValue =
                    serde_json::from_str(text.get()).map_err(serde::ser::Error::custom)?;
                raw.serialize(serializer)
            }
            Text::Long(text) => text.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        Ok(Self(match Short::of(text.get()) {
            Some(short) => Text::Short(short),
            None => Text::Long(text.into()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_values_come_back_and_equal_their_own_only() {
        let texts: Vec<String> = (0..64).map(|length| "x".repeat(length)).collect();
        for (one, text) in texts.iter().enumerate() {
            let json = Json::encode(text).unwrap();
            assert_eq!(json.get(), format!("\"{text}\""));
            assert_eq!(json.decode::<String>().unwrap(), *text);
            let written = serde_json::to_string(&[&json]).unwrap();
            assert_eq!(written, format!("[\"{text}\"]"));
            let [read]: [Json; 1] = serde_json::from_str(&written).unwrap();
            assert_eq!(read, json);
            let same = texts.iter().filter(|other| Json::encode(*other).unwrap() == json);
            assert_eq!(same.count(), 1, "{one}");
        }
    }

    #[test]
    fn what_has_no_form_or_too_long_a_one_is_refused() {
        let no_form = std::collections::HashMap::from([((1, 2), 3)]);
        assert!(Json::encode(&no_form).is_err());
        assert!(Json::encode(&"x".repeat(Json::MAX - 1)).is_err());
        assert!(Json::encode(&"x".repeat(Json::MAX - 2)).is_ok());
    }
}

//! Texts, numbers and addresses.

use std::{
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use gusset_call::Ratio;
use serde_json::{Value as Json, json};

use super::{Setting, Value};
use crate::config::{document::Kind, schema::Schema};

/// What is on or off.
impl Setting for bool {
    fn read(value: &Value<'_>) -> Option<Self> {
        match &value.node.kind {
            Kind::Flag(flag) => Some(*flag),
            Kind::Text { text, filled: true } if text == "true" => Some(true),
            Kind::Text { text, filled: true } if text == "false" => Some(false),
            _ => {
                value.wrong("is neither true nor false");
                None
            }
        }
    }

    fn describe(_: &mut Schema) -> Json {
        or_variable(json!({ "type": "boolean" }))
    }
}

/// A text that is not empty.
impl Setting for String {
    fn read(value: &Value<'_>) -> Option<Self> {
        let text = value.text("text; write \"…\"")?;
        if text.is_empty() {
            value.wrong("is empty");
            return None;
        }
        Some(text.to_owned())
    }

    fn describe(_: &mut Schema) -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// The path of a file, relative to the one in which it stands.
impl Setting for PathBuf {
    fn read(value: &Value<'_>) -> Option<Self> {
        String::read(value).map(|path| value.document.beside(&path))
    }

    fn describe(schema: &mut Schema) -> Json {
        String::describe(schema)
    }
}

impl Setting for SocketAddr {
    fn read(value: &Value<'_>) -> Option<Self> {
        value.parsed("address with a port; write \"127.0.0.1:8080\" or \"[::1]:8080\"")
    }

    fn describe(_: &mut Schema) -> Json {
        json!({ "type": "string", "examples": ["127.0.0.1:8080", "[::1]:8080"] })
    }
}

macro_rules! whole_numbers {
    ($($number:ty: $least:expr, $most:expr;)*) => {$(
        impl Setting for $number {
            fn read(value: &Value<'_>) -> Option<Self> {
                value.integer($least, $most)?.try_into().ok()
            }

            fn describe(_: &mut Schema) -> Json {
                integer($least, $most)
            }
        }
    )*};
}

whole_numbers! {
    i32: i32::MIN.into(), i32::MAX.into();
    u8: 0, u8::MAX.into();
    u16: 0, u16::MAX.into();
    u32: 0, u32::MAX.into();
    u64: 0, i64::MAX;
    usize: 0, i64::MAX;
}

/// At least 1.
impl Setting for NonZeroU32 {
    fn read(value: &Value<'_>) -> Option<Self> {
        let number = value.integer(1, u32::MAX.into())?;
        u32::try_from(number).ok().and_then(Self::new)
    }

    fn describe(_: &mut Schema) -> Json {
        integer(1, u32::MAX.into())
    }
}

/// At least 1.
impl Setting for NonZeroUsize {
    fn read(value: &Value<'_>) -> Option<Self> {
        let number = value.integer(1, i64::MAX)?;
        usize::try_from(number).ok().and_then(Self::new)
    }

    fn describe(_: &mut Schema) -> Json {
        integer(1, i64::MAX)
    }
}

fn integer(least: i64, most: i64) -> Json {
    let described = match most {
        i64::MAX => json!({ "type": "integer", "minimum": least }),
        most => json!({ "type": "integer", "minimum": least, "maximum": most }),
    };
    or_variable(described)
}

/// The same, or a text with a variable that has it.
fn or_variable(described: Json) -> Json {
    json!({ "anyOf": [described, { "type": "string", "pattern": "\\$\\{" }] })
}

impl Setting for f64 {
    fn read(value: &Value<'_>) -> Option<Self> {
        let number = match &value.node.kind {
            Kind::Float(number) => Some(*number),
            Kind::Integer(number) => i32::try_from(*number).ok().map(Self::from),
            Kind::Text { text, filled: true } => text.trim().parse().ok(),
            _ => None,
        };
        match number {
            Some(number) if number.is_finite() => Some(number),
            _ => value.no("number; write one, such as 0.5"),
        }
    }

    fn describe(_: &mut Schema) -> Json {
        or_variable(json!({ "type": "number" }))
    }
}

/// From 0 to 1.
impl Setting for Ratio {
    fn read(value: &Value<'_>) -> Option<Self> {
        let ratio = Self::new(f64::read(value)?).ok();
        if ratio.is_none() {
            value.wrong("is not from 0 to 1");
        }
        ratio
    }

    fn describe(_: &mut Schema) -> Json {
        or_variable(json!({ "type": "number", "minimum": 0, "maximum": 1 }))
    }
}

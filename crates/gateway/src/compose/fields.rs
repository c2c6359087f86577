//! Texts of a path and a query as fields of a message, in the form that JSON has them.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, map::Entry};

use crate::answer::Answer;

/// Why a request does not fit a message, for its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unfit(pub(super) String);

impl Unfit {
    /// Bytes that its sender is told of it: names may be as long as a body.
    const MOST: usize = 256;

    pub(super) fn answer(self) -> Answer {
        let Self(mut why) = self;
        if let Some(end) = (0..=Self::MOST).rev().find(|end| why.is_char_boundary(*end)) {
            if end < why.len() {
                why.truncate(end);
                why.push('…');
            }
        }
        Answer::Unfit(why)
    }
}

/// How a field gets what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// By the path, whatever else says so.
    Path,
    /// By the query: a list gets one more, and what is said already must not be said again.
    Query,
}

/// The field at `path`, names with dots between them, and the one messages it is in.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn find(
    message: &MessageDescriptor,
    path: &str,
) -> Result<Vec<FieldDescriptor>, String> {
    let mut message = Some(message.clone());
    let mut fields: Vec<FieldDescriptor> = Vec::new();
    for name in path.split('.') {
        let of = message.take().ok_or_else(|| format!("{path:?} leads into what is no message"))?;
        let field = of.get_field_by_name(name).or_else(|| of.get_field_by_json_name(name));
        let field =
            field.ok_or_else(|| format!("there is no field {name:?} in {:?}", of.name()))?;
        if let (Kind::Message(inner), false) = (field.kind(), field.is_list() || field.is_map()) {
            message = Some(inner);
        }
        fields.push(field);
    }
    Ok(fields)
}

/// Whether a text can say it: no message but those that JSON has as text or number.
pub(super) fn is_sayable(field: &FieldDescriptor) -> bool {
    let sayable = match field.kind() {
        Kind::Message(message) => is_text(&message),
        _ => true,
    };
    sayable && !field.is_map()
}

/// Puts `text` into `whole`, the JSON of the message that `fields` begin in.
pub(super) fn put(
    whole: &mut Map<String, Value>,
    fields: &[FieldDescriptor],
    text: String,
    how: How,
) -> Result<(), Unfit> {
    let Some((field, around)) = fields.split_last() else { return Ok(()) };
    let mut object = whole;
    for field in around {
        unify(object, field);
        let inner = object.entry(field.json_name()).or_insert_with(|| Map::new().into());
        if inner.is_null() {
            *inner = Map::new().into();
        }
        object = inner
            .as_object_mut()
            .ok_or_else(|| Unfit(format!("{:?} is no object", field.json_name())))?;
    }
    unify(object, field);
    let value = json(field, text)?;
    match (object.entry(field.json_name()), how) {
        (Entry::Vacant(entry), _) if field.is_list() => drop(entry.insert(vec![value].into())),
        (Entry::Occupied(mut entry), How::Query) if field.is_list() => match entry.get_mut() {
            Value::Array(values) => values.push(value),
            _ => return Err(twice(field)),
        },
        (Entry::Occupied(_), How::Query) => return Err(twice(field)),
        (Entry::Occupied(mut entry), How::Path) => drop(entry.insert(value)),
        (Entry::Vacant(entry), _) => drop(entry.insert(value)),
    }
    Ok(())
}

fn twice(field: &FieldDescriptor) -> Unfit {
    Unfit(format!("{:?} is said twice", field.json_name()))
}

/// A field has two names in JSON; what has been said by the one is moved to the other.
fn unify(object: &mut Map<String, Value>, field: &FieldDescriptor) {
    if field.name() != field.json_name() {
        if let Some(value) = object.remove(field.name()) {
            object.entry(field.json_name()).or_insert(value);
        }
    }
}

/// `text` as the JSON of a field. What fits its kind is found out when the message is read.
fn json(field: &FieldDescriptor, text: String) -> Result<Value, Unfit> {
    let boolean = |text: &str| match text {
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        _ => Err(Unfit(format!("{:?} is true or false", field.json_name()))),
    };
    match field.kind() {
        Kind::Bool => boolean(&text),
        Kind::Enum(_) => Ok(text.parse::<i32>().map_or_else(|_| text.into(), Value::from)),
        Kind::Message(message) if !is_text(&message) => {
            Err(Unfit(format!("{:?} is a message, which the body may have", field.json_name())))
        }
        Kind::Message(message) if message.full_name() == "google.protobuf.BoolValue" => {
            boolean(&text)
        }
        // Numbers may be strings in ProtoJSON.
        _ => Ok(text.into()),
    }
}

fn is_text(message: &MessageDescriptor) -> bool {
    matches!(
        message.full_name(),
        "google.protobuf.Timestamp"
            | "google.protobuf.Duration"
            | "google.protobuf.FieldMask"
            | "google.protobuf.BoolValue"
            | "google.protobuf.BytesValue"
            | "google.protobuf.DoubleValue"
            | "google.protobuf.FloatValue"
            | "google.protobuf.Int32Value"
            | "google.protobuf.Int64Value"
            | "google.protobuf.StringValue"
            | "google.protobuf.UInt32Value"
            | "google.protobuf.UInt64Value"
    )
}

/// What a part of a path or a query says. `None` if that is no text.
pub(super) fn decode(text: &str, plus_is_space: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' if plus_is_space => b' ',
            b'%' => {
                let digits =
                    [rest.next()?, rest.next()?].map(|digit| char::from(digit).to_digit(16));
                let [Some(high), Some(low)] = digits else { return None };
                u8::try_from(high * 16 + low).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_cut_between_letters() {
        for (why, told) in
            [("x".repeat(256), "x".repeat(256)), ("ü".repeat(300), "ü".repeat(128) + "…")]
        {
            assert_eq!(Unfit(why).answer(), Answer::Unfit(told));
        }
    }

    #[test]
    fn what_is_encoded_is_text() {
        assert_eq!(decode("a%2Bb+c%C3%BC", true).as_deref(), Some("a+b cü"));
        assert_eq!(decode("a+b", false).as_deref(), Some("a+b"));
        for bad in ["%", "%2", "%zz", "%+1", "%ff", "%C3"] {
            assert_eq!(decode(bad, true), None, "{bad}");
        }
    }
}

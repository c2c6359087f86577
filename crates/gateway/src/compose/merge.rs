//! Several JSON texts as one object, without reading what they say.

use std::{borrow::Cow, collections::HashSet, fmt};

use http::StatusCode;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What one branch gives to the whole.
pub(super) struct Part<'p> {
    pub(super) name: &'p str,
    /// Its members stand in the whole itself.
    pub(super) flat: bool,
    pub(super) value: Value<'p>,
}

pub(super) enum Value<'p> {
    /// This JSON text; of a part that is flat, of an object.
    There(&'p [u8]),
    /// None, and why not.
    Missing { status: StatusCode, detail: &'p str },
}

/// The whole, in the order of the parts. What is missing stands under `missing`, if anything is.
pub(super) fn merge(parts: &[Part<'_>], missing: &str) -> Vec<u8> {
    let length: usize = parts.iter().map(Part::room).sum();
    let mut whole = Object { text: Vec::with_capacity(length + 64), empty: true };
    whole.text.push(b'{');
    let of_branches = parts.iter().filter(|part| !part.flat).map(|part| part.name);
    let mut names: HashSet<Cow<'_, str>> = of_branches.chain([missing]).map(Cow::from).collect();
    let mut gone = Object { text: vec![b'{'], empty: true };
    for part in parts {
        match part.value {
            Value::There(text) if !part.flat => whole.member(part.name, text),
            Value::There(text) => {
                let members = std::str::from_utf8(text).ok().and_then(members);
                for (name, value) in members.unwrap_or_default() {
                    if names.insert(name.clone()) {
                        whole.member(&name, value.get().as_bytes());
                    }
                }
            }
            Value::Missing { status, detail } => {
                let mut why = Object { text: vec![b'{'], empty: true };
                why.member("status", status.as_str().as_bytes());
                why.name("detail");
                why.string(detail);
                why.text.push(b'}');
                gone.member(part.name, &why.text);
            }
        }
    }
    if !gone.empty {
        gone.text.push(b'}');
        whole.member(missing, &gone.text);
    }
    whole.text.push(b'}');
    whole.text
}

impl Part<'_> {
    fn room(&self) -> usize {
        match self.value {
            Value::There(text) => self.name.len() + text.len() + 4,
            Value::Missing { .. } => self.name.len() + 96,
        }
    }
}

/// An object as far as it is written.
struct Object {
    text: Vec<u8>,
    empty: bool,
}

impl Object {
    fn member(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.text.extend_from_slice(value);
    }

    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.empty) {
            self.text.push(b',');
        }
        self.string(name);
        self.text.push(b':');
    }

    fn string(&mut self, string: &str) {
        // Neither a vector nor a string can make it fail.
        let _ = serde_json::to_writer(&mut self.text, string);
    }
}

/// The members of an object in the order that they are written in, or `None` if `text` is none.
pub(super) fn members(text: &str) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Members;

    impl<'t> Visitor<'t> for Members {
        type Value = Vec<(Cow<'t, str>, &'t RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut members = Vec::new();
            while let Some((Name(name), value)) = map.next_entry()? {
                members.push((name, value));
            }
            Ok(members)
        }
    }

    serde_json::Deserializer::from_str(text).deserialize_map(Members).ok()
}

/// A name, borrowed unless it is escaped; `Cow` itself never borrows.
struct Name<'t>(Cow<'t, str>);

impl<'t> serde::Deserialize<'t> for Name<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'t> Visitor<'t> for Text {
            type Value = Name<'t>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, name: &'t str) -> Result<Name<'t>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E>(self, name: &str) -> Result<Name<'t>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, json};

    fn there<'p>(name: &'p str, text: &'p str) -> Part<'p> {
        Part { name, flat: false, value: Value::There(text.as_bytes()) }
    }

    fn flat<'p>(name: &'p str, text: &'p str) -> Part<'p> {
        Part { flat: true, ..there(name, text) }
    }

    fn missing(name: &str) -> Part<'_> {
        let value = Value::Missing { status: StatusCode::GATEWAY_TIMEOUT, detail: "too \"late\"" };
        Part { name, flat: false, value }
    }

    fn merged(parts: &[Part<'_>]) -> String {
        String::from_utf8(merge(parts, "missing")).unwrap()
    }

    #[test]
    fn values_are_copied_as_they_are_written() {
        let text = r#"{"big": 12345678901234567890123, "exact":1.10, "e":1E400, "text":"\u00e9"}"#;
        assert_eq!(merged(&[there("a", text)]), format!(r#"{{"a":{text}}}"#));
        assert_eq!(merged(&[there("a\"b", "1"), there("c", "null")]), r#"{"a\"b":1,"c":null}"#);
        assert_eq!(merged(&[]), "{}");
    }

    #[test]
    fn what_is_missing_is_named_and_has_no_member() {
        assert_eq!(
            merged(&[there("a", "1"), missing("b"), there("c", "2"), missing("d")]),
            r#"{"a":1,"c":2,"missing":{"b":{"status":504,"detail":"too \"late\""},"d":{"status":504,"detail":"too \"late\""}}}"#
        );
    }

    #[test]
    fn of_equal_names_the_first_branchs_stays_and_a_branchs_own_before_all() {
        let parts = [
            flat("x", r#"{"a": 1, "b": [1, 2], "user": 9, "missing": {}, "\u0063": 0}"#),
            flat("y", r#"{"b": 2, "c": 1, "d": 3}"#),
            there("user", "{}"),
        ];
        assert_eq!(merged(&parts), r#"{"a":1,"b":[1, 2],"c":0,"d":3,"user":{}}"#);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(|b| json!(b)),
            any::<i64>().prop_map(|n| json!(n)),
            "\\PC{0,8}".prop_map(|text| json!(text)),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(items)),
                prop::collection::hash_map("\\PC{0,3}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_whole_has_all_that_its_parts_have(
            values in prop::collection::vec((prop::option::of(json()), any::<bool>()), 0..6)
        ) {
            let texts: Vec<_> = values.iter().map(|(value, _)| value.as_ref().map(|v| v.to_string())).collect();
            let names: Vec<_> = (0..values.len()).map(|at| format!("branch {at}")).collect();
            let mut parts = Vec::new();
            let mut expected = Map::new();
            for (at, (value, is_flat)) in values.iter().enumerate() {
                let name = &*names[at];
                match (value, &texts[at]) {
                    (Some(serde_json::Value::Object(map)), Some(text)) if *is_flat => {
                        for (name, value) in map {
                            expected.entry(name.clone()).or_insert_with(|| value.clone());
                        }
                        parts.push(flat(name, text));
                    }
                    (Some(value), Some(text)) => {
                        expected.insert(name.into(), value.clone());
                        parts.push(there(name, text));
                    }
                    _ => parts.push(missing(name)),
                }
            }
            let whole = merge(&parts, "missing parts");
            let mut whole: Map<String, serde_json::Value> = serde_json::from_slice(&whole).unwrap();
            let gone = whole.remove("missing parts").unwrap_or(json!({}));
            prop_assert_eq!(whole, expected);
            let gone: Vec<_> = gone.as_object().unwrap().keys().cloned().collect();
            let expected_gone: Vec<_> = names.iter().zip(&texts).filter(|(_, t)| t.is_none()).map(|(n, _)| n.clone()).collect();
            prop_assert_eq!(gone, expected_gone);
        }
    }
}

//! A part of a JSON text, as it was written.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::merge::members;

/// Where a value stands in a document: a JSON pointer (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer(Box<[Box<str>]>);

impl Pointer {
    /// # Errors
    ///
    /// If `text` is none.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no JSON pointer; write \"/name/0\", ~1 for a slash and ~0 for a tilde"
            )
        };
        let Some(rest) = text.strip_prefix('/') else {
            return if text.is_empty() { Ok(Self(Box::default())) } else { Err(wrong()) };
        };
        let token = |token: &str| {
            let mut escapes = token.split('~').skip(1);
            let escaped = escapes.all(|rest| rest.starts_with(['0', '1']));
            escaped.then(|| token.replace("~1", "/").replace("~0", "~").into_boxed_str())
        };
        rest.split('/').map(token).collect::<Option<_>>().map(Self).ok_or_else(wrong)
    }

    /// The value there, if `text` is JSON and has one. What follows a value but white space makes it no JSON.
    pub(super) fn find(&self, text: &Bytes) -> Option<Bytes> {
        let mut value: &RawValue = serde_json::from_slice(text).ok()?;
        for token in &self.0 {
            value = match value.get().as_bytes().first()? {
                // Of equal names the last one, as most readers do it.
                b'{' => members(value.get())?.into_iter().rfind(|(name, _)| *name == **token)?.1,
                b'[' => {
                    let items: Vec<&RawValue> = serde_json::from_str(value.get()).ok()?;
                    items.get(index(token)?).copied()?
                }
                _ => return None,
            };
        }
        Some(text.slice_ref(value.get().as_bytes()))
    }
}

/// Without leading zeros and signs.
fn index(token: &str) -> Option<usize> {
    let plain = token == "0" || token.starts_with(|first: char| matches!(first, '1'..='9'));
    plain.then(|| token.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn find(pointer: &str, text: &'static str) -> Option<String> {
        let found = Pointer::parse(pointer).unwrap().find(&Bytes::from_static(text.as_bytes()));
        found.map(|found| String::from_utf8(found.to_vec()).unwrap())
    }

    /// The document of RFC 6901, section 5.
    const DOCUMENT: &str = r#" {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, "k\"l": 6, " ": 7, "m~n": 8} "#;

    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (pointer, value) in [
            ("/foo", r#"["bar", "baz"]"#),
            ("/foo/0", r#""bar""#),
            ("/", "0"),
            ("/a~1b", "1"),
            ("/c%d", "2"),
            ("/e^f", "3"),
            ("/g|h", "4"),
            ("/i\\j", "5"),
            ("/k\"l", "6"),
            ("/ ", "7"),
            ("/m~0n", "8"),
        ] {
            assert_eq!(find(pointer, DOCUMENT).as_deref(), Some(value), "{pointer}");
        }
        assert_eq!(find("", DOCUMENT).as_deref(), Some(DOCUMENT.trim()));
        for pointer in ["/bar", "/foo/2", "/foo/01", "/foo/+1", "/foo/-", "/foo/0/1", "//"] {
            assert_eq!(find(pointer, DOCUMENT), None, "{pointer}");
        }
    }

    #[test]
    fn what_is_no_pointer_is_refused() {
        for text in ["foo", "foo/bar", "/~", "/~2", "/a~"] {
            assert!(Pointer::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_has_no_value() {
        for text in
            ["", "{", "{} {}", "nul", "{\"a\":1,}", "[01]", "\u{feff}{}", "'a'", "\"\u{1}\""]
        {
            let found = Pointer::parse("").unwrap().find(&Bytes::from_static(text.as_bytes()));
            assert_eq!(found, None, "{text}");
        }
        assert_eq!(Pointer::parse("").unwrap().find(&Bytes::from_static(b"\"\xff\"")), None);
    }

    #[test]
    fn a_deep_document_costs_no_stack() {
        let deep = "[".repeat(500_000) + &"]".repeat(500_000);
        let found = Pointer::parse("").unwrap().find(&deep.clone().into());
        assert_eq!(found, Some(deep.into()));
    }

    proptest::proptest! {
        #[test]
        fn it_finds_what_serde_json_finds(pointer in "(/(a|b|0|1|~0)){0,4}", seed in 0u32..1000) {
            let inner = [r#"{"a":{"b":[1,{"0":2}]},"~":3}"#, r#"[[0,1],{"a":[2]}]"#, "4"];
            let text = format!(r#"{{"a":{},"b":{},"0":[{}]}}"#,
                inner[seed as usize % 3], inner[seed as usize / 3 % 3], inner[seed as usize / 9 % 3]);
            let value: Value = serde_json::from_str(&text).unwrap();
            let found = Pointer::parse(&pointer).unwrap().find(&text.clone().into());
            let found = found.map(|found| serde_json::from_slice::<Value>(&found).unwrap());
            proptest::prop_assert_eq!(found.as_ref(), value.pointer(&pointer));
        }
    }
}

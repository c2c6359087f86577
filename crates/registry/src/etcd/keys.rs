//! What is stored where, in version 1.
//!
//! `{prefix}/1/{namespace}/{service}/{id}` holds the JSON of an [`Instance`] and beside its fields one more, `owner`: which
//! engine wrote it. The default namespace is the empty one. `/` and `%` in a part are written `%2F` and `%25`, so that no name
//! can reach into another's keys.

use serde::{Deserialize, Serialize};

use crate::{Instance, split_name};

const VERSION: &str = "/1/";

/// The keys of one registry.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: format!("{}{VERSION}", prefix.trim_end_matches('/')) }
    }

    pub(super) fn all(&self) -> Span {
        Span::of(&self.prefix)
    }

    pub(super) fn namespace(&self, namespace: &str) -> Span {
        Span::of(&format!("{}{}/", self.prefix, escaped(namespace)))
    }

    pub(super) fn service(&self, service: &str) -> Span {
        Span::of(&self.of_service(service))
    }

    pub(super) fn instance(&self, service: &str, id: &str) -> Vec<u8> {
        (self.of_service(service) + &escaped(id)).into_bytes()
    }

    fn of_service(&self, service: &str) -> String {
        let (namespace, name) = split_name(service);
        format!("{}{}/{}/", self.prefix, escaped(namespace), escaped(name))
    }

    /// Full name of the service, and id, of one of the keys.
    pub(super) fn parse(&self, key: &[u8]) -> Option<(String, String)> {
        let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let mut parts = rest.split('/').map(unescaped);
        let (namespace, name, id) = (parts.next()??, parts.next()??, parts.next()??);
        // A name goes up to the first slash, so what has one before that is no key that was written here: it would stand for another.
        let astray = if namespace.is_empty() { &name } else { &namespace };
        if parts.next().is_some() || astray.contains('/') {
            return None;
        }
        let service = if namespace.is_empty() { name } else { format!("{namespace}/{name}") };
        Some((service, id))
    }
}

/// All keys with one prefix: from `begin` up to `end`, which is not one of them.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) begin: Vec<u8>,
    pub(super) end: Vec<u8>,
}

impl Span {
    /// `prefix` ends in `/`, and what comes after that in ASCII is `0`.
    fn of(prefix: &str) -> Self {
        let mut end = prefix.as_bytes().to_vec();
        end.pop();
        end.push(b'/' + 1);
        Self { begin: prefix.into(), end }
    }
}

fn escaped(part: &str) -> String {
    part.replace('%', "%25").replace('/', "%2F")
}

fn unescaped(part: &str) -> Option<String> {
    let mut pieces = part.split('%');
    let mut text = String::from(pieces.next()?);
    for piece in pieces {
        let (code, rest) = (piece.get(..2)?, piece.get(2..)?);
        text.push(match code {
            "25" => '%',
            "2F" => '/',
            _ => return None,
        });
        text.push_str(rest);
    }
    Some(text)
}

#[derive(Serialize)]
struct Written<'a> {
    #[serde(flatten)]
    instance: &'a Instance,
    owner: &'a str,
}

/// What a key holds.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Record {
    #[serde(flatten)]
    pub(super) instance: Instance,
    #[serde(default)]
    pub(super) owner: String,
}

impl Record {
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }
}

pub(super) fn value(instance: &Instance, owner: &str) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Written { instance, owner })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Health;

    #[test]
    fn the_layout_is_that_of_version_one() {
        let keys = Keys::new("/gusset");
        assert_eq!(keys.instance("cart", "10.0.0.7:80"), b"/gusset/1//cart/10.0.0.7:80");
        assert_eq!(keys.instance("shop/cart", "a"), b"/gusset/1/shop/cart/a");
        assert_eq!(keys.service("shop/cart").begin, b"/gusset/1/shop/cart/");
        assert_eq!(keys.service("shop/cart").end, b"/gusset/1/shop/cart0");
        assert_eq!(keys.instance("n/a", "5%/6"), b"/gusset/1/n/a/5%25%2F6");
        assert_eq!(Keys::new("/a/").all().begin, b"/a/1/");
    }

    #[test]
    fn a_value_is_the_json_of_the_instance_and_its_owner() {
        let instance = Instance::new("cart", "h", 1).with_health(Health::Healthy).with_tag("blue");
        let value = value(&instance, "me").unwrap();
        assert_eq!(serde_json::from_slice::<Instance>(&value).unwrap(), instance);
        let record = Record::parse(&value).unwrap();
        assert_eq!((record.instance, record.owner.as_str()), (instance, "me"));
    }

    #[test]
    fn what_is_not_an_instance_is_no_record_and_no_panic() {
        assert!(Record::parse(b"hello").is_none());
        assert!(Keys::new("/g").parse(b"/g/1/n/s").is_none());
        assert!(Keys::new("/g").parse(b"/g/1/n/s/a/b").is_none());
        assert!(Keys::new("/g").parse(b"/g/1/n/s/%2").is_none());
        assert!(Keys::new("/g").parse(b"/g/1/n/s/%\xc3\xa4").is_none());
    }

    #[test]
    fn a_key_that_would_stand_for_another_is_none() {
        let keys = Keys::new("/g");
        for astray in ["/g/1/%2Fshop/cart/a", "/g/1/a%2Fb/cart/a", "/g/1//shop%2Fcart/a"] {
            assert_eq!(keys.parse(astray.as_bytes()), None, "{astray}");
        }
    }

    proptest! {
        #[test]
        fn any_name_comes_back_from_its_key(s in "[^/].*", id in ".*") {
            let keys = Keys::new("/g");
            let key = keys.instance(&s, &id);
            prop_assert_eq!(keys.parse(&key), Some((s.clone(), id)));
            let span = keys.service(&s);
            prop_assert!(span.begin <= key && key < span.end);
        }

        #[test]
        fn the_keys_of_one_service_are_in_no_other(a in "[ab%][ab/%]{0,3}", b in "[ab%][ab/%]{0,3}", id in "[a/%]*") {
            prop_assume!(a != b);
            let keys = Keys::new("/g");
            let (key, other) = (keys.instance(&a, &id), keys.service(&b));
            prop_assert!(key < other.begin || key >= other.end);
        }
    }
}

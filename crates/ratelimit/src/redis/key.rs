//! What a bucket is called on the server.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use sha2::{Digest, Sha256};

/// A key that can be written to the wire.
///
/// What it writes is part of the name of the bucket, so it must be the same in every process and release that shares
/// the limit. Text is written as it is, numbers and addresses in their usual text form, and tuples as a row of netstrings
/// (`("a", 10)` is `1:a,2:10,`), so that no two tuples are written alike.
pub trait WireKey {
    /// Appends the key to `to`.
    fn write(&self, to: &mut Vec<u8>);
}

/// `gusset:rl:1:` and the name: all buckets of one limiter begin so.
#[derive(Clone, Debug)]
pub(crate) struct Prefix(Arc<str>);

impl Prefix {
    /// Longer keys stand for themselves by their hash.
    const LONGEST: usize = 128;

    /// The bucket in which the connection is tried. No limiter has a name like that.
    pub(crate) const TRIAL: &'static [u8] = b"gusset:rl:1:!";

    pub(crate) fn new(name: &str) -> Self {
        let mut prefix = String::from("gusset:rl:1:");
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                prefix.push(char::from(byte));
            } else {
                // Writing to a string never fails.
                let _ = write!(prefix, "%{byte:02X}");
            }
        }
        Self(prefix.into())
    }

    /// The bucket of `key`.
    pub(crate) fn bucket<K: WireKey + ?Sized>(&self, key: &K) -> Vec<u8> {
        let mut bucket = Vec::with_capacity(self.0.len() + 48);
        bucket.extend_from_slice(self.0.as_bytes());
        bucket.extend_from_slice(b":{");
        let start = bucket.len();
        key.write(&mut bucket);
        let written = &bucket[start..];
        // A short key that looks like a hash is hashed as well, or it could be chosen to meet another's bucket.
        if written.len() > Self::LONGEST || written.first() == Some(&b'#') {
            let hash = Sha256::digest(written);
            bucket.truncate(start);
            bucket.push(b'#');
            bucket.extend(hash.iter().flat_map(|byte| [hex(byte >> 4), hex(byte & 0xf)]));
        }
        bucket.push(b'}');
        bucket
    }

    /// The bucket of all that have no key. No key can reach it.
    pub(crate) fn shared_bucket(&self) -> Vec<u8> {
        self.0.as_bytes().to_vec()
    }
}

const fn hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }
}

impl<K: WireKey + ?Sized> WireKey for &K {
    fn write(&self, to: &mut Vec<u8>) {
        (**self).write(to);
    }
}

macro_rules! as_bytes {
    ($($key:ty),*) => {$(
        impl WireKey for $key {
            fn write(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(self.as_ref());
            }
        }
    )*};
}

as_bytes!([u8], Vec<u8>);

#[cfg(feature = "http")]
as_bytes!(http::HeaderValue);

macro_rules! as_text {
    ($($key:ty),*) => {$(
        impl WireKey for $key {
            fn write(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(self.as_bytes());
            }
        }
    )*};
}

as_text!(str, String, Box<str>, Arc<str>);

macro_rules! as_displayed {
    ($($key:ty),*) => {$(
        impl WireKey for $key {
            fn write(&self, to: &mut Vec<u8>) {
                // Writing to a vector never fails.
                let _ = std::io::Write::write_fmt(to, format_args!("{self}"));
            }
        }
    )*};
}

as_displayed!(bool, char, u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);
as_displayed!(IpAddr, Ipv4Addr, Ipv6Addr);

/// A netstring (D. J. Bernstein): the length, a colon, the bytes, a comma.
fn part<K: WireKey + ?Sized>(key: &K, to: &mut Vec<u8>) {
    let mut bytes = Vec::new();
    key.write(&mut bytes);
    bytes.len().write(to);
    to.push(b':');
    to.append(&mut bytes);
    to.push(b',');
}

impl<A: WireKey, B: WireKey> WireKey for (A, B) {
    fn write(&self, to: &mut Vec<u8>) {
        part(&self.0, to);
        part(&self.1, to);
    }
}

impl<A: WireKey, B: WireKey, C: WireKey> WireKey for (A, B, C) {
    fn write(&self, to: &mut Vec<u8>) {
        part(&self.0, to);
        part(&self.1, to);
        part(&self.2, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bucket<K: WireKey + ?Sized>(key: &K) -> String {
        String::from_utf8(Prefix::new("api").bucket(key)).unwrap()
    }

    #[test]
    fn buckets_are_called_as_the_docs_say() {
        assert_eq!(bucket("ann"), "gusset:rl:1:api:{ann}");
        assert_eq!(bucket(&7_u64), "gusset:rl:1:api:{7}");
        assert_eq!(bucket(&IpAddr::from([192, 0, 2, 1])), "gusset:rl:1:api:{192.0.2.1}");
        assert_eq!(bucket(&("a", 10)), "gusset:rl:1:api:{1:a,2:10,}");
        let name = Prefix::new("a b:{c}/d");
        assert_eq!(&*name.0, "gusset:rl:1:a%20b%3A%7Bc%7D/d");
    }

    #[test]
    fn a_long_key_is_known_by_its_sha256() {
        let (long, longest) = ("x".repeat(129), "x".repeat(128));
        assert_eq!(bucket(&longest), format!("gusset:rl:1:api:{{{longest}}}"));
        let hash = "1d16ef5c4d46db489044c21bda37ae0f59d96ff38f9d1cd1f20e8d9c3a2f3c43".len();
        let hashed = bucket(&long);
        assert_eq!(hashed.len(), "gusset:rl:1:api:{#}".len() + hash);
        let inside = &hashed["gusset:rl:1:api:{".len()..hashed.len() - 1];
        assert_ne!(bucket(inside), hashed, "a made-up key must not meet a hashed one");
    }

    #[test]
    fn the_empty_key_is_not_the_shared_bucket() {
        let prefix = Prefix::new("api");
        assert_ne!(prefix.bucket(""), prefix.shared_bucket());
        assert_eq!(prefix.shared_bucket(), b"gusset:rl:1:api");
    }

    proptest! {
        #[test]
        fn tuples_are_written_apart(a: (String, String), b: (String, String)) {
            prop_assert_eq!(bucket(&a) == bucket(&b), a == b);
        }

        #[test]
        fn a_bucket_name_is_bounded(key: Vec<u8>) {
            let bucket = Prefix::new("api").bucket(&key);
            prop_assert!(bucket.len() <= "gusset:rl:1:api:".len() + 2 + 128);
        }
    }
}

use std::net::IpAddr;

use gusset_ratelimit::network;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts};
use sha2::{Digest, Sha256};

use super::{Idempotency, RequestKey};
use crate::Identity;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

const LONGEST: usize = 255;

/// A request with a key.
pub(crate) struct Keyed {
    pub(super) key: RequestKey,
    /// What tells it from other requests with the key, besides its body.
    pub(super) target: [u8; 32],
}

/// Why a request is not passed on because of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyFault {
    Missing,
    Malformed,
    Running,
    Different,
    Unkept,
}

impl Idempotency {
    /// The key of the request with this head, on the route of this name, if it has one and it matters.
    pub(crate) fn keyed(
        &self,
        route: &str,
        head: &Parts,
        identity: Option<&Identity>,
        address: Option<IpAddr>,
    ) -> Result<Option<Keyed>, KeyFault> {
        if !matches!(head.method, Method::POST | Method::PATCH) {
            return Ok(None);
        }
        let Some(sent) = sent(&head.headers)? else {
            return if self.required { Err(KeyFault::Missing) } else { Ok(None) };
        };
        let subject = identity.map(|identity| identity.subject().as_bytes());
        let mut key = Parted::new();
        key.add(Some(route.as_bytes())).add(subject).add(Some(sent));
        let mut target = Parted::new();
        target.add(Some(head.method.as_str().as_bytes()));
        target.add(Some(head.uri.path().as_bytes())).add(head.uri.query().map(str::as_bytes));
        target.add(head.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes));
        if subject.is_none() {
            let address = address.map(|address| network(address).to_string());
            target.add(address.as_ref().map(String::as_bytes));
            for name in [header::AUTHORIZATION, header::COOKIE] {
                for value in head.headers.get_all(&name) {
                    target.add(Some(value.as_bytes()));
                }
                target.add(None);
            }
        }
        Ok(Some(Keyed { key: RequestKey(key.hash()), target: target.hash() }))
    }
}

/// The one key of a request: a string of structured fields (RFC 8941), or the same without its quotes, as most clients write it.
fn sent(headers: &HeaderMap) -> Result<Option<&[u8]>, KeyFault> {
    let mut lines = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    let line = line.as_bytes();
    let key = match line.strip_prefix(b"\"") {
        Some(quoted) => quoted.strip_suffix(b"\"").ok_or(KeyFault::Malformed)?,
        None => line,
    };
    let in_key = |byte: &u8| byte.is_ascii_graphic() && !b"\"\\,".contains(byte);
    let good = !key.is_empty() && key.len() <= LONGEST && key.iter().all(in_key);
    if good && lines.next().is_none() { Ok(Some(key)) } else { Err(KeyFault::Malformed) }
}

/// A hash of parts, none of which can pass for a part of another.
struct Parted(Sha256);

impl Parted {
    fn new() -> Self {
        Self(Sha256::new())
    }

    fn add(&mut self, part: Option<&[u8]>) -> &mut Self {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        self.0.update(length.to_be_bytes());
        self.0.update(part.unwrap_or_default());
        self
    }

    fn hash(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AnswersInMemory;
    use http::Request;

    fn head(fields: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::post("/pay?a=1");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn keyed(head: &Parts, subject: Option<&str>, address: &str) -> Keyed {
        let identity = subject.map(Identity::new);
        let once = Idempotency::by(AnswersInMemory::default());
        let address = Some(address.parse().unwrap());
        once.keyed("/pay", head, identity.as_ref(), address).unwrap().unwrap()
    }

    #[test]
    fn a_key_is_one_word_with_or_without_quotes() {
        let of = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(IDEMPOTENCY_KEY, line.parse().unwrap());
            }
            sent(&headers).map(|key| key.map(|key| String::from_utf8_lossy(key).into_owned()))
        };
        assert_eq!(of(&["abc-1"]), Ok(Some("abc-1".into())));
        assert_eq!(of(&["\"abc-1\""]), Ok(Some("abc-1".into())));
        assert_eq!(of(&[]), Ok(None));
        for bad in ["", "\"", "\"\"", "a b", "a,b", "\"a", "a\"b", "a\\b", &"k".repeat(256)] {
            assert_eq!(of(&[bad]), Err(KeyFault::Malformed), "{bad}");
        }
        assert_eq!(of(&["a", "a"]), Err(KeyFault::Malformed));
    }

    #[test]
    fn senders_do_not_share_keys_and_nobody_gets_the_answer_of_somebody_else() {
        let plain = head(&[("idempotency-key", "1")]);
        let (alice, bob) =
            (keyed(&plain, Some("a"), "1.1.1.1"), keyed(&plain, Some("b"), "1.1.1.1"));
        assert_ne!(alice.key, bob.key);
        let moved = keyed(&plain, Some("a"), "2.2.2.2");
        assert!(alice.key == moved.key && alice.target == moved.target, "known wherever it is");

        let nobody = keyed(&plain, None, "1.1.1.1");
        for other in [
            keyed(&plain, None, "2.2.2.2"),
            keyed(&head(&[("idempotency-key", "1"), ("cookie", "a=b")]), None, "1.1.1.1"),
            keyed(&head(&[("idempotency-key", "1"), ("authorization", "x")]), None, "1.1.1.1"),
        ] {
            assert!(nobody.key == other.key && nobody.target != other.target);
        }
    }
}

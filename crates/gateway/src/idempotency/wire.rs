//! An answer as bytes, for stores outside of the process.
//!
//! | bytes | what |
//! |---|---|
//! | 32 | [`StoredAnswer::target`] |
//! | 1, and then 32 or none | whether there is a [`StoredAnswer::sent`], and it |
//! | 2 | status |
//! | fields | headers |
//! | 1, and then bytes or none | whether the body was kept, and it |
//! | 1, and then fields or none | whether there are trailers, and they |
//!
//! Fields are their number in 2 bytes, and then a name (2 bytes of length) and a value (4 bytes) each; bytes are a length of 4 and they. Numbers have their highest byte first.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::StoredAnswer;

/// `None` if it has more fields, or larger ones, than there are numbers for.
pub(super) fn write(answer: &StoredAnswer, to: &mut Vec<u8>) -> Option<()> {
    to.reserve(answer.size());
    to.extend_from_slice(&answer.target);
    to.push(answer.sent.is_some().into());
    to.extend_from_slice(answer.sent.as_ref().map_or(&[][..], |sent| sent));
    to.extend_from_slice(&answer.status.as_u16().to_be_bytes());
    write_fields(&answer.headers, to)?;
    to.push(answer.body.is_some().into());
    if let Some(body) = &answer.body {
        to.extend_from_slice(&u32::try_from(body.len()).ok()?.to_be_bytes());
        to.extend_from_slice(body);
    }
    to.push(answer.trailers.is_some().into());
    answer.trailers.as_ref().map_or(Some(()), |trailers| write_fields(trailers, to))
}

fn write_fields(fields: &HeaderMap, to: &mut Vec<u8>) -> Option<()> {
    to.extend_from_slice(&u16::try_from(fields.len()).ok()?.to_be_bytes());
    for (name, value) in fields {
        to.extend_from_slice(&u16::try_from(name.as_str().len()).ok()?.to_be_bytes());
        to.extend_from_slice(name.as_str().as_bytes());
        to.extend_from_slice(&u32::try_from(value.len()).ok()?.to_be_bytes());
        to.extend_from_slice(value.as_bytes());
    }
    Some(())
}

/// `None` if these bytes are no answer, or more than one.
pub(super) fn read(bytes: &[u8]) -> Option<StoredAnswer> {
    let mut rest = Rest(bytes);
    let answer = StoredAnswer {
        target: rest.array()?,
        sent: rest.optional(Rest::array)?,
        status: StatusCode::from_u16(u16::from_be_bytes(rest.array()?)).ok()?,
        headers: rest.fields()?,
        body: rest.optional(|rest| rest.long().map(Bytes::copy_from_slice))?,
        trailers: rest.optional(Rest::fields)?,
    };
    rest.0.is_empty().then_some(answer)
}

/// What was not read yet.
struct Rest<'b>(&'b [u8]);

impl<'b> Rest<'b> {
    fn take(&mut self, count: usize) -> Option<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// Bytes behind a length of four.
    fn long(&mut self) -> Option<&'b [u8]> {
        let length = u32::from_be_bytes(self.array()?);
        self.take(usize::try_from(length).ok()?)
    }

    #[allow(clippy::option_option, reason = "it is there, or not, or cannot be read")]
    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.array()? {
            [0] => Some(None),
            [1] => read(self).map(Some),
            _ => None,
        }
    }

    fn fields(&mut self) -> Option<HeaderMap> {
        let count = u16::from_be_bytes(self.array()?);
        let mut fields = HeaderMap::new();
        for _ in 0..count {
            let length = u16::from_be_bytes(self.array()?);
            let name = HeaderName::from_bytes(self.take(length.into())?).ok()?;
            let value = HeaderValue::from_bytes(self.long()?).ok()?;
            fields.try_append(name, value).ok()?;
        }
        Some(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, option, prelude::*};

    fn written(answer: &StoredAnswer) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(answer, &mut bytes).unwrap();
        bytes
    }

    fn fields() -> impl Strategy<Value = HeaderMap> {
        let field = ("[a-z][a-z0-9-]{0,10}", "[ -~]{0,20}");
        vec(field, 0..5).prop_map(|them| {
            let mut fields = HeaderMap::new();
            for (name, value) in them {
                let name = HeaderName::try_from(name).unwrap();
                fields.append(name, HeaderValue::try_from(value).unwrap());
            }
            fields
        })
    }

    prop_compose! {
        fn answers()(
            target: [u8; 32],
            sent: Option<[u8; 32]>,
            status in 100u16..1000,
            headers in fields(),
            body in option::of(vec(any::<u8>(), 0..200)),
            trailers in option::of(fields()),
        ) -> StoredAnswer {
            let status = StatusCode::from_u16(status).unwrap();
            let body = body.map(Bytes::from);
            StoredAnswer { target, sent, status, headers, body, trailers }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_as_it_was(answer in answers()) {
            let read = read(&written(&answer)).unwrap();
            prop_assert_eq!(format!("{read:?}"), format!("{answer:?}"));
        }

        #[test]
        fn a_part_or_more_than_one_is_no_answer(answer in answers(), cut in 0usize..1000, more: u8) {
            let mut bytes = written(&answer);
            let cut = cut % bytes.len();
            prop_assert!(read(&bytes[..cut]).is_none());
            bytes.push(more);
            prop_assert!(read(&bytes).is_none());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn bytes_of_this_version_are_read_for_ever() {
        let mut bytes = vec![7; 32];
        bytes.extend_from_slice(&[1]);
        bytes.extend_from_slice(&[9; 32]);
        bytes.extend_from_slice(
            b"\x00\xc9\x00\x01\x00\x01a\x00\x00\x00\x02bc\x01\x00\x00\x00\x04paid\x00",
        );
        let answer = read(&bytes).unwrap();
        assert_eq!(
            (answer.target, answer.sent, answer.status),
            ([7; 32], Some([9; 32]), StatusCode::CREATED)
        );
        assert_eq!(
            (&answer.headers["a"], answer.body.as_deref()),
            (&HeaderValue::from_static("bc"), Some(&b"paid"[..]))
        );
        assert_eq!(written(&answer), bytes);
    }
}

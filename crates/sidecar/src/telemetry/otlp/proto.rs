//! Protobuf's wire format, as far as OTLP needs it. Fields have the numbers of the published `.proto` files, which never change; tests read
//! what is written here with code generated from those.

/// A message that is being written.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH: u8 = 2;
const FIXED32: u8 = 5;

/// A field is written also if it is zero or empty, for in a `oneof` that is a value.
impl Message {
    pub(super) fn varint(&mut self, field: u32, value: u64) -> &mut Self {
        self.key(field, VARINT);
        self.number(value);
        self
    }

    /// A signed number, which the format keeps as the unsigned one of the same bits.
    pub(super) fn int(&mut self, field: u32, value: i64) -> &mut Self {
        self.varint(field, u64::from_ne_bytes(value.to_ne_bytes()))
    }

    pub(super) fn fixed64(&mut self, field: u32, value: u64) -> &mut Self {
        self.key(field, FIXED64);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn fixed32(&mut self, field: u32, value: u32) -> &mut Self {
        self.key(field, FIXED32);
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn double(&mut self, field: u32, value: f64) -> &mut Self {
        self.fixed64(field, value.to_bits())
    }

    pub(super) fn bytes(&mut self, field: u32, value: &[u8]) -> &mut Self {
        self.key(field, LENGTH);
        self.number(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn text(&mut self, field: u32, value: &str) -> &mut Self {
        self.bytes(field, value.as_bytes())
    }

    /// Numbers of eight bytes each, packed.
    pub(super) fn packed64(
        &mut self,
        field: u32,
        values: impl ExactSizeIterator<Item = u64>,
    ) -> &mut Self {
        self.key(field, LENGTH);
        self.number(8 * values.len() as u64);
        for value in values {
            self.0.extend_from_slice(&value.to_le_bytes());
        }
        self
    }

    /// A message inside of this one, written by `write`.
    pub(super) fn message(&mut self, field: u32, write: impl FnOnce(&mut Self)) -> &mut Self {
        self.key(field, LENGTH);
        let start = self.0.len();
        write(self);
        // The length stands before what has that length: written behind it, then turned to the front.
        let length = self.0.len() - start;
        self.number(length as u64);
        let of_number = self.0.len() - start - length;
        self.0[start..].rotate_right(of_number);
        self
    }

    /// Fields that were written elsewhere.
    pub(super) fn raw(&mut self, fields: &[u8]) -> &mut Self {
        self.0.extend_from_slice(fields);
        self
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn key(&mut self, field: u32, wire: u8) {
        self.number(u64::from(field) << 3 | u64::from(wire));
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }
}

/// A field that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub(super) const fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Bytes(_) => None,
        }
    }

    /// A number that was signed.
    pub(super) fn int(self) -> Option<i64> {
        Some(i64::from_ne_bytes(self.number()?.to_ne_bytes()))
    }

    pub(super) const fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Number(_) => None,
        }
    }

    pub(super) fn text(self) -> Option<String> {
        Some(String::from_utf8_lossy(self.bytes()?).into_owned())
    }
}

/// The last field with this number. Anybody may have sent the message: what makes no sense ends it.
pub(super) fn find(message: &[u8], field: u64) -> Option<Field<'_>> {
    fields(message).filter(|(number, _)| *number == field).last().map(|(_, value)| value)
}

/// The fields of a message, by number.
pub(super) fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        let key = number(&mut message)?;
        let value = match u8::try_from(key & 7).ok()? {
            VARINT => Field::Number(number(&mut message)?),
            FIXED64 => Field::Bytes(take(&mut message, 8)?),
            LENGTH => {
                let length = usize::try_from(number(&mut message)?).ok()?;
                Field::Bytes(take(&mut message, length)?)
            }
            FIXED32 => Field::Bytes(take(&mut message, 4)?),
            _ => return None,
        };
        Some((key >> 3, value))
    })
}

fn take<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(taken)
}

fn number(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let [byte] = *take(message, 1)? else { return None };
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_longer_than_a_length_of_one_byte_is_whole() {
        let mut message = Message::default();
        message.message(1, |inner| {
            inner.message(2, |deep| {
                deep.text(3, &"x".repeat(20_000));
            });
            inner.varint(4, 300);
        });
        let bytes = message.into_bytes();
        let inner = find(&bytes, 1).unwrap().bytes().unwrap();
        assert_eq!(find(inner, 4), Some(Field::Number(300)));
        let deep = find(inner, 2).unwrap().bytes().unwrap();
        assert_eq!(find(deep, 3).unwrap().text().unwrap().len(), 20_000);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u64, bytes: Vec<u8>, field in 1u32..1 << 29) {
            let mut message = Message::default();
            message.varint(field, number).fixed64(7, number).bytes(field, &bytes);
            let bytes_of = message.into_bytes();
            let read: Vec<_> = fields(&bytes_of).map(|(_, value)| value).collect();
            let fixed = number.to_le_bytes();
            prop_assert_eq!(read, [Field::Number(number), Field::Bytes(&fixed), Field::Bytes(&bytes)]);
        }

        #[test]
        fn whatever_is_read_it_ends(bytes: Vec<u8>) {
            prop_assert!(fields(&bytes).count() <= bytes.len());
        }
    }
}

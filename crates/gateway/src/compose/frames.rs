//! Messages of gRPC in a stream of bytes: a flag, a length, the message.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What stands before a message.
const HEAD: usize = 5;

/// What has come of a stream and was not taken yet: at most one message and what came with its end.
#[derive(Debug)]
pub(super) struct Frames {
    bytes: BytesMut,
    most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameFault {
    TooLarge,
    /// Nobody asked for that.
    Compressed,
}

impl Frames {
    /// For messages of at most `most` bytes.
    pub(super) fn new(most: usize) -> Self {
        Self { bytes: BytesMut::new(), most }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.bytes.extend_from_slice(data);
    }

    /// The next message, if it is there as a whole.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, FrameFault> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<HEAD>() else { return Ok(None) };
        let [flag, length @ ..] = *head;
        if flag != 0 {
            return Err(FrameFault::Compressed);
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > self.most {
            return Err(FrameFault::TooLarge);
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.bytes.advance(HEAD);
        Ok(Some(self.bytes.split_to(length).freeze()))
    }

    /// Whether nothing is left, as it must be at the end of a stream.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A message with what stands before it.
pub(super) fn frame(message: &impl prost::Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(HEAD + length);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room, for a buffer of bytes grows.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], message].concat()
    }

    #[test]
    fn compressed_and_large_messages_are_refused_by_their_head() {
        let mut frames = Frames::new(3);
        frames.push(&framed(b"abc"));
        frames.push(&[0, 0, 0, 0, 4]);
        assert_eq!(frames.next(), Ok(Some(Bytes::from_static(b"abc"))));
        assert_eq!(frames.next(), Err(FrameFault::TooLarge));
        let mut frames = Frames::new(3);
        frames.push(&[1, 0, 0, 0, 0]);
        assert_eq!(frames.next(), Err(FrameFault::Compressed));
    }

    proptest::proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_they_are_cut(
            messages in proptest::collection::vec(proptest::collection::vec(0u8.., 0..40), 0..6),
            cut in 1usize..20,
        ) {
            let all: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
            let mut frames = Frames::new(40);
            let mut out = Vec::new();
            for piece in all.chunks(cut) {
                frames.push(piece);
                while let Some(message) = frames.next().unwrap() {
                    out.push(message.to_vec());
                }
            }
            proptest::prop_assert_eq!(out, messages);
            proptest::prop_assert!(frames.is_empty());
        }
    }
}

use bytes::{BufMut, BytesMut};
use http::HeaderMap;

use super::{Decoded, Decoder, answer_head};

/// What was read of a body: its bytes, its trailers, and how far it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Whole(Vec<u8>, Option<HeaderMap>),
    Part(Vec<u8>),
    /// What came before the mistake depends on how it came in.
    Broken,
}

/// An answer to GET and to HEAD: it is the same however its bytes come in, and nothing is taken for a whole one that is not there as a whole.
pub fn answer(data: &[u8]) {
    for bodyless in [false, true] {
        let mut read = BytesMut::from(data);
        let Ok(Some(head)) = answer_head::take(&mut read, bodyless) else { continue };
        let length = data.len() - read.len();
        for part in [1, length / 2, length - 1] {
            let early = answer_head::take(&mut BytesMut::from(&data[..part]), bodyless);
            assert!(matches!(early, Ok(None)), "a head of {length} bytes was there after {part}");
        }
        // Without a body it is of no interest.
        let framed = !head.body.is_over() && head.headers.contains_key("transfer-encoding");
        assert!(!framed || !head.headers.contains_key("content-length"), "{:?}", head.headers);
        same_in_parts(&data[length..], head.body);
    }
}

/// Whether a body is the same at once, byte by byte and in halves.
pub(crate) fn same_in_parts(data: &[u8], decoder: Decoder) {
    let again = || match &decoder {
        Decoder::Length(length) => Decoder::of_length(*length),
        Decoder::Chunked(_) => Decoder::chunked(),
        Decoder::UntilClose => Decoder::UntilClose,
        Decoder::Over => Decoder::Over,
    };
    let at_once = body(data, again(), data.len().max(1));
    for size in [1, 7, data.len() / 2 + 1] {
        assert_eq!(body(data, again(), size), at_once, "in parts of {size} bytes");
    }
}

fn body(data: &[u8], mut decoder: Decoder, size: usize) -> Body {
    let (mut read, mut bytes) = (BytesMut::new(), Vec::new());
    let mut parts = data.chunks(size);
    loop {
        match decoder.decode(&mut read) {
            Ok(Decoded::Data(data)) => bytes.put(data),
            Ok(Decoded::Trailers(trailers)) => return Body::Whole(bytes, Some(trailers)),
            Ok(Decoded::Over) => return Body::Whole(bytes, None),
            Ok(Decoded::Nothing) => match parts.next() {
                Some(part) => read.extend_from_slice(part),
                None => return Body::Part(bytes),
            },
            Err(_) => return Body::Broken,
        }
    }
}

use bytes::BytesMut;
use http::header;

use super::request_head;
use crate::transport::fuzz::same_in_parts;

/// A request: it is the same however its bytes come in, is taken only when its head is there as a whole, and says in one way where it ends.
pub fn request(data: &[u8]) {
    let mut read = BytesMut::from(data);
    let Ok(Some(head)) = request_head::take(&mut read) else { return };
    let length = data.len() - read.len();
    for part in [1, length / 2, length - 1] {
        let early = request_head::take(&mut BytesMut::from(&data[..part]));
        assert!(matches!(early, Ok(None)), "a head of {length} bytes was there after {part}");
    }
    let headers = &head.parts.headers;
    let (lengths, codings) =
        (headers.get_all(header::CONTENT_LENGTH), headers.get_all(header::TRANSFER_ENCODING));
    assert!(lengths.iter().count() + codings.iter().count() <= 1, "{headers:?}");
    assert!(head.bytes.ends_with(b"\r\n\r\n"), "{:?}", head.bytes);
    for (at, byte) in head.bytes.iter().enumerate() {
        let after = head.bytes.get(at + 1);
        assert!(*byte != 0 && (*byte != b'\r' || after == Some(&b'\n')), "{:?}", head.bytes);
        assert!(*byte != b'\n' || (at > 0 && head.bytes[at - 1] == b'\r'), "{:?}", head.bytes);
    }
    assert!(head.parts.method.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
    same_in_parts(&data[length..], head.body);
}

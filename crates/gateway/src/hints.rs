//! Early hints (103, RFC 8297): what an instance says before its answer, so that a client may fetch already what a page will need.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, BytesMut};
use http::{HeaderMap, HeaderName, StatusCode, header};

use crate::transport::put_field;

/// Bytes that may wait for one client; what does not fit is left out, for hints are no more than that.
const MOST: usize = 16 * 1024;

/// What clients make something of. All else would pass by what a route changes in the heads of its answers.
const TAKEN: [HeaderName; 2] = [header::LINK, header::CONTENT_SECURITY_POLICY];

/// Those for one request, on their way from whoever calls an instance to the connection of the client; both are in one task. Clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hints(Arc<Mutex<BytesMut>>);

impl Hints {
    /// An instance has said this before its answer.
    pub(crate) fn tell(&self, status: StatusCode, headers: &HeaderMap) {
        let taken =
            || TAKEN.iter().flat_map(|name| headers.get_all(name).iter().map(move |v| (name, v)));
        let length: usize =
            taken().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        let mut bytes = self.lock();
        if status != StatusCode::EARLY_HINTS || length == 0 || bytes.len() + length > MOST {
            return;
        }
        bytes.put_slice(b"HTTP/1.1 103 Early Hints\r\n");
        for (name, value) in taken() {
            put_field(&mut bytes, name, value);
        }
        bytes.put_slice(b"\r\n");
    }

    /// As they are written to the client.
    pub(crate) fn take(&self) -> BytesMut {
        self.lock().split()
    }

    fn lock(&self) -> MutexGuard<'_, BytesMut> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_hints_are_told_and_of_them_what_clients_take_within_their_bound() {
        let hints = Hints::default();
        let mut headers = HeaderMap::new();
        headers.append("link", HeaderValue::from_static("</a.css>; rel=preload"));
        headers.append("link", HeaderValue::from_static("</b.js>; rel=preload"));
        headers.insert("content-length", 7.into());
        headers.insert("x-inside", HeaderValue::from_static("secret"));
        hints.tell(StatusCode::PROCESSING, &headers);
        assert!(hints.take().is_empty());
        hints.tell(StatusCode::EARLY_HINTS, &headers);
        let head = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.js>; rel=preload\r\n\r\n";
        assert_eq!(hints.take(), head);
        assert!(hints.take().is_empty());
        for _ in 0..1_000 {
            hints.tell(StatusCode::EARLY_HINTS, &headers);
        }
        let waiting = hints.take();
        assert!(waiting.len() < MOST + head.len() && waiting.ends_with(b"\r\n\r\n"));
    }
}

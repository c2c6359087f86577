//! One copy of a request.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::{BodyExt, Full};
use tokio::sync::oneshot;
use tower::util::Oneshot;

use super::{Counts, Mirror};
use crate::{body::RequestBody, routes::HostAs, upstream::Caller};

/// By this field an instance can tell a copy from a request. Clients cannot set it.
const MIRRORED: HeaderName = HeaderName::from_static("x-gusset-mirrored");

/// What the copy says besides its body.
pub(super) fn head_of(request: &Request<RequestBody>) -> Request<()> {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    // It has no trailers.
    head.headers_mut().remove(header::TRAILER);
    head.headers_mut().insert(MIRRORED, HeaderValue::from_static("1"));
    if let Some(host) = request.extensions().get::<HostAs>() {
        head.extensions_mut().insert(host.clone());
    }
    head
}

/// A copy that is to be sent.
pub(super) struct Call {
    pub(super) head: Request<()>,
    /// `None` if it has none.
    pub(super) body: Option<oneshot::Receiver<Bytes>>,
    pub(super) caller: Caller,
    pub(super) counts: Arc<Counts>,
}

impl Call {
    pub(super) async fn run(self) {
        let data = match self.body {
            None => Bytes::new(),
            // What broke off, or was too long, is not sent.
            Some(whole) => match whole.await {
                Ok(data) => data,
                Err(_) => return,
            },
        };
        let limit = u64::try_from(data.len()).unwrap_or(u64::MAX);
        let request = self.head.map(|()| RequestBody::new(Full::new(data), limit));
        self.counts.sent.fetch_add(1, Relaxed);
        let mut unanswered = Unanswered(Some(self.counts));
        let Ok(answer) = Oneshot::new(self.caller, request).await else { return };
        if !answer.status().is_server_error() {
            unanswered.0 = None;
        }
        let (mut body, mut read) = (answer.into_body(), 0);
        while let Some(Ok(frame)) = body.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > Mirror::READ {
                return;
            }
        }
    }
}

/// Counts a copy as failed, also one that is given up.
struct Unanswered(Option<Arc<Counts>>);

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(counts) = &self.0 {
            counts.failed.fetch_add(1, Relaxed);
        }
    }
}

/// A body as it goes by, for its copy. Dropped before its end, there is none.
#[derive(Debug)]
pub(crate) struct BodyCopy {
    pub(super) data: BytesMut,
    pub(super) left: usize,
    pub(super) done: oneshot::Sender<Bytes>,
    pub(super) counts: Arc<Counts>,
}

impl BodyCopy {
    /// Goes on with `data`; `None` if that is too much.
    pub(crate) fn add(mut self, data: &Bytes) -> Option<Self> {
        match self.left.checked_sub(data.len()) {
            Some(left) => {
                self.left = left;
                // A copy, for what is read by the gateway may be a small part of a large buffer.
                self.data.extend_from_slice(data);
                Some(self)
            }
            None => {
                self.counts.too_large.fetch_add(1, Relaxed);
                None
            }
        }
    }

    pub(crate) fn end(self) {
        // The task may have ended with the gateway.
        let _ = self.done.send(self.data.freeze());
    }
}

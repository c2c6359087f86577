//! A look at the body of an answer before it is passed on.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use gusset_call::BoxError;
use http::{HeaderMap, HeaderName, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::body::MAX_FRAMES;

pin_project! {
    /// Response body of [`Retry`](crate::Retry): the frames that it looked at, and then the rest as it comes.
    ///
    /// For most answers it has looked at none and holds nothing; see [`RetryLayer`](crate::RetryLayer#grpc) and
    /// [`RetryPolicy::whole_answers`](crate::RetryPolicy::whole_answers).
    pub struct PeekedBody<B>
    where
        B: Body,
    {
        // On the heap and mostly none: an answer moves through all layers around.
        seen: Option<Box<Seen<B>>>,
        #[pin]
        rest: B,
    }
}

type Seen<B> = VecDeque<Frame<<B as Body>::Data>>;

impl<B: Body> PeekedBody<B> {
    pub(super) const fn unseen(rest: B) -> Self {
        Self { seen: None, rest }
    }

    fn seen(&self) -> impl Iterator<Item = &Frame<B::Data>> {
        self.seen.iter().flat_map(|seen| seen.iter())
    }
}

impl<B: Body> Body for PeekedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        if let Some(seen) = this.seen {
            if let Some(frame) = seen.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            *this.seen = None;
        }
        this.rest.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.seen().next().is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let seen = self.seen().filter_map(Frame::data_ref).map(|data| data.remaining() as u64);
        let seen: u64 = seen.sum();
        let mut hint = self.rest.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(seen));
        }
        hint.set_lower(hint.lower().saturating_add(seen));
        hint
    }
}

impl<B: Body> fmt::Debug for PeekedBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeekedBody").field("seen", &self.seen().count()).finish_non_exhaustive()
    }
}

/// How much of an answer is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// One frame, which may be the trailers.
    First,
    /// All of it, as long as it is no longer than so many bytes.
    Whole(usize),
}

/// An answer while its body is looked at.
pub(super) struct Peek<B: Body> {
    response: Response<B>,
    seen: VecDeque<Frame<B::Data>>,
    bytes: usize,
    look: Look,
}

impl<B: Body + Unpin> Peek<B> {
    pub(super) const fn new(response: Response<B>, look: Look) -> Self {
        Self { response, seen: VecDeque::new(), bytes: 0, look }
    }

    /// Whether an answer that is still incomplete when its time is over has failed. One whose first message is awaited has not: its
    /// headers are there.
    pub(super) fn has_to_end(&self) -> bool {
        matches!(self.look, Look::Whole(_))
    }

    /// Ready when enough was seen, or when the answer broke off.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), B::Error>> {
        loop {
            let frame = match ready!(Pin::new(self.response.body_mut()).poll_frame(cx)) {
                Some(frame) => frame?,
                None => return Poll::Ready(Ok(())),
            };
            self.bytes += frame.data_ref().map_or(0, Buf::remaining);
            self.seen.push_back(frame);
            let enough = match self.look {
                Look::First => true,
                Look::Whole(limit) => self.bytes > limit || self.seen.len() >= MAX_FRAMES,
            };
            if enough || self.response.body().is_end_stream() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// What `judge` says of the answer, and the answer. A status in trailers is shown to it as one in headers.
    pub(super) fn finish<T>(
        self,
        judge: impl FnOnce(&Result<Response<B>, BoxError>) -> T,
    ) -> (T, Result<Response<PeekedBody<B>>, BoxError>) {
        let Self { mut response, seen, .. } = self;
        let trailers = seen.back().and_then(Frame::trailers_ref);
        let shown = trailers.map_or([false; 2], |from| show(from, response.headers_mut()));
        let mut result = Ok(response);
        let judged = judge(&result);
        if let Ok(response) = &mut result {
            for (name, _) in STATUS.iter().zip(shown).filter(|(_, shown)| *shown) {
                response.headers_mut().remove(name);
            }
        }
        let result = result
            .map(|response| response.map(|rest| PeekedBody { seen: Some(Box::new(seen)), rest }));
        (judged, result)
    }
}

/// What of the trailers says how a gRPC call ended.
const STATUS: [HeaderName; 2] =
    [HeaderName::from_static("grpc-status"), HeaderName::from_static("grpc-retry-pushback-ms")];

/// Copies those fields to `headers`, unless they have them, and tells which.
fn show(trailers: &HeaderMap, headers: &mut HeaderMap) -> [bool; 2] {
    STATUS.map(|name| match trailers.get(&name) {
        Some(value) if !headers.contains_key(&name) => {
            headers.insert(name, value.clone());
            true
        }
        _ => false,
    })
}

//! A request body that can be sent again.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// Most frames that are kept of one body, whatever their size.
pub(super) const MAX_FRAMES: usize = 1_024;

/// Request body under a `RetryLayer`: streams the caller's body through and keeps what it has sent, up to a bound, so that
/// the next attempt can send it again.
///
/// What is sent again is the very bytes and trailers in their order, and then the rest of the caller's body. Once more than
/// the bound was sent, nothing is kept and the call is not retried. A frame that is kept holds the buffer that it is a part of.
///
/// The caller's body must be `Unpin`, as nearly all are; `http_body_util::BodyExt::boxed_unsync` makes one of any other.
pub struct ReplayBody<B>(Kind<B>);

enum Kind<B> {
    /// There is nothing to send.
    Empty,
    Streaming {
        shared: Arc<Mutex<Kept<B>>>,
        /// The caller's body, while this attempt has it. None when it has ended.
        rest: Option<B>,
        /// How many of the kept frames this attempt has sent again, of how many.
        sent: usize,
        again: usize,
        /// Bytes of data in those that it has not sent.
        unsent: u64,
    },
}

/// What the attempts of one call share.
struct Kept<B> {
    frames: Vec<Part>,
    /// What the frames count against the limit, and how much of it is data.
    bytes: usize,
    data: u64,
    limit: usize,
    rest: Rest<B>,
}

#[derive(Clone)]
enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

enum Rest<B> {
    /// No attempt has the body.
    Here(B),
    /// An attempt has it, perhaps one that nobody waits for any more.
    Out,
    /// All of it is kept.
    Ended,
    /// It can never be sent again: it broke, or more was sent than is kept.
    Lost,
}

/// Makes the bodies of all attempts of one call.
pub(crate) struct Replay<B>(Option<Arc<Mutex<Kept<B>>>>);

impl<B: Body + Unpin> Replay<B> {
    /// Of nothing.
    pub(crate) const NONE: Self = Self(None);

    /// Keeps up to `limit` bytes of `body`; with 0 it can be sent again only as long as nothing of it was sent. With it comes the body of the
    /// first attempt.
    pub(crate) fn new(body: B, limit: usize) -> (Self, ReplayBody<B>) {
        if body.is_end_stream() {
            return (Self(None), ReplayBody(Kind::Empty));
        }
        // What is known to be too long need not be kept in part.
        let fits = usize::try_from(body.size_hint().lower()).is_ok_and(|lower| lower <= limit);
        let shared = Arc::new(Mutex::new(Kept {
            frames: Vec::new(),
            bytes: 0,
            data: 0,
            limit: if fits { limit } else { 0 },
            rest: Rest::Out,
        }));
        let rest = Some(body);
        let first = Kind::Streaming { shared: shared.clone(), rest, sent: 0, again: 0, unsent: 0 };
        (Self(Some(shared)), ReplayBody(first))
    }

    /// The body of a further attempt, if that would be whole.
    pub(crate) fn next(&self) -> Option<ReplayBody<B>> {
        let Some(shared) = &self.0 else { return Some(ReplayBody(Kind::Empty)) };
        let mut kept = lock(shared);
        let rest = match mem::replace(&mut kept.rest, Rest::Out) {
            Rest::Here(body) => Some(body),
            Rest::Ended => {
                kept.rest = Rest::Ended;
                None
            }
            lost => {
                kept.rest = lost;
                return None;
            }
        };
        let (again, unsent) = (kept.frames.len(), kept.data);
        Some(ReplayBody(Kind::Streaming { shared: shared.clone(), rest, sent: 0, again, unsent }))
    }
}

impl<B> Replay<B> {
    /// Whether all of the body was sent, and is kept.
    pub(crate) fn is_sent(&self) -> bool {
        self.0.as_ref().is_none_or(|kept| matches!(lock(kept).rest, Rest::Ended))
    }
}

/// From now on nothing is kept: there will be no other attempt, but the last one may go on sending for long.
impl<B> Drop for Replay<B> {
    fn drop(&mut self) {
        if let Some(kept) = &self.0 {
            lock(kept).limit = 0;
        }
    }
}

fn lock<B>(kept: &Mutex<Kept<B>>) -> MutexGuard<'_, Kept<B>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> Kept<B> {
    /// Keeps a frame that is about to be sent, or gives up on keeping any.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let (part, bytes) = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) if data.is_empty() => return,
            (Some(data), _) => (Part::Data(data.clone()), data.len()),
            (_, Some(trailers)) => {
                let bytes = trailers.iter().map(|(name, value)| name.as_str().len() + value.len());
                (Part::Trailers(trailers.clone()), bytes.sum())
            }
            // There are no other frames yet; if there will be, they must not be missing in the next attempt.
            (None, None) => return self.lose(),
        };
        let total = self.bytes.saturating_add(bytes);
        if total > self.limit || self.limit == 0 || self.frames.len() == MAX_FRAMES {
            return self.lose();
        }
        if !matches!(self.rest, Rest::Lost) {
            self.bytes = total;
            if let Part::Data(data) = &part {
                self.data += data.len() as u64;
            }
            self.frames.push(part);
        }
    }

    fn lose(&mut self) {
        self.rest = Rest::Lost;
        self.frames = Vec::new();
    }
}

impl<B: Body + Unpin> Body for ReplayBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Kind::Streaming { shared, rest, sent, again, unsent } = &mut self.get_mut().0 else {
            return Poll::Ready(None);
        };
        // An attempt sends what is kept before it touches the rest, so nothing is kept or lost meanwhile.
        if sent < again {
            let part = lock(shared).frames.get(*sent).cloned();
            *sent += 1;
            return Poll::Ready(part.map(|part| {
                Ok(match part {
                    Part::Data(data) => {
                        *unsent = unsent.saturating_sub(data.len() as u64);
                        Frame::data(data)
                    }
                    Part::Trailers(trailers) => Frame::trailers(trailers),
                })
            }));
        }
        let Some(body) = rest else { return Poll::Ready(None) };
        let polled = ready!(Pin::new(&mut *body).poll_frame(cx));
        let ended = polled.is_none() || body.is_end_stream();
        let frame = polled.map(|frame| {
            frame.map(|frame| frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
        });
        let mut kept = lock(shared);
        match &frame {
            Some(Ok(frame)) => kept.keep(frame),
            Some(Err(_)) => kept.lose(),
            None => {}
        }
        if ended && !matches!(kept.rest, Rest::Lost) {
            kept.rest = Rest::Ended;
        }
        drop(kept);
        if ended {
            *rest = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Streaming { rest, sent, again, .. } => {
                sent >= again && rest.as_ref().is_none_or(Body::is_end_stream)
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let Kind::Streaming { rest, unsent, .. } = &self.0 else { return SizeHint::with_exact(0) };
        let mut hint = rest.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(*unsent));
        }
        hint.set_lower(hint.lower().saturating_add(*unsent));
        hint
    }
}

/// An attempt that is dropped gives back what it did not send.
impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        if let Kind::Streaming { shared, rest, .. } = &mut self.0 {
            if let Some(body) = rest.take() {
                let mut kept = lock(shared);
                if matches!(kept.rest, Rest::Out) {
                    kept.rest = Rest::Here(body);
                }
            }
        }
    }
}

impl<B> fmt::Debug for ReplayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplayBody").finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replay").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

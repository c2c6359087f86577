use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use gusset_call::BoxError;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// What was read of a body, and what was not.
#[derive(Debug)]
pub(crate) struct Gathered<B> {
    pub(super) data: Bytes,
    pub(super) rest: Option<B>,
    pub(super) trailers: Option<HeaderMap>,
}

impl<B> Body for Gathered<B>
where
    B: Body<Data = Bytes, Error = BoxError> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if !self.data.is_empty() {
            let data = std::mem::take(&mut self.data);
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(rest) = &mut self.rest {
            return Pin::new(rest).poll_frame(cx);
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.rest.as_ref().is_none_or(Body::is_end_stream);
        self.data.is_empty() && rest && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let here = self.data.len() as u64;
        let rest = self.rest.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint);
        let mut hint = SizeHint::new();
        hint.set_lower(here.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(here.saturating_add(upper));
        }
        hint
    }
}

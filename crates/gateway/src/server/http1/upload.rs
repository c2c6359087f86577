//! The body of a request, which has the reading half of the connection while it is read.

use std::{
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use gusset_call::BoxError;
use http_body::{Body, Frame, SizeHint};

use super::reader::Reader;
use crate::transport::{Decoded, Decoder, TransportError};

/// Body of a request of HTTP/1.1, as it comes in.
pub(crate) struct Upload {
    /// `None` when nothing more comes.
    reading: Option<Reading>,
    home: Home,
    expects: bool,
}

/// A reader within the body of a request.
#[derive(Debug)]
struct Reading {
    reader: Reader,
    decoder: Decoder,
}

/// The reader when the body has ended, or nobody wants it any more.
#[derive(Debug)]
pub(super) struct Back {
    reader: Reader,
    /// `None` if the body was malformed or broke off.
    decoder: Option<Decoder>,
}

impl Back {
    /// Passes over what has come of a body that nobody wanted, and gives back the reader if that is all of it. Else it is not known where the next request begins.
    pub(super) fn skip(mut self) -> Result<Reader, Self> {
        let Some(decoder) = &mut self.decoder else { return Err(self) };
        loop {
            match decoder.decode(&mut self.reader.read) {
                Ok(Decoded::Data(_)) => {}
                Ok(Decoded::Over | Decoded::Trailers(_)) => return Ok(self.reader),
                Ok(Decoded::Nothing) | Err(_) => return Err(self),
            }
        }
    }

    pub(super) fn into_reader(self) -> Reader {
        self.reader
    }
}

/// What the body and its connection tell one another. Clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Home(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    /// Whether somebody waits for a body that its client holds back.
    wanted: bool,
    back: Option<Back>,
    waker: Option<Waker>,
}

impl Home {
    fn lock(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, tell: impl FnOnce(&mut Told)) {
        let waker = {
            let mut told = self.lock();
            tell(&mut told);
            told.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether the body is waited for; told once.
    pub(super) fn is_wanted(&self) -> bool {
        mem::take(&mut self.lock().wanted)
    }

    /// The reader, if it is back.
    pub(super) fn back(&self) -> Option<Back> {
        self.lock().back.take()
    }

    pub(super) fn poll_back(&self, cx: &mut Context<'_>) -> Poll<Back> {
        let mut told = self.lock();
        if let Some(back) = told.back.take() {
            return Poll::Ready(back);
        }
        match &mut told.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl Upload {
    /// `expects` says that the client holds the body back until it is told that somebody wants it.
    pub(super) const fn new(reader: Reader, decoder: Decoder, home: Home, expects: bool) -> Self {
        Self { reading: Some(Reading { reader, decoder }), home, expects }
    }

    /// Gives back the reader.
    fn end(&mut self, broken: bool) {
        if let Some(Reading { reader, decoder }) = self.reading.take() {
            let decoder = (!broken).then_some(decoder);
            self.home.tell(|told| told.back = Some(Back { reader, decoder }));
        }
    }

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, TransportError>> {
        loop {
            let Some(Reading { reader, decoder }) = &mut self.reading else {
                return Poll::Ready(Ok(None));
            };
            match decoder.decode(&mut reader.read)? {
                Decoded::Data(data) => {
                    if decoder.is_over() {
                        self.end(false);
                    }
                    return Poll::Ready(Ok(Some(Frame::data(data))));
                }
                Decoded::Trailers(trailers) => {
                    self.end(false);
                    return Poll::Ready(Ok(Some(Frame::trailers(trailers))));
                }
                Decoded::Over => self.end(false),
                Decoded::Nothing => match reader.poll_fill(cx) {
                    Poll::Ready(Ok(1..)) => {}
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(TransportError::ended_early())),
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(TransportError::Broken(error)));
                    }
                    Poll::Pending => {
                        if mem::take(&mut self.expects) {
                            self.home.tell(|told| told.wanted = true);
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = ready!(self.poll_data(cx));
        if polled.is_err() {
            self.end(true);
        }
        Poll::Ready(polled.map_err(BoxError::from).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.reading.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match self.reading.as_ref().map(|reading| &reading.decoder) {
            None => SizeHint::with_exact(0),
            Some(decoder) => decoder.size_hint(),
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.end(false);
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload").field("reading", &self.reading).finish_non_exhaustive()
    }
}

use std::{
    any::Any,
    fmt, io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use gusset_call::BoxError;
use gusset_sidecar::ReplayBody;
use http_body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};

use crate::{ClientBody, traffic::BodyCopy};

/// What the attempts of one call send.
pub(crate) enum AttemptBody {
    Single(ReplayBody<RequestBody>),
    /// By two calls at once, perhaps.
    Hedged(Box<ReplayBody<ReplayBody<RequestBody>>>),
}

impl Body for AttemptBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Single(body) => Pin::new(body).poll_frame(cx),
            Self::Hedged(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Single(body) => body.is_end_stream(),
            Self::Hedged(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Single(body) => body.size_hint(),
            Self::Hedged(body) => body.size_hint(),
        }
    }
}

/// Body of a request on its way to an upstream: the client's, streamed, no longer than the route allows.
///
/// A request moves through many hands, so what most requests have not is in one place elsewhere: `None` for a body without bytes.
pub(crate) struct RequestBody(Option<Box<Passing>>);

struct Passing {
    source: Source,
    /// Bytes that may still come.
    left: u64,
    upload: Upload,
    /// Where somebody wants to know it again.
    hash: Option<BodyHash>,
    /// Where somebody else gets it as well.
    copy: Option<Box<BodyCopy>>,
}

/// SHA-256 of a body as it goes by. Clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct BodyHash(Arc<Mutex<Hashed>>);

#[derive(Debug, Default)]
struct Hashed {
    hash: Sha256,
    whole: bool,
}

impl BodyHash {
    /// The hash, if the body has been read to its end.
    pub(crate) fn whole(&self) -> Option<[u8; 32]> {
        let hashed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hashed.whole.then(|| hashed.hash.clone().finalize().into())
    }

    fn add(&self, data: Option<&Bytes>, whole: bool) {
        let mut hashed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(data) = data {
            hashed.hash.update(data);
        }
        hashed.whole |= whole;
    }
}

/// Whether a request's body is waited for at present. Clones are one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Upload(Arc<AtomicBool>);

impl Upload {
    pub(crate) fn is_awaited(&self) -> bool {
        self.0.load(Relaxed)
    }
}

enum Source {
    Empty,
    /// What the server hands over needs no box.
    Client(ClientBody),
    Other(Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>),
}

impl RequestBody {
    /// `body`, of which at most `limit` bytes are taken.
    pub(crate) fn new<B>(body: B, limit: u64) -> Self
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if body.is_end_stream() {
            return Self(None);
        }
        let mut body = Some(body);
        let source = match (&mut body as &mut dyn Any).downcast_mut::<Option<ClientBody>>() {
            Some(client) => client.take().map_or(Source::Empty, Source::Client),
            None => body.map_or(Source::Empty, |body| Source::Other(Box::pin(Boxable { body }))),
        };
        let upload = Upload::default();
        Self(Some(Box::new(Passing { source, left: limit, upload, hash: None, copy: None })))
    }

    /// The same, of which `hash` is told.
    pub(crate) fn hashed(mut self, hash: BodyHash) -> Self {
        hash.add(None, self.is_end_stream());
        if let Some(passing) = &mut self.0 {
            passing.hash = Some(hash);
        }
        self
    }

    /// What comes from now on goes to `copy` as well.
    pub(crate) fn copy_to(&mut self, copy: BodyCopy) {
        match &mut self.0 {
            Some(passing) => passing.copy = Some(Box::new(copy)),
            None => copy.end(),
        }
    }

    /// Bytes that it may still have.
    pub(crate) fn limit(&self) -> u64 {
        self.0.as_ref().map_or(0, |passing| passing.left)
    }

    /// The way to look at the upload from elsewhere, if there is one.
    pub(crate) fn upload(&self) -> Option<&Upload> {
        self.0.as_ref().map(|passing| &passing.upload)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |passing| passing.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|passing| passing.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.as_ref().map(|passing| &passing.source) {
            None | Some(Source::Empty) => SizeHint::with_exact(0),
            Some(Source::Client(body)) => body.size_hint(),
            Some(Source::Other(body)) => body.size_hint(),
        }
    }
}

impl Passing {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = match &mut self.source {
            Source::Empty => Poll::Ready(None),
            Source::Client(body) => Pin::new(body).poll_frame(cx),
            Source::Other(body) => body.as_mut().poll_frame(cx),
        };
        self.upload.0.store(polled.is_pending(), Relaxed);
        let frame = match ready!(polled) {
            None => {
                if let Some(hash) = &self.hash {
                    hash.add(None, true);
                }
                if let Some(copy) = self.copy.take() {
                    copy.end();
                }
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                // What broke off is no whole body, whatever follows.
                (self.hash, self.copy) = (None, None);
                return Poll::Ready(Some(Err(ClientFault::of(error).into())));
            }
            Some(Ok(frame)) => frame,
        };
        let length = frame.data_ref().map_or(0, Buf::remaining);
        match self.left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) {
            Some(left) => self.left = left,
            None => {
                self.source = Source::Empty;
                (self.hash, self.copy) = (None, None);
                return Poll::Ready(Some(Err(ClientFault::TooLarge.into())));
            }
        }
        if let Some(hash) = &self.hash {
            hash.add(frame.data_ref(), self.is_end_stream());
        }
        if let Some(copy) = self.copy.take() {
            let copy = match frame.data_ref() {
                Some(data) => copy.add(data).map(Box::new),
                None => Some(copy),
            };
            // Whoever knows that it was the last does not ask for more.
            match copy {
                Some(copy) if self.is_end_stream() => copy.end(),
                copy => self.copy = copy,
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Empty => true,
            Source::Client(body) => body.is_end_stream(),
            Source::Other(body) => body.is_end_stream(),
        }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").field("left", &self.limit()).finish_non_exhaustive()
    }
}

pin_project_lite::pin_project! {
    /// A body whose errors are boxed.
    struct Boxable<B> {
        #[pin]
        body: B,
    }
}

impl<B> Body for Boxable<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.project().body.poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The request's body ended a call; the upstream is not to blame.
#[derive(Debug)]
pub(crate) enum ClientFault {
    /// It is longer than the route allows.
    TooLarge,
    /// It could not be read: malformed, or the client left.
    Broken(BoxError),
    /// The deadline passed while the client was still sending it.
    Slow,
}

impl ClientFault {
    /// That of a body which ended in `error`.
    fn of(error: BoxError) -> Self {
        let error = match error.downcast() {
            Ok(fault) => return *fault,
            Err(error) => error,
        };
        let kind = error.downcast_ref().map(io::Error::kind);
        if kind == Some(io::ErrorKind::TimedOut) { Self::Slow } else { Self::Broken(error) }
    }

    /// Finds it in `error` or in one of its sources.
    pub(crate) fn in_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let sources = std::iter::successors(Some(error), |error| error.source());
        sources.into_iter().find_map(|error| error.downcast_ref())
    }
}

impl fmt::Display for ClientFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the request body is too large",
            Self::Broken(_) => "the request body could not be read",
            Self::Slow => "the request body took too long",
        })
    }
}

impl std::error::Error for ClientFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::TooLarge | Self::Slow => None,
            Self::Broken(error) => Some(&**error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};

    /// A body of unknown length with chunks of these sizes.
    struct Chunks(std::vec::IntoIter<usize>);

    impl Body for Chunks {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            let size = self.0.next();
            Poll::Ready(size.map(|size| Ok(Frame::data(Bytes::from(vec![0; size])))))
        }
    }

    fn chunks<const N: usize>(sizes: [usize; N]) -> Chunks {
        Chunks(Vec::from(sizes).into_iter())
    }

    #[tokio::test]
    async fn a_body_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
        let body = RequestBody::new(chunks([3, 4, 3]), 10);
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 10);

        let body = RequestBody::new(chunks([3, 4, 4]), 10);
        let error = body.collect().await.unwrap_err();
        assert!(matches!(ClientFault::in_error(&*error), Some(ClientFault::TooLarge)));
    }

    #[tokio::test]
    async fn after_too_much_nothing_more_is_read() {
        let mut body = RequestBody::new(chunks([11, 1]), 10);
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn an_empty_body_needs_no_box_and_a_known_length_stays_known() {
        let empty = RequestBody::new(Full::new(Bytes::new()), 10);
        assert!(empty.0.is_none() && empty.is_end_stream());
        let full = RequestBody::new(Full::new(Bytes::from_static(b"abc")), 10);
        assert_eq!(full.size_hint().exact(), Some(3));
    }

    proptest::proptest! {
        #[test]
        fn a_body_passes_as_it_is_or_breaks_off_within_its_limit(
            sizes in proptest::collection::vec(0usize..50, 0..8),
            limit in 0u64..200,
        ) {
            let whole: usize = sizes.iter().sum();
            let mut body = RequestBody::new(Chunks(sizes.into_iter()), limit);
            let mut passed = 0;
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let broke = runtime.block_on(async {
                while let Some(frame) = body.frame().await {
                    match frame {
                        Ok(frame) => passed += frame.data_ref().unwrap().len(),
                        Err(_) => return true,
                    }
                }
                false
            });
            proptest::prop_assert_eq!(broke, whole as u64 > limit);
            proptest::prop_assert!(passed as u64 <= limit && (broke || passed == whole));
        }
    }
}
